// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"wherry.example/wherry/internal/host/differ"
	"wherry.example/wherry/release"
)

// Deltas say from which older releases the OS files of a published one can be
// reached by a small file.
type Deltas struct {
	// Newest is how many older versions there are deltas from, counted from the newest, beside
	// what each channel's machines run; 0: none at all.
	Newest   int
	Progress func(string) // may be nil
	// Make makes one; nil: DeltaBetween. For tests.
	Make func(ctx context.Context, old, data []byte, progress func(string)) ([]byte, differ.Verdict, error)
}

// worth is the part of the whole file, in percent, below which a delta is published.
const worth = 60

// DeltaBetween makes the delta between two OS files and applies it with the old
// one's program, as a machine will.
func DeltaBetween(ctx context.Context, old, data []byte, progress func(string)) ([]byte, differ.Verdict, error) {
	from, err := differ.Open(old)
	if err != nil {
		return nil, differ.Verdict{}, err
	}
	dir, err := os.MkdirTemp("", "wherry-program-")
	if err != nil {
		return nil, differ.Verdict{}, err
	}
	defer os.RemoveAll(dir)
	program, err := differ.ProgramOf(from, dir)
	if err != nil {
		return nil, differ.Verdict{}, err
	}
	return DeltaWith(ctx, program, from, old, data, progress)
}

// DeltaWith is DeltaBetween with another program than that of the old file.
func DeltaWith(ctx context.Context, program differ.Program, from *differ.File, old, data []byte, progress func(string)) ([]byte, differ.Verdict, error) {
	if _, err := program.Codec(ctx); err != nil {
		return nil, differ.Verdict{}, err
	}
	to, err := differ.Open(data)
	if err != nil {
		return nil, differ.Verdict{}, err
	}
	made, err := differ.Make(ctx, from, to, differ.Options{Packer: program, Compress: differ.XZ, Progress: progress})
	if err != nil {
		return nil, differ.Verdict{}, err
	}
	progress("applying it as a machine will")
	v, err := program.Apply(ctx, old, data, made)
	return made, v, err
}

// addDeltas makes the deltas to an image's OS file, and adds them to the targets. One that can't be
// made is told and left out: machines take the whole file.
func (r *Repository) addDeltas(ctx context.Context, i Image) error {
	if r.Deltas.Newest == 0 || i.files[release.OSFile] == "" {
		return nil
	}
	all, err := r.Releases(ctx)
	if err != nil {
		return err
	}
	sources := deltaSources(all, i.Manifest, r.Deltas.Newest)
	if len(sources) == 0 {
		return nil
	}
	data, err := os.ReadFile(i.files[release.OSFile])
	if err != nil {
		return err
	}
	for _, from := range sources {
		if err := r.addDelta(ctx, i.Manifest, from, data); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.sayDelta("%s has no delta from %s: %v", i.Manifest.Version, from.Version, err)
		}
	}
	return nil
}

func (r *Repository) sayDelta(format string, args ...any) {
	if r.Deltas.Progress != nil {
		r.Deltas.Progress(fmt.Sprintf(format, args...))
	}
}

// deltaSources are the older releases that machines probably run: the newest ones, and each channel's
// current one.
func deltaSources(all []release.Release, m release.Manifest, newest int) (from []release.Release) {
	seen := map[release.Channel]bool{}
	for _, old := range all { // newest first
		if old.Edition != m.Edition || old.Arch != m.Arch || old.Version.Compare(m.Version) >= 0 {
			continue
		}
		if _, ok := old.File(release.OSFile); !ok {
			continue
		}
		wanted := len(from) < newest
		for c := range old.Channels {
			if old.Withdrawn == nil && !seen[c] {
				seen[c], wanted = true, true
			}
		}
		if wanted {
			from = append(from, old)
		}
	}
	return from
}

func (r *Repository) addDelta(ctx context.Context, m release.Manifest, from release.Release, data []byte) error {
	file, _ := from.File(release.OSFile)
	old, err := os.ReadFile(filepath.Join(r.Dir, filepath.FromSlash(file.Location())))
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(old); hex.EncodeToString(sum[:]) != file.SHA256 {
		return fmt.Errorf("%s: %w", file.Path, release.ErrMismatch)
	}
	step := func(s string) { r.sayDelta("%s from %s: %s", m.Version, from.Version, s) }
	create := r.Deltas.Make
	if create == nil {
		create = DeltaBetween
	}
	made, v, err := create(ctx, old, data, step)
	if err != nil {
		return err
	}
	percent := float64(len(made)) / float64(len(data)) * 100
	if percent >= worth {
		return fmt.Errorf("it would be %.0f percent of the whole file", percent)
	}
	step(fmt.Sprintf("%s, %.2f percent of the whole file; applying it took %.0f s and %d MB of memory", Size(int64(len(made))), percent, v.CPU, v.Memory>>20))
	return r.addDeltaTarget(m, from.Version, file.SHA256, made)
}

// Size is a number of bytes for people: also the smallest delta is more than nothing.
func Size(bytes int64) string {
	if bytes < 100_000 {
		return fmt.Sprintf("%.2f KB", float64(bytes)/1e3)
	}
	return fmt.Sprintf("%.2f MB", float64(bytes)/1e6)
}

func (r *Repository) addDeltaTarget(m release.Manifest, from release.Version, sha256sum string, made []byte) error {
	sum := sha256.Sum256(made)
	d := release.Delta{Part: release.OSFile, From: from, FromSHA256: sha256sum, File: release.File{
		Path:  path.Join(release.Folder(m.Version, m.Edition, m.Arch), release.DeltaName(release.OSFile, from)),
		Bytes: int64(len(made)), SHA256: hex.EncodeToString(sum[:]),
	}}
	raw, err := d.MarshalCustom()
	if err != nil {
		return err
	}
	if err := r.write(filepath.Join(r.Dir, filepath.FromSlash(d.Location())), made); err != nil {
		return err
	}
	r.targets.Signed.Targets[d.Path] = &metadata.TargetFiles{Length: d.Bytes, Hashes: metadata.Hashes{"sha256": sum[:]}, Custom: (*json.RawMessage)(&raw)}
	return nil
}

// OSFileOf returns the OS file that a name stands for: a file, a build folder, or a version
// of the repository in dir (of that edition and architecture).
func OSFileOf(ctx context.Context, dir, edition, arch, name string) ([]byte, error) {
	if info, err := os.Stat(name); err == nil {
		if info.IsDir() {
			name = filepath.Join(name, release.OSFile)
		}
		return os.ReadFile(name)
	}
	v, err := release.ParseVersion(name)
	if err != nil {
		return nil, fmt.Errorf("%s is neither a file nor a folder nor a version", name)
	}
	root, err := os.ReadFile(filepath.Join(dir, "metadata", "1.root.json"))
	if err != nil {
		return nil, fmt.Errorf("look for %s in the repository in %s: %w", v, dir, err)
	}
	read, err := release.Refresh(ctx, release.Config{Root: root, Source: release.Dir(dir), Carried: true})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(read.Releases, func(r release.Release) bool { return r.Version == v && r.Edition == edition && r.Arch == arch })
	if i < 0 {
		return nil, fmt.Errorf("there is no %s %s-%s in the repository in %s", v, edition, arch, dir)
	}
	file, ok := read.Releases[i].File(release.OSFile)
	if !ok {
		return nil, fmt.Errorf("%s has no %s: it was published without --format efi", v, release.OSFile)
	}
	return os.ReadFile(filepath.Join(dir, filepath.FromSlash(file.Location())))
}
