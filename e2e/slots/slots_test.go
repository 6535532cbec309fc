// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package slots promises that an OS file can be tried and kept or given up,
// under the real firmware and boot loader, and that cutting the power right
// after a step loses nothing of it.
package slots

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/format/cpio"
	"wherry.example/wherry/internal/host/bootimage"
	"wherry.example/wherry/internal/host/disk"
	"wherry.example/wherry/internal/host/image"
	"wherry.example/wherry/internal/vmtest"
)

func TestSlots(t *testing.T) {
	first, other := guestFiles(t)
	m := vmtest.New(t, vmtest.Options{DiskImage: first, DiskBytes: disk.Bytes, ExtraDisks: []string{other}})

	// A new file is tried, whatever was chosen by hand before. While it is, the
	// old one stays; given up, it never runs again.
	boot(t, m, "2.0.0+0-1,1.0.0*",
		"1.0.0* choose wherry_1.0.0.efi",
		"1.0.0* stage 2.0.0",
		"1.0.0* reboot",
		"2.0.0+2-1*,1.0.0 remove 1.0.0 = it is what the machine goes back to",
		"2.0.0+2-1*,1.0.0 retire 2.0.0",
		"2.0.0+2-1*,1.0.0 bless = it was retired",
		"2.0.0+2-1*,1.0.0 hang",
		"2.0.0+0-1,1.0.0* bless", // nothing is on trial: nothing to do
		"2.0.0+0-1,1.0.0* retire 1.0.0 = there is no other that could be started",
		"2.0.0+0-1,1.0.0* stage 3.0.0",
	)

	// What was acknowledged is there after a power cut.
	cut(t, m)
	boot(t, m, "3.0.0+2-1*,2.0.0+0-1,1.0.0", "3.0.0+2-1*,2.0.0+0-1,1.0.0 bless")
	cut(t, m)

	// Going back by hand.
	boot(t, m, "3.0.0+0,1.0.0*",
		"3.0.0+0,1.0.0* remove 3.0.0",
		"3.0.0*,2.0.0+0-1,1.0.0 remove 3.0.0 = it is the one that runs",
		"3.0.0*,2.0.0+0-1,1.0.0 remove 2.0.0",
		"3.0.0*,2.0.0+0-1,1.0.0 retire 3.0.0",
		"3.0.0*,2.0.0+0-1,1.0.0 reboot",
	)
	cut(t, m)

	// A file that does not load ends in the firmware, which tries again until
	// the old file's turn comes. Then there is no room for another one.
	broken := bytes.ReplaceAll(read(t, other), []byte("0.0.7777"), []byte("4.0.0   "))
	plant(t, m, "wherry_4.0.0+3.efi", broken[:10<<20])
	plant(t, m, "wherry_9.0.0.tmp", make([]byte, 1<<20))
	plant(t, m, "filler", make([]byte, 470<<20))
	boot(t, m, "4.0.0+0-3,1.0.0*",
		"4.0.0+0-3,1.0.0* bless",
		"4.0.0+0-3,1.0.0* stage 5.0.0 = the boot partition has no room: the OS file takes",
	)
	if n := strings.Count(m.Console(), "failed to start Boot"); n != 3 {
		t.Errorf("the firmware tried a file that does not load %d times", n)
	}
	cut(t, m)
	if files := run(t, "mdir", "-b", "-i", esp(m), "::/EFI/Linux"); strings.Contains(files, ".tmp") || strings.Contains(files, "5.0.0") {
		t.Errorf("something was left over:\n%s", files)
	}
}

// A release that hangs before anything answers is reset by the watchdog; one
// that nobody keeps is given up by PID 1. Each start was counted, and in the end
// the release before them runs.
func TestNobodyKeeps(t *testing.T) {
	u := vmtest.NewUser(t)
	dir := t.TempDir()
	stub, loader := bootFiles(t)
	uki := func(version, flags string) []byte {
		return osFile(t, stub, read(t, filepath.Join(vmtest.Image(t), "initramfs")), version, flags)
	}
	raw := filepath.Join(dir, "disk")
	if err := disk.WriteRaw(raw, disk.Contents{Version: "1.0.0", OS: uki("1.0.0", ""), Loader: loader}); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"wherry_2.0.0+1.efi": uki("2.0.0", "wherry.trial=1"), "wherry_3.0.0+1.efi": uki("3.0.0", "wherry.chaos=hang"),
	} {
		mcopy(t, raw+"@@1M", name, data)
	}
	m := vmtest.Start(t, vmtest.Options{DiskImage: raw, Config: u.Config(), Timeout: 9 * time.Minute})
	u.Knows(m)
	// On a slow computer the release that nobody keeps is ready before it is given up.
	old := regexp.MustCompile(`Boot +wherry_1\.0\.0\.efi\n +not verified: the firmware has no owner's keys yet`)
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(time.Second) {
		r := u.Try("status")
		if old.MatchString(r.Stdout) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("status does not show the release before them:\n%s%s", r.Stdout, r.Stderr)
		}
	}
	for _, want := range []string{"wherry: chaos hangs wherry-init", "nobody kept this release within 1s"} {
		if !strings.Contains(m.Console(), want) {
			t.Errorf("the console does not show %q", want)
		}
	}
	m.Stop()
	if files := run(t, "mdir", "-b", "-i", esp(m), "::/EFI/Linux"); !strings.Contains(files, "wherry_2.0.0+0-1.efi") || !strings.Contains(files, "wherry_3.0.0+0-1.efi") {
		t.Errorf("not all starts were counted:\n%s", files)
	}
}

