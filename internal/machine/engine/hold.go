// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
)

// A hold is a file in RunDir through which output goes on its way from a FIFO
// to a log, so that none is ever in this process alone: a SIGKILL at any
// moment neither loses nor doubles a byte. splice(2) moves bytes from the FIFO
// to the end of the file in the kernel, where no signal comes between taking them and
// having them, and the size of the file tells how many they were. Beside them
// stands a note, in memory that outlives its writer:
//
//  1. The note says whose output comes next. Nothing is in flight.
//  2. splice: what lies between note.start and the end of the file is in flight.
//  3. The note says where in the log it is going to be.
//  4. The log is written there.
//  5. note.start moves to the end of the file. Nothing is in flight. Only now
//     readers of the log are told.
//
// The next life writes what is in flight to the log before it reads on: at the
// place that the note names, over all that may be there since 4, else at the end.
//
// A hold belongs to no container but is borrowed for one piece of output, as a buffer
// would be: there are a few of them, and a container that is silent costs nothing.
type hold struct {
	all  *holds
	f    *os.File
	page []byte // of which note is the beginning
	note *holdNote
}

// holdNote is the beginning of a hold's file, mapped into memory.
type holdNote struct {
	start  atomic.Int64 // of what is in flight; what is before is in a log
	seq    atomic.Int64 // of the log's file, or 0 while the place is not known
	off    atomic.Int64 // in that file
	stream atomic.Int32
	id     [idBytes]byte // of the container
}

const (
	idBytes = 64
	// holdData is where a hold's data begin: the page before it is the note's.
	holdData = 4096
	// pieceBytes is the most that is in flight in one hold: what a FIFO holds.
	pieceBytes = 64 << 10
	// keptBytes is how far a hold grows before its memory is given back.
	keptBytes = 16 << 10
	maxHolds  = 16
)

// holds are all of them. At most so many pieces of output are on their way at once.
type holds struct {
	dir  string
	log  *slog.Logger
	turn chan struct{}
	warn sync.Once
	step func(string) // tests die here

	mu     sync.Mutex
	idle   []*hold // the last one is taken first: most of the time one does
	made   int
	closed bool
}

var errHoldsClosed = errors.New("the engine is closed")

// openHolds opens what an earlier life left; recover must come before the first use.
func openHolds(dir string, log *slog.Logger) (*holds, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	all := &holds{dir: dir, log: log, turn: make(chan struct{}, min(max(4, runtime.NumCPU()), maxHolds))}
	left, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, d := range left {
		n, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		all.made = max(all.made, n)
		h, err := all.open(n)
		if err != nil {
			log.Error("engine: output that was on its way to a log is lost", "err", err)
			continue
		}
		all.idle = append(all.idle, h)
	}
	return all, nil
}

