// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package vmtest boots the real image in a virtual machine for a test.
//
// A Machine belongs to one test: its files are in the test's temporary
// directory, its QEMU is ended when the test ends, however it ends, and the end
// of its console is logged when the test failed. The image is that of `make
// build`, or the one that the environment variable WHERRY_IMAGE names; without
// one the test fails and says so. Nothing is skipped silently.
package vmtest

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"wherry.example/wherry/internal/host/qemu"
)

// Options say what a machine has. The zero value is a machine of 512 MiB and
// one CPU with an empty state disk of 2 GiB.
type Options struct {
	// Name of the machine; empty: "test".
	Name string
	// Image is a directory with kernel and initramfs; empty: see the package comment.
	Image string
	// DiskImage is a disk to boot from by firmware instead of Image; SecureBoot
	// gives the firmware that can check signatures.
	DiskImage  string
	SecureBoot bool
	// CDROM is a live medium to boot from by firmware; with CDROMStick it is a disk.
	CDROM      string
	CDROMStick bool
	// PC gives the machine SATA disks and an e1000e instead of virtio.
	PC bool
	// TPM gives it one, with DiskImage.
	TPM       bool
	MemoryMiB int
	CPUs      int
	// DiskBytes is the size of the state disk. NoDisk leaves it out.
	DiskBytes int64
	NoDisk    bool
	// ExtraDisks are raw image files, attached after the state disk.
	ExtraDisks []string
	// Config is the configuration document. Empty: the machine gets none.
	Config []byte
	// Forwards beside the API's, for example {GuestPort: 8080}: host port 0 is a free one.
	Forwards []qemu.Forward
	// Timeout for becoming ready; 0: qemu's own.
	Timeout time.Duration
	// Cmdline is added to the kernel's command line, Args to QEMU's.
	Cmdline string
	Args    []string
}

// Machine is a virtual machine that a test started.
type Machine struct {
	t       testing.TB
	vm      *qemu.VM
	options Options
	ready   qemu.Ready
	// seen is how much of the console the last ready line ended.
	seen int
}

// Start boots a machine and waits until it is ready.
func Start(t testing.TB, o Options) *Machine {
	t.Helper()
	m := New(t, o)
	m.Start()
	return m
}

// New makes a machine without starting it.
func New(t testing.TB, o Options) *Machine {
	t.Helper()
	if o.Name == "" {
		o.Name = "test"
	}
	if o.Image == "" && o.DiskImage == "" && o.CDROM == "" {
		o.Image = findImage(t)
	}
	vm, err := qemu.Store{Dir: t.TempDir()}.Create(o.Name)
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{t: t, vm: vm, options: o}
	t.Cleanup(m.end)
	return m
}

// Start boots the machine (again) and waits until it is ready.
func (m *Machine) Start() {
	m.t.Helper()
	if err := m.TryStart(); err != nil {
		m.t.Fatalf("start machine: %v", err)
	}
}

// TryStart is Start for tests that expect an error.
func (m *Machine) TryStart() error {
	settings, err := m.settings()
	if err != nil {
		return err
	}
	began := time.Now()
	run, err := m.vm.Start(m.t.Context(), qemu.StartOptions{Settings: settings, Config: m.options.Config, Timeout: m.options.Timeout})
	if err != nil {
		return err
	}
	m.ready, m.seen = run.Ready, len(m.Console())
	m.t.Logf("machine %s ready after %.1f s (%s)", m.options.Name, time.Since(began).Seconds(), run.Accelerator)
	return nil
}

func (m *Machine) settings() (qemu.Settings, error) {
	s, err := m.vm.Settings()
	if err != nil {
		return s, err
	}
	o := m.options
	s.DiskImage, s.SecureBoot, s.PC, s.TPM = o.DiskImage, o.SecureBoot, o.PC, o.TPM
	s.CDROM, s.CDROMStick, s.Firmware = o.CDROM, o.CDROMStick, s.Firmware || o.CDROM != ""
	s.Image, s.ExtraDisks, s.Cmdline, s.Args = o.Image, o.ExtraDisks, o.Cmdline, o.Args
	s.MemoryMiB, s.CPUs, s.DiskBytes = 512, 1, 2<<30
	if o.MemoryMiB != 0 {
		s.MemoryMiB = o.MemoryMiB
	}
	if o.CPUs != 0 {
		s.CPUs = o.CPUs
	}
	if o.DiskBytes != 0 {
		s.DiskBytes = o.DiskBytes
	}
	if o.NoDisk {
		s.DiskBytes = 0
	}
	if s.Forwards == nil {
		s.Forwards = o.Forwards
	}
	return s, nil
}

