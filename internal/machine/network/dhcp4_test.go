// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"wherry.example/wherry/config"
)

// leave writes the lease of an earlier wherryd, of this age, whose server is gone.
func (w *wire) leave(dir string, age time.Duration) {
	w.t.Helper()
	data, err := json.Marshal(Lease{
		MAC: "02:00:00:00:00:10", Server: netip.MustParseAddr("10.9.0.99"), Address: netip.MustParsePrefix("10.9.0.50/24"),
		Obtained: sinceBoot() - age, Renew: 10 * time.Minute, Rebind: 50 * time.Minute, Expires: 2 * time.Hour,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "network"), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "network", "lease-eth0.json"), data, 0o644); err != nil {
		w.t.Fatal(err)
	}
	run(w.t, "ip", "link", "set", "eth0", "up")
	run(w.t, "ip", "addr", "add", "10.9.0.50/24", "dev", "eth0")
	w.await("the carrier", func() bool {
		links, _, err := observe()
		return err == nil && len(links) == 1 && links[0].Carrier
	})
}

// TestRebind adopts a lease whose server does not answer any more: another one extends it.
func TestRebind(t *testing.T) {
	w := newWire(t)
	w.serve("10.9.0.1/24", append(basic, "--dhcp-authoritative")...)
	dir := t.TempDir()
	w.leave(dir, time.Hour)
	x := w.boot(dir, config.Default())
	w.await("the other server's lease", func() bool { return x.has("10.9.0.50/24") && w.said("DHCPACK") > 0 && len(x.State().Nameservers) == 2 })
	if w.said("DHCPDISCOVER") > 0 {
		t.Error("the lease was asked for anew")
	}
}

// TestWithoutCarrier starts on a link that is unplugged: the address waits for the plug.
func TestWithoutCarrier(t *testing.T) {
	w := newWire(t)
	w.serve("10.9.0.1/24", append(basic, "--dhcp-authoritative")...)
	dir := t.TempDir()
	w.leave(dir, time.Minute)
	w.in("ip", "link", "set", "up0", "down")
	w.await("the loss of the carrier", func() bool { links, _, err := observe(); return err == nil && !links[0].Carrier })
	x := w.boot(dir, config.Default())
	w.await("the address", func() bool { return x.has("10.9.0.50/24") })
	w.in("ip", "link", "set", "up0", "up")
	w.await("the confirmation", func() bool { return w.said("DHCPACK") > 0 && x.has("10.9.0.50/24") })
	if w.said("DHCPDISCOVER") > 0 {
		t.Error("the lease was asked for anew")
	}
}

// TestSilentServer has a server that says nothing about leases that it does not know.
func TestSilentServer(t *testing.T) {
	w := newWire(t)
	w.serve("10.9.0.1/24", basic...)
	dir := t.TempDir()
	w.leave(dir, time.Minute)
	w.in("ip", "link", "set", "up0", "down")
	w.await("the loss of the carrier", func() bool { links, _, err := observe(); return err == nil && !links[0].Carrier })
	x := w.boot(dir, config.Default())
	w.await("the address", func() bool { return x.has("10.9.0.50/24") })
	w.in("ip", "link", "set", "up0", "up")
	w.await("a lease that the server knows", func() bool { return w.said("DHCPDISCOVER") > 0 && w.said("DHCPACK") > 0 && x.has("10.9.0.50/24") })
}

// TestExpired finds a lease that ended while no wherryd was there to say so.
func TestExpired(t *testing.T) {
	w := newWire(t)
	w.serve("10.8.0.1/24", "--dhcp-range=10.8.0.60,10.8.0.60,255.255.255.0,2h")
	dir := t.TempDir()
	w.leave(dir, 3*time.Hour)
	x := w.boot(dir, config.Default())
	w.await("a new lease", func() bool { return x.has("10.8.0.60/24") && !x.has("10.9.0.50/24") })
	if w.said("DHCPREQUEST(up0) 10.9.0.50") > 0 {
		t.Error("the expired address was asked for")
	}
}

// TestBrokenLeaseFile has rubbish where the lease should be.
func TestBrokenLeaseFile(t *testing.T) {
	w := newWire(t)
	w.serve("10.9.0.1/24", basic...)
	dir := t.TempDir()
	w.leave(dir, 0)
	if err := os.WriteFile(filepath.Join(dir, "network", "lease-eth0.json"), []byte(`{"MAC": "02:00:00:00:00:10", "Address": "no`), 0o644); err != nil {
		t.Fatal(err)
	}
	x := w.boot(dir, config.Default())
	w.await("a new lease", func() bool { return x.has("10.9.0.50/24") && w.said("DHCPDISCOVER") > 0 })
}

// TestMeddling takes the address and the route away behind our back.
func TestMeddling(t *testing.T) {
	w := newWire(t)
	w.serve("10.9.0.1/24", basic...)
	x := w.boot(t.TempDir(), config.Default())
	w.await("the address", func() bool { return x.has("10.9.0.50/24") })
	w.forget()
	run(t, "ip", "addr", "flush", "dev", "eth0", "scope", "global")
	run(t, "ip", "addr", "add", "192.0.2.200/24", "dev", "eth0")
	w.await("everything as it was", func() bool {
		s := x.State()
		return x.has("10.9.0.50/24") && len(s.Links[0].Addresses) == 1 && s.Links[0].Gateway == "10.9.0.1"
	})
	if w.said("DHCP") > 0 {
		t.Error("the server was asked")
	}
}
