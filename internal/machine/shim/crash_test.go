// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestDeathOfTheShim(t *testing.T) {
	w := newWorld(t)
	runs := w.run("cat")
	x, err := runs.addExec("x", false, "/toybox", "sleep", "inf")
	w.must(err)
	w.must(x.start())
	x.open()
	waits, err := w.create(w.spec(w.newID(), "exit", "4"), fmt.Sprintf("%064x", 2))
	w.must(err)
	before := w.run("exit", "5") // ended and reaped by the shim
	before.wait()
	between := w.run("sleep", "inf", "6")
	between.started()
	paused := w.run("sleep", "inf")
	_, err = w.api.Pause(w.ctx(), &taskapi.PauseRequest{ID: paused.id})
	w.must(err)
	pid, endPid := runs.state().Pid, between.state().Pid

	w.killShim()
	w.must(unix.Kill(int(endPid), unix.SIGTERM)) // nobody but PID 1 sees this end
	time.Sleep(50 * time.Millisecond)
	w.boot()

	if s := runs.state(); s.Status != tasktypes.Status_RUNNING || s.Pid != pid {
		t.Errorf("the running one is %v", s)
	}
	if s := x.state(); s.Status != tasktypes.Status_RUNNING {
		t.Errorf("the exec is %v", s)
	}
	if s := before.state(); s.Status != tasktypes.Status_STOPPED || s.ExitStatus != 5 {
		t.Errorf("the one that ended before is %v", s)
	}
	if s := between.state(); s.Status != tasktypes.Status_STOPPED || s.ExitStatus != 143 || time.Since(s.ExitedAt.AsTime()) > time.Minute {
		t.Errorf("the one that ended between is %v", s)
	}
	if s := paused.state(); s.Status != tasktypes.Status_PAUSED {
		t.Errorf("the paused one is %v", s)
	}
	// They work as before.
	runs.stdin.WriteString("hello\n")
	runs.untilOutput("hello\n")
	y, err := runs.addExec("y", false, "/toybox", "exit", "8")
	w.must(err)
	w.must(y.start())
	if code := y.wait(); code != 8 {
		t.Errorf("a new exec ended with %d", code)
	}
	w.must(x.kill(unix.SIGKILL, false))
	if code := x.wait(); code != 137 {
		t.Errorf("the old exec ended with %d", code)
	}
	if s := waits.state(); s.Status != tasktypes.Status_CREATED {
		t.Errorf("the created one is %v", s)
	}
	w.must(waits.start())
	if code := waits.wait(); code != 4 {
		t.Errorf("the created one ended with %d", code)
	}
	runs.closeStdin()
	if code := runs.wait(); code != 0 {
		t.Errorf("the running one ended with %d", code)
	}
	w.must(paused.kill(unix.SIGKILL, true))
	if code := paused.wait(); code != 137 {
		t.Errorf("the paused one ended with %d", code)
	}
	for _, b := range []*box{runs, waits, before, between, paused} {
		w.must(b.delete())
	}
	w.checkNothingLeft()
}

// TestOutputOutlivesTheShim: the container goes on writing, and the reader reads on.
func TestOutputOutlivesTheShim(t *testing.T) {
	w := newWorld(t)
	b := w.run("tick", "2")
	b.untilOutput("tick 50\n")
	for range 3 {
		w.killShim()
		w.boot()
	}
	w.must(b.kill(unix.SIGKILL, false))
	b.wait()
	w.must(b.delete())
	lines := strings.Split(strings.TrimSuffix(b.out.all(), "\n"), "\n")
	for i, l := range lines {
		if l != fmt.Sprintf("tick %d", i+1) {
			t.Fatalf("line %d is %q", i+1, l)
		}
	}
}

