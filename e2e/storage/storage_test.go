// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package storage promises what happens to disks: an empty one is formatted
// and found again, one with data is never touched, a power cut loses nothing
// that was acknowledged, limits hold, and a machine without a usable disk runs
// from memory and says so.
package storage

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/format/cpio"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/vmtest"
)

// An empty disk becomes the state and stays it: through an orderly end, power
// cuts, and growth.
func TestStateSurvives(t *testing.T) {
	m := newGuest(t, vmtest.Options{DiskBytes: 1 << 30, Config: []byte("write first\nlimit 8\n")})
	boot(t, m, "state=persistent device=vda1", "write first: ok", "limit 8: ok", "disks vda:gpt:true ok", "board storage ready=true")
	m.Stop()
	repair(t, m)
	configure(m, "check first", "write second")
	boot(t, m, "state=persistent device=vda1", "check first: ok", "write second: ok")
	m.Kill()
	m.Configure(func(o *vmtest.Options) { o.DiskBytes = 20 << 30 })
	configure(m, "check first", "check second", "write third")
	boot(t, m, "state=persistent device=vda1", "check first: ok", "check second: ok")
	if size := field(t, m, `MiB=(\d+)`); len(size) != 5 {
		t.Errorf("the state has %s MiB after its disk grew to 20 GiB", size)
	}
	m.Kill()
	configure(m, "check third")
	boot(t, m, "check third: ok")
	m.Stop()
	repair(t, m)
}

// The power is cut again and again while the disk is formatted for the first
// time; in the end it is formatted.
func TestPowerCutsWhileFormatting(t *testing.T) {
	m := newGuest(t, vmtest.Options{DiskBytes: 2 << 30, Config: []byte("write file\n")})
	boot(t, m, "write file: ok")
	m.Kill()
	began := time.Now()
	m.Configure(func(o *vmtest.Options) { o.Config = nil })
	boot(t, m, "state=persistent")
	whole := time.Since(began)
	m.Kill()
	for i := range 4 {
		empty(t, m, 2<<30)
		cutDuringBoot(t, m, whole*time.Duration(70+10*i)/100)
		configure(m, "write file")
		boot(t, m, "state=persistent", "write file: ok")
		m.Kill()
	}
}

// Disks with anything on them keep every byte, and the machine says what it found.
func TestDataIsNeverTouched(t *testing.T) {
	dir := t.TempDir()
	disks := map[string]string{}
	for _, name := range []string{"ext4", "noise", "tail", "swap"} {
		disks[name] = filepath.Join(dir, name)
		sparse(t, disks[name], 256<<20)
	}
	run(t, "mkfs.ext4", "-q", "-F", disks["ext4"])
	run(t, "mkswap", disks["swap"])
	writeAt(t, disks["noise"], bytes.Repeat([]byte("noise"), 1<<20), 100<<20)
	writeAt(t, disks["tail"], []byte{1}, 256<<20-1)
	before := sums(t, disks)
	m := newGuest(t, vmtest.Options{NoDisk: true, ExtraDisks: []string{disks["ext4"], disks["noise"], disks["tail"], disks["swap"]}})
	boot(t, m, "state=memory", "vda:ext4:false,vdb:data:false,vdc:data:false,vdd:swap:false", "vda holds data (ext4)")
	m.Kill()
	if after := sums(t, disks); after != before {
		t.Errorf("disks were changed:\n%s\n%s", before, after)
	}
}

func TestNoDisk(t *testing.T) {
	m := newGuest(t, vmtest.Options{NoDisk: true, Config: []byte("write file\nlimit 8\n")})
	boot(t, m, "state=memory", "there is no disk", "write file: ok", "limit 8: error: this machine keeps its state in memory")
}

// A damaged state file system is left alone, also beside an empty disk.
func TestDamagedStateIsLeftAlone(t *testing.T) {
	spare := filepath.Join(t.TempDir(), "spare")
	sparse(t, spare, 1<<30)
	m := newGuest(t, vmtest.Options{DiskBytes: 1 << 30, Config: []byte("write file\n")})
	boot(t, m, "write file: ok")
	m.Stop()
	image := filepath.Join(m.VM().Dir(), "state.img")
	start, _ := partition(t, image)
	// The root directory's group header, behind a superblock that is whole.
	writeAt(t, image, bytes.Repeat([]byte{0xa5}, 3*4096), start+4096)
	before, spareBefore := withoutLog(t, image, start), sums(t, map[string]string{"spare": spare})
	m.Configure(func(o *vmtest.Options) { o.ExtraDisks = []string{spare} })
	boot(t, m, "state=memory", "board storage ready=false the state file system on vda1 is damaged", "vdb:empty:false")
	m.Kill()
	if !bytes.Equal(before, withoutLog(t, image, start)) {
		t.Error("the damaged file system was changed")
	}
	if spareBefore != sums(t, map[string]string{"spare": spare}) {
		t.Error("the empty disk was used")
	}
}

