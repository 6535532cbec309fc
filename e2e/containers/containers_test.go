// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package containers promises that a machine runs real containers as people
// expect it: nginx, redis and postgres from a real registry serve, are limited,
// watched and restarted, outlive a crash of the engine and a reboot, and a
// hundred small ones are no burden. All of it through the CLI alone.
package containers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

// rig is a machine, its user, and a registry that it may pull from.
type rig struct {
	*vmtest.User
	t *testing.T
	m *vmtest.Machine
	r *fixture.Registry
}

// newRig boots a machine. more is added to its configuration; REGISTRY in it
// stands for the registry's name.
func newRig(t *testing.T, memoryMiB int, more string) *rig {
	t.Helper()
	r, u := fixture.NewRegistry(t), vmtest.NewUser(t)
	more = strings.ReplaceAll(more, "REGISTRY", r.Guest)
	m := vmtest.Start(t, vmtest.Options{MemoryMiB: memoryMiB, DiskBytes: 4 << 30, Cmdline: vmtest.ChaosCmdline,
		Config: u.Config("registries:", "- {host: '"+r.Guest+"', plainHTTP: true}", more)})
	u.Knows(m)
	return &rig{User: u, t: t, m: m, r: r}
}

// longLived is the name of a container that is not a single subtest's.
const longLived = "db"

// test runs a subtest, which fails by itself, and removes its containers afterwards.
func (g *rig) test(name string, f func(*rig)) {
	g.t.Run(name, func(t *testing.T) {
		begin := time.Now()
		sub := &rig{User: g.User.In(t), t: t, m: g.m, r: g.r}
		defer func() {
			names := strings.Fields(sub.Try("ps", "-a", "--format", "{{.Names}}").Stdout)
			if names = slices.DeleteFunc(names, func(n string) bool { return n == longLived }); len(names) > 0 {
				sub.Try(append([]string{"rm", "-f", "-v"}, names...)...)
			}
			t.Logf("%.1f s", time.Since(begin).Seconds())
		}()
		f(sub)
	})
}

// tools is the image of test tools.
func (g *rig) tools() string { return g.r.Ref(fixture.Tools) }

// run is `wherry run` of the tools' image with flags, then the command.
func (g *rig) run(flags string, command ...string) vmtest.Result {
	g.t.Helper()
	args := append([]string{"run"}, strings.Fields(flags)...)
	return g.Try(append(append(args, g.tools()), command...)...)
}

// says runs a command in a container that is removed, and returns its output.
func (g *rig) says(flags string, command ...string) string {
	g.t.Helper()
	r := g.run("--rm "+flags, command...)
	if r.Code != 0 {
		g.t.Errorf("run %s %v: exit code %d: %s%s", flags, command, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// start starts a container of the tools' image and leaves it running.
func (g *rig) start(name, flags string, command ...string) {
	g.t.Helper()
	if r := g.run("-d --name "+name+" "+flags, command...); r.Code != 0 {
		g.t.Fatalf("start %s: exit code %d: %s", name, r.Code, r.Stderr)
	}
}

// inspected is what tests read of inspect -o json.
type inspected struct {
	Container struct {
		ID     string `json:"id"`
		Name   string `json:"name"`
		System bool   `json:"system"`
		State  struct {
			Phase        string    `json:"phase"`
			PID          int       `json:"pid"`
			ExitCode     int       `json:"exitCode"`
			OOMKilled    bool      `json:"oomKilled"`
			RestartCount int       `json:"restartCount"`
			Health       string    `json:"health"`
			StartedAt    time.Time `json:"startedAt"`
		} `json:"state"`
	} `json:"container"`
}

func (g *rig) inspect(name string) inspected {
	g.t.Helper()
	var out []inspected
	parse(g.t, g.Run("inspect", name), &out)
	if len(out) != 1 {
		g.t.Fatalf("%d containers are called %s", len(out), name)
	}
	return out[0]
}

func parse(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("not the JSON that was expected: %v\n%s", err, text)
	}
}

// await repeats a question until the answer is yes. what says what is awaited.
func (g *rig) await(limit time.Duration, what string, ok func() (bool, string)) {
	g.t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		yes, state := ok()
		if yes {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("not within %v: %s: %s", limit, what, state)
		}
	}
}

// awaitState waits for the last inspection of a container to please.
func (g *rig) awaitState(name, what string, ok func(inspected) bool) {
	g.t.Helper()
	g.await(time.Minute, name+" "+what, func() (bool, string) {
		i := g.inspect(name)
		return ok(i), fmt.Sprintf("%+v", i.Container.State)
	})
}

func running(i inspected) bool { return i.Container.State.Phase == "CONTAINER_PHASE_RUNNING" }
func exited(i inspected) bool  { return i.Container.State.Phase == "CONTAINER_PHASE_EXITED" }

// want compares what a command wrote with what it should contain.
func (g *rig) want(got string, all ...string) {
	g.t.Helper()
	for _, w := range all {
		if !strings.Contains(got, w) {
			g.t.Errorf("%q is not in:\n%s", w, bytes.TrimSpace([]byte(got)))
		}
	}
}
