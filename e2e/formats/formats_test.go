// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package formats promises that a machine starts from every format that `wherry
// build` makes, and that one started from the live medium touches no disk.
package formats

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"wherry.example/wherry/internal/host/image"
	"wherry.example/wherry/internal/vmtest"
)

var (
	once sync.Once
	dir  string
)

func TestMain(m *testing.M) {
	code := m.Run()
	if dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// built is a file of the image of this checkout, in all formats, signed.
func built(t *testing.T, name string) string {
	t.Helper()
	once.Do(func() {
		made, err := os.MkdirTemp("", "wherry-formats-")
		if err != nil {
			t.Fatal(err)
		}
		key, certificate := filepath.Join(made, "key"), filepath.Join(made, "certificate")
		run(t, "openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=Owner", "-keyout", key, "-out", certificate)
		o := image.Options{
			Output: made, Formats: image.Formats, Progress: func(line string) { t.Log(line) },
			SecureBootKey: key, SecureBootCertificate: certificate, SecureBootEnroll: true,
		}
		if _, err := image.Build(t.Context(), o); err != nil {
			os.RemoveAll(made)
			t.Fatal(err)
		}
		dir = made
	})
	if dir == "" {
		t.Fatal("there is no image: its build failed")
	}
	return filepath.Join(dir, name)
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Disks as clouds and hypervisors import them start, and keep their state behind the
// boot partition, also where nobody made them larger.
func TestDisks(t *testing.T) {
	unpacked := func(t *testing.T, archive, file string) string {
		dir := t.TempDir()
		run(t, "tar", "-xSf", built(t, archive), "-C", dir)
		return filepath.Join(dir, file)
	}
	for name, c := range map[string]struct {
		image func(t *testing.T) string
		bytes int64 // as the importer makes the disk
	}{
		"vhd": {func(t *testing.T) string { return built(t, "wherry.vhd") }, 1071 << 20},
		"ova": {func(t *testing.T) string { return unpacked(t, "wherry.ova", "wherry.vmdk") }, 8 << 30},
		"gce": {func(t *testing.T) string { return unpacked(t, "wherry-gce.tar.gz", "disk.raw") }, 1 << 30},
	} {
		t.Run(name, func(t *testing.T) {
			file := c.image(t)
			if name == "ova" {
				run(t, "cmp", file, built(t, "wherry.vmdk")) // which is thereby tried too
			}
			m := vmtest.Start(t, vmtest.Options{DiskImage: file, DiskBytes: c.bytes})
			if m.Ready().State != "persistent" {
				t.Errorf("the state is in %s", m.Ready().State)
			}
			m.Kill()
		})
	}
}

// iPXE, started from the network adapter's ROM, fetches script, kernel and initramfs
// by TFTP and starts them.
func TestNetboot(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"wherry.ipxe", "kernel", "initramfs"} {
		if err := os.Link(built(t, name), filepath.Join(dir, name)); err != nil {
			run(t, "cp", built(t, name), dir) // the folders are on different file systems
		}
	}
	console := filepath.Join(t.TempDir(), "console")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	vm := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35,sata=off,graphics=off", "-accel", "tcg,thread=single", "-cpu", "max",
		"-m", "512", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "file:"+console, "-no-reboot",
		"-netdev", "user,id=net0,tftp="+dir+",bootfile=wherry.ipxe",
		// The ROM knows the adapter by its newer number only.
		"-device", "virtio-net-pci,netdev=net0,disable-legacy=on,bootindex=0,romfile="+rom)
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- vm.Wait() }()
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		text, _ := os.ReadFile(console)
		if ready := regexp.MustCompile(`wherry: ready .* state=memory`); ready.Match(text) && bytes.Contains(text, []byte("wherry.ipxe : ")) {
			t.Logf("ready after %.1f s", time.Since(began).Seconds())
			cancel()
			<-ended
			return
		}
		select {
		case err := <-ended:
			t.Fatalf("the machine is not ready: %v\n%s", err, text)
		default:
		}
	}
}

// rom is iPXE for virtio's network adapters, of Debian's package ipxe-qemu.
const rom = "/usr/lib/ipxe/qemu/efi-virtio.rom"

// The live medium starts from a drive for CDs, with Secure Boot, and as a disk. The empty disk of the
// machine, which it would take for its state else, stays empty.
func TestISO(t *testing.T) {
	for name, c := range map[string]struct {
		stick  bool
		medium string
	}{"CD": {false, "sr0"}, "stick": {true, "vda"}} {
		t.Run(name, func(t *testing.T) {
			u := vmtest.NewUser(t)
			m := vmtest.Start(t, vmtest.Options{CDROM: built(t, "wherry.iso"), CDROMStick: c.stick, SecureBoot: !c.stick, DiskBytes: 1 << 30, Config: u.Config()})
			u.Knows(m)
			if out := u.Run("status"); m.Ready().State != "memory" || !strings.Contains(out, "live medium "+c.medium) || !c.stick && !strings.Contains(out, "verified by Secure Boot") {
				t.Errorf("state %s:\n%s", m.Ready().State, out)
			}
			m.Kill()
			if out := run(t, "qemu-img", "map", "-f", "raw", "--output=json", filepath.Join(m.VM().Dir(), "state.img")); strings.Contains(out, `"data": true`) {
				t.Errorf("the machine wrote to its disk: %s", out)
			}
		})
	}
}
