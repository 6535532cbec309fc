// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"wherry.example/wherry/api/wherryv1"
)

// Defaults of LogOptions.
const (
	defaultLogBytes = 10 << 20
	defaultLogFiles = 3
	logPrefix       = "log."
)

// logFile is the log of one container: files log.1, log.2 … in the container's
// directory, of which the highest is written and only the last few are kept.
// Writing never waits for readers: they read the files at their own pace and
// find a gap when the file they were in is gone. The file is opened by the first write.
type logFile struct {
	dir   string
	bytes int64
	files int
	log   *slog.Logger

	mu      sync.Mutex
	f       *os.File
	seq     int
	size    int64
	changed chan struct{}
	lost    uint64 // bytes that could not be written
}

func newLogFile(dir string, o *wherryv1.LogOptions, log *slog.Logger) *logFile {
	l := &logFile{dir: dir, bytes: int64(o.GetMaxBytes()), files: int(o.GetMaxFiles()), log: log, changed: make(chan struct{})}
	if l.bytes == 0 {
		l.bytes = defaultLogBytes
	}
	if l.files == 0 {
		l.files = defaultLogFiles
	}
	if seqs := l.sequence(); len(seqs) > 0 {
		l.seq = seqs[len(seqs)-1]
		if f, err := os.Open(l.path(l.seq)); err == nil {
			if st, err := f.Stat(); err == nil {
				l.size = soundEnd(f, st.Size())
			}
			f.Close()
		}
	}
	return l
}

func (l *logFile) path(seq int) string { return filepath.Join(l.dir, logPrefix+strconv.Itoa(seq)) }

// sequence lists the numbers of the files that exist, in order.
func (l *logFile) sequence() []int {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil
	}
	var seqs []int
	for _, e := range entries {
		if s, ok := strings.CutPrefix(e.Name(), logPrefix); ok {
			if n, err := strconv.Atoi(s); err == nil && n > 0 {
				seqs = append(seqs, n)
			}
		}
	}
	slices.Sort(seqs)
	return seqs
}

// claimer is told what becomes of data while they are written, so that a next
// life can tell whether they were.
type claimer interface {
	goesTo(position)
	isWritten() // or could not be
}

// frameBuffers are shared, as readBuffers are: most containers write little.
var frameBuffers = sync.Pool{New: func() any { return new([]byte) }}

// maxFrameBuffer is the most that is kept for the next. Many empty lines need far more.
const maxFrameBuffer = 4 * pieceBytes