// open opens or makes a hold. A kill while it is made leaves an empty one.
func (all *holds) open(n int) (*hold, error) {
	f, err := os.OpenFile(filepath.Join(all.dir, strconv.Itoa(n)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	h := &hold{all: all, f: f}
	size, err := h.size()
	if err == nil && size < holdData {
		// Not by truncating: to write to a mapped page that there is no room for is death by SIGBUS.
		err = unix.Fallocate(int(f.Fd()), 0, 0, holdData)
	}
	if err == nil {
		h.page, err = unix.Mmap(int(f.Fd()), 0, holdData, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", f.Name(), err)
	}
	h.note = (*holdNote)(unsafe.Pointer(&h.page[0]))
	if h.note.start.Load() < holdData {
		h.note.start.Store(holdData)
	}
	return h, nil
}

func (h *hold) size() (int64, error) {
	st, err := h.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// recover writes to their logs what was in flight when the last life ended. logOf
// finds a container's log; what has no container any more is dropped. A kill
// in here is as harmless as any other.
func (all *holds) recover(logOf func(id string) *logFile) {
	// What has a place first: whatever is written to that log moves its end.
	slices.SortStableFunc(all.idle, func(a, b *hold) int { return cmp.Compare(b.note.seq.Load(), a.note.seq.Load()) })
	for _, h := range all.idle {
		size, err := h.size()
		n := size - h.note.start.Load()
		if err != nil || n <= 0 {
			continue
		}
		l := logOf(string(h.note.id[:]))
		if l == nil {
			h.note.start.Store(size)
			continue
		}
		l.goBack(position{int(h.note.seq.Load()), h.note.off.Load()})
		h.deliver(l, wherryv1.Stream(h.note.stream.Load()), int(min(n, pieceBytes)))
		l.closeFile()
	}
}

// mover moves output of a container from its FIFOs to its log.
func (all *holds) mover(id string, l *logFile) mover {
	return func(stream wherryv1.Stream, fifo int) (int, error) {
		h, err := all.borrow()
		if errors.Is(err, errHoldsClosed) {
			return 0, err
		}
		if err != nil {
			return all.moveBare(err, l, stream, fifo)
		}
		defer all.giveBack(h)
		n, err := h.take(id, stream, fifo, min(pieceBytes, int(l.bytes/4)))
		switch {
		case n > 0:
			h.deliver(l, stream, n)
			return n, nil
		case err == nil || err == unix.EAGAIN || err == unix.EINTR:
			return 0, err
		}
		return all.moveBare(err, l, stream, fifo)
	}
}

// moveBare does without a hold: where there is no room in /run for one, the
// container must go on all the same.
func (all *holds) moveBare(why error, l *logFile, stream wherryv1.Stream, fifo int) (int, error) {
	all.warn.Do(func() {
		all.log.Warn("engine: output of containers is not safe from the death of this process", "err", why)
	})
	return passTo(func(stream wherryv1.Stream, data []byte) { l.write(stream, data, unheld{}) })(stream, fifo)
}

func (all *holds) borrow() (h *hold, err error) {
	all.turn <- struct{}{}
	all.mu.Lock()
	defer all.mu.Unlock()
	defer func() {
		if err != nil {
			<-all.turn
		}
	}()
	if all.closed {
		return nil, errHoldsClosed
	}
	if n := len(all.idle); n > 0 {
		h, all.idle = all.idle[n-1], all.idle[:n-1]
		return h, nil
	}
	if h, err = all.open(all.made + 1); err == nil {
		all.made++
	}
	return h, err
}

func (all *holds) giveBack(h *hold) {
	h.shrink()
	all.mu.Lock()
	defer all.mu.Unlock()
	all.idle = append(all.idle, h)
	<-all.turn
}

func (all *holds) at(step string) {
	if all.step != nil {
		all.step(step)
	}
}

// close lets nobody take output any more, and waits for what is on its way.
func (all *holds) close() {
	all.mu.Lock()
	all.closed = true
	all.mu.Unlock()
	for range cap(all.turn) {
		all.turn <- struct{}{}
	}
	for _, h := range all.idle {
		_ = unix.Munmap(h.page) // it is mapped
		h.f.Close()
	}
	for range cap(all.turn) { // who waits for a turn is told
		<-all.turn
	}
}

// take moves what is in a FIFO here, limit bytes at most. 0 bytes are the FIFO's end.
func (h *hold) take(id string, stream wherryv1.Stream, fifo, limit int) (int, error) {
	h.note.seq.Store(0)
	h.note.stream.Store(int32(stream))
	copy(h.note.id[:], id)
	h.all.at("whose is noted")
	at := h.note.start.Load()
	n, err := unix.Splice(fifo, nil, int(h.f.Fd()), &at, limit, unix.SPLICE_F_NONBLOCK)
	h.all.at("taken")
	return max(int(n), 0), err
}

// deliver writes n bytes that are in flight to the log.
func (h *hold) deliver(l *logFile, stream wherryv1.Stream, n int) {
	b := readBuffers.Get().(*[]byte)
	defer readBuffers.Put(b)
	got, err := h.f.ReadAt((*b)[:n], h.note.start.Load())
	if err != nil {
		h.all.log.Error("engine: container output is lost", "dir", l.dir, "bytes", n-got, "err", err)
	}
	l.write(stream, (*b)[:got], claim{h, n})
}

// shrink gives memory back, between two pieces of output.
func (h *hold) shrink() {
	if h.note.start.Load() <= holdData+keptBytes {
		return
	}
	if err := h.f.Truncate(holdData); err == nil { // an end before the start: nothing is in flight
		h.all.at("emptied")
		h.note.start.Store(holdData)
	}
}

// claim is what write has to tell of data that are in flight.
type claim struct {
	h *hold
	n int
}

func (c claim) goesTo(p position) {
	c.h.all.at("placed")
	c.h.note.off.Store(p.off)
	c.h.note.seq.Store(int64(p.seq))
	c.h.all.at("place is noted")
}

func (c claim) isWritten() {
	c.h.all.at("written")
	c.h.note.start.Add(int64(c.n))
	c.h.all.at("done")
}

// unheld is the claim of data that nothing holds.
type unheld struct{}

func (unheld) goesTo(position) {}
func (unheld) isWritten()      {}
