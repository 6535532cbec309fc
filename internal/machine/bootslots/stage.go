// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package bootslots

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/format/pe"
)

// reserve is what stays free on the boot partition, for the firmware's own files.
const reserve = 1 << 20

// Stage puts an OS file, complete and verified, beside the others, to be tried
// at the next start. It makes no room: when there is none the error is
// ErrNoRoom and nothing was changed. Under Secure Boot a file that the firmware
// would not start is ErrRefused. A version that is there already, but does not
// run, is written anew, unless it is the same and was not tried yet.
func (s *Slots) Stage(ctx context.Context, version string, src *os.File, progress func(done, total int64)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.accepts(src)
	if err == nil {
		err = named(src, version)
	}
	if err == nil {
		err = s.tidy()
	}
	if err == nil {
		err = s.with(true, func(v volume) error { return s.stage(ctx, v, version, src, progress) })
	}
	if err == nil {
		err = s.ensureEntries()
	}
	if err != nil {
		return fmt.Errorf("put OS file %s on the boot partition: %w", version, err)
	}
	return nil
}

// tidy gives back what cuts of power took away from the boot partition: first
// files that have a name, then clusters that have none. The caller holds mu.
func (s *Slots) tidy() error {
	if err := s.with(true, func(volume) error { return nil }); err != nil {
		return err
	}
	p, err := s.partition()
	if err != nil {
		return err
	}
	freed, err := s.reclaim(p)
	if err != nil { // there may be room all the same
		s.log.Warn("give back what an interrupted update took of the boot partition", "error", err)
	}
	if freed > 0 {
		s.log.Info("gave back what an interrupted update took of the boot partition", "bytes", freed)
	}
	return nil
}

// named wants the file to be of the version that its name will say: the loader
// orders files by what is inside.
func named(src *os.File, version string) error {
	return parsed(src, func(p *pe.Image) error {
		for line := range strings.Lines(string(p.Data(".osrel"))) {
			if got, ok := strings.CutPrefix(line, "IMAGE_VERSION="); ok && strings.Trim(got, " \"\n") == version {
				return nil
			}
		}
		return fmt.Errorf("%w: it says itself that it is of another version", ErrRefused)
	})
}

func (s *Slots) stage(ctx context.Context, v volume, version string, src *os.File, progress func(done, total int64)) error {
	all, _, err := s.scan(v)
	if err != nil {
		return err
	}
	if err := planStage(all, version); err != nil {
		return err
	}
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return err
	}
	name := nameOf(version)
	name.Counted, name.Left = true, tries
	old, err := pick(all, version)
	if err == nil && old.File == name.String() && s.sameContents(ctx, v, old, src) {
		return nil
	}
	if err := roomFor(v, info.Size(), old.Bytes); err != nil {
		return err
	}
	if old.File != "" {
		if err := s.removeAll(v, version); err != nil {
			return err
		}
	}
	w := writing{volume: v, src: src, total: info.Size(), progress: progress, temporary: prefix + version + leftover}
	if err := w.write(ctx, name.String()); err != nil {
		return errors.Join(err, v.removeLeftovers())
	}
	return nil
}

// roomFor wants room for a file in place of one of the size replaced.
func roomFor(v volume, bytes, replaced int64) error {
	free, err := v.free()
	if err != nil {
		return err
	}
	free += replaced
	if free < bytes+reserve {
		return fmt.Errorf("%w: the OS file takes %d MB, and only %d MB of the boot partition are free", ErrNoRoom, mb(bytes+reserve), free/1e6)
	}
	return nil
}

func mb(bytes int64) int64 { return (bytes + 1e6 - 1) / 1e6 }

// sameContents compares a slot with src, whose place it leaves at the beginning.
func (s *Slots) sameContents(ctx context.Context, v volume, slot Slot, src *os.File) bool {
	f, err := os.Open(v.path(slot.File))
	if err != nil {
		return false
	}
	defer f.Close()
	same, err := sameBytes(ctx, f, src)
	_, errSeek := src.Seek(0, io.SeekStart)
	return err == nil && errSeek == nil && same
}

// writing is one OS file on its way to the boot partition.
type writing struct {
	volume
	src       *os.File
	total     int64
	progress  func(done, total int64)
	temporary string
}

// write does it in the one order that was found safe on FAT: contents under a
// name that the loader does not take, fsync, read back, rename, fsync again.
func (w writing) write(ctx context.Context, name string) error {
	f, err := os.OpenFile(w.path(w.temporary), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var errEarly error
	err = copyChunks(ctx, f, w.src, func(done int64) {
		if done <= chunk {
			// From now on the entry names the first cluster: what a power cut leaves
			// can be found, and its room is not lost.
			errEarly = f.Sync()
		}
		if w.progress != nil {
			w.progress(done, w.total)
		}
	})
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	if err := errors.Join(err, errEarly); err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), w.sync()); err != nil {
		return err
	}
	if err := readBack(ctx, f, w.src); err != nil {
		return err
	}
	return w.renameOpen(f, w.temporary, name)
}

// readBack compares what the disk has with what was to be written. The kernel's
// copy is dropped first, as far as it lets go of it. Bytes are compared and not
// hashes, which take longer than all the rest on a slow processor.
func readBack(ctx context.Context, f, src *os.File) error {
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	for _, r := range []*os.File{f, src} {
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	same, err := sameBytes(ctx, f, src)
	if err == nil && !same {
		err = errors.New("the disk did not keep what was written: it may be failing")
	}
	return err
}
