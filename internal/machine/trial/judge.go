// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"wherry.example/wherry/api/wherryv1"
)

// judgeNetwork compares the links with those of before. A link is known by its
// hardware address, since another kernel may name it otherwise.
func judgeNetwork(before baseline, now []*wherryv1.Link) []Result {
	var problems []string
	for _, was := range before.Links {
		i := slices.IndexFunc(now, func(l *wherryv1.Link) bool { return was.is(l) })
		if i < 0 {
			problems = append(problems, was.Name+" is gone: is its driver in this release?")
			continue
		}
		problems = append(problems, was.missing(now[i])...)
	}
	if before.Online && len(problems) == 0 && !slices.ContainsFunc(now, func(l *wherryv1.Link) bool { return l.Up && len(l.Addresses) > 0 }) {
		problems = append(problems, "no link has an address")
	}
	return []Result{{Name: "network", Well: len(problems) == 0, Message: bounded(strings.Join(problems, ", "))}}
}

func (was link) is(l *wherryv1.Link) bool {
	if was.MAC != "" && l.Mac != "" {
		return was.MAC == l.Mac
	}
	return was.Name == l.Name
}

func (was link) missing(l *wherryv1.Link) (problems []string) {
	if !l.Up {
		return []string{l.Name + " has no signal"}
	}
	now := linkOf(l)
	if was.IPv4 != "" && now.IPv4 == "" {
		problems = append(problems, fmt.Sprintf("%s has no IPv4 address (it had %s)", l.Name, was.IPv4))
	}
	if was.IPv6 != "" && now.IPv6 == "" {
		problems = append(problems, fmt.Sprintf("%s has no IPv6 address (it had %s)", l.Name, was.IPv6))
	}
	if was.Gateway != "" && !sameFamily(was.Gateway, now.Gateway) {
		problems = append(problems, fmt.Sprintf("%s has no default route (it went to %s)", l.Name, was.Gateway))
	}
	return problems
}

func sameFamily(a, b string) bool {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	return errX == nil && errY == nil && x.Is4() == y.Is4()
}

// history is what earlier looks saw.
type history struct {
	wellSince time.Time
	seen      map[string]sight // of containers, by their id of the baseline
	work      work
}

// sight is a container at the last look.
type sight struct {
	name     string
	started  time.Time
	restarts int       // that looks noticed
	noticed  time.Time // when the last of them was; the container's own times are of a clock that may be set meanwhile
	excused  bool
	starting bool // it waits for its first start since the machine's
}

// judgeContainers wants each container of before to run, and notes those that were started anew.
func (h *history) judgeContainers(before baseline, now []Container, at time.Time) []Result {
	if h.seen == nil {
		h.seen = map[string]sight{}
	}
	out := make([]Result, 0, len(before.Containers))
	for _, was := range before.Containers {
		r := Result{Name: was.title()}
		c := was.find(now)
		s, known := h.seen[was.ID]
		switch {
		case c != nil:
			s = s.next(*c, known, at)
		case known:
			s.excused = true // it was there, and somebody removed it
		}
		if c != nil || known {
			s.name = r.Name
			h.seen[was.ID] = s
		}
		if !s.excused {
			r.Message = bounded(was.amiss(c))
		}
		r.Well = r.Message == ""
		out = append(out, r)
	}
	return out
}

func (s sight) next(c Container, known bool, at time.Time) sight {
	started := c.State.GetStartedAt().AsTime()
	if known && !started.Equal(s.started) && !s.starting { // its first start is none anew
		s.restarts, s.noticed = s.restarts+1, at
	}
	s.started = started
	s.excused = c.State.GetStoppedByUser()
	s.starting = c.State.GetPhase() == wherryv1.ContainerPhase_CONTAINER_PHASE_STARTING
	return s
}

func (was containerBefore) title() string {
	if was.System {
		return "system container " + was.Name
	}
	return "container " + was.Name
}

