// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package api

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/vmtest/fixture"
)

// vanish kills callers in the middle of everything that streams.
func (x target) vanish(t *testing.T, r *stallingRegistry, archive string) {
	x.admin.Run("run", "-d", "-i", "--name", "box", tools, "tick", "50")
	x.admin.Run("exec", "box", "/toybox", "fill", "/data/big", "20")
	before := x.mounts(t)
	r.stall.Store(true)
	half, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	half = half[:len(half)/2]
	for _, c := range []struct {
		args  []string
		stdin string // and then it stays open
		says  bool   // something on standard output, when it is under way
	}{
		{[]string{"logs", "-f", "box"}, "", true},
		{[]string{"attach", "box"}, "", true},
		{[]string{"exec", "box", "/toybox", "tick", "50"}, "", true},
		{[]string{"exec", "-i", "box", "/toybox", "shell"}, "echo x\n", true},
		{[]string{"exec", "box", "/toybox", "sleep", "inf"}, "", false},
		{[]string{"stats"}, "", true},
		{[]string{"events"}, "", false},
		{[]string{"wait", "box"}, "", false},
		{[]string{"cp", "box:/data/big", "-"}, "", true},
		{[]string{"cp", "-", "box:/data"}, string(half[:1<<20]), false},
		{[]string{"load"}, string(half), false},
		{[]string{"pull", r.guest + "/tools"}, "", false},
		{[]string{"run", "-i", "--rm", "--name", "brief", tools, "shell"}, "echo x\n", true},
	} {
		x.cutOff(t, c.args, c.stdin, c.says)
	}
	waitFor(t, "sessions to end", func() bool {
		return strings.Count(x.admin.Run("exec", "box", "/toybox", "ps"), "\n") == 2 // tick and ps
	})
	waitFor(t, "the pull to end", func() bool { return r.stalled.Load() == 0 })
	r.stall.Store(false)
	x.admin.Try("rm", "-f", "brief")
	if after := x.mounts(t); after > before {
		t.Errorf("the machine had %d mounts and has %d", before, after)
	}
	if out := x.admin.Run("images", "-q"); strings.Count(out, "\n") != 1 {
		t.Errorf("images:\n%s", out)
	}
	if out := x.admin.Run("exec", "box", "/toybox", "echo", "still here"); out != "still here\n" {
		t.Errorf("it says %q", out)
	}
	x.admin.Run("pull", r.guest+"/tools")
	x.admin.Run("rmi", r.guest+"/tools")
	x.admin.Run("rm", "-f", "box")
	x.well(t)
}

// cutOff starts a command, and kills it in the middle.
func (x target) cutOff(t *testing.T, args []string, stdin string, says bool) {
	t.Helper()
	c := x.admin.Command(args...)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go io.WriteString(in, stdin)
	if says {
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	} else {
		time.Sleep(1500 * time.Millisecond)
	}
	if err := c.Process.Kill(); err != nil {
		t.Errorf("%v: ended before it was killed: %v", args, err)
	}
	in.Close()
	_ = c.Wait() // it was killed
}

// mounts counts those of the whole machine.
func (x target) mounts(t *testing.T) int {
	t.Helper()
	return strings.Count(x.admin.Run("run", "--rm", "-v", "/proc:/host/proc:ro", tools, "cat", "/host/proc/1/mounts"), "\n")
}

// fullDisk fills the state from inside of a container.
func (x target) fullDisk(t *testing.T, r *stallingRegistry) {
	if r := x.admin.Try("run", "--name", "hog", "-v", "hog:/hog", tools, "fill", "/hog/all", "4000"); !strings.Contains(r.Stderr, "no space") && !strings.Contains(r.Stderr, "are lost") {
		t.Errorf("a container that fills the disk: %+v", r)
	}
	status, err := x.admin.Client(x.m).Machine.GetStatus(t.Context(), connect.NewRequest(&wherryv1.GetStatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	if free := status.Msg.State.FreeBytes; free > 1<<20 {
		t.Fatalf("the disk is not full: %d bytes are free", free)
	}
	archive := fixture.Archive(t, "localhost/other:1", fixture.Toybox(t))
	for _, args := range [][]string{
		{"run", "--rm", tools, "true"},
		{"pull", r.guest + "/tools"},
		{"load", "-i", archive},
	} {
		out := x.admin.Try(args...)
		if out.Code == 0 {
			continue // there was room for that
		}
		if strings.Count(out.Stderr, "wherry: ") != 1 || !strings.Contains(out.Stderr, "full") && !strings.Contains(out.Stderr, "no space") {
			t.Errorf("%v: %+v", args, out)
		}
	}
	if out := x.admin.Run("ps", "-a"); strings.Count(out, "\n") != 2 {
		t.Errorf("containers:\n%s", out)
	}
	x.m.Kill()
	x.m.Start() // with a disk that is still full
	x.admin.Run("status")
	if out := x.admin.Run("ps", "-a"); !strings.Contains(out, "Exited") {
		t.Errorf("after a power cut:\n%s", out)
	}
	x.admin.Run("rm", "hog")
	x.admin.Run("volume", "rm", "hog")
	x.well(t)
	x.admin.Run("pull", r.guest+"/tools")
}

// stallingRegistry is a registry on the host's loopback that can stop in the middle.
type stallingRegistry struct {
	guest   string
	stall   atomic.Bool
	stalled atomic.Int32 // requests that hang
}

func newStallingRegistry(t *testing.T) *stallingRegistry {
	t.Helper()
	r := &stallingRegistry{}
	real := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if r.stall.Load() && q.Method == http.MethodGet && strings.Contains(q.URL.Path, "/blobs/") {
			r.stalled.Add(1)
			defer r.stalled.Add(-1)
			<-q.Context().Done()
			return
		}
		real.ServeHTTP(w, q)
	}))
	t.Cleanup(s.Close)
	addr := s.Listener.Addr().String()
	r.guest = "10.0.2.2:" + addr[strings.LastIndexByte(addr, ':')+1:]
	ref, err := name.ParseReference(addr+"/tools", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, fixture.Toybox(t)); err != nil {
		t.Fatal(err)
	}
	return r
}
