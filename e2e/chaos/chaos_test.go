// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package chaos promises that wherryd, and the shim that holds the containers, can
// die at any moment, alone and together: killed twenty times while containers run, end, and are created, started, stopped and
// removed, it loses none, doubles none, forgets no exit and no line of a log, and leaves nothing
// behind.
//
// What is done and when is decided by a seed, which the log shows; the moments
// themselves also depend on how fast the computer is.
package chaos

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

const (
	kills   = 20
	workers = 2
	keepers = 3
)

type rig struct {
	*vmtest.User
	t     *testing.T
	m     *vmtest.Machine
	image string
}

func TestKills(t *testing.T) {
	seed := seed(t)
	random := rand.New(rand.NewPCG(seed, 0))
	r, u := fixture.NewRegistry(t), vmtest.NewUser(t)
	m := vmtest.Start(t, vmtest.Options{MemoryMiB: 1024, Cmdline: vmtest.ChaosCmdline, Config: u.Config("registries:",
		"- {host: '"+r.Guest+"', plainHTTP: true}", "containers:", "  allowedHostPaths: [/proc, /sys/fs/cgroup]", "")})
	g := &rig{User: u.Knows(m), t: t, m: m, image: r.Ref(fixture.Tools)}
	g.Run("pull", g.image)
	// The first container brings what stays: the bridge, for one.
	g.start("first", "-p 8081:80", "http", "80")
	g.Run("rm", "-f", "first")
	clean := g.machine()

	kept := g.startKeepers()
	url := fmt.Sprintf("http://127.0.0.1:%d/", m.Forward("tcp", 8080))
	var crew sync.WaitGroup
	stop := make(chan struct{})
	var models [workers]*worker
	for i := range models {
		models[i] = newWorker(t, g, i, seed)
		crew.Go(func() { models[i].run(stop) })
	}
	for i := range kills {
		// One that ends by itself, perhaps while nobody is there to see it.
		g.start(fmt.Sprintf("ender%d", i), "", "sleep", fmt.Sprintf("%.1f", random.Float64()*3), "7")
		time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
		// Each alone and both, in either order.
		for _, kill := range [][]func(){{m.KillDaemon}, {m.KillShim}, {m.KillShim, m.KillDaemon}, {m.KillDaemon, m.KillShim}}[i%4] {
			kill()
		}
		g.AwaitAPI(time.Minute)
		g.compareKeepers(kept)
	}
	close(stop)
	crew.Wait()
	g.compareKeepers(kept)
	g.checkList(models[:])
	g.checkEnders()
	g.checkClock()
	answers(t, url)
	if t.Failed() {
		return
	}
	g.removeAll()
	g.compareMachine(clean)
	// All of it still works.
	g.start("last", "-p 8080:80", "http", "80")
	answers(t, url)
	g.Run("stop", "last")
}

// seed is a new one each day, or $WHERRY_CHAOS_SEED.
func seed(t *testing.T) uint64 {
	s := uint64(time.Now().Unix() / 86400)
	if text := os.Getenv("WHERRY_CHAOS_SEED"); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("WHERRY_CHAOS_SEED: %v", err)
		}
	}
	t.Logf("WHERRY_CHAOS_SEED=%d", s)
	return s
}

// start starts a container. Nobody kills wherryd meanwhile: it must work.
func (g *rig) start(name, flags string, command ...string) {
	g.t.Helper()
	args := append([]string{"run", "-d", "--name", name}, strings.Fields(flags)...)
	g.Run(append(append(args, g.image), command...)...)
}

// startKeepers starts what must not notice anything: a server behind a
// published port, a clock that writes to its log, and sleepers.
func (g *rig) startKeepers() map[string]string {
	g.start("server", "-p 8080:80", "http", "80")
	g.start("clock", "--log-opt max-size=10m", "tick", "100")
	for i := range keepers {
		g.start(fmt.Sprintf("keeper%d", i), "--restart unless-stopped", "sleep", "inf")
	}
	kept := map[string]string{}
	for _, c := range g.list() {
		kept[c.Name] = identity(c)
	}
	return kept
}

