// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"errors"
	"net"
	"strings"
	"testing"
)

// A start that fails leaves no trace in what the next one begins with.
func TestFailedStartIsForgotten(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := uint16(taken.Addr().(*net.TCPAddr).Port)
	bad := Settings{Image: testImage(t), MemoryMiB: 4096, CPUs: 1, DiskBytes: 1 << 20, Forwards: []Forward{{HostPort: port, GuestPort: 80}}}

	// QEMU refuses this kernel, after everything was prepared.
	worse := bad
	worse.Forwards = nil

	vm := newTestVM(t)
	if _, err := vm.Start(t.Context(), StartOptions{Settings: bad, Config: []byte("bad")}); err == nil || !strings.Contains(err.Error(), "in use by another program") {
		t.Errorf("a taken port: %v", err)
	}
	if _, err := vm.Start(t.Context(), StartOptions{Settings: worse, Config: []byte("bad")}); err == nil {
		t.Error("an empty kernel boots")
	}
	s, err := vm.Settings()
	if c, cerr := vm.Config(); err != nil || cerr != nil || s.MemoryMiB != DefaultMemoryMiB || c != nil {
		t.Errorf("a first start that failed is remembered: %+v %q %v %v", s, c, err, cerr)
	}
	if !vm.exists() {
		t.Error("its disk is there and it cannot be removed")
	}

	good := Settings{Image: bad.Image, MemoryMiB: 512, CPUs: 2, DiskBytes: 1 << 20}
	if _, err := vm.prepare(t.Context(), StartOptions{Settings: good, Config: []byte("good")}); err != nil {
		t.Fatal(err)
	}
	var start *StartError
	if _, err := vm.Start(t.Context(), StartOptions{Settings: worse, Config: []byte("bad")}); !errors.As(err, &start) {
		t.Errorf("an empty kernel: %v", err)
	}
	s, err = vm.Settings()
	if c, _ := vm.Config(); err != nil || s.MemoryMiB != 512 || string(c) != "good" {
		t.Errorf("the last good settings are lost: %+v %q %v", s, c, err)
	}
}

func TestCovers(t *testing.T) {
	forward := func(text string) Forward {
		f, err := ParseForward(text)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, c := range []struct {
		have, want string
		ok         bool
	}{
		{"8080:80", "8080:80", true},
		{"0.0.0.0:8080:80", "8080:80", true},
		{"8080:80", "0.0.0.0:8080:80", false},
		{"0.0.0.0:8080:80", "8080:81", false},
		{"127.0.0.2:8080:80", "8080:80", false},
		{"8080:80", "8080:80/udp", false},
	} {
		if got := forward(c.have).covers(forward(c.want)); got != c.ok {
			t.Errorf("%s covers %s: %v", c.have, c.want, got)
		}
	}
}
