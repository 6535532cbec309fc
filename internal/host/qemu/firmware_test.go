// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wherry.example/wherry/internal/format/gpt"
)

func TestDiskImageArguments(t *testing.T) {
	if _, err := findFirmware(true); err != nil {
		t.Fatalf("%v: run tools/setup.sh test", err)
	}
	s := Settings{Image: "/image", DiskImage: "/disk.raw", MemoryMiB: 512, CPUs: 1, DiskBytes: 1 << 30}
	plain := strings.Join(arguments("demo", s, "tcg", false), " ")
	for _, want := range []string{"pflash,unit=0,format=raw,readonly=on,file=/", "pflash,unit=1,id=variables,format=raw,file=firmware.fd", "drive=state,serial=state,bootindex=1", "-device i6300esb", "watchdog=reset"} {
		if !strings.Contains(plain, want) {
			t.Errorf("%q is missing in %s", want, plain)
		}
	}
	for _, not := range []string{"-kernel", "-append", "smm=on"} {
		if strings.Contains(plain, not) {
			t.Errorf("%q is in %s", not, plain)
		}
	}
	s.SecureBoot = true
	if secure := strings.Join(arguments("demo", s, "tcg", false), " "); !strings.Contains(secure, "smm=on") || !strings.Contains(secure, "property=secure,value=on") {
		t.Errorf("Secure Boot: %s", secure)
	}
	direct := strings.Join(arguments("demo", Settings{Image: "/image", DiskBytes: 1 << 30}, "tcg", false), " ")
	if strings.Contains(direct, "pflash") || strings.Contains(direct, "bootindex") {
		t.Errorf("a direct boot has firmware: %s", direct)
	}
}

