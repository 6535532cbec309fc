// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
)

// childEnv makes the test binary an engine of its own in the named directory,
// which obeys lines on its standard input and can be killed.
const childEnv = "WHERRY_ENGINE_CHILD"

// order and reply are the protocol: one JSON document per line.
type order struct {
	Verb, Ref string
	Args      []string
	Restart   wherryv1.RestartPolicy_Kind
	Log       *wherryv1.LogOptions
	Stop      bool // auto-remove is not used; a stop is waited for
}

type reply struct {
	Err, ID, Text string
	States        map[string]childState
}

type childState struct {
	Phase wherryv1.ContainerPhase
	Code  int32
	Pid   uint32
}

func childMain(dir string) {
	e, err := New(context.Background(), testOptions(dir, os.Getenv(prebuiltEnv)))
	if err != nil {
		fmt.Println(`{"Err":"` + err.Error() + `"}`)
		return
	}
	out := json.NewEncoder(os.Stdout)
	out.Encode(reply{Text: "ready"})
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var o order
		json.Unmarshal(in.Bytes(), &o)
		r, err := obey(e, o)
		if err != nil {
			r.Err = err.Error()
		}
		out.Encode(r)
	}
}

func obey(e *Engine, o order) (r reply, err error) {
	ctx := context.Background()
	switch o.Verb {
	case "create":
		r.ID, _, _, err = e.Create(ctx, &wherryv1.ContainerSpec{Image: "probe:1", Name: o.Ref, Command: o.Args, Restart: &wherryv1.RestartPolicy{Kind: o.Restart}, Log: o.Log})
	case "start":
		err = e.Start(ctx, o.Ref)
	case "stop":
		err = e.Stop(ctx, o.Ref, "", nil)
	case "remove":
		err = e.Remove(ctx, o.Ref, true, true)
	case "shutdown":
		e.Shutdown(ctx)
	case "logs":
		var b strings.Builder
		err = e.Logs(ctx, &wherryv1.StreamContainerLogsRequest{Container: o.Ref}, func(c *wherryv1.ContainerLogChunk) error { b.Write(c.Data); return nil })
		r.Text = b.String()
	case "states":
		r.States = map[string]childState{}
		list, _ := e.List(ctx, &wherryv1.ListContainersRequest{All: true})
		for _, c := range list {
			r.States[c.Name] = childState{c.State.Phase, c.State.ExitCode, c.State.Pid}
		}
	}
	return r, err
}

// child is the engine's process.
type child struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startChild(t *testing.T, dir string) *child {
	t.Helper()
	c := &child{t: t, dir: dir, cmd: exec.Command("/proc/self/exe")}
	bin, err := components()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Env = append(os.Environ(), childEnv+"="+dir, prebuiltEnv+"="+bin)
	c.cmd.Stderr = os.Stderr
	c.in, _ = c.cmd.StdinPipe()
	out, _ := c.cmd.StdoutPipe()
	c.out = bufio.NewScanner(out)
	c.out.Buffer(nil, 16<<20)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if r, ok := c.read(); !ok || r.Text != "ready" {
		t.Fatalf("the engine does not start: %+v", r)
	}
	return c
}

func (c *child) read() (r reply, ok bool) {
	if !c.out.Scan() {
		return r, false
	}
	return r, json.Unmarshal(c.out.Bytes(), &r) == nil
}

// ask is false when the child was killed before it answered.
func (c *child) ask(o order) (reply, bool) {
	b, _ := json.Marshal(o)
	if _, err := c.in.Write(append(b, '\n')); err != nil {
		return reply{}, false
	}
	return c.read()
}

func (c *child) must(o order) reply {
	c.t.Helper()
	r, ok := c.ask(o)
	if !ok || r.Err != "" {
		c.t.Fatalf("%+v: %+v", o, r)
	}
	return r
}

