// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// realSpec is a container with what the engine gives one that costs something: docker's seccomp profile and paths.
func (w *world) realSpec(id string, args ...string) *specs.Spec {
	s := w.spec(id, args...)
	profile, err := seccomp.GetDefaultProfile(s)
	w.must(err)
	s.Linux.Seccomp = profile
	s.Linux.MaskedPaths = []string{"/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"}
	s.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	return s
}

// BenchmarkContainer is a container from create to delete; cpu-ms is what
// the shim and all that it started used.
func BenchmarkContainer(b *testing.B) {
	w := newWorld(b)
	w.runSpec("warm", w.realSpec("warm", "true")).end()
	before := w.cpu()
	for b.Loop() {
		id := w.newID()
		c, err := w.create(w.realSpec(id, "true"), id)
		w.must(err)
		w.must(c.start())
		c.wait()
		w.must(c.delete())
	}
	b.ReportMetric(float64((w.cpu()-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
}

// cpu is what the shim and its children that ended used.
func (w *world) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.pid))
	w.must(err)
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	ticks := 0
	for _, s := range f[11:15] {
		n, err := strconv.Atoi(s)
		w.must(err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// runcEnv names a runc to compare with.
const runcEnv = "WHERRY_SHIM_TEST_RUNC"

// BenchmarkRunc is the same by three executions of runc.
func BenchmarkRunc(b *testing.B) {
	runc := os.Getenv(runcEnv)
	if runc == "" {
		b.Skip("no runc in " + runcEnv)
	}
	w := newWorld(b)
	w.must(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	var before, after unix.Rusage
	w.must(unix.Getrusage(unix.RUSAGE_CHILDREN, &before))
	for b.Loop() {
		id := w.newID()
		bundle := filepath.Join(w.dir, "bundle", id)
		w.must(os.MkdirAll(bundle, 0o700))
		text, err := json.Marshal(w.realSpec(id, "true"))
		w.must(err)
		w.must(os.WriteFile(bundle+"/config.json", text, 0o600))
		pidFile := bundle + "/pid"
		for _, args := range [][]string{{"create", "--bundle", bundle, "--pid-file", pidFile, id}, {"start", id}} {
			cmd := exec.Command(runc, append([]string{"--root", w.dir + "/runc"}, args...)...)
			w.must(cmd.Run())
		}
		text, err = os.ReadFile(pidFile)
		w.must(err)
		pid, err := strconv.Atoi(string(text))
		w.must(err)
		_, err = unix.Wait4(pid, nil, 0, nil)
		w.must(err)
		w.must(exec.Command(runc, "--root", w.dir+"/runc", "delete", id).Run())
	}
	w.must(unix.Getrusage(unix.RUSAGE_CHILDREN, &after))
	used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(used)/1e6/float64(b.N), "cpu-ms/op")
}

// BenchmarkIdle tells what the shim's memory is with idle containers.
func BenchmarkIdle(b *testing.B) {
	w := newWorld(b)
	for b.Loop() {
	}
	b.ReportMetric(float64(w.memory()), "kB/0")
	var boxes []*box
	for n := 1; n <= 100; n++ {
		id := w.newID()
		c, err := w.create(w.realSpec(id, "sleep", "inf"), id)
		w.must(err)
		w.must(c.start())
		go w.api.Wait(context.Background(), &taskapi.WaitRequest{ID: id})
		boxes = append(boxes, c)
		if n == 1 || n == 100 {
			b.ReportMetric(float64(w.memory()), fmt.Sprintf("kB/%d", n))
		}
	}
	for _, c := range boxes {
		c.end()
	}
	b.ReportMetric(float64(w.memory()), "kB/after")
}

// memory is the shim's anonymous memory in kB, after it had time to give back what it can.
func (w *world) memory() int {
	time.Sleep(2 * quietTime)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.pid))
	w.must(err)
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	w.must(err)
	return kb
}