func TestValidateBoot(t *testing.T) {
	for name, s := range map[string]Settings{
		"no disk":                 {DiskImage: "x"},
		"command line":            {DiskImage: "x", DiskBytes: 1, Cmdline: "quiet"},
		"Secure Boot of a kernel": {Image: testImage(t), SecureBoot: true},
		"nothing to boot":         {Image: t.TempDir()},
	} {
		if err := s.validateBoot(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A machine whose firmware would find nothing is refused at once, and not remembered.
func TestBootable(t *testing.T) {
	const bytes = 8 << 20
	table := func(kind gpt.GUID) func(*os.File) error {
		return func(f *os.File) error {
			g := gpt.Table{ID: gpt.RandomGUID([16]byte{1}), BlockBytes: 512, Blocks: bytes / 512}
			g.Partitions = []gpt.Partition{{Type: kind, ID: gpt.RandomGUID([16]byte{2}), First: 2048, Last: 4095}}
			writes, err := g.Writes()
			for _, w := range writes {
				_, werr := f.WriteAt(w.Data, w.Offset)
				err = errors.Join(err, werr)
			}
			return err
		}
	}
	for name, c := range map[string]struct {
		disk   func(*os.File) error // nil: none yet
		change func(*Settings)
		want   string
	}{
		"new":                {nil, nil, "machine test has nothing to boot from: give --disk-image FILE or --cdrom FILE.iso"},
		"new, with a disk":   {nil, func(s *Settings) { s.ExtraDisks = []string{"/dev/null"} }, ""},
		"new, directly":      {nil, func(s *Settings) { s.Firmware = false }, ""},
		"empty disk":         {func(*os.File) error { return nil }, nil, "no system is installed on its disk"},
		"only state":         {table(gpt.MustGUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")), nil, "no system is installed on its disk"},
		"installed":          {table(gpt.TypeESP), nil, ""},
		"something else":     {func(f *os.File) error { _, err := f.WriteAt([]byte{0x55, 0xaa}, 510); return err }, nil, ""},
		"empty, with medium": {func(*os.File) error { return nil }, func(s *Settings) { s.CDROM = s.Image + "/kernel" }, ""},
	} {
		vm := newTestVM(t)
		s := Settings{Image: testImage(t), MemoryMiB: 512, CPUs: 1, DiskBytes: bytes, Firmware: true}
		if c.change != nil {
			c.change(&s)
		}
		if c.disk != nil {
			f, err := os.Create(vm.path("state.img"))
			if err == nil {
				err = errors.Join(f.Truncate(bytes), c.disk(f), f.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		_, err := vm.prepare(t.Context(), StartOptions{Settings: s})
		if got := fmt.Sprint(err); (err == nil) != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if remembered, _ := vm.Settings(); err != nil && remembered.Firmware {
			t.Errorf("%s: the settings are remembered", name)
		}
	}
}

// The disk begins as the image, of whatever format, and is the machine's own
// from then on, as are the firmware's variables.
func TestDiskImageIsCopiedOnce(t *testing.T) {
	dir := t.TempDir()
	raw, qcow2 := filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
	want := bytes.Repeat([]byte("disk"), 1<<18)
	if err := os.WriteFile(raw, want, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2).CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	for _, image := range []string{raw, qcow2} {
		vm := newTestVM(t)
		s := Settings{DiskImage: image, MemoryMiB: 512, CPUs: 1, DiskBytes: 2 << 20}
		if _, err := vm.prepare(t.Context(), StartOptions{Settings: s}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(vm.path("state.img"))
		if err != nil || len(got) != 2<<20 || !bytes.Equal(got[:1<<20], want) {
			t.Fatalf("%s: the disk has %d bytes, %v", image, len(got), err)
		}
		for _, name := range []string{"state.img", "firmware.fd"} {
			if err := os.WriteFile(vm.path(name), []byte("changed"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Rename(image, image+".away"); err != nil {
			t.Fatal(err)
		}
		if _, err := vm.prepare(t.Context(), StartOptions{Settings: s}); err != nil {
			t.Errorf("a second start needs the image: %v", err)
		}
		s.DiskImage = filepath.Join(dir, "another")
		if _, err := vm.prepare(t.Context(), StartOptions{Settings: s}); err == nil || !strings.Contains(err.Error(), "wherry vm rm test") {
			t.Errorf("another image: %v", err)
		}
		for _, name := range []string{"state.img", "firmware.fd"} {
			if got, err := os.ReadFile(vm.path(name)); err != nil || !bytes.HasPrefix(got, []byte("changed")) {
				t.Errorf("%s was made anew at the second start: %v", name, err)
			}
		}
	}
	leftover := newTestVM(t)
	if err := os.WriteFile(leftover.path("state.img"), []byte("of a start that failed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := leftover.prepare(t.Context(), StartOptions{Settings: Settings{DiskImage: raw + ".away", MemoryMiB: 512, CPUs: 1, DiskBytes: 1 << 20}}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(leftover.path("state.img")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the disk of a start that failed is used, %v", err)
	}
	if _, err := newTestVM(t).prepare(t.Context(), StartOptions{Settings: Settings{DiskImage: filepath.Join(dir, "gone"), MemoryMiB: 512, CPUs: 1, DiskBytes: 1 << 20}}); err == nil || !strings.Contains(err.Error(), "wherry build --format raw") {
		t.Errorf("no image: %v", err)
	}
}

func TestFirmwareCauses(t *testing.T) {
	if got := tailLines([]byte("\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: loading\r\n"), 1); got != "BdsDxe: loading" {
		t.Errorf("what the firmware does to the screen is left in %q", got)
	}
	for console, says := range map[string]string{
		`Error loading \EFI\Linux\wherry_1.0.0.efi: Access Denied`:                                   "Secure Boot refused",
		`BdsDxe: failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0): Access Denied`:        "Secure Boot refused",
		"BdsDxe: failed to load Boot0001 \"UEFI\" from PciRoot(0x0): Not Found\nBdsDxe: No bootable": "nothing on the disk",
	} {
		if got := likelyCause("", console); !strings.Contains(got, says) {
			t.Errorf("%s: %q", console, got)
		}
	}
	if !fatal("BdsDxe: No bootable option or device was found.") || fatal("BdsDxe: loading Boot0001") {
		t.Error("whether the firmware goes on is not seen")
	}
}
