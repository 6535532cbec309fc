// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package publish writes a release repository: a folder of plain files (see package
// release for what they are and who trusts which).
//
// It owns everything in the folder. One process at a time works on it; the
// lock is DIR/.lock and ends with the process. A change is made in this order:
// release files, then the next root if keys change, targets, snapshot, and
// last timestamp.json, by renaming. Each file but the last has a name that was never used
// before. So a process that dies at any point, and a mirror that copies at any
// point, leave the state of before, and what was written in vain is not
// named by anything. Before the timestamp is put in place, the new state is read
// as a machine would read it, within a machine's limits.
//
// Nothing in the folder is secret. Private keys are read from elsewhere, when a
// change needs them, and the root's only when keys change.
package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/release"
)

// How long signatures last. Timestamp and snapshot are signed by machines that are
// always on; targets with each release; the root by hand.
const (
	rootLife      = 2 * 365 * 24 * time.Hour
	targetsLife   = 365 * 24 * time.Hour
	snapshotLife  = 30 * 24 * time.Hour
	timestampLife = 14 * 24 * time.Hour
)

const lockWait = 10 * time.Second

// Repository is a locked repository.
type Repository struct {
	Dir    string
	Now    func() time.Time
	Deltas Deltas // made when an OS file is published
	// AnyRoot publishes also OS files whose machines would not trust this
	// repository any more.
	AnyRoot bool

	lock      *os.File
	write     func(path string, data []byte) error
	root      *metadata.Metadata[metadata.RootType]
	targets   *metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]
}

// Open locks a repository and reads what is current in it.
func Open(dir string, now func() time.Time) (*Repository, error) {
	if _, err := os.Stat(filepath.Join(dir, "metadata", "1.root.json")); err != nil {
		return nil, fmt.Errorf("there is no repository in %s: make one with `wherry release init %s`", dir, dir)
	}
	r, err := locked(dir, now)
	if err != nil {
		return nil, err
	}
	if err := r.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("read the repository in %s: %w", dir, err), r.Close())
	}
	return r, nil
}

func locked(dir string, now func() time.Time) (*Repository, error) {
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(lockWait); ; time.Sleep(100 * time.Millisecond) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(end) {
			return nil, errors.Join(fmt.Errorf("lock %s: another wherry works on it: %w", dir, err), f.Close())
		}
	}
	return &Repository{Dir: dir, Now: now, lock: f, write: func(path string, data []byte) error { return atomicfile.Write(path, data, 0o644) }}, nil
}

// Close unlocks the repository.
func (r *Repository) Close() error { return r.lock.Close() }

func (r *Repository) metadataFile(name string) string { return filepath.Join(r.Dir, "metadata", name) }

// read loads the newest root and what the timestamp leads to. It checks
// signatures: nothing is built on what somebody else wrote into the folder.
func (r *Repository) read() (err error) {
	if err := r.readRoots(); err != nil {
		return err
	}
	if r.timestamp, err = metadata.Timestamp().FromFile(r.metadataFile("timestamp.json")); err != nil {
		return err
	}
	next := r.timestamp.Signed.Meta["snapshot.json"]
	if next == nil {
		return errors.New("timestamp.json names no snapshot")
	}
	if r.snapshot, err = metadata.Snapshot().FromFile(r.metadataFile(fmt.Sprintf("%d.snapshot.json", next.Version))); err != nil {
		return err
	}
	next = r.snapshot.Signed.Meta["targets.json"]
	if next == nil {
		return errors.New("the snapshot names no targets")
	}
	if r.targets, err = metadata.Targets().FromFile(r.metadataFile(fmt.Sprintf("%d.targets.json", next.Version))); err != nil {
		return err
	}
	return errors.Join(r.root.VerifyDelegate(metadata.TIMESTAMP, r.timestamp), r.root.VerifyDelegate(metadata.SNAPSHOT, r.snapshot),
		r.root.VerifyDelegate(metadata.TARGETS, r.targets))
}

func (r *Repository) readRoots() error {
	for n := int64(1); ; n++ {
		next, err := metadata.Root().FromFile(r.metadataFile(fmt.Sprintf("%d.root.json", n)))
		if errors.Is(err, fs.ErrNotExist) && r.root != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if r.root != nil {
			err = r.root.VerifyDelegate(metadata.ROOT, next)
		}
		if err = errors.Join(err, next.VerifyDelegate(metadata.ROOT, next)); err != nil || next.Signed.Version != n {
			return fmt.Errorf("%d.root.json: not signed as it must be: %w", n, err)
		}
		r.root = next
	}
}

