// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const key = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

func TestParseReady(t *testing.T) {
	full := Ready{Name: "demo", Fingerprint: key, Version: "1.0.0", State: "memory"}
	line := "wherry: ready name=demo api=:9473 key=" + key + " version=1.0.0 state=memory"
	for _, c := range []struct {
		name, console string
		want          Ready
		ok            bool
	}{
		{"alone", line + "\n", full, true},
		{"serial line ends", "boot\r\n" + line + "\r\nmore", full, true},
		{"after a kernel message on the same line", "[ 1.0] x " + line + "\n", full, true},
		{"the last one counts", strings.Replace(line, "demo", "old", 1) + "\n" + line + "\n", full, true},
		{"not ended yet", line, Ready{}, false},
		{"no key", "wherry: ready name=demo api=:9473\n", Ready{}, false},
		{"a key of another form", "wherry: ready name=demo key=SHA256:abc\n", Ready{}, false},
		{"a broken one does not hide a good one", line + "\nwherry: ready name=x key=y\n", full, true},
		{"empty", "", Ready{}, false},
	} {
		got, ok := ParseReady([]byte(c.console))
		if diff := cmp.Diff(c.want, got); ok != c.ok || (ok && diff != "") {
			t.Errorf("%s: %v %+v\n%s", c.name, ok, got, diff)
		}
	}
}

func FuzzParseReady(f *testing.F) {
	f.Add([]byte("wherry: ready name=a key=" + key + "\n"))
	f.Fuzz(func(t *testing.T, console []byte) {
		if r, ok := ParseReady(console); ok && !fingerprintRE.MatchString(r.Fingerprint) {
			t.Fatalf("fingerprint %q", r.Fingerprint)
		}
		for _, line := range cleanLines(console) {
			if strings.ContainsAny(line, "\x1b\x07\x00\r\n") {
				t.Fatalf("line %q is not clean", line)
			}
		}
	})
}

func TestLikelyCause(t *testing.T) {
	for _, c := range []struct{ qemu, console, want string }{
		{"qemu-system-x86_64: -netdev user: Could not set up host forwarding rule 'tcp:127.0.0.1:80-:80'", "", "a host port is in use (tcp:127.0.0.1:80-:80): choose another with -p"},
		{`Failed to get "write" lock`, "", "a disk image is in use by another QEMU"},
		{"", "Kernel panic - not syncing: No working init found.", "the initramfs holds no /init that runs: build the image again with `wherry build`"},
		{"", "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000300", "PID 1 of the machine ended (exit code 0x00000300): a bug in wherry-early or wherry-init, or a damaged image"},
		{"", "wherry: boot failed: root image: mount\r\nThe initramfs is", "the machine could not boot: root image: mount"},
		{"", "Kernel panic - not syncing: something else", "the kernel panicked: something else"},
		{"", "Out of memory: Killed process 12 (wherryd) total-vm", "the machine has too little memory (wherryd was killed): use a larger --memory"},
		{"", "panic: boom\ngoroutine 1 [running]:", "a program of the machine crashed: boom"},
		{"", "all is well", ""},
	} {
		if got := likelyCause(c.qemu, c.console); got != c.want {
			t.Errorf("%q %q: %q, want %q", c.qemu, c.console, got, c.want)
		}
	}
}

