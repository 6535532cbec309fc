// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
)

// logReader reads a container's log forwards from a position. Attached clients
// and followers of logs are such readers: a slow one costs nothing but itself.
type logReader struct {
	l    *logFile
	pos  position
	f    *os.File
	scan *frameScanner
}

func (l *logFile) reader(from position) *logReader { return &logReader{l: l, pos: from} }

func (r *logReader) close() {
	if r.f != nil {
		r.f.Close()
		r.f = nil
	}
}

// drain passes on every frame written so far. gap is called when files were
// rotated away before they were read.
func (r *logReader) drain(ctx context.Context, emit func(frame) error) error {
	for {
		end, _ := r.l.end()
		if end.seq == 0 {
			return nil
		}
		if err := r.openAt(end); err != nil {
			return err
		}
		if r.f == nil {
			return nil
		}
		limit := end.off
		if r.pos.seq < end.seq {
			st, err := r.f.Stat()
			if err != nil {
				return err
			}
			limit = st.Size()
		}
		if err := r.drainFile(ctx, limit, emit); err != nil {
			return err
		}
		if r.pos.seq >= end.seq {
			return nil
		}
		r.close()
		r.pos = position{r.pos.seq + 1, 0}
	}
}

// openAt opens the file of the position, or the oldest one that is still there.
func (r *logReader) openAt(end position) error {
	if r.f != nil {
		return nil
	}
	r.pos.seq = max(r.pos.seq, 1)
	for ; r.pos.seq <= end.seq; r.pos = (position{r.pos.seq + 1, 0}) {
		f, err := os.Open(r.l.path(r.pos.seq))
		if err == nil {
			r.f, r.scan = f, newFrameScanner(f, r.pos.off)
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	r.pos = end
	return nil
}

func (r *logReader) drainFile(ctx context.Context, limit int64, emit func(frame) error) error {
	for r.pos.off < limit {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := r.scan.next(limit)
		if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
			// What a power cut tore is skipped with the rest of its file.
			r.pos.off = limit
			r.scan = newFrameScanner(r.f, limit)
			return nil
		}
		if err != nil {
			return err
		}
		r.pos.off = r.scan.offset()
		if err := emit(f); err != nil {
			return err
		}
	}
	return nil
}

// follow drains, then waits for more until done says that nothing will come.
// wake returns a channel that closes when done may have changed.
func (r *logReader) follow(ctx context.Context, wake func() (done bool, changed <-chan struct{}), emit func(frame) error, pause func() error) error {
	for {
		_, more := r.l.end()
		done, changed := wake()
		if err := r.drain(ctx, emit); err != nil {
			return err
		}
		if pause != nil {
			if err := pause(); err != nil {
				return err
			}
		}
		if done {
			return nil
		}
		select {
		case <-more:
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// errLogEnd stops a reader at the end of the asked-for time.
var errLogEnd = errors.New("end of the asked-for time")

// Logs sends what a container wrote. With follow it goes on until the container
// has ended for good.
func (e *Engine) Logs(ctx context.Context, q *wherryv1.StreamContainerLogsRequest, send func(*wherryv1.ContainerLogChunk) error) error {
	c, err := e.table.find(q.GetContainer(), false)
	if err != nil {
		return err
	}
	defer c.read()()
	l := c.logs
	since, until := timeOf(q.Since), timeOf(q.Until)
	from := l.since(since)
	if q.TailSet {
		if from, err = l.tail(q.Tail, until); err != nil {
			return err
		}
	}
	if !until.IsZero() && q.Follow {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	pack := &chunkPacker{send: send}
	emit := func(f frame) error {
		if f.time.Before(since) {
			return nil
		}
		if !until.IsZero() && f.time.After(until) {
			return errLogEnd
		}
		return pack.add(f)
	}
	r := l.reader(from)
	defer r.close()
	if q.Follow {
		err = r.follow(ctx, c.outputEnded, emit, pack.flush)
	} else {
		err = r.drain(ctx, emit)
	}
	if errors.Is(err, errLogEnd) || errors.Is(err, context.DeadlineExceeded) && !until.IsZero() {
		err = nil
	}
	return errors.Join(err, pack.flush())
}

// outputEnded says whether a container will write nothing any more, by itself.
func (c *container) outputEnded() (bool, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.rec.State.Phase
	return c.gone || !ran(p) && p != wherryv1.ContainerPhase_CONTAINER_PHASE_RESTARTING, c.changed
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// chunkPacker puts lines that were written together into one message.
type chunkPacker struct {
	send func(*wherryv1.ContainerLogChunk) error
	time time.Time
	next *wherryv1.ContainerLogChunk
}

const maxChunk = 32 << 10

func (p *chunkPacker) add(f frame) error {
	if p.next != nil && (p.next.Stream != f.stream || !p.time.Equal(f.time) || len(p.next.Data)+len(f.data) > maxChunk) {
		if err := p.flush(); err != nil {
			return err
		}
	}
	if p.next == nil {
		p.time = f.time
		p.next = &wherryv1.ContainerLogChunk{Time: timestamppb.New(f.time), Stream: f.stream}
	}
	p.next.Data = append(p.next.Data, f.data...)
	return nil
}

func (p *chunkPacker) flush() error {
	if p.next == nil {
		return nil
	}
	c := p.next
	p.next = nil
	return p.send(c)
}
