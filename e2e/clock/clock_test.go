// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package clock promises that a machine whose hardware clock is wrong works
// from the start, gets the time from a server when there is one, and that what
// runs on it does not mind the jump. It also promises what its console says in
// trouble: short, once, and in words.
package clock

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

const tools = "localhost/tools:1"

// ahead is how much the server's time is after this computer's: no test can
// take a clock for set that was not.
const ahead = 90 * 24 * time.Hour

func TestWrongClock(t *testing.T) {
	u, server := vmtest.NewUser(t), fixture.NewTimeServer(t, ahead)
	m := vmtest.Start(t, vmtest.Options{
		Config:  u.Config("time: {servers: ['"+server.Guest+"']}", ""),
		Args:    []string{"-rtc", "base=2000-01-01T00:00:00"},
		Cmdline: vmtest.ChaosCmdline,
	})
	u.Knows(m)
	x := ship{User: u, m: m}
	u.Run("load", "-i", fixture.Archive(t, tools, fixture.Toybox(t)))
	u.Run("run", "-d", "--name", "ticks", tools, "tick", "200")
	u.Run("run", "-d", "--name", "stays", "--restart", "always", "--health-cmd", "/toybox true", "--health-interval", "2s", tools, "sleep", "3600")
	u.Run("run", "-d", "--name", "loops", "--restart", "always", tools, "sleep", "1", "3")
	if now := x.now(t); now.Before(time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)) || time.Until(now) > ahead/2 {
		t.Errorf("without a server the clock says %s: neither the day of the release nor anything after it", now)
	}
	if out := u.Run("status"); !regexp.MustCompile(`(?m)^Health +good$`).MatchString(out) {
		t.Errorf("it is not well:\n%s", out)
	}
	before := x.restarts(t)

	server.Wake()
	for deadline := time.Now().Add(3 * time.Minute); time.Until(x.now(t)) < ahead-time.Hour; time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			t.Fatalf("the clock was not set:\n%s", u.Run("machine", "log"))
		}
	}
	jumped := time.Now()
	t.Run("logs go on", func(t *testing.T) { x.In(t).logsGoOn(t) })
	t.Run("restart policies wait as before", func(t *testing.T) {
		time.Sleep(10 * time.Second)
		if n := x.restarts(t) - before; n > 10+int(time.Since(jumped).Seconds()) {
			t.Errorf("a container that ends was started %d times more", n)
		}
		if n := u.Run("inspect", "-f", "{{.container.state.restartCount}} {{.container.state.phase}}", "stays"); !strings.HasPrefix(n, "0 ") {
			t.Errorf("a container that runs: %s", n)
		}
	})
	t.Run("console", func(t *testing.T) { x.In(t).console(t) })
}

type ship struct {
	*vmtest.User
	m *vmtest.Machine
}

func (x ship) In(t *testing.T) ship { return ship{x.User.In(t), x.m} }

// now is the machine's time.
func (x ship) now(t *testing.T) time.Time {
	t.Helper()
	r, err := x.Client(x.m).Machine.GetStatus(t.Context(), connect.NewRequest(&wherryv1.GetStatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	return r.Msg.Now.AsTime()
}

func (x ship) restarts(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(x.Run("inspect", "-f", "{{.container.state.restartCount}}", "loops")))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// logsGoOn wants each line once and in order, before and after the jump, and a
// time filter that works.
func (x ship) logsGoOn(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(x.Run("logs", "ticks")), "\n")
	for i, l := range lines {
		if l != fmt.Sprint("tick ", i+1) {
			t.Fatalf("line %d is %q", i+1, l)
		}
	}
	time.Sleep(time.Second)
	after := x.Run("logs", "--since", "1h", "ticks")
	if strings.Contains(after, "tick 1\n") || !strings.Contains(after, "tick ") {
		t.Errorf("the lines of the last hour, of %d:\n%s", len(lines), after)
	}
}

// console has the machine crash and its cable pulled.
func (x ship) console(t *testing.T) {
	said := func(do func()) string {
		before := len(x.m.Console())
		do()
		return x.m.Console()[before:]
	}
	crash := said(func() {
		x.m.KillDaemon()
		x.AwaitAPI(time.Minute)
		x.m.WaitConsole(`wherryd ended \(killed by SIGKILL\) after .*; starting it again`, time.Minute)
		time.Sleep(5 * time.Second)
	})
	if strings.Count(crash, "wherry: ready ") != 1 || strings.Count(crash, "\n") > 20 {
		t.Errorf("the console is not short about a crash:\n%s", crash)
	}
	cable := said(func() {
		x.m.SetLink("net0", false)
		x.m.WaitConsole(`problem +network: eth0: no signal, is the cable in\?`, 30*time.Second)
		x.m.SetLink("net0", true)
		x.AwaitAPI(time.Minute)
	})
	for _, noise := range []string{"level=", "panic", "goroutine"} {
		if all := x.m.Console(); strings.Contains(all, noise) {
			t.Errorf("there is %q on the console:\n%s", noise, all)
		}
	}
	if strings.Count(cable, "\n") > 25 {
		t.Errorf("the console is not short about a cable:\n%s", cable)
	}
	if n := len(regexp.MustCompile(`the hardware clock is wrong \(says 2000-01-01`).FindAllString(x.m.Console(), -1)); n != 1 {
		t.Errorf("the wrong clock is told %d times", n)
	}
}