func esp(m *vmtest.Machine) string { return filepath.Join(m.VM().Dir(), "state.img") + "@@1M" }

// cut cuts the power, and has others look at the boot partition.
func cut(t *testing.T, m *vmtest.Machine) {
	t.Helper()
	m.Kill()
	part := filepath.Join(t.TempDir(), "esp")
	run(t, "dd", "if="+filepath.Join(m.VM().Dir(), "state.img"), "of="+part, "bs=1M", "skip=1", "count=512", "conv=sparse", "status=none")
	run(t, "fsck.fat", "-n", part)
}

// plant writes a file beside the machine's OS files.
func plant(t *testing.T, m *vmtest.Machine, name string, data []byte) {
	t.Helper()
	mcopy(t, esp(m), name, data)
}

func mcopy(t *testing.T, to, name string, data []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "mcopy", "-i", to, path, "::/EFI/Linux/"+name)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// boot starts the machine, lets it run the script, and wants it to end at these
// slots. A line ends with " = " and the error that it is to give.
func boot(t *testing.T, m *vmtest.Machine, end string, script ...string) {
	t.Helper()
	var lines string
	for _, s := range script {
		line, _, _ := strings.Cut(s, " = ")
		lines += line + "\n"
	}
	m.Configure(func(o *vmtest.Options) { o.Config = []byte(lines) })
	m.Start()
	console := m.Console()
	at := regexp.MustCompile(`guest: at (\S+) (.*)`).FindAllStringSubmatch(console, -1)
	if last := at[len(at)-1]; last[1] != end || strings.TrimSpace(last[2]) != "ok" {
		t.Errorf("it ended at %q (%s), not %q", last[1], last[2], end)
	}
	for _, s := range script {
		line, want, failing := strings.Cut(s, " = ")
		if strings.HasSuffix(line, " reboot") || strings.HasSuffix(line, " hang") {
			continue // no result: the machine starts again
		}
		got := regexp.MustCompile(`guest: ` + regexp.QuoteMeta(line) + `: (.*)`).FindStringSubmatch(console)
		if got == nil || !failing && strings.TrimSpace(got[1]) != "ok" || failing && !strings.Contains(got[1], want) {
			t.Errorf("%q gave %q", s, got)
		}
	}
}

// guestFiles makes a disk with the guest as version 1.0.0, and a disk that is a
// file of another version, to be filled in.
func guestFiles(t *testing.T) (first, other string) {
	t.Helper()
	dir := t.TempDir()
	stub, loader := bootFiles(t)
	init := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", init, "./guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v\n%s", err, out)
	}
	tree := filepath.Join(dir, "root")
	run(t, "unsquashfs", "-q", "-n", "-d", tree, filepath.Join(vmtest.Image(t), "root.squashfs"), "lib/modules")
	cpio := initramfs(t, init, filepath.Join(tree, "lib", "modules"))
	first, other = filepath.Join(dir, "first"), filepath.Join(dir, "other")
	if err := disk.WriteRaw(first, disk.Contents{Version: "1.0.0", OS: osFile(t, stub, cpio, "1.0.0", ""), Loader: loader}); err != nil {
		t.Fatal(err)
	}
	// The guest puts the version in.
	if err := os.WriteFile(other, osFile(t, stub, cpio, "0.0.7777", ""), 0o600); err != nil {
		t.Fatal(err)
	}
	return first, other
}

func bootFiles(t *testing.T) (stub, loader []byte) {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	stub, loader, err = image.BootFiles(t.Context(), filepath.Join(cache, "wherry"))
	if err != nil {
		t.Fatal(err)
	}
	return stub, loader
}

// osFile is the image's kernel with an initramfs, and flags on its command line.
func osFile(t *testing.T, stub, initramfs []byte, version, flags string) []byte {
	t.Helper()
	out, err := bootimage.UKI{
		Stub: stub, Kernel: read(t, filepath.Join(vmtest.Image(t), "kernel")), Initramfs: initramfs,
		Cmdline:   strings.TrimSpace(bootimage.Cmdline + " " + flags),
		OSRelease: "ID=wherry\nPRETTY_NAME=\"Wherry\"\nIMAGE_ID=wherry-core\nIMAGE_VERSION=" + version + "\n",
	}.Build()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// needed are the modules that the guest loads, with what they need.
var needed = regexp.MustCompile(`^(index|virtio.*|qemu_fw_cfg.*|watchdog.*|i6300esb.*|efivarfs.*|v?fat.*|nls_.*)$`)

// initramfs is the guest with them.
func initramfs(t *testing.T, init, modules string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := cpio.NewWriter(&out)
	for _, name := range []string{"proc", "sys", "dev", "modules"} {
		add(t, w, cpio.Header{Name: name, Mode: 0o040755}, nil)
	}
	add(t, w, cpio.Header{Name: "dev/console", Mode: 0o020600, Major: 5, Minor: 1}, nil)
	add(t, w, cpio.Header{Name: "init", Mode: 0o100755}, read(t, init))
	entries, err := os.ReadDir(modules)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if needed.MatchString(e.Name()) {
			add(t, w, cpio.Header{Name: "modules/" + e.Name(), Mode: 0o100644}, read(t, filepath.Join(modules, e.Name())))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func add(t *testing.T, w *cpio.Writer, h cpio.Header, data []byte) {
	t.Helper()
	h.Size = int64(len(data))
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