// write appends what the container wrote. It never fails for the container:
// what does not fit on the disk is counted, told once, and dropped. Readers
// see it when the claim is settled, so that they never see it twice.
func (l *logFile) write(stream wherryv1.Stream, data []byte, c claimer) {
	b := frameBuffers.Get().(*[]byte)
	l.mu.Lock()
	defer l.mu.Unlock()
	frames := appendFrames((*b)[:0], stream, time.Now(), data)
	err := l.placeLocked(int64(len(frames)))
	if err == nil {
		c.goesTo(position{l.seq, l.size})
		_, err = l.f.WriteAt(frames, l.size)
	}
	c.isWritten()
	if err == nil {
		l.size += int64(len(frames))
	} else {
		if l.f != nil {
			_ = l.f.Truncate(l.size) // half of it may be on the disk
		}
		if l.lost == 0 {
			l.log.Error("engine: container output is lost", "dir", l.dir, "err", err)
		}
		l.lost += uint64(len(data))
	}
	if cap(frames) <= maxFrameBuffer {
		*b = frames
		frameBuffers.Put(b)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// goBack drops what was written from p on: an earlier life did not settle
// its claim to it. The zero position is none.
func (l *logFile) goBack(p position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil && p.seq == l.seq && p.off < l.size {
		l.size = p.off // the file is cut when it is opened
	}
}

// lostBytes counts what could not be written since wherryd started.
func (l *logFile) lostBytes() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// placeLocked sees to it that there is a file to write n bytes to: the last one
// while it has room, else a new one, dropping the oldest. Only a file that
// begins with more than it should have is larger than it should be.
func (l *logFile) placeLocked(n int64) error {
	full := l.seq == 0 || l.size > 0 && l.size+n > l.bytes
	if l.f != nil && !full {
		return nil
	}
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
	if full {
		l.seq++
		l.size = 0
		l.dropOldLocked()
	}
	f, err := os.OpenFile(l.path(l.seq), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := f.Truncate(l.size); err != nil {
		f.Close()
		return err
	}
	l.f = f
	return nil
}

func (l *logFile) dropOldLocked() {
	for _, n := range l.sequence() {
		if n <= l.seq-l.files {
			if err := os.Remove(l.path(n)); err != nil {
				l.log.Warn("engine: old log file stays", "err", err)
			}
		}
	}
}

// closeFile gives the descriptor back between runs.
func (l *logFile) closeFile() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}

// position is a place between two frames.
type position struct {
	seq int
	off int64
}

// end is where the next frame will be, and a channel that closes when it is written.
func (l *logFile) end() (position, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return position{l.seq, l.size}, l.changed
}

func (l *logFile) totalBytes() (n uint64) {
	for _, s := range l.sequence() {
		if st, err := os.Stat(l.path(s)); err == nil {
			n += uint64(st.Size())
		}
	}
	return n
}

// start is the oldest position that is kept.
func (l *logFile) start() position {
	if s := l.sequence(); len(s) > 0 {
		return position{s[0], 0}
	}
	p, _ := l.end()
	return position{max(p.seq, 1), 0}
}

// sizeOf is how much of a file may be read: the last one only up to its last whole frame.
func (l *logFile) sizeOf(seq int) (int64, error) {
	if end, _ := l.end(); end.seq == seq {
		return end.off, nil
	}
	st, err := os.Stat(l.path(seq))
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// since finds the first file that can hold something as new as t.
func (l *logFile) since(t time.Time) position {
	at := l.start()
	for _, seq := range l.sequence() {
		at = position{seq, 0}
		size, err := l.sizeOf(seq)
		if err != nil {
			continue
		}
		f, err := os.Open(l.path(seq))
		if err != nil {
			continue
		}
		last, _, err := lastFrame(f, size)
		f.Close()
		if err != nil || !last.time.Before(t) {
			break
		}
	}
	return at
}

// tail finds where the last n lines begin, reading backwards. Lines later than
// until, unless that is zero, do not count.
func (l *logFile) tail(n uint32, until time.Time) (position, error) {
	end, _ := l.end()
	if n == 0 || end.seq == 0 {
		return end, nil
	}
	seqs := l.sequence()
	slices.Reverse(seqs)
	count, last := uint32(0), end
	open := false // a line that does not end has been counted
	for _, seq := range seqs {
		p, done, err := l.tailIn(seq, n, until, &count, &open)
		if err != nil && !os.IsNotExist(err) {
			return last, err
		}
		last = p
		if done {
			return last, nil
		}
	}
	return last, nil
}

func (l *logFile) tailIn(seq int, n uint32, until time.Time, count *uint32, open *bool) (position, bool, error) {
	size, err := l.sizeOf(seq)
	if err != nil {
		return position{seq, 0}, false, err
	}
	f, err := os.Open(l.path(seq))
	if err != nil {
		return position{seq, 0}, false, err
	}
	defer f.Close()
	for at := size; at > 0; {
		fr, start, err := lastFrame(f, at)
		if err != nil {
			return position{seq, at}, true, nil // what is before cannot be read backwards
		}
		switch {
		case !until.IsZero() && fr.time.After(until):
		case !fr.piece && *count == n:
			return position{seq, at}, true, nil
		case !fr.piece:
			*count++
			*open = true
		case !*open:
			*count++
			*open = true
		}
		at = start
	}
	return position{seq, 0}, false, nil
}

func isNotExist(err error) bool { return err != nil && errors.Is(err, fs.ErrNotExist) }
