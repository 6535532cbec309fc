// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// What can be wrong with a repository. Errors wrap one of these where a
// program may want to know which.
var (
	ErrExpired   = errors.New("expired")
	ErrRollback  = errors.New("older than what was seen before")
	ErrSignature = errors.New("not signed by the keys that it must be signed by")
	ErrMismatch  = errors.New("not the file that was signed")
	ErrTooLarge  = errors.New("larger than it may be")
	ErrSlow      = errors.New("the repository is too slow")
	ErrRedirect  = errors.New("redirected elsewhere")
)

// Limits bound what a repository can cost.
type Limits struct {
	RootBytes, TimestampBytes, SnapshotBytes, TargetsBytes int64

	Roots       int           // rotations followed in one refresh
	FileTime    time.Duration // for one metadata file
	RefreshTime time.Duration // for all metadata
	Window      time.Duration // a download must bring WindowBytes in each
	WindowBytes int64
	Attempts    int // interrupted downloads are taken up again so often, if they come further
}

// DefaultLimits suit machines on slow lines: 1 KiB/s is enough. Targets of 1 MiB
// tell of a thousand images; verifying them allocates some 70 MB on the way, not all at once.
func DefaultLimits() Limits {
	return Limits{
		RootBytes: 64 << 10, TimestampBytes: 16 << 10, SnapshotBytes: 64 << 10, TargetsBytes: 1 << 20,
		Roots: 256, FileTime: time.Minute, RefreshTime: 10 * time.Minute,
		Window: time.Minute, WindowBytes: 60 << 10, Attempts: 20,
	}
}

// pace ends a context when too little is read through it.
type pace struct {
	limits Limits
	read   atomic.Int64
	seen   int64 // by the timer
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func withPace(ctx context.Context, l Limits) (context.Context, *pace) {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &pace{limits: l, cancel: cancel}
	ready := make(chan struct{})
	p.timer = time.AfterFunc(l.Window, func() { <-ready; p.check() })
	close(ready)
	return ctx, p
}

func (p *pace) check() {
	now := p.read.Load()
	if now-p.seen < p.limits.WindowBytes {
		p.cancel(ErrSlow)
		return
	}
	p.seen = now
	p.timer.Reset(p.limits.Window)
}

func (p *pace) stop() {
	p.timer.Stop()
	p.cancel(nil)
}

func (p *pace) reader(r io.Reader) io.Reader { return pacedReader{r, p} }

type pacedReader struct {
	r io.Reader
	p *pace
}

func (r pacedReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.p.read.Add(int64(n))
	return n, err
}

// causeOf prefers why a context ended to what the reader made of it.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && err != nil && !errors.Is(err, io.EOF) {
		return cause
	}
	return err
}
