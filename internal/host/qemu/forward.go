// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Forward leads from a port of this computer to a port of the machine.
type Forward struct {
	Protocol    string `json:"protocol"`
	HostAddress string `json:"hostAddress"`
	HostPort    uint16 `json:"hostPort"`
	GuestPort   uint16 `json:"guestPort"`
	// Added tells a forward that came while the machine ran. At a restart such
	// a one is left out, with a warning, when its port is taken meanwhile.
	Added bool `json:"added,omitempty"`
}

func (f Forward) String() string {
	return fmt.Sprintf("%s:%d->%d/%s", f.HostAddress, f.HostPort, f.GuestPort, f.Protocol)
}

// ParseForward reads [address:]hostPort:guestPort[/tcp|udp]. Without an
// address it is the loopback address: what runs in a VM on a laptop is not
// shown to the network unless asked for.
func ParseForward(text string) (Forward, error) {
	rest, protocol, found := strings.Cut(text, "/")
	if !found {
		protocol = "tcp"
	}
	parts := strings.Split(rest, ":")
	if len(parts) == 2 {
		parts = append([]string{""}, parts...)
	}
	if len(parts) != 3 {
		return Forward{}, fmt.Errorf("port forward %q: want [address:]hostPort:guestPort[/tcp|udp]", text)
	}
	host, err1 := strconv.ParseUint(parts[1], 10, 16)
	guest, err2 := strconv.ParseUint(parts[2], 10, 16)
	if err := errors.Join(err1, err2); err != nil {
		return Forward{}, fmt.Errorf("port forward %q: ports are numbers from 1 to 65535", text)
	}
	f := Forward{Protocol: protocol, HostAddress: parts[0], HostPort: uint16(host), GuestPort: uint16(guest)}
	f = f.withDefaults()
	return f, f.validate()
}

func (f Forward) withDefaults() Forward {
	if f.Protocol == "" {
		f.Protocol = "tcp"
	}
	if f.HostAddress == "" {
		f.HostAddress = "127.0.0.1"
	}
	return f
}

func (f Forward) validate() error {
	if f.Protocol != "tcp" && f.Protocol != "udp" {
		return fmt.Errorf("port forward %s: protocol is tcp or udp", f)
	}
	if a, err := netip.ParseAddr(f.HostAddress); err != nil || !a.Is4() {
		return fmt.Errorf("port forward %s: the host address must be an IPv4 address (QEMU's user network forwards no other)", f)
	}
	if f.GuestPort == 0 {
		return fmt.Errorf("port forward %s: the machine's port is missing", f)
	}
	return nil
}

// rule is the forward in QEMU's words.
func (f Forward) rule() string {
	return fmt.Sprintf("%s:%s:%d-:%d", f.Protocol, f.HostAddress, f.HostPort, f.GuestPort)
}

func (f Forward) sameHost(g Forward) bool {
	return f.HostPort == g.HostPort && f.Protocol == g.Protocol && f.HostPort != 0 &&
		(f.HostAddress == g.HostAddress || f.HostAddress == anyAddress || g.HostAddress == anyAddress)
}

// anyAddress stands for all of this computer's.
const anyAddress = "0.0.0.0"

// covers says that whoever asks for g has it with f.
func (f Forward) covers(g Forward) bool {
	return f.sameHost(g) && f.GuestPort == g.GuestPort && (f.HostAddress == g.HostAddress || f.HostAddress == anyAddress)
}

// portsFree refuses forwards that were asked for by name and cannot be. Those
// added while the machine ran are left out instead.
func (s Settings) portsFree() error {
	for _, f := range s.Forwards {
		if f.Added {
			continue
		}
		if err := f.portFree(); err != nil {
			return portRefused(f, err)
		}
	}
	return nil
}

// portRefused says why a port of this computer cannot be had, and what to do.
func portRefused(f Forward, err error) error {
	place := fmt.Sprintf("port %d/%s of this computer", f.HostPort, f.Protocol)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s is in use by another program: choose another host port with -p", place)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s needs root (it is below 1024): choose a higher host port with -p", place)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: this computer has no address %s", place, f.HostAddress)
	}
	return fmt.Errorf("%s cannot be used: %w", place, err)
}

// portFree tells whether the host side can be bound now.
func (f Forward) portFree() error {
	address := net.JoinHostPort(f.HostAddress, strconv.Itoa(int(f.HostPort)))
	if f.Protocol == "udp" {
		c, err := net.ListenPacket("udp4", address)
		if err != nil {
			return err
		}
		return c.Close()
	}
	l, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	return l.Close()
}

