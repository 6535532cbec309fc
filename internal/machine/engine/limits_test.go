// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
)

// needControllers skips on hosts that keep them in cgroup v1.
func needControllers(t *testing.T) {
	t.Helper()
	b, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	for _, c := range []string{"memory", "pids", "cpu"} {
		if !strings.Contains(" "+strings.TrimSpace(string(b))+" ", " "+c+" ") {
			t.Skipf("this host has no %s controller in cgroup v2; the VM tests have", c)
		}
	}
}

func TestLimits(t *testing.T) {
	w := newWorld(t)
	needControllers(t)
	ctx := t.Context()
	eater := w.createSpec(&wherryv1.ContainerSpec{Command: []string{"eat", "200"}, Resources: &wherryv1.Resources{MemoryBytes: 32 << 20, MemorySwapBytes: 32 << 20}})
	w.must(w.Start(ctx, eater))
	if code := w.wait(eater); code != 137 || !w.state(eater).OomKilled {
		t.Errorf("over its memory limit: exit code %d, %v", code, w.state(eater))
	}
	kinds := map[string]bool{}
	_, _, _ = w.events.after(0)
	list, _, _ := w.events.after(0)
	for _, ev := range list {
		if ev.Id == eater {
			kinds[ev.Action] = true
		}
	}
	if !kinds["oom"] || !kinds["die"] || !kinds["start"] {
		t.Errorf("events %v", kinds)
	}
	id := w.createSpec(&wherryv1.ContainerSpec{Command: []string{"eat", "20", "60000"},
		Resources: &wherryv1.Resources{MemoryBytes: 100 << 20, NanoCpus: 5e8, Pids: 40, CpuShares: 512, Cpuset: "0"}})
	w.must(w.Start(ctx, id))
	w.untilOutput(id, "ate")
	for file, want := range map[string]string{"memory.max": "104857600", "cpu.max": "50000 100000", "pids.max": "40", "cpuset.cpus": "0"} {
		b, err := os.ReadFile(filepath.Join(w.cgroupPath(id), file))
		if strings.TrimSpace(string(b)) != want {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
	w.must(w.Stats(ctx, []string{id}, true, func(s *wherryv1.StatsSample) error {
		if len(s.Stats) != 1 || s.Stats[0].MemoryBytes < 20<<20 || s.Stats[0].MemoryBytes > 60<<20 || s.Stats[0].MemoryLimitBytes != 100<<20 || s.Stats[0].Pids == 0 {
			t.Errorf("statistics: %v", s.Stats)
		}
		return nil
	}))
	burner := w.createSpec(&wherryv1.ContainerSpec{Command: []string{"burn", "3000"}, Resources: &wherryv1.Resources{NanoCpus: 2e8}})
	w.must(w.Start(ctx, burner))
	time.Sleep(500 * time.Millisecond)
	w.must(w.Stats(ctx, []string{burner}, true, func(s *wherryv1.StatsSample) error {
		if p := s.Stats[0].CpuPercent; p < 5 || p > 45 {
			t.Errorf("a container limited to a fifth of a CPU uses %.0f %%", p)
		}
		return nil
	}))
}

func TestSystemContainers(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	want := []config.SystemContainer{{Name: "helper", Image: "probe:1", HostNetwork: true}, {Name: "other", Image: "probe:1", Command: []string{"sleep"}}}
	w.must(w.EnsureSystem(ctx, want))
	user := w.createSpec(&wherryv1.ContainerSpec{Name: "helper"})
	list := func(system bool) (names []string) {
		l, err := w.List(ctx, &wherryv1.ListContainersRequest{All: true, System: system})
		w.must(err)
		for _, c := range l {
			names = append(names, c.Name)
			if c.System != system {
				t.Errorf("%s is in the wrong list", c.Name)
			}
		}
		return names
	}
	if got := list(true); len(got) != 2 {
		t.Errorf("system containers: %v", got)
	}
	if got := list(false); len(got) != 1 || got[0] != "helper" {
		t.Errorf("users' containers: %v", got)
	}
	c, err := w.table.find("other", true)
	w.must(err)
	for what, err := range map[string]error{
		"stop by name": w.Stop(ctx, "other", "", nil), "stop by id": w.Stop(ctx, c.id, "", nil), "remove": w.Remove(ctx, c.id, true, true),
		"kill": w.Kill(ctx, c.id[:20], ""), "start": w.Start(ctx, c.id),
	} {
		if KindOf(err) != KindNotFound {
			t.Errorf("%s reaches a system container: %v", what, err)
		}
	}
	if i, err := w.Inspect(ctx, "helper"); err != nil || i.Container.Id != user {
		t.Errorf("the name of a user's container finds %v, %v", i, err)
	}
	w.must(w.EnsureSystem(ctx, want[:1]))
	if got := list(true); len(got) != 1 || got[0] != "helper" {
		t.Errorf("after one was taken out: %v", got)
	}
	brief, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
	defer cancel()
	far := append(want[:1:1], config.SystemContainer{Name: "far", Image: "127.0.0.1:1/far:1"})
	if err := w.EnsureSystem(brief, far); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a registry that cannot be reached was not tried again: %v", err)
	}
	if got := list(true); len(got) != 1 {
		t.Errorf("while one cannot be had: %v", got)
	}
	if w.Counts().Running != 0 {
		t.Error("system containers are counted as users'")
	}
}

// TestMachineGoesDownAndUp stops everything as a shutdown does, and starts an
// engine that believes it is the next boot.
func TestMachineGoesDownAndUp(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	make := func(name string, k wherryv1.RestartPolicy_Kind) string {
		id := w.createSpec(&wherryv1.ContainerSpec{Name: name, Restart: &wherryv1.RestartPolicy{Kind: k}})
		w.must(w.Start(ctx, id))
		w.untilOutput(id, "ready")
		return id
	}
	for name, k := range map[string]wherryv1.RestartPolicy_Kind{"no": 0, "failure": 1, "always": 2, "unless": 3, "always-stopped": 2, "unless-stopped": 3} {
		make(name, k)
	}
	w.must(w.Stop(ctx, "always-stopped", "", nil))
	w.must(w.Stop(ctx, "unless-stopped", "", nil))
	if err := w.Start(ctx, "always-stopped"); err != nil {
		t.Fatal(err)
	}
	w.must(w.Stop(ctx, "always-stopped", "", nil))
	w.Shutdown(ctx)
	if n := w.Counts().Running; n != 0 {
		t.Errorf("%d containers run after the shutdown", n)
	}
	if _, _, _, err := w.Create(ctx, &wherryv1.ContainerSpec{Image: "probe:1"}); KindOf(err) != KindUnavailable {
		t.Errorf("a new container while shutting down: %v", err)
	}
	for _, c := range w.table.all() {
		w.must(c.change(func(r *record) { r.BootID = "the boot before" }))
	}
	w.Close()
	w.boot()
	for name, up := range map[string]bool{"no": false, "failure": true, "always": true, "unless": true, "always-stopped": true, "unless-stopped": false} {
		if up {
			w.eventually(name+" runs again", func() bool { return w.state(name).Phase == wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING })
		} else if s := w.state(name); s.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED || s.ExitCode != 0 {
			t.Errorf("%s: %v", name, s)
		}
	}
}
