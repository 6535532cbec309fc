// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"time"

	"wherry.example/wherry/config"
	"wherry.example/wherry/release"
)

// Settings are the configuration's updates, read.
type Settings struct {
	config.Updates
	Channel release.Channel
	Pin     *release.Version
	Mode    string
	Window  *Window // nil: any time
}

// settingsOf reads what config has checked; what it would refuse becomes the default.
func settingsOf(c config.Updates) (Settings, error) {
	s := Settings{Updates: c, Channel: release.Stable, Mode: c.EffectiveMode()}
	var err error
	if c.Channel != "" {
		if s.Channel, err = release.ParseChannel(c.Channel); err != nil {
			return s, err
		}
	}
	if c.Pin != "" {
		v, err := release.ParseVersion(c.Pin)
		if err != nil {
			return s, err
		}
		s.Pin = &v
	}
	if !c.Window.IsZero() {
		if s.Window, err = newWindow(c.Window); err != nil {
			return s, err
		}
	}
	return s, nil
}

// Next is what policy says about a release that is there.
type Next struct {
	Download bool
	Apply    bool
	At       time.Time // when the machine goes on by itself; zero: it does not
	Why      string    // what keeps the release waiting
}

// next decides what the machine does by itself with a release.
func (s Settings) next(id string, rel release.Release, paused *Pause, now time.Time) Next {
	switch {
	case s.Mode == config.UpdatesManual:
		return Next{Why: "updates are taken by hand here (mode manual)"}
	case paused.holds(now) && paused.Until.IsZero():
		return Next{Why: "updates are paused until somebody resumes them"}
	case paused.holds(now):
		return Next{At: paused.Until, Why: "updates are paused until " + clockTime(paused.Until)}
	case s.Mode == config.UpdatesDownloadOnly:
		return Next{Download: true, Why: "it waits for somebody to apply it (mode download-only)"}
	}
	at := s.begin(id, rel, now)
	if now.Before(at) {
		return Next{Download: true, At: at, Why: "this machine's turn is at " + clockTime(at)}
	}
	return Next{Download: true, Apply: true, At: now}
}

func (p *Pause) holds(now time.Time) bool {
	return p != nil && (p.Until.IsZero() || now.Before(p.Until))
}

func clockTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// begin is when a machine may reboot into a release: not before its delay
// since the release's start is over, and within the window, also there at its own time.
// All of it follows from what is signed and from the machine's id, so that
// nothing has to be remembered.
func (s Settings) begin(id string, rel release.Release, now time.Time) time.Time {
	start := rel.Published
	if r, ok := rel.Channels[s.Channel]; ok && s.Pin == nil && r.Start.After(start) {
		start = r.Start
	}
	earliest := start.Add(share(id, rel.Version, s.Spread))
	if earliest.Before(now) {
		earliest = now
	}
	if s.Window == nil {
		return earliest
	}
	within := share(id, rel.Version, min(s.Spread, s.Window.length/2))
	begins, ends := s.Window.around(earliest)
	if own := begins.Add(within); own.After(earliest) {
		return own
	}
	if earliest.Before(ends) {
		return earliest
	}
	begins, _ = s.Window.around(ends)
	return begins.Add(within)
}

// share is a machine's part of a time: always the same for a version, and
// different from machine to machine.
func share(id string, v release.Version, of time.Duration) time.Duration {
	if of <= 0 {
		return 0
	}
	sum := sha256.Sum256([]byte("wherry spread\x00" + v.String() + "\x00" + id))
	hi, _ := bits.Mul64(binary.BigEndian.Uint64(sum[:]), uint64(of))
	return time.Duration(hi)
}

// How often the repository is asked.
const (
	firstPoll  = 20 * time.Second // after the machine is ready
	pollEvery  = time.Hour
	firstRetry = time.Minute
	lastRetry  = 6 * time.Hour
	shortest   = time.Second
)

// pause is how long to wait after a number of failures in a row; none: until the next regular look.
func pause(failures int) time.Duration {
	if failures == 0 {
		return jitter(pollEvery)
	}
	return jitter(min(lastRetry, firstRetry<<min(failures-1, 10)))
}

// jitter keeps machines that were started together from asking together.
func jitter(d time.Duration) time.Duration { return d*3/4 + rand.N(d/2) }

// clockTrouble says what about the clock explains that a repository was refused.
func clockTrouble(now, floor time.Time, set bool) string {
	switch {
	case now.Before(floor):
		return fmt.Sprintf("this machine's clock says %s, which is before %s, when its release was made: it is taken for the latter until a time server has answered",
			clockTime(now), clockTime(floor))
	case !set:
		return fmt.Sprintf("this machine's clock says %s, and no time server has confirmed it: if that is wrong, the repository is asked again when the time is known", clockTime(now))
	}
	return ""
}
