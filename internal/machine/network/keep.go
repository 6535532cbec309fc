// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"
)

// protocol is what differs between the DHCP of IPv4 and that of IPv6.
type protocol interface {
	// obtain asks all servers for a lease, whose address nobody else uses.
	obtain(ctx context.Context) (*Lease, error)
	// confirm asks whether a lease from before still holds on this link.
	confirm(ctx context.Context, l *Lease) (*Lease, error)
	// renew asks the lease's server for more time, or all of them when rebind is set.
	renew(ctx context.Context, l *Lease, rebind bool) (*Lease, error)
	// adopt is told of a lease that is in force without asking.
	adopt(ctx context.Context, l *Lease)
	// decline tells the server that somebody else uses the address.
	decline(ctx context.Context, l *Lease) error
	// close frees what the protocol holds.
	close()
}

// keeper keeps one link's lease of one protocol. It runs while the link has a
// carrier, and has a socket open only while it waits for an answer.
type keeper struct {
	protocol
	log        *slog.Logger
	kind, link string
	now        func() time.Duration // since boot
	// got is called with each new lease; lost when there is none (any more), with the reason.
	got  func(*Lease)
	lost func(why string)
	// taken says who else uses the lease's address.
	taken chan string
}

var (
	// errRefused is a server's word that the lease is not ours (any more).
	errRefused = errors.New("the DHCP server refuses the address")
	// errTaken says that somebody else uses the address.
	errTaken = errors.New("another device uses the address")
)

// pauseAfterConflict is what RFC 2131 demands at least. Tests are in a hurry.
var pauseAfterConflict = 10 * time.Second

// How often and how long an answer is awaited; each try waits twice as long as
// the one before.
const (
	firstWait     = time.Second
	discoverTries = 6
	confirmTries  = 2
	minPause      = 20 * time.Second
	maxPause      = 5 * time.Minute
)

// run holds a lease until ctx ends. A lease from before is confirmed first:
// fresh says that the link was there all the time, so that there is no need to.
func (k *keeper) run(ctx context.Context, lease *Lease, fresh bool) {
	defer k.close()
	switch {
	case lease != nil && fresh:
		k.adopt(ctx, lease)
	case lease != nil:
		lease = k.reconfirm(ctx, lease)
	}
	for failures := 0; ctx.Err() == nil; {
		if lease == nil {
			newer, err := k.obtain(ctx)
			if err != nil {
				k.drop("no lease", err)
				sleep(ctx, pause(failures, err))
				failures++
				continue
			}
			failures, lease = 0, newer
			k.bound(lease)
		}
		var err error
		if lease, err = k.hold(ctx, lease); errors.Is(err, errTaken) {
			sleep(ctx, pause(0, err))
		}
	}
}

// pause is how long nothing is asked after a number of failures and this one.
func pause(failures int, why error) time.Duration {
	double := 1 << min(failures, 5)
	if errors.Is(why, errTaken) {
		return min(pauseAfterConflict*time.Duration(double), maxPause) + rand.N(time.Second)
	}
	return jitter(min(minPause*time.Duration(double), maxPause))
}

func (k *keeper) bound(l *Lease) {
	k.log.Info("lease", "kind", k.kind, "link", k.link, "address", l.Address, "server", l.Server, "for", l.Expires)
	k.got(l)
}

func (k *keeper) drop(what string, why error) {
	k.log.Warn(what, "kind", k.kind, "link", k.link, "error", why)
	k.lost(why.Error())
}

// reconfirm returns a lease that holds on this link, or nil. Servers that do
// not know the one from before may say nothing, so without an answer a new one
// is asked for. Without that either, the address is kept while the lease lasts
// (RFC 2131 3.2): a server that is away is no reason to lose connections.
func (k *keeper) reconfirm(ctx context.Context, l *Lease) *Lease {
	newer, err := k.confirm(ctx, l)
	if err != nil && !errors.Is(err, errRefused) && !errors.Is(err, errTaken) && l.left(k.now()) > 0 {
		if newer, err = k.obtain(ctx); err != nil && !errors.Is(err, errTaken) {
			k.adopt(ctx, l)
			return l
		}
	}
	if err != nil {
		k.drop("the lease from before is not valid here", err)
		return nil
	}
	k.bound(newer)
	return newer
}

// hold waits and renews. It returns a newer lease, or nil when this one ended;
// errTaken says that the next must wait.
func (k *keeper) hold(ctx context.Context, l *Lease) (*Lease, error) {
	for ctx.Err() == nil {
		now := k.now() - l.Obtained
		if now >= l.Expires {
			k.drop("lease lost", errors.New("the lease expired"))
			return nil, nil
		}
		next := l.Renew - now
		if now >= l.Renew {
			newer, err := k.renew(ctx, l, now >= l.Rebind)
			switch {
			case err == nil:
				k.bound(newer)
				return newer, nil
			case errors.Is(err, errRefused), errors.Is(err, errTaken):
				k.drop("lease lost", err)
				return nil, err
			}
			next = untilNextTry(l, now)
		}
		if err := k.wait(ctx, l, next); err != nil {
			k.drop("lease lost", err)
			return nil, err
		}
	}
	return l, nil
}

// untilNextTry is half of what is left to the next deadline, as RFC 2131 4.4.5 has it.
func untilNextTry(l *Lease, now time.Duration) time.Duration {
	next := l.Expires
	if now < l.Rebind {
		next = l.Rebind
	}
	return min(max((next-now)/2, minPause/4), next-now)
}

// wait sleeps, unless somebody else turns out to use the address: that ends the lease.
func (k *keeper) wait(ctx context.Context, l *Lease, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case who := <-k.taken:
		err := taken(l, who)
		return errors.Join(err, k.decline(ctx, l))
	}
	return nil
}

// sleep waits, or less when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// jitter keeps machines that lost their server together from asking together.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// sinceBoot reads the clock that nobody sets, and that goes on in suspend.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // cannot fail on Linux
	}
	return time.Duration(t.Nano())
}