// nextVersion is above the current one and above those that were written in vain.
func (r *Repository) nextVersion(role string, current int64) (int64, error) {
	entries, err := os.ReadDir(filepath.Join(r.Dir, "metadata"))
	if err != nil {
		return 0, err
	}
	name := regexp.MustCompile(`^([0-9]{1,9})\.` + role + `\.json$`)
	for _, e := range entries {
		if m := name.FindStringSubmatch(e.Name()); m != nil {
			n, _ := strconv.ParseInt(m[1], 10, 64) // nine digits fit
			current = max(current, n)
		}
	}
	return current + 1, nil
}

// commit signs and writes targets (when they changed), snapshot and timestamp.
func (r *Repository) commit(ctx context.Context, keys Keys, changed bool, roots ...*metadata.Metadata[metadata.RootType]) error {
	if len(roots) == 0 {
		roots = append(roots, r.root)
	}
	now := r.Now().UTC().Truncate(time.Second)
	if changed {
		version, err := r.nextVersion(metadata.TARGETS, r.targets.Signed.Version)
		if err != nil {
			return err
		}
		r.targets.Signed.Version, r.targets.Signed.Expires = version, now.Add(targetsLife)
		meta, err := save(r, r.targets, metadata.TARGETS, keys, version, roots)
		if err != nil {
			return err
		}
		r.snapshot.Signed.Meta = map[string]*metadata.MetaFiles{"targets.json": meta}
	}
	version, err := r.nextVersion(metadata.SNAPSHOT, r.snapshot.Signed.Version)
	if err != nil {
		return err
	}
	r.snapshot.Signed.Version, r.snapshot.Signed.Expires = version, now.Add(snapshotLife)
	meta, err := save(r, r.snapshot, metadata.SNAPSHOT, keys, version, roots)
	if err != nil {
		return err
	}
	r.timestamp.Signed.Version++
	r.timestamp.Signed.Expires, r.timestamp.Signed.Meta = now.Add(timestampLife), map[string]*metadata.MetaFiles{"snapshot.json": meta}
	data, err := signed(r.timestamp, metadata.TIMESTAMP, keys, roots)
	if err != nil {
		return err
	}
	if err := r.rehearse(ctx, data); err != nil {
		return fmt.Errorf("machines could not read the new state, so it is not put in place: %w", err)
	}
	return r.write(r.metadataFile("timestamp.json"), data)
}

func signed[T metadata.Roles](m *metadata.Metadata[T], role string, keys Keys, roots []*metadata.Metadata[metadata.RootType]) ([]byte, error) {
	of, err := keys.Of(role)
	if err != nil {
		return nil, err
	}
	if err := sign(m, role, of, roots...); err != nil {
		return nil, err
	}
	return m.ToBytes(false)
}

// save writes N.ROLE.json and describes it for the role above.
func save[T metadata.Roles](r *Repository, m *metadata.Metadata[T], role string, keys Keys, version int64, roots []*metadata.Metadata[metadata.RootType]) (*metadata.MetaFiles, error) {
	data, err := signed(m, role, keys, roots)
	if err != nil {
		return nil, err
	}
	return describe(data, version), r.write(r.metadataFile(fmt.Sprintf("%d.%s.json", version, role)), data)
}

// rehearse reads the repository as a machine would, with the timestamp that is
// about to be put in place.
func (r *Repository) rehearse(ctx context.Context, timestamp []byte) error {
	root, err := os.ReadFile(r.metadataFile("1.root.json"))
	if err != nil {
		return err
	}
	_, err = release.Refresh(ctx, release.Config{Root: root, Now: r.Now, Source: overlay{release.Dir(r.Dir), timestamp}})
	return err
}

type overlay struct {
	release.Source
	timestamp []byte
}

func (o overlay) Open(ctx context.Context, name string, offset int64) (io.ReadCloser, int64, error) {
	if name == "metadata/timestamp.json" {
		return io.NopCloser(bytes.NewReader(o.timestamp)), 0, nil
	}
	return o.Source.Open(ctx, name, offset)
}

// Refresh signs snapshot and timestamp anew, and targets when half of their time is over. It
// must be done more often than timestamps last.
func (r *Repository) Refresh(ctx context.Context, keys Keys) error {
	return r.commit(ctx, keys, r.targets.Signed.Expires.Sub(r.Now()) < targetsLife/2)
}
