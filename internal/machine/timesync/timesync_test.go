// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package timesync

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/internal/machine/status"
)

// machine is a clock of its own, off from the one of the computer the test runs on.
type machine struct {
	mu       sync.Mutex
	off      time.Duration
	steps    []time.Duration
	slews    int
	hardware time.Time
}

func (m *machine) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Add(m.off)
}

func (m *machine) Step(by time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.off += by
	m.steps = append(m.steps, by)
	return nil
}

func (m *machine) Slew(by, _ time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.off += by
	m.slews++
	return nil
}

func (m *machine) SetHardware(t time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hardware = t
	return nil
}

func (m *machine) offset() (time.Duration, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.off, len(m.steps)
}

// server answers SNTP (RFC 4330) with a time that is off, or as spoil has it.
func server(t *testing.T, off time.Duration, spoil func(answer []byte)) (address string, asked func() int) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	var mu sync.Mutex
	count := 0
	go func() {
		question := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(question)
			if err != nil {
				return
			}
			mu.Lock()
			count++
			mu.Unlock()
			if n < 48 {
				continue
			}
			answer := make([]byte, 48)
			answer[0], answer[1], answer[2], answer[3] = 0x24, 2, 6, 0xe9 // version 4, server, stratum 2
			now := ntpTime(time.Now().Add(off))
			binary.BigEndian.PutUint64(answer[16:], now-10<<32)
			copy(answer[24:], question[40:48])
			binary.BigEndian.PutUint64(answer[32:], now)
			binary.BigEndian.PutUint64(answer[40:], now)
			if spoil != nil {
				spoil(answer)
			}
			conn.WriteTo(answer, from)
		}
	}()
	return conn.LocalAddr().String(), func() int {
		mu.Lock()
		defer mu.Unlock()
		return count
	}
}

func ntpTime(t time.Time) uint64 {
	const from1900 = 2208988800
	return uint64(t.Unix()+from1900)<<32 | uint64(t.Nanosecond())<<32/1e9
}

func newClock(t *testing.T, m *machine, servers ...string) (*Clock, *status.Board) {
	t.Helper()
	board := &status.Board{}
	c := New(Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Board: board, Dir: t.TempDir(), Version: "0.1.0", Kernel: m})
	c.earliest = time.Now().AddDate(-1, 0, 0) // the computer's clock can be anything
	c.SetConfigured(servers)
	return c, board
}

func start(t *testing.T, c *Clock) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// TestSynchronise is a machine whose clock is an hour slow.
func TestSynchronise(t *testing.T) {
	m := &machine{off: -time.Hour}
	a, _ := server(t, 0, nil)
	b, _ := server(t, 5*time.Millisecond, nil)
	liar, _ := server(t, 240*time.Hour, nil)
	c, board := newClock(t, m, a, liar, b)
	start(t, c)
	time.Sleep(50 * time.Millisecond)
	if ok, _ := c.Status(); ok {
		t.Error("synchronised without a network")
	}
	if l := board.List(); len(l) != 1 || !l[0].Ready || !strings.Contains(l[0].Message, "not synchronised") {
		t.Errorf("without a network it is a problem: %+v", l)
	}
	c.SetNetwork(true, nil)
	await(t, "synchronisation", func() bool { ok, _ := c.Status(); return ok })
	if off, steps := m.offset(); off.Abs() > 50*time.Millisecond || steps != 1 {
		t.Errorf("the clock is off by %s after %d steps", off, steps)
	}
	if line := board.List()[0]; !line.Ready || line.Message != "from "+b {
		t.Errorf("board: %+v", line)
	}
	await(t, "the hardware clock", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return time.Since(m.hardware).Abs() < time.Second })
	await(t, "the file", func() bool { last, ok := lastKnown(c.file); return ok && time.Since(last).Abs() < time.Second })
	await(t, "the second answer", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.slews == 1 })
}

// TestOffered uses DHCP's servers when the configuration has none.
func TestOffered(t *testing.T) {
	c, _ := newClock(t, &machine{})
	c.SetNetwork(true, []netip.Addr{netip.MustParseAddr("192.0.2.1")})
	if d := cmp.Diff([]string{"192.0.2.1"}, c.servers()); d != "" {
		t.Error(d)
	}
	c.SetNetwork(true, nil)
	if d := cmp.Diff(pool, c.servers()); d != "" {
		t.Error(d)
	}
	c.SetConfigured([]string{"time.example"})
	if d := cmp.Diff([]string{"time.example"}, c.servers()); d != "" {
		t.Error(d)
	}
}

// TestBadAnswers gives one bad server each: the clock stays.
func TestBadAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		off   time.Duration
		spoil func([]byte)
	}{
		"before the release": {-10 * 365 * 24 * time.Hour, nil},
		"far future":         {50 * 365 * 24 * time.Hour, nil},
		"not synchronised":   {0, func(a []byte) { a[0] |= 0xc0 }},
		"stratum 16":         {0, func(a []byte) { a[1] = 16 }},
		"not our question":   {0, func(a []byte) { a[24] ^= 1 }},
		"no server":          {0, func(a []byte) { a[0] = 0x23 }},
		"zero time":          {0, func(a []byte) { clear(a[32:48]) }},
		"stale":              {0, func(a []byte) { binary.BigEndian.PutUint64(a[16:], ntpTime(time.Now().AddDate(0, -1, 0))) }},
		"huge dispersion":    {0, func(a []byte) { binary.BigEndian.PutUint32(a[8:], 0x00ff0000) }},
	} {
		t.Run(name, func(t *testing.T) {
			m := &machine{off: time.Minute}
			address, asked := server(t, tc.off, tc.spoil)
			c, _ := newClock(t, m, address)
			if s, err := c.ask(t.Context(), []string{address}); err == nil {
				t.Errorf("believed: %+v", s)
			}
			if asked() == 0 {
				t.Error("the server was not asked")
			}
		})
	}
}