// TestWriterOutlivesEverybody: neither a shim nor a reader is there, and the
// container goes on writing without being ended for it.
func TestWriterOutlivesEverybody(t *testing.T) {
	w := newWorld(t)
	id := w.newID()
	b, err := w.create(w.spec(id, "tick", "10"), id)
	w.must(err)
	w.must(b.start())
	w.killShim()
	time.Sleep(300 * time.Millisecond)
	w.boot()
	if s := b.state(); s.Status != tasktypes.Status_RUNNING {
		t.Fatalf("it is %v", s)
	}
	b.open()
	b.untilOutput("tick 1\n") // nothing of it is lost
	w.must(b.kill(unix.SIGKILL, false))
	b.wait()
	w.must(b.delete())
}

// TestLostRecord: without PID 1's word the code is 255, and it does not take for ever.
func TestLostRecord(t *testing.T) {
	w := newWorld(t)
	b := w.run("sleep", "inf")
	pid := b.state().Pid
	w.killShim()
	w.must(unix.Kill(int(pid), unix.SIGKILL))
	w.eventually("its end", func() bool { return errors.Is(unix.Kill(int(pid), 0), unix.ESRCH) })
	time.Sleep(50 * time.Millisecond)
	w.must(os.WriteFile(filepath.Join(w.dir, "reaped"), nil, 0o600))
	w.boot()
	if s := b.state(); s.Status != tasktypes.Status_STOPPED || s.ExitStatus != unknownExit {
		t.Errorf("state %v", s)
	}
	w.must(b.delete())
	w.checkNothingLeft()
}

// TestHalfMade: a container whose creation nobody was told of goes.
func TestHalfMade(t *testing.T) {
	w := newWorld(t)
	id := w.newID()
	b, err := w.create(w.spec(id, "sleep", "inf"), id)
	w.must(err)
	pid := b.state().Pid
	w.killShim()
	path := filepath.Join(w.shimDir(), "tasks", id, initRecord)
	rec, err := readRecord(path)
	w.must(err)
	rec.Stage = stageCreating
	w.must(rec.write(path))
	w.boot()
	if _, err := w.api.State(w.ctx(), &taskapi.StateRequest{ID: id}); err == nil {
		t.Error("it is there")
	}
	if err := unix.Kill(int(pid), 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("its process: %v", err)
	}
	w.checkNothingLeft()
}

func TestSecondInstance(t *testing.T) {
	w := newWorld(t)
	out, err := exec.Command(filepath.Join(w.bin, "wherry-shim"), "serve", "--state", w.shimDir()).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("another instance")) {
		t.Errorf("the second instance: %v, %s", err, out)
	}
	w.run("true").wait() // the first still answers
}

