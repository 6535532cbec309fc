// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/release"
)

// Image is what is published at once: a manifest and its files.
type Image struct {
	Manifest release.Manifest
	raw      []byte            // the manifest as it was built
	files    map[string]string // by name: where it is now
}

// ReadImages reads build folders, and files that belong to the folder before
// them. Files without a folder make an image of their own, which base describes.
func ReadImages(paths []string, base release.Manifest) ([]Image, error) {
	var images []Image
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		switch {
		case info.IsDir():
			image, err := readFolder(p)
			if err != nil {
				return nil, err
			}
			images = append(images, image)
			continue
		case !info.Mode().IsRegular():
			return nil, fmt.Errorf("%s is neither a folder nor a file", p)
		case len(images) == 0:
			if base.Version == (release.Version{}) || base.Edition == "" || base.Arch == "" {
				return nil, fmt.Errorf("%s: say which release the file is with --version, --edition and --arch, or name its build folder first", p)
			}
			images = append(images, Image{Manifest: base, files: map[string]string{}})
		}
		if err := images[len(images)-1].addFile(p); err != nil {
			return nil, err
		}
	}
	for i := range images {
		if err := images[i].complete(); err != nil {
			return nil, err
		}
	}
	return images, nil
}

func readFolder(dir string) (Image, error) {
	raw, err := os.ReadFile(filepath.Join(dir, release.ManifestName))
	if err != nil {
		return Image{}, fmt.Errorf("there is no image in %s: build one with `wherry build`: %w", dir, err)
	}
	m, err := release.ParseManifest(raw)
	if err != nil {
		return Image{}, fmt.Errorf("%s: %w", dir, err)
	}
	i := Image{m, raw, map[string]string{}}
	for _, p := range m.Parts {
		i.files[p.Name] = filepath.Join(dir, p.Name)
	}
	return i, nil
}

// addFile makes a file a part. The manifest is then another than the built one.
func (i *Image) addFile(file string) error {
	name := filepath.Base(file)
	if i.files[name] != "" || name == release.ManifestName {
		return fmt.Errorf("%s: there is a part of that name already", file)
	}
	part, err := release.MeasurePart(file)
	if err != nil {
		return err
	}
	i.files[name], i.raw = file, nil
	i.Manifest.Parts = append(slices.Clone(i.Manifest.Parts), part)
	return nil
}

func (i *Image) complete() (err error) {
	if i.raw == nil {
		if i.raw, err = json.MarshalIndent(i.Manifest, "", "  "); err != nil {
			return err
		}
	}
	_, err = release.ParseManifest(i.raw)
	return err
}

// Publish puts images into the repository, into the alpha channel. A version
// is never changed: what is there already must be the same.
func (r *Repository) Publish(ctx context.Context, keys Keys, images []Image, rollout release.Rollout) error {
	if err := rollout.Validate(); err != nil {
		return err
	}
	changed := false
	for _, i := range images {
		err := r.checkTrust(i.Manifest)
		var added bool
		if err == nil {
			added, err = r.add(i, rollout)
		}
		if err == nil && added {
			err = r.addDeltas(ctx, i)
		}
		if err != nil {
			return fmt.Errorf("publish %s: %w", i.Manifest.Version, err)
		}
		changed = changed || added
	}
	if !changed {
		return nil
	}
	return r.commit(ctx, keys, true)
}

// checkTrust refuses an OS file that ends updates: machines with it would trust
// nobody, or somebody else.
func (r *Repository) checkTrust(m release.Manifest) error {
	if r.AnyRoot || !slices.ContainsFunc(m.Parts, func(p release.Part) bool { return p.Name == release.OSFile }) {
		return nil
	}
	if m.Trust == nil {
		return errors.New("the image carries no root role, so machines that take it would never take an update again: build it with `wherry build --release-root metadata/1.root.json` of this repository")
	}
	ours, err := release.MeasurePart(r.metadataFile(fmt.Sprintf("%d.root.json", m.Trust.RootVersion)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if ours.SHA256 != m.Trust.SHA256 {
		return errors.New("the image carries the root role of another repository, so machines that take it would take no more updates from this one: build it with `wherry build --release-root metadata/1.root.json` of this repository")
	}
	return nil
}

func (r *Repository) add(i Image, rollout release.Rollout) (added bool, err error) {
	m := i.Manifest
	dir := release.Folder(m.Version, m.Edition, m.Arch)
	sum := sha256.Sum256(i.raw)
	self := release.Part{Name: release.ManifestName, Bytes: int64(len(i.raw)), SHA256: hex.EncodeToString(sum[:])}
	if there := r.targets.Signed.Targets[path.Join(dir, release.ManifestName)]; there != nil {
		if hex.EncodeToString(there.Hashes["sha256"]) == self.SHA256 {
			return false, nil
		}
		return false, fmt.Errorf("%s-%s is published already, with another content: a release never changes, count up its version", m.Edition, m.Arch)
	}
	for _, p := range m.Parts {
		if err := r.copyPart(i.files[p.Name], dir, p); err != nil {
			return false, err
		}
		r.addTarget(dir, p)
	}
	location := filepath.Join(r.Dir, filepath.FromSlash(r.addTarget(dir, self).Location()))
	if err := r.write(location, i.raw); err != nil {
		return false, err
	}
	entry := release.Entry{Published: r.now(), Channels: r.channels(m.Version, rollout)}
	return true, r.setEntry(path.Join(dir, release.ManifestName), entry)
}

// channels of a new edition of a version are those of its others: they are promoted together.
func (r *Repository) channels(v release.Version, alpha release.Rollout) map[release.Channel]release.Rollout {
	for _, rel := range r.editions(v) {
		if e, err := r.entry(rel); err == nil {
			return e.Channels
		}
	}
	return map[release.Channel]release.Rollout{release.Alpha: alpha}
}

func (r *Repository) now() time.Time { return r.Now().UTC().Truncate(time.Second) }

func (r *Repository) addTarget(dir string, p release.Part) release.File {
	f := release.File{Path: path.Join(dir, p.Name), Bytes: p.Bytes, SHA256: p.SHA256}
	sum, _ := hex.DecodeString(p.SHA256) // ParseManifest has looked
	r.targets.Signed.Targets[f.Path] = &metadata.TargetFiles{Length: p.Bytes, Hashes: metadata.Hashes{"sha256": sum}}
	return f
}

// copyPart brings a file to its place and checks it against the manifest on the way.
func (r *Repository) copyPart(from, dir string, p release.Part) error {
	location := release.File{Path: path.Join(dir, p.Name), SHA256: p.SHA256}.Location()
	to := filepath.Join(r.Dir, filepath.FromSlash(location))
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(to), atomicfile.TempPrefix+"*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name()) // after the rename there is nothing left
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(in, p.Bytes+1))
	if err == nil && (n != p.Bytes || hex.EncodeToString(sum.Sum(nil)) != p.SHA256) {
		err = fmt.Errorf("%s is not the file that the manifest describes: build again", from)
	}
	if err := errors.Join(err, out.Chmod(0o644), out.Sync(), out.Close()); err != nil {
		return err
	}
	if err := os.Rename(out.Name(), to); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(to))
}