// TestKissOfDeath asks a server that does not want to be asked once.
func TestKissOfDeath(t *testing.T) {
	for _, code := range []string{"DENY", "RATE"} {
		address, asked := server(t, 0, func(a []byte) { a[1] = 0; copy(a[12:16], code) })
		good, _ := server(t, 0, nil)
		c, _ := newClock(t, &machine{}, address)
		for range 3 {
			if s, err := c.ask(t.Context(), []string{address, good}); err != nil || len(s) != 1 || s[0].Server != good {
				t.Errorf("%s: %v %v", code, s, err)
			}
		}
		if n := asked(); n != 1 {
			t.Errorf("%s: asked %d times", code, n)
		}
		if _, err := c.ask(t.Context(), []string{address}); err == nil {
			t.Errorf("%s: no error although nobody can be asked", code)
		}
	}
}

// TestRaise starts with a hardware clock that cannot be right.
func TestRaise(t *testing.T) {
	day := 24 * time.Hour
	for _, tc := range []struct {
		name        string
		clock, file time.Duration // from the release's day; file 0: none
		want        time.Duration
	}{
		{"right", 10 * day, 0, 10 * day},
		{"before the release", -3000 * day, 0, 0},
		{"before the last time", 10 * day, 20 * day, 20 * day},
		{"after the last time", 30 * day, 20 * day, 30 * day},
		{"absurd last time", 10 * day, 20000 * day, 10 * day},
		{"before both", -3000 * day, 20 * day, 20 * day},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, _ := newClock(t, nil)
			c.earliest = releaseDay("1.0.0")
			m := &machine{off: time.Until(c.earliest) + tc.clock}
			c.o.Kernel = m
			if tc.file != 0 {
				if err := keepKnown(c.file, c.earliest.Add(tc.file)); err != nil {
					t.Fatal(err)
				}
			}
			c.raise()
			if got := m.Now().Sub(c.earliest); (got - tc.want).Abs() > time.Second {
				t.Errorf("the clock is at %s, want %s", got, tc.want)
			}
		})
	}
}

func TestDiscipline(t *testing.T) {
	ms := time.Millisecond
	var got []action
	var d discipline
	for _, off := range []time.Duration{time.Hour, ms, ms, -ms, 50 * ms, 50 * ms, 50 * ms, time.Second, ms, -time.Second, -time.Second, ms} {
		got = append(got, d.next(sample{Offset: off}))
	}
	s := time.Second
	want := []action{
		{Step: true, Pause: settle}, {Slew: true, Pause: 128 * s}, {Slew: true, Pause: 256 * s}, {Slew: true, Pause: 512 * s},
		{Slew: true, Pause: 256 * s}, {Slew: true, Pause: 128 * s}, {Slew: true, Pause: 64 * s},
		{Pause: settle}, {Slew: true, Pause: 128 * s}, // one answer alone is not believed
		{Pause: settle}, {Step: true, Pause: settle}, {Slew: true, Pause: 128 * s},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestMedian(t *testing.T) {
	of := func(offsets ...time.Duration) (out []sample) {
		for i, o := range offsets {
			out = append(out, sample{Offset: o, Distance: time.Duration(10 - i)})
		}
		return out
	}
	for _, tc := range []struct {
		in   []sample
		want time.Duration
	}{{of(7), 7}, {of(1, 2), 2}, {of(1000, 3, 2), 3}, {of(3, -1000, 2, 1), 2}} {
		if got := median(tc.in).Offset; got != tc.want {
			t.Errorf("%v: %d, want %d", tc.in, got, tc.want)
		}
	}
}

func TestReleaseDay(t *testing.T) {
	for version, want := range map[string]string{"0.1.0": "2026-11-20", "42.0.1": "2027-01-01", "development": "2026-11-20", "-5.0.0": "2026-11-20", "99999999.1.1": "2026-11-20", "": "2026-11-20"} {
		if got := releaseDay(version).Format(time.DateOnly); got != want {
			t.Errorf("%q: %s, want %s", version, got, want)
		}
	}
}

func TestTimeConstant(t *testing.T) {
	for poll, want := range map[time.Duration]int64{0: 0, 16 * time.Second: 0, 64 * time.Second: 2, 1024 * time.Second: 6, 2048 * time.Second: 7} {
		if got := timeConstant(poll); got != want {
			t.Errorf("%s: %d, want %d", poll, got, want)
		}
	}
}

// TestUnwritable has no place to remember: the clock still works.
func TestUnwritable(t *testing.T) {
	m := &machine{off: time.Minute}
	address, _ := server(t, 0, nil)
	c, _ := newClock(t, m, address)
	c.file = filepath.Join(c.o.Dir, "missing", "clock")
	c.SetNetwork(true, nil)
	start(t, c)
	await(t, "synchronisation", func() bool { ok, _ := c.Status(); return ok })
	if _, err := os.Stat(c.file); err == nil {
		t.Error("the file is there")
	}
}