func TestEndOfTheShim(t *testing.T) {
	w := newWorld(t)
	b := w.run("sleep", "inf")
	w.must(unix.Kill(w.pid, unix.SIGTERM))
	w.must(unix.Kill(w.pid, unix.SIGPIPE))
	_, err := w.api.Shutdown(w.ctx(), &taskapi.ShutdownRequest{Now: true})
	w.must(err)
	time.Sleep(200 * time.Millisecond)
	b.end()
	w.must(unix.Kill(w.pid, unix.SIGTERM))
	w.eventually("the shim's end", func() bool { return errors.Is(unix.Kill(w.pid, 0), unix.ESRCH) })
	w.boot()
	_, err = w.api.Shutdown(w.ctx(), &taskapi.ShutdownRequest{})
	w.must(err)
	w.eventually("the shim's end", func() bool { return errors.Is(unix.Kill(w.pid, 0), unix.ESRCH) })
	w.boot()
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	w.run("true").end()
	before := w.descriptors()
	var all sync.WaitGroup
	for range 50 {
		id := w.newID()
		all.Go(func() {
			b, err := w.create(w.spec(id, "exit", "3"), id)
			if err != nil {
				t.Error(err)
				return
			}
			if err := b.start(); err != nil {
				t.Error(err)
			}
			if code := b.wait(); code != 3 {
				t.Errorf("code %d", code)
			}
			if err := b.delete(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	w.checkNothingLeft()
	w.eventually("no more descriptors than before", func() bool { return w.descriptors() <= before })
}

func (w *world) descriptors() int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.pid))
	w.must(err)
	return len(entries)
}

// TestNoThreadsForContainers: waiting costs none.
func TestNoThreadsForContainers(t *testing.T) {
	w := newWorld(t)
	var boxes []*box
	for range 30 {
		boxes = append(boxes, w.run("sleep", "inf"))
		go w.api.Wait(w.ctx(), &taskapi.WaitRequest{ID: boxes[len(boxes)-1].id})
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", w.pid))
	w.must(err)
	if len(threads) > 15 {
		t.Errorf("%d threads for 30 containers", len(threads))
	}
	for _, b := range boxes {
		b.end()
	}
}

// TestWaitEndsWithItsCaller: a caller that goes leaves nothing behind.
func TestWaitEndsWithItsCaller(t *testing.T) {
	w := newWorld(t)
	b := w.run("sleep", "inf")
	before := w.descriptors()
	for range 20 {
		w.connect()
		go w.api.Wait(w.ctx(), &taskapi.WaitRequest{ID: b.id})
		time.Sleep(5 * time.Millisecond)
		w.client.Close()
	}
	w.connect()
	w.eventually("no more descriptors than before", func() bool { return w.descriptors() <= before+1 })
	b.end()
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	for name, r := range map[string]*taskapi.CreateTaskRequest{
		"no id":        {Bundle: w.dir},
		"path for id":  {ID: "../x", Bundle: w.dir},
		"no bundle":    {ID: "x", Bundle: w.dir + "/none"},
		"not absolute": {ID: "x", Bundle: "bundle"},
	} {
		if _, err := w.api.Create(w.ctx(), r); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := (&box{w: w, id: "none"}).kill(9, false); !errdefs.IsNotFound(err) {
		t.Errorf("kill of none: %v", err)
	}
	w.checkNothingLeft()
}

func TestFindReaped(t *testing.T) {
	const text = "10 100 0 1000000000\n11 100 256 1\n10 200 9 2000000000\n10 100 1792 3000000000\nnonsense\n12 1 x 4\n13 1 1"
	for _, c := range []struct {
		pid   int
		start uint64
		code  uint32
		at    int64
		found bool
	}{
		{10, 100, 7, 3, true},
		{10, 200, 137, 2, true},
		{10, 300, 0, 0, false}, // the number was another's
		{12, 1, 0, 0, false},
		{13, 1, 0, 0, false},
		{14, 1, 0, 0, false},
	} {
		e, found := findReaped([]byte(text), c.pid, c.start)
		if found != c.found || e.Code != c.code || found && e.At.Unix() != c.at {
			t.Errorf("%d %d: %v %v", c.pid, c.start, e, found)
		}
	}
}

func TestFindProcess(t *testing.T) {
	start := startTime(os.Getpid())
	for _, c := range []struct {
		pid   int
		start uint64
		want  bool
	}{{os.Getpid(), start, true}, {os.Getpid(), start + 1, false}, {os.Getpid(), 0, false}, {0, start, false}, {1 << 30, start, false}} {
		h, ok := findProcess(c.pid, c.start)
		if ok != c.want {
			t.Errorf("%+v: %v", c, ok)
		}
		if ok {
			h.close()
		}
	}
}

func TestWaitStatus(t *testing.T) {
	for _, script := range []string{"exit 0", "exit 7", "exit 255", "kill -9 $$", "kill -15 $$"} {
		cmd := exec.Command("/bin/sh", "-c", script)
		in, _ := cmd.StdinPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		h, err := openHandle(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(in, "")
		if err := h.wait(); err != nil {
			t.Fatal(err)
		}
		got := peek(h.fd)
		h.close()
		cmd.Wait()
		if want := cmd.ProcessState.Sys(); fmt.Sprint(want) != fmt.Sprint(got) {
			t.Errorf("%s: %v, want %v", script, got, want)
		}
	}
}
