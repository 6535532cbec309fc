// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containernet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/netattach"
)

// emptyNetNS makes a network namespace without a process in it.
func emptyNetNS(t *testing.T) string {
	t.Helper()
	var f *os.File
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
	}()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return fmt.Sprintf("/proc/self/fd/%d", f.Fd())
}

// 200 containers with ports come and go at once, and nothing of them is left.
func TestManyContainers(t *testing.T) {
	w := newWorld(t)
	w.run("first", nil)
	before := snapshot(t)
	const count = 200
	requests := make([]netattach.Request, count)
	for i := range requests {
		requests[i] = netattach.Request{
			Container: fmt.Sprintf("d%011x%052x", i, i), Name: fmt.Sprintf("many-%d", i), NetNS: emptyNetNS(t),
			Ports: []*wherryv1.PortMapping{tcp(uint32(20000+i), 80), {HostPort: uint32(10000 + 10*i), ContainerPort: 1000, Count: 10, Protocol: "udp"}},
		}
	}
	threads := func() int { d, _ := os.ReadDir("/proc/self/task"); return len(d) }
	threadsBefore := threads()
	seen := sync.Map{}
	took := all(t, count, func(i int) error {
		r, err := w.nets.Attach(context.Background(), requests[i])
		if err == nil {
			if other, twice := seen.LoadOrStore(r.Endpoints[0].Ipv4, i); twice {
				return fmt.Errorf("%s was given to %d and %d", r.Endpoints[0].Ipv4, other, i)
			}
		}
		return err
	})
	t.Logf("attach %d containers of 11 ports: %v, %v each", count, took, took/count)
	start := time.Now()
	if _, err := w.nets.InspectNetwork(context.Background(), DefaultNetwork); err != nil {
		t.Fatal(err)
	}
	t.Logf("inspect: %v", time.Since(start))
	took = all(t, count, func(i int) error { return w.nets.Detach(context.Background(), requests[i].Container) })
	t.Logf("detach: %v, %v each", took, took/count)
	if d := cmp.Diff(before, snapshot(t)); d != "" {
		t.Errorf("left after all went (-before +after):\n%s", d)
	}
	if after := threads(); after > threadsBefore+24 {
		t.Errorf("%d threads before, %d after", threadsBefore, after)
	}
}

// all runs count calls, eight at a time.
func all(t *testing.T, count int, call func(int) error) time.Duration {
	t.Helper()
	start := time.Now()
	errs := make([]error, count)
	gate := make(chan struct{}, 8)
	var done sync.WaitGroup
	for i := range count {
		gate <- struct{}{}
		done.Go(func() {
			errs[i] = call(i)
			<-gate
		})
	}
	done.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return time.Since(start)
}

func TestWithoutIPv6(t *testing.T) {
	w := newWorld(t)
	off := func(value string) {
		for _, name := range []string{"all", "default"} {
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte(value), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	off("1")
	t.Cleanup(func() { off("0") })
	w.start()
	c := w.run("c", []*wherryv1.PortMapping{tcp(8080, 80)})
	c.serve("tcp4", ":80", "c")
	if c.ip6 != "" {
		t.Errorf("the container has %s", c.ip6)
	}
	reach{what: "published port", from: w.outside, network: "tcp", to: machine4, port: 8080, want: "c"}.try(t)
	reach{what: "published port on loopback", network: "tcp", to: "127.0.0.1", port: 8080, want: "c"}.try(t)
	board := w.opts.Board.List()
	if len(board) != 1 || !strings.Contains(board[0].Message, "IPv6") {
		t.Errorf("board: %v", board)
	}
	if err := w.nets.Detach(context.Background(), c.id); err != nil {
		t.Fatal(err)
	}
}

// Without nftables containers still start; ports are refused with the reason.
func TestWithoutRules(t *testing.T) {
	w := newWorld(t)
	w.nets.prepared, w.nets.noRules = true, errors.New("no such module")
	w.nets.report()
	a, b := w.run("a", nil), w.run("b", nil)
	b.serve("tcp", ":80", "b")
	reach{what: "same network", from: a.agent, network: "tcp", to: b.ip4, port: 80, want: "b"}.try(t)
	_, err := w.nets.Attach(context.Background(), netattach.Request{
		Container: strings.Repeat("ab", 32), Name: "x", NetNS: emptyNetNS(t), Ports: []*wherryv1.PortMapping{tcp(8181, 80)}})
	if err == nil || !strings.Contains(err.Error(), "nftables") {
		t.Errorf("publish: %v", err)
	}
	if board := w.opts.Board.List(); len(board) != 1 || board[0].Ready || !strings.Contains(board[0].Message, "nftables") {
		t.Errorf("board: %v", board)
	}
}
