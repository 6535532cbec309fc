// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package metal promises that an image with the kernel for real hardware boots
// and works on a computer: SATA, an Intel network adapter, USB, a hardware
// watchdog, and firmware that was put in by name; and that a release that somebody
// carries to it on a USB stick is taken, whatever else is on that stick.
package metal

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/host/deb"
	"wherry.example/wherry/internal/host/image"
	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

// firmware is what the driver of QEMU's old network adapter asks for when the
// adapter comes up. No free package has it: the test's package has a file that is
// too short, about which the driver complains as soon as it has it.
const firmware = "e100/d102e_ucode.bin"

// release1 is what the machine is made of.
const release1 = "1.0.0"

// build builds the metal image as a release of the publisher, with a package of firmware that is already in the cache.
func build(t *testing.T, p *fixture.Publisher) fixture.Release {
	t.Helper()
	user, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	shared, cache := filepath.Join(user, "wherry"), t.TempDir()
	for _, name := range []string{"kernel", "certificates", "bootloader", "root", "component"} {
		if err := os.MkdirAll(filepath.Join(shared, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(shared, name), filepath.Join(cache, name)); err != nil {
			t.Fatal(err)
		}
	}
	makeFirmware(t, filepath.Join(cache, "firmware"))
	r, err := image.Build(t.Context(), image.Options{
		Kernel: "metal", Firmware: []string{"firmware-linux-free"}, Formats: []string{"raw", "efi"}, Output: t.TempDir(), Cache: cache,
		Version: release1, ReleaseRoot: p.Root(),
		Progress: func(line string) { t.Log(line) },
	})
	if err != nil {
		t.Fatal(err)
	}
	m := r.Manifest
	if m.Edition != "core-metal" || len(m.Firmware) != 1 || strings.Join(m.Firmware[0].Licences, ",") != "Test-1" {
		t.Errorf("the manifest says edition %s, firmware %+v", m.Edition, m.Firmware)
	}
	list, err := os.ReadFile(filepath.Join(r.Dir, "sbom.json"))
	if err != nil || !strings.Contains(string(list), `"name": "Test-1"`) {
		t.Errorf("the firmware's licence is not in the list of contents (%v)", err)
	}
	for _, p := range m.Parts {
		t.Logf("%s %.2f MB", p.Name, float64(p.Bytes)/1e6)
	}
	return fixture.Release{Version: release1, Dir: r.Dir}
}

func makeFirmware(t *testing.T, dir string) {
	t.Helper()
	c, err := deb.Resolve(t.Context(), "firmware-linux-free")
	if err != nil {
		t.Fatal(err)
	}
	tree := t.TempDir()
	for name, text := range map[string]string{
		"lib/firmware/" + firmware:                    "short",
		"usr/share/doc/firmware-linux-free/copyright": "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: Test-1\n",
		"DEBIAN/control":                              "Package: firmware-linux-free\nVersion: " + c.Version + "\nArchitecture: all\nMaintainer: test\nDescription: test\n",
	} {
		file := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, c.Package+"_"+c.Version+".deb")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", tree, to).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v\n%s", err, out)
	}
}

// TestComputer starts the machine with a stick in it: what it is to be able to do
// it shows in the release that it finds there.
func TestComputer(t *testing.T) {
	u, p := vmtest.NewUser(t), fixture.NewPublisher(t)
	first := build(t, p)
	m := vmtest.Start(t, vmtest.Options{
		DiskImage: first.File("wherry.raw"), PC: true, DiskBytes: 2 << 30, Config: u.Config("updates: {mode: automatic}"),
		Args: []string{
			"-device", "qemu-xhci", "-device", "usb-kbd",
			"-drive", "if=none,id=stick,format=raw,file=" + stick(t, bundle(t, p, first)), "-device", "usb-storage,drive=stick,removable=on",
			"-netdev", "user,id=net1,net=10.9.0.0/24", "-device", "i82551,netdev=net1,romfile=",
		},
	})
	u.Knows(m)
	carried(t, m, u)
	if m.Ready().State != "persistent" {
		t.Errorf("the state is %s", m.Ready().State)
	}
	if out := u.Run("status"); !regexp.MustCompile(`xfs on sd[ab]2`).MatchString(out) {
		t.Errorf("the state is not on the SATA disk's second partition:\n%s", out)
	}
	// What is not needed to be ready is loaded beside it.
	want := map[string]string{
		"the network adapter":    `e1000e .*: Intel\(R\) PRO/1000`,
		"SATA":                   `ahci .*: AHCI`,
		"USB storage":            `usb-storage .*: USB Mass Storage device detected`,
		"the stick's disk":       `sd .*: \[sd[a-z]\] Attached SCSI removable disk`,
		"the keyboard":           `hid-generic .*Keyboard`,
		"the chipset's watchdog": `wherry-init: watchdog watchdog\d \(iTCO_wdt\) resets the machine after 1m0s`,
		"the card's watchdog":    `wherry-init: watchdog watchdog\d \(i6300ESB timer\) resets the machine after 1m0s`,
		"firmware for a driver":  `e100.*` + regexp.QuoteMeta(firmware) + `.*wrong size 5`,
	}
	for deadline := time.Now().Add(2 * time.Minute); len(want) > 0; time.Sleep(time.Second) {
		log := u.Run("machine", "log", "--kernel")
		for what, pattern := range want {
			if regexp.MustCompile(pattern).MatchString(log) {
				delete(want, what)
			} else if time.Now().After(deadline) {
				t.Errorf("%s: the kernel's log has no %q", what, pattern)
			}
		}
		if time.Now().After(deadline) {
			break
		}
	}
	m.Stop()
}