func TestWatch(t *testing.T) {
	begin := time.Unix(1000, 0)
	for _, c := range []struct {
		name, console string
		silent        time.Duration
		want          error
	}{
		{"silent for a while", "", 60 * time.Second, nil},
		{"silent for too long", "\n", 91 * time.Second, errHung},
		{"hung at the timer", "a\n..MP-BIOS bug: 8254 timer not connected to IO-APIC\n", 11 * time.Second, errHung},
		{"timer message passed", "8254 timer not connected to IO-APIC\nnext\n", 80 * time.Second, nil},
		{"panic", "Kernel panic - not syncing: x\n", time.Second, errFatal},
		{"panic, and an older release", "BdsDxe: starting Boot0001 \"Wherry\"\nKernel panic - not syncing: x\n", time.Minute, nil},
		{"slow, but it speaks", "Linux\n", 300 * time.Second, nil},
	} {
		w := watch{started: begin, changed: begin, progress: &strings.Builder{}}
		if err := w.look([]byte(c.console), begin); err != nil {
			t.Errorf("%s: at once: %v", c.name, err)
		}
		if err := w.look([]byte(c.console), begin.Add(c.silent)); err != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestParseForward(t *testing.T) {
	for _, c := range []struct {
		text string
		want Forward
		ok   bool
	}{
		{"8080:80", Forward{Protocol: "tcp", HostAddress: "127.0.0.1", HostPort: 8080, GuestPort: 80}, true},
		{"0.0.0.0:53:5353/udp", Forward{Protocol: "udp", HostAddress: "0.0.0.0", HostPort: 53, GuestPort: 5353}, true},
		{"0:80", Forward{Protocol: "tcp", HostAddress: "127.0.0.1", GuestPort: 80}, true},
		{"80", Forward{}, false},
		{"80:0", Forward{}, false},
		{"80:70000", Forward{}, false},
		{"80:80/sctp", Forward{}, false},
		{"localhost:80:80", Forward{}, false},
		{"1.2.3.4,id=x:80:80", Forward{}, false},
		{"[::1]:80:80", Forward{}, false},
	} {
		got, err := ParseForward(c.text)
		if (err == nil) != c.ok || c.ok && got != c.want {
			t.Errorf("%q: %+v, %v", c.text, got, err)
		}
	}
}

func TestArguments(t *testing.T) {
	s := Settings{Image: "/images/a,b", MemoryMiB: 512, CPUs: 1, DiskBytes: 1 << 30, ExtraDisks: []string{"/disks/x,y.img"},
		APIPort: 4000, Forwards: []Forward{{Protocol: "tcp", HostAddress: "127.0.0.1", HostPort: 8080, GuestPort: 80}}}
	all := strings.Join(arguments("demo", s, "tcg", true), " ")
	for _, want := range []string{
		"-accel tcg,thread=single,tb-size=128", "-cpu max,-avx2", "-m 512M", "-kernel /images/a,b/kernel",
		"user,id=net0,hostfwd=tcp:127.0.0.1:4000-:9473,hostfwd=tcp:127.0.0.1:8080-:80",
		"file=state.img", "file=/disks/x,,y.img", "opt/wherry/config,file=config.yaml",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is missing in %s", want, all)
		}
	}
	s.DiskBytes, s.ExtraDisks = 0, nil
	if all := strings.Join(arguments("demo", s, "kvm", false), " "); strings.Contains(all, "-drive") || strings.Contains(all, "fw_cfg") || !strings.Contains(all, "-cpu host") {
		t.Errorf("without disks and configuration: %s", all)
	}
}

func TestPrepare(t *testing.T) {
	vm := newTestVM(t)
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := uint16(taken.Addr().(*net.TCPAddr).Port)
	s := Settings{Image: testImage(t), MemoryMiB: 512, CPUs: 1, DiskBytes: 1 << 20, APIPort: port, Forwards: []Forward{{GuestPort: 80}}}
	got, err := vm.prepare(t.Context(), StartOptions{Settings: s, Config: []byte("version: v1\n")})
	if err != nil {
		t.Fatal(err)
	}
	if got.APIPort == port || got.APIPort == 0 || got.Forwards[0].HostPort == 0 {
		t.Errorf("ports were not chosen: %+v", got)
	}
	s.DiskBytes = 1 << 19
	if _, err := vm.prepare(t.Context(), StartOptions{Settings: s}); err == nil || !strings.Contains(err.Error(), "can't shrink") {
		t.Errorf("shrinking the disk: %v", err)
	}
	s.DiskBytes = 1 << 21
	if _, err := vm.prepare(t.Context(), StartOptions{Settings: s}); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(vm.path("state.img")); err != nil || info.Size() != 1<<21 {
		t.Errorf("state disk: %v, %v", info.Size(), err)
	}
	back, err := vm.Settings()
	if err != nil || back.DiskBytes != 1<<21 {
		t.Errorf("settings were not remembered: %+v, %v", back, err)
	}
}

func TestValidate(t *testing.T) {
	good := Settings{Image: testImage(t), MemoryMiB: 512, CPUs: 1}
	if err := good.validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Settings){
		"memory":    func(s *Settings) { s.MemoryMiB = 1 },
		"cpus":      func(s *Settings) { s.CPUs = 0 },
		"disk":      func(s *Settings) { s.DiskBytes = -1 },
		"image":     func(s *Settings) { s.Image = "/nonexistent" },
		"same port": func(s *Settings) { f, _ := ParseForward("80:80"); s.Forwards = []Forward{f, f} },
		"same port on all addresses": func(s *Settings) {
			f, _ := ParseForward("80:80")
			g, _ := ParseForward("0.0.0.0:80:81")
			s.Forwards = []Forward{f, g}
		},
	} {
		s := good
		change(&s)
		if s.validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestForwardOfStoppedMachineIsRemembered(t *testing.T) {
	vm := newTestVM(t)
	ctx := context.Background()
	f, err := vm.Forward(ctx, "tcp", "", 0, 80)
	if err != nil || f.HostPort == 0 {
		t.Fatal(f, err)
	}
	if again, err := vm.Forward(ctx, "tcp", "", f.HostPort, 80); err != nil || again != f {
		t.Fatal(again, err)
	}
	if _, err := vm.Forward(ctx, "tcp", "0.0.0.0", f.HostPort, 81); err == nil {
		t.Fatal("one host port leads to two ports")
	}
	s, err := vm.Settings()
	if err != nil || len(s.Forwards) != 1 || s.Forwards[0] != f {
		t.Fatal(s, err)
	}
	if err := vm.Unforward(ctx, "tcp", "", f.HostPort); err != nil {
		t.Fatal(err)
	}
	if s, _ = vm.Settings(); len(s.Forwards) != 0 {
		t.Fatal(s)
	}
}

// A pid that passed to another process must not be believed, still less killed.
func TestForeignProcessIsNotTouched(t *testing.T) {
	sleeper := exec.Command("sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() }()
	pid := sleeper.Process.Pid
	start, err := processStart(pid)
	if err != nil {
		t.Fatal(err)
	}
	vm := newTestVM(t)
	if err := vm.writeJSON("run.json", Run{PID: pid, ProcessStart: start + "0"}); err != nil {
		t.Fatal(err)
	}
	if _, ok := vm.Run(); ok {
		t.Error("a foreign process counts as this machine's QEMU")
	}
	if err := vm.Kill(); err != nil {
		t.Fatal(err)
	}
	if !processAlive(pid, start) {
		t.Fatal("a foreign process was killed")
	}
	if err := killProcess(pid, start); err != nil || !waitGone(pid, start, 5*time.Second) {
		t.Fatalf("the right process was not killed: %v", err)
	}
}

// The probe's guest must be able to succeed, or its verdict means nothing.
func TestProbeGuestRuns(t *testing.T) {
	path, err := findBinary()
	if err != nil {
		t.Fatal(err)
	}
	if err := runProbe(t.Context(), path, "tcg"); err != nil {
		t.Fatal(err)
	}
	if err := runProbe(t.Context(), path, "nonsense"); err == nil {
		t.Fatal("the probe succeeds with an accelerator that does not exist")
	}
}

func TestAcceleratorIsCached(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "accelerator.json")
	if err := writeProbe(cache, "k", "kvm"); err != nil {
		t.Fatal(err)
	}
	if got, ok := readProbe(cache, "k"); !ok || got != "kvm" {
		t.Fatal(got, ok)
	}
	if _, ok := readProbe(cache, "other boot"); ok {
		t.Fatal("the answer outlives its boot")
	}
}

func TestStoreRefusesOddNames(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	for _, name := range []string{"", "..", "a/b", "-a", "A", "a\n", strings.Repeat("a", 64)} {
		if _, err := s.Create(name); err == nil {
			t.Errorf("created %q", name)
		}
		if _, err := s.Open(name); err == nil {
			t.Errorf("opened %q", name)
		}
	}
}

func newTestVM(t *testing.T) *VM {
	t.Helper()
	vm, err := Store{Dir: t.TempDir()}.Create("test")
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func testImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"kernel", "initramfs"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
