// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/config"
)

// reserved gives the machine 10.9.0.50, and 10.9.0.60 when that is no good. The
// server has 10.9.0.50 itself in some tests, so it must not send its answers there.
var reserved = []string{"--dhcp-range=10.9.0.60,10.9.0.60,255.255.255.0,2h", "--dhcp-host=02:00:00:00:00:10,10.9.0.50", "--dhcp-broadcast"}

// TestTaken is offered an address that another device has: it is never used.
func TestTaken(t *testing.T) {
	w := newWire(t)
	w.serve("10.9.0.1/24 10.9.0.50/32", reserved...)
	start := time.Now()
	x := w.boot(t.TempDir(), config.Default())
	w.await("the refusal", func() bool { return w.said("DHCPDECLINE") == 1 })
	if line := x.board.List()[0]; line.Ready || x.has("10.9.0.50/24") {
		t.Errorf("the address is used: %+v", line)
	}
	w.await("the reason", func() bool { return strings.Contains(x.board.List()[0].Message, "10.9.0.50 is used by") })
	w.await("another address", func() bool { return x.has("10.9.0.60/24") })
	if d := time.Since(start); d < 10*time.Second {
		t.Errorf("asked again after %s: RFC 2131 wants 10 s", d)
	}
	if w.said("DHCPDECLINE") != 1 {
		t.Error("the good address was declined too")
	}
}

// hurry shortens the pause that TestTaken measures.
func hurry(t *testing.T) {
	before := pauseAfterConflict
	pauseAfterConflict = 100 * time.Millisecond
	t.Cleanup(func() { pauseAfterConflict = before })
}

// claim has another device use our address: it asks a number of times, a
// second apart, for a device that is not there.
func (w *wire) claim(times int) {
	w.t.Helper()
	w.in("ip", "addr", "add", "10.9.0.50/32", "dev", "up0")
	w.in("ip", "route", "add", "10.9.0.77/32", "dev", "up0", "src", "10.9.0.50")
	w.in("bash", "-c", fmt.Sprintf("echo %d > /proc/sys/net/ipv4/neigh/up0/mcast_solicit && echo > /dev/udp/10.9.0.77/9", times))
	time.Sleep(200 * time.Millisecond)
}

// reach connects from the other end of the wire to an address of the machine.
func (w *wire) reach(address string) {
	w.t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	w.in("timeout", "3", "bash", "-c", ": < /dev/tcp/"+address+"/"+port)
}

// TestTakenLater meets another device when the address is in use already: it
// is defended once, then given up.
func TestTakenLater(t *testing.T) {
	hurry(t)
	w := newWire(t)
	w.serve("10.9.0.1/24", reserved...)
	x := w.boot(t.TempDir(), config.Default())
	w.await("the address", func() bool { return x.has("10.9.0.50/24") })
	w.claim(3)
	w.await("the refusal", func() bool { return w.said("DHCPDECLINE") == 1 && !x.has("10.9.0.50/24") })
	w.await("another address", func() bool { return x.has("10.9.0.60/24") })
}

// TestDefended meets one claim only: a device that was told goes away, and we stay.
func TestDefended(t *testing.T) {
	w := newWire(t)
	w.serve("10.9.0.1/24", reserved...)
	x := w.boot(t.TempDir(), config.Default())
	w.await("the address", func() bool { return x.has("10.9.0.50/24") })
	w.claim(1)
	w.in("ip", "addr", "del", "10.9.0.50/32", "dev", "up0")
	time.Sleep(500 * time.Millisecond)
	if !x.has("10.9.0.50/24") || w.said("DHCPDECLINE") > 0 {
		t.Error("the address was given up after a single claim")
	}
	// Who asks after our defence learns that the address is ours.
	w.reach("10.9.0.50")
}
