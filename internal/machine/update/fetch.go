// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/release"
)

// origin is where releases are read from for one look or attempt.
type origin struct {
	source  release.Source
	carried bool
	has     func(release.Release) bool // nil: all
}

// web is the repository of the configuration.
func (u *Updater) web() (origin, error) {
	h, err := u.server()
	return origin{source: h}, err
}

// server is kept, so that its connections are used again.
func (u *Updater) server() (*release.HTTP, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.http != nil {
		return u.http, nil
	}
	if u.settings.URL == "" {
		return nil, errNoURL
	}
	h, err := release.NewHTTP(u.settings.URL)
	if err == nil && u.settings.CA != "" {
		err = h.Trust([]byte(u.settings.CA))
	}
	if err != nil {
		return nil, err
	}
	u.http = h
	return h, nil
}

// links are what was verified before, with the chain of root roles.
func (u *Updater) links() release.Store { return release.StoreDir(filepath.Join(u.o.Dir, "metadata")) }

// refresh reads and verifies the metadata.
func (u *Updater) refresh(ctx context.Context, from origin) (*release.Repository, error) {
	root, err := rootRole(u.o.RootFile)
	if err != nil {
		return nil, err
	}
	now, floor := u.o.Now(), u.floor()
	r, err := release.Refresh(ctx, release.Config{
		Root: root, Source: metered{from.source, &u.wire}, Store: u.links(),
		Limits: u.o.Limits, Now: u.o.Now, NotBefore: floor, Carried: from.carried,
	})
	if errors.Is(err, release.ErrExpired) {
		if trouble := clockTrouble(now, floor, u.o.ClockSet()); trouble != "" {
			return nil, fmt.Errorf("%w; %s", err, trouble)
		}
	}
	return r, err
}

// choose returns the release to go to, or why there is none.
func (u *Updater) choose(repo *release.Repository, from origin, want *release.Version, retry bool) (rel release.Release, found bool, why string) {
	u.mu.Lock()
	s, r := u.settings, u.record
	u.mu.Unlock()
	m := release.Machine{ID: u.id, Edition: u.o.Edition, Arch: u.o.Arch, Current: u.version, Channel: s.Channel, Pin: s.Pin}
	if !retry {
		m.Avoid = slices.Clone(r.Avoid)
		for i := range m.Avoid {
			m.Avoid[i].Reason = firstLine(m.Avoid[i].Reason)
		}
	}
	all := repo.Releases
	if from.has != nil { // a bundle: what is in it is what somebody wants here
		all = slices.DeleteFunc(slices.Clone(all), func(r release.Release) bool { return !from.has(r) || r.Edition != u.o.Edition || r.Arch != u.o.Arch })
		if len(all) == 0 {
			return rel, false, fmt.Sprintf("the bundle holds no release for this machine (%s-%s)", u.o.Edition, u.o.Arch)
		}
		m.Pin = &all[0].Version // the newest
	}
	if want != nil {
		m.Pin = want
	}
	return release.Choose(all, m, u.o.Now())
}

// fetched is an OS file on the state disk, complete and verified.
type fetched struct {
	rel    release.Release
	file   release.File
	osFile *os.File
	bytes  int64 // that came for it
	delta  bool
	note   string // why the delta was not taken
}

// margin is left free for everybody else.
const margin = 48 << 20

// fetch brings a release's OS file to the state disk, or the rest of it.
func (u *Updater) fetch(ctx context.Context, j *job, repo *release.Repository, rel release.Release) (f fetched, err error) {
	f = fetched{rel: rel}
	if _, err := repo.Manifest(ctx, rel); err != nil { // tells of the same files as the targets role
		return f, err
	}
	var ok bool
	if f.file, ok = rel.File(release.OSFile); !ok {
		return f, fmt.Errorf("%s was published without %s: build it with --format efi", rel.Version, release.OSFile)
	}
	dir, err := u.downloads(f.file.SHA256)
	if err != nil {
		return f, err
	}
	if f.osFile, err = os.OpenFile(filepath.Join(dir, f.file.SHA256+".efi"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return f, err
	}
	if err = u.fill(ctx, j, repo, &f); err == nil {
		j.tell(Progress{Phase: "downloading", Target: rel.Version.String(), Done: f.file.Bytes, Total: f.file.Bytes, Message: "checking the signature"})
		err = u.o.Slots.Accepts(f.osFile)
	}
	if err != nil {
		f.osFile.Close()
	}
	return f, err
}

// downloads is the folder, where nothing is left but what has to do with this file.
func (u *Updater) downloads(sha256 string) (string, error) {
	dir := filepath.Join(u.o.Dir, "download")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make room for the download: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), sha256) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return "", err
			}
		}
	}
	return dir, nil
}