// identity changes when a container is another or was started again.
func identity(c *listed) string {
	return fmt.Sprintf("%.12s %s pid %d since %s, restarts %d", c.ID, c.State.Phase, c.State.Pid, c.State.StartedAt, c.State.RestartCount)
}

type listed struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	State struct {
		Phase        string `json:"phase"`
		Pid          int    `json:"pid"`
		ExitCode     int    `json:"exitCode"`
		StartedAt    string `json:"startedAt"`
		RestartCount int    `json:"restartCount"`
		Error        string `json:"error"`
	} `json:"state"`
}

const (
	phaseRunning = "CONTAINER_PHASE_RUNNING"
	phaseExited  = "CONTAINER_PHASE_EXITED"
	phaseCreated = "CONTAINER_PHASE_CREATED"
)

func (g *rig) list() []*listed {
	g.t.Helper()
	var out []*listed
	if err := json.Unmarshal([]byte(g.Run("-o", "json", "ps", "-a", "--no-trunc")), &out); err != nil {
		g.t.Fatal(err)
	}
	return out
}

func (g *rig) compareKeepers(kept map[string]string) {
	g.t.Helper()
	for _, c := range g.list() {
		if was, ok := kept[c.Name]; ok && was != identity(c) {
			g.t.Errorf("%s was %s and is %s", c.Name, was, identity(c))
		}
	}
}

// checkList wants every container that was made, once, as it was left.
func (g *rig) checkList(models []*worker) {
	want := map[string]*model{}
	for _, w := range models {
		for name, m := range w.all {
			want[name] = m
		}
	}
	seen := map[string]bool{}
	for _, c := range g.list() {
		if seen[c.Name] || seen[c.ID] {
			g.t.Errorf("%s is there twice", c.Name)
		}
		seen[c.Name], seen[c.ID] = true, true
		m, ok := want[c.Name]
		switch {
		case !strings.HasPrefix(c.Name, "w"):
		case !ok || m.phase == "":
			g.t.Errorf("%s should not be there: %s", c.Name, identity(c))
		case m.id != c.ID || m.phase != c.State.Phase:
			g.t.Errorf("%s should be %.12s %s and is %s", c.Name, m.id, m.phase, identity(c))
		}
	}
	for name, m := range want {
		if m.phase != "" && !seen[name] {
			g.t.Errorf("%s is lost", name)
		}
	}
	for i := range keepers {
		if !seen[fmt.Sprintf("keeper%d", i)] {
			g.t.Errorf("keeper%d is lost", i)
		}
	}
}

// checkEnders wants every exit known, and none but the true one.
func (g *rig) checkEnders() {
	count := 0
	for _, c := range g.list() {
		if !strings.HasPrefix(c.Name, "ender") {
			continue
		}
		count++
		if out := g.Run("wait", c.Name); out != "7\n" {
			g.t.Errorf("%s ended with %s", c.Name, out)
		}
	}
	if count != kills {
		g.t.Errorf("%d of %d that ended are there", count, kills)
	}
}

// checkClock wants every line of a log that was written all the while, also
// while wherryd was away: in order, none lost, none twice.
func (g *rig) checkClock() {
	lines := strings.Split(strings.TrimSpace(g.Run("logs", "clock")), "\n")
	for i, l := range lines {
		if l != fmt.Sprint("tick ", i+1) {
			g.t.Fatalf("line %d of the log is %q, after %q", i+1, l, lines[max(0, i-1)])
		}
	}
	g.t.Logf("%d lines of log", len(lines))
}

func answers(t *testing.T, url string) {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		resp, err := client.Get(url)
		if err == nil {
			body, _ := io.ReadAll(resp.Body) // what is missing shows below
			resp.Body.Close()
			if strings.Contains(string(body), "hello from toybox") {
				return
			}
			err = fmt.Errorf("it says %q", body)
		}
		if time.Now().After(deadline) {
			t.Errorf("the published port does not answer: %v", err)
			return
		}
	}
}

func (g *rig) removeAll() {
	args := []string{"rm", "-f", "-v"}
	for _, c := range g.list() {
		args = append(args, c.Name)
	}
	g.Run(args...)
	if left := g.list(); len(left) != 0 {
		g.t.Errorf("%d containers can't be removed", len(left))
	}
}