// withoutLog reads a disk but for the log of its XFS and the superblock's note
// of the log's position, with its checksum: the kernel tidies these before it
// notices the damage.
func withoutLog(t *testing.T, image string, start int64) []byte {
	t.Helper()
	disk, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	super := disk[start:]
	clear(super[224:228])
	clear(super[240:248])
	at := start + int64(binary.BigEndian.Uint64(super[48:]))*4096
	clear(disk[at : at+int64(binary.BigEndian.Uint32(super[96:]))*4096])
	return disk
}

func newGuest(t *testing.T, o vmtest.Options) *vmtest.Machine {
	t.Helper()
	o.Image, o.MemoryMiB, o.CPUs = guestImage(t), 512, 1
	return vmtest.New(t, o)
}

func configure(m *vmtest.Machine, lines ...string) {
	m.Configure(func(o *vmtest.Options) { o.Config = []byte(strings.Join(lines, "\n") + "\n") })
}

// boot starts the guest and wants these words on its console.
func boot(t *testing.T, m *vmtest.Machine, want ...string) {
	t.Helper()
	m.Start()
	console := m.Console()
	for _, w := range want {
		if !strings.Contains(console, w) {
			t.Errorf("the guest did not say %q:\n%s", w, console)
		}
	}
}

func field(t *testing.T, m *vmtest.Machine, pattern string) string {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(m.Console())
	if found == nil {
		t.Fatalf("%s is not on the console", pattern)
	}
	return found[1]
}

// cutDuringBoot lets a machine boot for a while.
func cutDuringBoot(t *testing.T, m *vmtest.Machine, after time.Duration) {
	t.Helper()
	m.Configure(func(o *vmtest.Options) { o.Timeout = after })
	defer m.Configure(func(o *vmtest.Options) { o.Timeout = 0 })
	// Whether it got ready before the cut is all the same.
	if err := m.TryStart(); err == nil {
		m.Kill()
	}
}

func empty(t *testing.T, m *vmtest.Machine, size int64) {
	t.Helper()
	path := filepath.Join(m.VM().Dir(), "state.img")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	sparse(t, path, size)
}

// repair lets xfsprogs and sgdisk judge the state disk.
func repair(t *testing.T, m *vmtest.Machine) {
	t.Helper()
	image := filepath.Join(m.VM().Dir(), "state.img")
	if out := run(t, "sgdisk", "-v", image); !strings.Contains(out, "No problems found") {
		t.Error(out)
	}
	start, size := partition(t, image)
	fs := filepath.Join(t.TempDir(), "fs")
	run(t, "dd", "if="+image, "of="+fs, "bs=1M", "conv=sparse", "status=none",
		fmt.Sprintf("skip=%d", start>>20), fmt.Sprintf("count=%d", size>>20))
	if err := os.Truncate(fs, size); err != nil {
		t.Fatal(err)
	}
	run(t, "xfs_repair", "-n", "-f", fs)
}

func partition(t *testing.T, image string) (start, size int64) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(f, 512, uint64(info.Size())/512)
	if err != nil {
		t.Fatal(err)
	}
	p := table.Partitions[0]
	return int64(p.First) * 512, int64(p.Last-p.First+1) * 512
}

func sparse(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

func writeAt(t *testing.T, path string, data []byte, offset int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, offset); err != nil {
		t.Fatal(err)
	}
}

func sums(t *testing.T, files map[string]string) string {
	t.Helper()
	all := map[string]string{}
	for name, path := range files {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		all[name] = fmt.Sprintf("%x", h.Sum(nil)[:8])
	}
	return fmt.Sprint(all)
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// guestImage is the real image's kernel and modules with the guest as PID 1.
func guestImage(t *testing.T) string {
	t.Helper()
	real, dir := vmtest.Image(t), t.TempDir()
	kernel, err := filepath.Abs(filepath.Join(real, "kernel"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(kernel, filepath.Join(dir, "kernel")); err != nil {
		t.Fatal(err)
	}
	init := filepath.Join(t.TempDir(), "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", init, "./guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest: %v\n%s", err, out)
	}
	tree := filepath.Join(t.TempDir(), "root")
	run(t, "unsquashfs", "-q", "-n", "-d", tree, filepath.Join(real, "root.squashfs"), "lib/modules")
	writeInitramfs(t, filepath.Join(dir, "initramfs"), init, filepath.Join(tree, "lib", "modules"))
	return dir
}

func writeInitramfs(t *testing.T, path, init, modules string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := cpio.NewWriter(f)
	for _, name := range []string{"proc", "sys", "dev", "state", "modules"} {
		add(t, w, cpio.Header{Name: name, Mode: 0o040755}, nil)
	}
	add(t, w, cpio.Header{Name: "dev/console", Mode: 0o020600, Major: 5, Minor: 1}, nil)
	addFile(t, w, "init", init)
	entries, err := os.ReadDir(modules)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		addFile(t, w, "modules/"+e.Name(), filepath.Join(modules, e.Name()))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func addFile(t *testing.T, w *cpio.Writer, name, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	add(t, w, cpio.Header{Name: name, Mode: 0o100755}, data)
}

func add(t *testing.T, w *cpio.Writer, h cpio.Header, data []byte) {
	t.Helper()
	h.Size, h.Time = int64(len(data)), time.Unix(0, 0)
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
}
