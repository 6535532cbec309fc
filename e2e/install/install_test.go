// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package install promises that a machine that was started from the live medium
// puts itself onto a disk of its own, by hand and unattended, starts from there,
// and is known there; and that a disk with data is lost only when that was said.
package install

import (
	"encoding/json"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/host/image"
	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

var (
	once   sync.Once
	medium string
)

func TestMain(m *testing.M) {
	code := m.Run()
	if medium != "" {
		os.RemoveAll(filepath.Dir(medium))
	}
	os.Exit(code)
}

// live is the live medium of this checkout.
func live(t *testing.T) string {
	t.Helper()
	once.Do(func() {
		dir, err := os.MkdirTemp("", "wherry-install-")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := image.Build(t.Context(), image.Options{Output: dir, Formats: []string{"iso"}}); err != nil {
			os.RemoveAll(dir)
			t.Fatal(err)
		}
		medium = filepath.Join(dir, "wherry.iso")
	})
	if medium == "" {
		t.Fatal("there is no live medium: its build failed")
	}
	return medium
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func refused(t *testing.T, r vmtest.Result, says string) {
	t.Helper()
	if r.Code == 0 || !strings.Contains(r.Stderr, says) {
		t.Errorf("exit code %d, want a refusal with %q:\n%s%s", r.Code, says, r.Stdout, r.Stderr)
	}
}

// By hand, from a CD: what is refused, a first installation, one over it, and
// the installed machine at work.
func TestByHand(t *testing.T) {
	u := vmtest.NewUser(t)
	small := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(small, make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	m := vmtest.Start(t, vmtest.Options{CDROM: live(t), DiskBytes: 2 << 30, ExtraDisks: []string{small}, Config: u.Config("name: live")})
	u.Knows(m)
	key := m.Fingerprint()
	checkDisks(t, u)
	refused(t, u.Try("machine", "install", "vdb"), "disk vdb cannot be installed onto: it is too small: 64 MiB")
	refused(t, u.Try("machine", "install", "vdz"), "there is no disk vdz; there are: vda, vdb")
	refused(t, u.Try("machine", "install", "first", "--wipe"), "a disk must be named")

	u.Run("machine", "install", "first")
	refused(t, u.Try("machine", "install", "/dev/vda"), "disk vda holds data (gpt with the partitions wherry-boot, wherry-state)")
	document := filepath.Join(t.TempDir(), "installed.yaml")
	if err := os.WriteFile(document, u.Config("name: installed"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := u.Try("machine", "install", "vda", "--wipe", "--yes", "--config", document)
	if out.Code != 0 || !strings.Contains(out.Stdout, "is installed on vda") || strings.Contains(out.Stderr, "warning") || !strings.Contains(out.Stderr, key) {
		t.Fatalf("exit code %d:\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
	m.Stop()
	judge(t, m)

	m.Configure(func(o *vmtest.Options) { o.CDROM = "" })
	m.Start()
	if m.Fingerprint() != key || m.Ready().State != "persistent" {
		t.Fatalf("the installed machine has key %s and state %s; the live one had %s", m.Fingerprint(), m.Ready().State, key)
	}
	if status := u.Run("status"); !strings.Contains(status, "installed") || !strings.Contains(status, "xfs on vda2") {
		t.Errorf("it is not what was installed:\n%s", status)
	}
	refused(t, u.Try("machine", "install", "vda", "--wipe", "--yes"), "disk vda cannot be installed onto: the machine was started from it")
	u.Run("load", "-i", fixture.Archive(t, "localhost/tools:1", fixture.Toybox(t)))
	if got := u.Run("run", "--rm", "localhost/tools:1", "echo", "it runs"); strings.TrimSpace(got) != "it runs" {
		t.Errorf("a container says %q", got)
	}
	m.Stop()
}

func checkDisks(t *testing.T, u *vmtest.User) {
	t.Helper()
	var list struct {
		Medium string
		Disks  []struct {
			Name, Serial, Content string
			Usable                bool
		}
	}
	if err := json.Unmarshal([]byte(u.Run("machine", "disks", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if list.Medium != "sr0" || len(list.Disks) != 2 || list.Disks[0].Serial != "state" || list.Disks[0].Content != "empty" || !list.Disks[0].Usable || list.Disks[1].Usable {
		t.Errorf("the disks are %+v", list)
	}
	if text := u.Run("machine", "disks"); !strings.Contains(text, "no: it is too small") {
		t.Errorf("the disks are shown as\n%s", text)
	}
}

// Unattended, from a stick that has the configuration on it, over other data:
// installed once, although the stick stays in and is started again.
func TestUnattended(t *testing.T) {
	u := vmtest.NewUser(t)
	stick, document := filepath.Join(t.TempDir(), "stick"), filepath.Join(t.TempDir(), "wherry.yaml")
	run(t, "cp", live(t), stick)
	if err := os.WriteFile(document, u.Config("name: twice", "install: {disk: 'serial:state', wipe: true, reboot: true}"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "mcopy", "-i", stick+"@@1M", document, "::/wherry.yaml")
	m := vmtest.New(t, vmtest.Options{CDROM: stick, CDROMStick: true, DiskBytes: 2 << 30})
	disk := filepath.Join(m.VM().Dir(), "state.img")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "truncate", "-s", "2G", disk)
	run(t, "mkfs.ext4", "-q", "-F", disk)
	m.Start()
	key := m.Fingerprint()
	m.WaitConsole(`install\s+finished`, 5*time.Minute)
	m.WaitReboot()
	u.Knows(m)
	m.WaitConsole(`install\s+vd[ab] is installed already`, time.Minute)
	if status := u.Run("status"); !strings.Contains(status, "take the live medium out") {
		t.Errorf("the status does not tell what to do:\n%s", status)
	}
	m.Kill()
	judge(t, m)
	m.Configure(func(o *vmtest.Options) { o.CDROM = "" })
	m.Start()
	if m.Fingerprint() != key || m.Ready().Name != "twice" || m.Ready().State != "persistent" {
		t.Errorf("the installed machine is %+v, with the key %s before", m.Ready(), key)
	}
	m.Kill()
}

// judge has others look at the machine's disk.
func judge(t *testing.T, m *vmtest.Machine) {
	t.Helper()
	disk := filepath.Join(m.VM().Dir(), "state.img")
	if out := run(t, "sgdisk", "-v", "-p", disk); !strings.Contains(out, "No problems found") || !strings.Contains(out, "wherry-state") {
		t.Errorf("sgdisk:\n%s", out)
	}
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := gpt.Read(f, 512, 2<<30/512)
	if err != nil || len(table.Partitions) != 2 {
		t.Fatalf("the table: %+v, %v", table, err)
	}
	for i, judge := range [][]string{{"fsck.fat", "-n"}, {"xfs_repair", "-n", "-f", "-o", "force_geometry"}} {
		p := table.Partitions[i]
		part := filepath.Join(t.TempDir(), "partition")
		bytes := func(blocks uint64) string { return new(big.Int).SetUint64(blocks * 512).String() }
		run(t, "dd", "if="+disk, "of="+part, "bs=1M", "conv=sparse", "iflag=skip_bytes,count_bytes", "status=none",
			"skip="+bytes(p.First), "count="+bytes(p.Last+1-p.First))
		run(t, judge[0], append(judge[1:], part)...)
	}
}