// freePort asks the kernel for a port that nobody uses.
func freePort(protocol, address string) (uint16, error) {
	if protocol == "udp" {
		c, err := net.ListenPacket("udp4", net.JoinHostPort(address, "0"))
		if err != nil {
			return 0, err
		}
		defer c.Close()
		return uint16(c.LocalAddr().(*net.UDPAddr).Port), nil
	}
	l, err := net.Listen("tcp4", net.JoinHostPort(address, "0"))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port), nil
}

// Forward leads a port of this computer to the machine from now on, also after
// a restart. Host port 0 takes a free one; an empty address is the loopback
// one. A forward that exists is returned as it is.
func (vm *VM) Forward(ctx context.Context, protocol, hostAddress string, hostPort, guestPort uint16) (Forward, error) {
	f := Forward{Protocol: protocol, HostAddress: hostAddress, HostPort: hostPort, GuestPort: guestPort, Added: true}.withDefaults()
	if err := f.validate(); err != nil {
		return Forward{}, err
	}
	var out Forward
	err := vm.changeForwards(ctx, func(s *Settings, q *monitor) error {
		if i := slices.IndexFunc(s.Forwards, f.sameHost); i >= 0 {
			out = s.Forwards[i]
			if !out.covers(f) {
				return fmt.Errorf("port %d/%s of this computer leads to port %d of the machine already, at %s", f.HostPort, f.Protocol, out.GuestPort, out.HostAddress)
			}
			return nil
		}
		var err error
		if out, err = addForward(ctx, q, f); err == nil {
			s.Forwards = append(s.Forwards, out)
			// Where this is not allowed the forward works, only not for many at the same moment.
			run, _ := vm.Run()
			_ = lengthenQueues(run.PID, run.ProcessStart)
		}
		return err
	})
	return out, err
}

// Unforward takes back a forward that Forward added. One that does not exist, or
// belongs to the machine since its start, is left as it is.
func (vm *VM) Unforward(ctx context.Context, protocol, hostAddress string, hostPort uint16) error {
	f := Forward{Protocol: protocol, HostAddress: hostAddress, HostPort: hostPort}.withDefaults()
	same := func(g Forward) bool {
		return g.Added && g.Protocol == f.Protocol && g.HostAddress == f.HostAddress && g.HostPort == f.HostPort
	}
	return vm.changeForwards(ctx, func(s *Settings, q *monitor) error {
		if !slices.ContainsFunc(s.Forwards, same) {
			return nil
		}
		if q != nil {
			command := fmt.Sprintf("hostfwd_remove net0 %s:%s:%d", f.Protocol, f.HostAddress, f.HostPort)
			if _, err := q.human(ctx, command); err != nil {
				return fmt.Errorf("take back forward of host port %d: %w", hostPort, err)
			}
		}
		s.Forwards = slices.DeleteFunc(s.Forwards, same)
		return nil
	})
}

// changeForwards runs change with the settings and the monitor (nil when the
// machine does not run) and saves the settings.
func (vm *VM) changeForwards(ctx context.Context, change func(*Settings, *monitor) error) error {
	unlock, err := vm.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s, err := vm.Settings()
	if err != nil {
		return err
	}
	var q *monitor
	if _, running := vm.Run(); running {
		if q, err = vm.monitor(ctx); err != nil {
			return err
		}
		defer q.Close()
	}
	if err := change(&s, q); err != nil {
		return err
	}
	return vm.saveSettings(s)
}

// addForward adds to the running QEMU, or only checks when there is none.
func addForward(ctx context.Context, q *monitor, f Forward) (Forward, error) {
	for try := 0; ; try++ {
		g := f
		if g.HostPort == 0 {
			port, err := freePort(f.Protocol, f.HostAddress)
			if err != nil {
				return g, fmt.Errorf("find a free port for %s: %w", f, err)
			}
			g.HostPort = port
		}
		if q == nil {
			return g, nil
		}
		answer, err := q.human(ctx, "hostfwd_add net0 "+g.rule())
		if err == nil && strings.TrimSpace(answer) == "" {
			return g, nil
		}
		if err != nil {
			return g, fmt.Errorf("forward %s: %w", g, err)
		}
		// A port that was free a moment ago can be taken by now: only then again.
		if f.HostPort != 0 || try == 4 {
			return g, forwardRefused(g, answer)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func forwardRefused(f Forward, answer string) error {
	if err := f.portFree(); err != nil {
		return portRefused(f, err)
	}
	return fmt.Errorf("forward %s: QEMU answers %q", f, strings.TrimSpace(answer))
}
