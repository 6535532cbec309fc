// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package install promises that a machine that was started from the live medium
// puts itself onto a disk of its own, by hand and unattended, starts from there
// verified by Secure Boot, and is known there; that a disk with data is lost only
// when that was said, and one on which the power cut an installation is repaired by
// another; and that a machine tells why the kernel before its own died.
package install

import (
	"bufio"
	"encoding/json"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

// TestInstall is one live medium, signed by its owner, on two machines.
func TestInstall(t *testing.T) {
	medium := fixture.NewPublisher(t).Build("1.0.0", "iso").File("wherry.iso")
	t.Run("by hand", func(t *testing.T) { byHand(t, medium) })
	t.Run("unattended", func(t *testing.T) { unattended(t, medium) })
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

// verified is what a machine says that the firmware, with the owner's keys, has started.
const verified = "verified by Secure Boot, signed by CN=owner"

// By hand, from a CD, with Secure Boot: what is refused, an installation that the
// power cuts, one that repairs that, one over it, and the installed machine at work.
func byHand(t *testing.T, medium string) {
	u := vmtest.NewUser(t)
	small := filepath.Join(t.TempDir(), "small")
	if err := os.WriteFile(small, make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	m := vmtest.Start(t, vmtest.Options{CDROM: medium, SecureBoot: true, DiskBytes: 2 << 30, ExtraDisks: []string{small}, Config: u.Config("name: live")})
	u.Knows(m)
	checkDisks(t, u)
	if status := u.Run("status"); !strings.Contains(status, "the live medium sr0, which is never updated") {
		t.Errorf("the status does not tell that it was started from the live medium:\n%s", status)
	}
	refused(t, u.Try("machine", "install", "vdb"), "disk vdb cannot be installed onto: it is too small: 64 MiB")
	refused(t, u.Try("machine", "install", "vdz"), "there is no disk vdz; there are: vda, vdb")
	refused(t, u.Try("machine", "install", "first", "--wipe"), "a disk must be named")
	cutShort(t, u, m)

	m.Start()
	u.Knows(m) // a live machine's key is in memory
	key := m.Fingerprint()
	if list := disks(t, u); list[0].Content == "empty" || !list[0].Usable || list[0].NeedsWipe {
		t.Errorf("the disk on which an installation was cut short is %+v", list[0])
	}
	u.Run("machine", "install", "first")
	refused(t, u.Try("machine", "install", "/dev/vda"), "disk vda holds data (gpt with the partitions wherry-boot, wherry-state)")
	document := filepath.Join(t.TempDir(), "installed.yaml")
	if err := os.WriteFile(document, u.Config("name: installed"), 0o600); err != nil {
		t.Fatal(err)
	}
	installAndReboot(t, u, m, "vda", "--wipe", "--yes", "--config", document)
	if m.Fingerprint() != key || m.Ready().State != "persistent" {
		t.Fatalf("the installed machine has key %s and state %s; the live one had %s", m.Fingerprint(), m.Ready().State, key)
	}
	status := u.Run("status")
	for _, want := range []string{"installed", "xfs on vda2", verified} {
		if !strings.Contains(status, want) {
			t.Errorf("the status of the installed machine does not tell %q:\n%s", want, status)
		}
	}
	refused(t, u.Try("machine", "install", "vda", "--wipe", "--yes"), "disk vda cannot be installed onto: the machine was started from it")
	u.Run("load", "-i", fixture.Archive(t, "localhost/tools:1", fixture.Toybox(t)))
	if got := u.Run("run", "--rm", "localhost/tools:1", "echo", "it runs"); strings.TrimSpace(got) != "it runs" {
		t.Errorf("a container says %q", got)
	}
	m.Stop()
	judge(t, m)
}

// cutShort cuts the power while the operating system is written.
func cutShort(t *testing.T, u *vmtest.User, m *vmtest.Machine) {
	t.Helper()
	c := u.Command("machine", "install", "first")
	said, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	writing := false
	for lines := bufio.NewScanner(said); !writing && lines.Scan(); {
		writing = strings.Contains(lines.Text(), "writing the operating system")
	}
	m.Kill()
	if err := c.Wait(); err == nil || !writing {
		t.Fatalf("the installation was not cut short: it was writing: %v; it ended with %v", writing, err)
	}
}

// installAndReboot takes the medium out while the machine goes down.
func installAndReboot(t *testing.T, u *vmtest.User, m *vmtest.Machine, args ...string) {
	t.Helper()
	key := m.Fingerprint()
	done := make(chan vmtest.Result, 1)
	go func() { done <- u.Try(append([]string{"machine", "install", "--reboot"}, args...)...) }()
	m.WaitConsole(`wherry: restart`, 5*time.Minute)
	m.QMP("eject", map[string]any{"device": "cdrom", "force": true})
	m.WaitReboot()
	out := <-done
	if out.Code != 0 || !strings.Contains(out.Stdout, "is installed on vda") || strings.Contains(out.Stderr, "warning") || !strings.Contains(out.Stderr, key) {
		t.Fatalf("exit code %d:\n%s%s", out.Code, out.Stdout, out.Stderr)
	}
}

type disk struct {
	Name, Serial, Content string
	Usable, NeedsWipe     bool
}

// disks are those that a machine from a CD can be installed onto, or not.
func disks(t *testing.T, u *vmtest.User) []disk {
	t.Helper()
	var list struct {
		Medium string
		Disks  []disk
	}
	if err := json.Unmarshal([]byte(u.Run("machine", "disks", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	if list.Medium != "sr0" || len(list.Disks) != 2 {
		t.Fatalf("the disks are %+v", list)
	}
	return list.Disks
}

func checkDisks(t *testing.T, u *vmtest.User) {
	t.Helper()
	if list := disks(t, u); list[0].Serial != "state" || list[0].Content != "empty" || !list[0].Usable || list[1].Usable {
		t.Errorf("the disks are %+v", list)
	}
	if text := u.Run("machine", "disks"); !strings.Contains(text, "no: it is too small") {
		t.Errorf("the disks are shown as\n%s", text)
	}
}

// Unattended, from a stick that has the configuration on it, over other data:
// installed once, although the stick stays in and is started again. How that kernel
// died the installed machine tells.
func unattended(t *testing.T, medium string) {
	u := vmtest.NewUser(t)
	stick, document := filepath.Join(t.TempDir(), "stick"), filepath.Join(t.TempDir(), "wherry.yaml")
	run(t, "cp", medium, stick)
	if err := os.WriteFile(document, u.Config("name: twice", "install: {disk: 'serial:state', wipe: true, reboot: true}", "sysctls: {kernel.unknown_nmi_panic: 1}"), 0o600); err != nil {
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
	panics(t, m)
	judge(t, m)
	m.Configure(func(o *vmtest.Options) { o.CDROM = "" })
	m.Start()
	m.WaitConsole(`a kernel died before this start \(kind Panic, reason NMI: Not continuing`, time.Minute)
	if m.Fingerprint() != key || m.Ready().Name != "twice" || m.Ready().State != "persistent" {
		t.Errorf("the installed machine is %+v, with the key %s before", m.Ready(), key)
	}
	m.Kill()
}

// panics lets the machine's kernel die, and cuts the power when the firmware starts anew.
func panics(t *testing.T, m *vmtest.Machine) {
	t.Helper()
	m.QMP("inject-nmi", nil)
	m.WaitConsole(`(?s)Kernel panic - not syncing: .*BdsDxe: loading`, 3*time.Minute) // its last words are written
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