// untilLog waits until a container's log says no less than text.
func (c *child) untilLog(ref, text string) {
	for range 500 {
		if strings.Contains(c.must(order{Verb: "logs", Ref: ref}).Text, text) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Fatalf("%s never wrote %q", ref, text)
}

func (c *child) kill() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

func (c *child) restart() *child {
	c.kill()
	return startChild(c.t, c.dir)
}

// childWorld prepares a directory with the image in it and starts a child there.
func childWorld(t *testing.T) (*child, *world) {
	t.Helper()
	w := newWorld(t)
	w.Close()
	t.Cleanup(w.boot) // runs before the world's own cleanup
	return startChild(t, w.dir), w
}

// TestEndsAroundTheReturnAreFound has containers end all the while that the
// engine is killed and comes back: before it asks their shims, between that and
// containerd's own look, which deletes what has ended, and after it.
func TestEndsAroundTheReturnAreFound(t *testing.T) {
	c, _ := childWorld(t)
	t.Cleanup(func() { c.kill() })
	const count = 16
	for i := range count {
		c.must(order{Verb: "create", Ref: fmt.Sprint("c", i), Args: []string{"later", fmt.Sprint(3000 - i*140), "7"}})
	}
	for i := range count {
		c.must(order{Verb: "start", Ref: fmt.Sprint("c", i)})
	}
	c = c.restart()
	time.Sleep(3 * time.Second)
	for name, s := range c.must(order{Verb: "states"}).States {
		if s.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED || s.Code != 7 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestEndWhileAwayIsFound(t *testing.T) {
	c, _ := childWorld(t)
	t.Cleanup(func() { c.kill() })
	c.must(order{Verb: "create", Ref: "late", Args: []string{"later", "600", "7"}})
	c.must(order{Verb: "create", Ref: "again", Args: []string{"later", "600", "8"}, Restart: wherryv1.RestartPolicy_KIND_ON_FAILURE})
	c.must(order{Verb: "create", Ref: "through", Args: []string{"sleep"}})
	for _, n := range []string{"late", "again", "through"} {
		c.must(order{Verb: "start", Ref: n})
	}
	pid := c.must(order{Verb: "states"}).States["through"].Pid
	c.untilLog("through", "ready\n")
	c.kill()
	time.Sleep(1200 * time.Millisecond)
	c = startChild(t, c.dir)
	got := c.must(order{Verb: "states"}).States
	if s := got["late"]; s.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED || s.Code != 7 {
		t.Errorf("the end of a container without policy: %+v", s)
	}
	if s := got["through"]; s.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING || s.Pid != pid {
		t.Errorf("a container that ran on: %+v, pid before %d", s, pid)
	}
	for range 100 {
		if got = c.must(order{Verb: "states"}).States; got["again"].Pid != 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if s := got["again"]; s.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING {
		t.Errorf("a container that failed was not restarted: %+v", s)
	}
	c.must(order{Verb: "stop", Ref: "through"})
	if s := c.must(order{Verb: "states"}).States["through"]; s.Code != 0 {
		t.Errorf("stop of an adopted container: %+v", s)
	}
	if out := c.must(order{Verb: "logs", Ref: "through"}).Text; out != "ready\nbye\n" {
		t.Errorf("log of an adopted container: %q", out)
	}
}

// TestLastOutputIsKept has a container end, after it wrote, while nobody reads.
func TestLastOutputIsKept(t *testing.T) {
	c, _ := childWorld(t)
	t.Cleanup(func() { c.kill() })
	c.must(order{Verb: "create", Ref: "late", Args: []string{"later", "500", "7"}})
	c.must(order{Verb: "start", Ref: "late"})
	c.kill()
	time.Sleep(1200 * time.Millisecond)
	c = startChild(t, c.dir)
	if s := c.must(order{Verb: "states"}).States["late"]; s.Code != 7 {
		t.Errorf("its end: %+v", s)
	}
	if out := c.must(order{Verb: "logs", Ref: "late"}).Text; out != "it is late\n" {
		t.Errorf("its last words: %q", out)
	}
}

func TestOutputIsReadOn(t *testing.T) {
	c, _ := childWorld(t)
	t.Cleanup(func() { c.kill() })
	const lines = 2000
	c.must(order{Verb: "create", Ref: "talk", Args: []string{"lines", fmt.Sprint(lines), "1"}})
	c.must(order{Verb: "start", Ref: "talk"})
	for range 4 {
		time.Sleep(300 * time.Millisecond)
		c = c.restart()
	}
	for range 500 {
		if c.must(order{Verb: "states"}).States["talk"].Pid == 0 {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	got := strings.Split(strings.TrimSpace(c.must(order{Verb: "logs", Ref: "talk"}).Text), "\n")
	var want []string
	for i := range lines {
		want = append(want, fmt.Sprint("line ", i))
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d lines of %d were kept; the last is %q", len(got), lines, got[len(got)-1])
	}
}

// TestFloodIsKept kills the engine while containers write to both streams as
// fast as it reads, and wants every byte of what they wrote, to their last words.
func TestFloodIsKept(t *testing.T) {
	c, w := childWorld(t)
	t.Cleanup(func() { c.kill() })
	dirs := map[string]string{}
	for _, name := range []string{"flood1", "flood2"} {
		o := order{Verb: "create", Ref: name, Args: []string{"flood"}, Log: &wherryv1.LogOptions{MaxBytes: 4 << 20, MaxFiles: 100}}
		dirs[name] = filepath.Join(w.dir, "root/containers", c.must(o).ID)
		c.must(order{Verb: "start", Ref: name})
	}
	const kills = 24
	for range kills {
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		c = c.restart()
	}
	for name, dir := range dirs {
		c.must(order{Verb: "stop", Ref: name})
		l := newLogFile(dir, &wherryv1.LogOptions{MaxFiles: 100}, slog.New(slog.DiscardHandler))
		lines := checkTalk(t, l, func(stream, lines int) string { return fmt.Sprintf("stream %d: %d lines\n", stream, lines) })
		t.Logf("%s: %v lines in %d files, %d kills", name, lines, l.seq, kills)
		if lines[0] < kills || lines[1] < kills {
			t.Errorf("%s wrote too little for this to prove anything", name)
		}
	}
}

// TestKilledAtRandom is the promise itself: whatever moment the engine is
// killed at, no acknowledged container is lost and none runs twice.
func TestKilledAtRandom(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	c, w := childWorld(t)
	t.Cleanup(func() { c.kill() })
	known := map[string]bool{}   // acknowledged and not removed
	running := map[string]bool{} // meant to run: policy always, started
	unsure := map[string]bool{}  // the call about it was cut short
	serial := 0
	for round := range 20 {
		stop := time.AfterFunc(time.Duration(rand.IntN(700))*time.Millisecond, func() { c.cmd.Process.Kill() })
		for alive := true; alive; {
			alive = oneOrder(c, &serial, known, running, unsure)
		}
		stop.Stop()
		c = c.restart()
		for n := range unsure {
			delete(running, n)
		}
		states := settledStates(c, running)
		for n := range known {
			if _, there := states[n]; !there && !unsure[n] {
				t.Fatalf("round %d: container %s is lost", round, n)
			}
		}
		for n := range running {
			if s := states[n]; s.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING && !unsure[n] {
				t.Fatalf("round %d: container %s does not run: %+v", round, n, s)
			}
		}
		for n := range unsure { // learn what became of it
			s, there := states[n]
			delete(known, n)
			if there {
				known[n] = true
			}
			if s.Phase == wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING {
				running[n] = true
			}
		}
		clear(unsure)
		up := 0
		for _, s := range states {
			if s.Pid != 0 {
				up++
			}
		}
		// One that was just started may still be becoming its program.
		w.eventually(fmt.Sprintf("round %d: as many processes as the %d containers that run", round, up), func() bool { return len(processes(w)) == up })
		if n := recordDirs(w); n != len(states) {
			t.Fatalf("round %d: %d containers have %d record directories", round, len(states), n)
		}
	}
	t.Logf("%d containers were made, %d are left, %d run", serial, len(known), len(running))
}

// oneOrder gives one random order; false when the child has died.
func oneOrder(c *child, serial *int, known, running, unsure map[string]bool) bool {
	pick := func() string {
		for n := range known {
			return n
		}
		return ""
	}
	o := order{Verb: []string{"create", "create", "start", "start", "stop", "remove"}[rand.IntN(6)], Ref: pick()}
	if o.Verb == "create" || o.Ref == "" || len(known) < 3 {
		*serial++
		o = order{Verb: "create", Ref: fmt.Sprintf("box%d", *serial), Args: []string{"sleep"}, Restart: wherryv1.RestartPolicy_KIND_ALWAYS}
	}
	if len(known) > 12 && o.Verb == "create" {
		o = order{Verb: "remove", Ref: pick()}
	}
	r, answered := c.ask(o)
	if !answered {
		unsure[o.Ref] = true
		return false
	}
	if r.Err != "" {
		c.t.Fatalf("%+v: %s", o, r.Err)
	}
	switch o.Verb {
	case "create":
		known[o.Ref] = true
	case "start":
		running[o.Ref] = true
	case "stop":
		delete(running, o.Ref)
	case "remove":
		delete(known, o.Ref)
		delete(running, o.Ref)
	}
	return true
}

// settledStates waits until what has to run runs, and nothing is in between.
func settledStates(c *child, running map[string]bool) map[string]childState {
	var states map[string]childState
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		states = c.must(order{Verb: "states"}).States
		quiet := true
		for n, s := range states {
			quiet = quiet && s.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_RESTARTING &&
				(!running[n] || s.Phase == wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING)
		}
		if quiet {
			time.Sleep(150 * time.Millisecond) // what was cut short may just begin
			return c.must(order{Verb: "states"}).States
		}
		time.Sleep(20 * time.Millisecond)
	}
	return states
}

// processes lists the probe's processes in cgroups of this world.
func processes(w *world) (pids []string) {
	files, _ := filepath.Glob("/sys/fs/cgroup" + w.opts.CgroupParent + "/*/cgroup.procs")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		for _, p := range strings.Fields(string(b)) {
			if cmd, _ := os.ReadFile("/proc/" + p + "/cmdline"); bytes.HasPrefix(cmd, []byte("/probe")) {
				pids = append(pids, p)
			}
		}
	}
	return pids
}

func recordDirs(w *world) int {
	d, _ := os.ReadDir(filepath.Join(w.dir, "root/containers"))
	return len(d)
}

// TestShimIsKilled wants containers to go on without their shim, and the next
// one to take them over with their output, their commands and their ends.
func TestShimIsKilled(t *testing.T) {
	w := newWorld(t)
	id := w.create("sleep")
	w.must(w.Start(t.Context(), id))
	pid := w.state(id).Pid
	w.untilOutput(id, "ready\n")
	w.killShim()
	again := w.create("sleep")
	w.must(w.Start(t.Context(), again)) // the first call after it starts another shim
	if s := w.state(id); s.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING || s.Pid != pid {
		t.Fatalf("after the shim's death: %+v", s)
	}
	// The shim answers while the second one's process is just becoming the program.
	w.eventually("two processes", func() bool { return len(processes(w)) == 2 })
	w.must(w.Stop(t.Context(), id, "", nil))
	w.untilOutput(id, "ready\nbye\n")
	// Who gets the orphan's status here is this machine's PID 1, not Wherry's.
	if s := w.state(id); s.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED || s.ExitCode != unknownExit {
		t.Errorf("a container that ended after its shim: %+v", s)
	}
}

// killShim kills the shim of this world and waits until it is gone.
func (w *world) killShim() {
	w.t.Helper()
	pid := w.shimPid()
	if pid == 0 {
		w.t.Fatal("no shim was found")
	}
	w.must(unix.Kill(pid, unix.SIGKILL))
	w.eventually("the end of the shim", func() bool { return w.shimPid() != pid })
}

// shimPid finds the shim of this world; 0 when there is none.
func (w *world) shimPid() int {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		b, _ := os.ReadFile(f)
		if bytes.Contains(b, []byte("wherry-shim\x00serve")) && bytes.Contains(b, []byte(w.opts.ShimDir+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			return pid
		}
	}
	return 0
}