// Configure changes the options for the next start.
func (m *Machine) Configure(change func(*Options)) { change(&m.options) }

// VM is the machine for those who need more than this package offers.
func (m *Machine) VM() *qemu.VM { return m.vm }

// Name is the machine's name.
func (m *Machine) Name() string { return m.options.Name }

// Ready is what the machine said about itself when it was last ready.
func (m *Machine) Ready() qemu.Ready { return m.ready }

// Fingerprint of the machine's key.
func (m *Machine) Fingerprint() string { return m.ready.Fingerprint }

// API is the address on this computer that leads to the machine's API.
func (m *Machine) API() string {
	m.t.Helper()
	info, err := m.vm.Info()
	if err != nil {
		m.t.Fatal(err)
	}
	return info.API
}

// Console returns what the machine printed since QEMU was last started.
func (m *Machine) Console() string {
	text, err := m.vm.ConsoleLog()
	if err != nil && !os.IsNotExist(err) {
		m.t.Errorf("read the console: %v", err)
	}
	return string(text)
}

// WaitConsole waits until the console matches and returns the match with its groups.
func (m *Machine) WaitConsole(pattern string, limit time.Duration) []string {
	m.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		if match := re.FindStringSubmatch(m.Console()); match != nil {
			return match
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("the console did not show %q within %v", pattern, limit)
		}
		if _, running := m.vm.Run(); !running {
			m.t.Fatalf("the machine ended before its console showed %q", pattern)
		}
	}
}

// WaitReboot waits until the machine, told to reboot, is ready again.
func (m *Machine) WaitReboot() {
	m.t.Helper()
	limit := m.options.Timeout
	if limit == 0 {
		limit = 6 * time.Minute
	}
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	ready, err := m.vm.AwaitReady(ctx, m.seen)
	if err != nil {
		m.t.Fatalf("wait for the machine to reboot: %v", err)
	}
	m.ready, m.seen = ready, len(m.Console())
}

// Kill cuts the machine's power.
func (m *Machine) Kill() {
	m.t.Helper()
	if err := m.vm.Kill(); err != nil {
		m.t.Fatal(err)
	}
}

// Stop switches the machine off; it is a failure when that is not done in order.
func (m *Machine) Stop() {
	m.t.Helper()
	clean, err := m.vm.Stop(m.t.Context(), qemu.StopOptions{})
	if err != nil {
		m.t.Fatal(err)
	}
	if !clean {
		m.t.Fatal("the machine did not switch itself off in time")
	}
}

// WaitOff waits until the machine, told to switch itself off, has done so.
func (m *Machine) WaitOff(limit time.Duration) {
	m.t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		if _, running := m.vm.Run(); !running {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("the machine is not off after %v", limit)
		}
	}
}

// Forward leads a free port of this computer to the machine's and returns it.
func (m *Machine) Forward(protocol string, guestPort uint16) uint16 {
	m.t.Helper()
	f, err := m.vm.Forward(m.t.Context(), protocol, "", 0, guestPort)
	if err != nil {
		m.t.Fatal(err)
	}
	return f.HostPort
}

// QMP runs a command of QEMU's machine protocol.
func (m *Machine) QMP(command string, arguments any) {
	m.t.Helper()
	if err := m.vm.Execute(m.t.Context(), command, arguments, nil); err != nil {
		m.t.Fatal(err)
	}
}

// SetLink plugs the cable of a network device in or out; the first one is "net0".
func (m *Machine) SetLink(netdev string, up bool) {
	m.t.Helper()
	m.QMP("set_link", map[string]any{"name": netdev, "up": up})
}

// end cuts the power and shows the console's end when the test failed.
func (m *Machine) end() {
	if err := m.vm.Kill(); err != nil {
		m.t.Error(err)
	}
	if !m.t.Failed() {
		return
	}
	m.t.Logf("end of the console of %s:\n%s", m.options.Name, excerpt(m.Console()))
}

// findImage finds the built image from wherever in the repository the test runs.
func findImage(t testing.TB) string {
	t.Helper()
	image := os.Getenv("WHERRY_IMAGE")
	if image == "" {
		image = filepath.Join(repositoryRoot(t), "build", "core-amd64")
	}
	for _, name := range []string{"kernel", "initramfs"} {
		if _, err := os.Stat(filepath.Join(image, name)); err != nil {
			t.Fatalf("no image to boot: %v: run `make build` first (or set WHERRY_IMAGE)", err)
		}
	}
	return image
}

func repositoryRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("the test does not run inside the repository")
		}
		dir = parent
	}
}

// Image is the directory of the image that machines boot by default.
func Image(t testing.TB) string {
	t.Helper()
	return findImage(t)
}