// fill makes the file whole: by a delta if there is one, else by what is missing of it.
func (u *Updater) fill(ctx context.Context, j *job, repo *release.Repository, f *fetched) error {
	had, err := size(f.osFile)
	if err != nil {
		return err
	}
	c := cameBeside(f.osFile)
	c.Made = min(c.Made, had)
	if carried := j.how == Bundle || j.how == Stick; had == 0 && u.o.Deltas != nil && !carried { // bundles hold whole files only
		if d, ok := u.o.Deltas.Find(f.rel, u.version); ok {
			err := u.rebuild(ctx, j, repo, f, d, &c)
			if err == nil {
				c.tell(f)
				return nil
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			u.o.Log.Info("update: the delta was of no use, the whole file is taken", "error", err)
			if err := f.osFile.Truncate(0); err != nil {
				return err
			}
			had, c.Made, c.Note = 0, 0, bounded(err.Error(), 500)
			u.warn("remember how the release came", c.save())
		}
	}
	if err := u.room(f.file.Bytes - had); err != nil {
		return err
	}
	if err := u.bring(ctx, j, repo, f.file, f.osFile, &c, Progress{Phase: "downloading", Target: f.rel.Version.String(), Message: c.Note}); err != nil {
		return err
	}
	c.tell(f)
	return nil
}

// rebuild makes the file out of the running one and a delta.
func (u *Updater) rebuild(ctx context.Context, j *job, repo *release.Repository, f *fetched, d release.File, c *came) error {
	if err := u.room(d.Bytes + f.file.Bytes); err != nil {
		return err
	}
	from, err := u.o.Slots.Running()
	if err != nil {
		return err
	}
	delta, err := os.OpenFile(beside(f.osFile, ".delta"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer delta.Close()
	target := f.rel.Version.String()
	if err := u.bring(ctx, j, repo, d, delta, c, Progress{Phase: "downloading", Target: target, Delta: true}); err != nil {
		return err
	}
	c.Made = f.file.Bytes // as much of it as comes to be there
	u.warn("remember how the release came", c.save())
	tell := func(done, total int64) {
		j.tell(Progress{Phase: "rebuilding", Target: target, Done: done, Total: total, Delta: true})
	}
	tell(0, 0)
	if err := u.o.Deltas.Rebuild(ctx, from, delta, f.osFile, tell); err != nil {
		return fmt.Errorf("rebuild from the delta: %w", err)
	}
	return verify(f.osFile, f.file)
}

// verify compares a file with what was signed.
func verify(file *os.File, want release.File) error {
	if n, err := size(file); err != nil || n != want.Bytes {
		return errors.Join(err, fmt.Errorf("%d bytes came out of the delta, and not %d", n, want.Bytes))
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(file, 0, want.Bytes)); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != want.SHA256 {
		return fmt.Errorf("what came out of the delta is not what was signed: %w", release.ErrMismatch)
	}
	return nil
}

// bring downloads a file, or its rest, and tells how far it is.
func (u *Updater) bring(ctx context.Context, j *job, repo *release.Repository, file release.File, dst *os.File, c *came, p Progress) error {
	had, _ := size(dst) // what is wrong with it the download tells
	before, wire := *c, u.wire.Load()
	p.Total = file.Bytes
	stop := make(chan struct{})
	told := make(chan struct{})
	go func() {
		defer close(told)
		for {
			if p.Done, _ = size(dst); p.Done > p.Total {
				p.Done = p.Total
			}
			j.tell(p)
			select {
			case <-stop:
				return
			case <-time.After(500 * time.Millisecond):
			}
		}
	}()
	err := repo.Download(ctx, file, dst)
	close(stop)
	<-told
	if has, serr := size(dst); serr == nil {
		c.grew(file, had, has, u.wire.Load()-wire)
	}
	if *c != before {
		u.warn("remember how the release came", c.save())
	}
	if err == nil {
		err = dst.Sync()
	}
	if isFull(err) {
		return fmt.Errorf("%w: the state disk is full: remove images, volumes or containers", err)
	}
	return err
}

func size(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// room refuses what would fill the state disk.
func (u *Updater) room(want int64) error {
	free, err := u.o.Free(u.o.Dir)
	if err != nil {
		return err
	}
	if free < want+margin {
		return errFull.WithMessage(fmt.Sprintf("the state disk has %d MB free, and the update needs %d: remove images, volumes or containers",
			free/1e6, (want+margin)/1e6))
	}
	return nil
}

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