// find prefers the same container to another one of the same name: who makes a
// container anew (a system container whose settings this release changed) means the same work.
func (was containerBefore) find(now []Container) *Container {
	i := slices.IndexFunc(now, func(c Container) bool { return c.ID == was.ID })
	if i < 0 {
		i = slices.IndexFunc(now, func(c Container) bool { return c.Name == was.Name && c.System == was.System })
	}
	if i < 0 {
		return nil
	}
	return &now[i]
}

// amiss says what is wrong with a container; empty: nothing.
func (was containerBefore) amiss(c *Container) string {
	if c == nil {
		return "it is gone"
	}
	s := c.State
	if c.done() {
		return ""
	}
	if !runs(*c) {
		return notRunning(s)
	}
	if was.Healthy && s.GetHealth() != wherryv1.HealthState_HEALTH_STATE_HEALTHY {
		return notHealthy(s)
	}
	return ""
}

func notRunning(s *wherryv1.ContainerState) string {
	phase := strings.ToLower(strings.TrimPrefix(s.GetPhase().String(), "CONTAINER_PHASE_"))
	text := "it does not run (" + phase
	if s.GetExitCode() != 0 {
		text += fmt.Sprintf(", exit code %d", s.GetExitCode())
	}
	if s.GetError() != "" {
		text += ", " + s.GetError()
	}
	return text + ")"
}

func notHealthy(s *wherryv1.ContainerState) string {
	state := strings.ToLower(strings.TrimPrefix(s.GetHealth().String(), "HEALTH_STATE_"))
	text := fmt.Sprintf("it was healthy, now its health is %q", state)
	if n := len(s.GetHealthLog()); n > 0 {
		last := s.GetHealthLog()[n-1]
		text += fmt.Sprintf(", its check ended with %d: %s", last.GetExitCode(), last.GetOutput())
	}
	return text
}

// note takes the results of a look and returns how long all has held. A
// container that was started anew since the last look began again.
func (h *history) note(now time.Time, results []Result) time.Duration {
	if slices.ContainsFunc(results, func(r Result) bool { return !r.Well }) {
		h.wellSince = time.Time{}
		return 0
	}
	if h.wellSince.IsZero() {
		h.wellSince = now
	}
	since := h.wellSince
	for _, s := range h.seen {
		if !s.excused && s.noticed.After(since) {
			since = s.noticed
		}
	}
	return now.Sub(since)
}

// maxDoublings bounds how much longer a container must stay up that was started again and again.
const maxDoublings = 3

// needed is how long all must hold. What falls over and is started again has to
// show for longer that it stays up.
func (h *history) needed(stable time.Duration) time.Duration {
	most := 0
	for _, s := range h.seen {
		if !s.excused {
			most = max(most, s.restarts)
		}
	}
	return stable << min(most, maxDoublings)
}

// failures are the checks that do not hold. When all do, and not for long
// enough, they are the containers that keep falling over, or the wait itself.
func (h *history) failures(results []Result, stable time.Duration) []Result {
	out := slices.DeleteFunc(slices.Clone(results), func(r Result) bool { return r.Well })
	if len(out) > 0 {
		return out
	}
	for _, s := range h.seen {
		if s.restarts > 0 && !s.excused {
			out = append(out, Result{Name: s.name, Message: fmt.Sprintf("it was started anew %d times", s.restarts)})
		}
	}
	slices.SortFunc(out, func(a, b Result) int { return strings.Compare(a.Name, b.Name) })
	if len(out) == 0 {
		out = []Result{{Name: "time", Message: fmt.Sprintf("all was well only at the end, for less than %s", h.needed(stable))}}
	}
	return out
}

// judged are the results of the last look, with what failed over the whole time in their place.
func judged(results, failures []Result) []Result {
	out := slices.Clone(results)
	for _, f := range failures {
		if i := slices.IndexFunc(out, func(r Result) bool { return r.Name == f.Name }); i >= 0 {
			out[i] = f
		} else {
			out = append(out, f)
		}
	}
	return out
}

// bounded is a message that fits into a line and a record.
func bounded(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "�")), " ")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage], "") + " …"
}
