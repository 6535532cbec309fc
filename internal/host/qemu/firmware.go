// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/internal/format/gpt"
)

// firmware is UEFI for a virtual machine: code that all machines share, and
// the template of its variables, of which each machine has a copy.
type firmware struct{ code, variables string }

// firmwares are where distributions keep EDK II's OVMF.
var firmwares = []firmware{
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE_4M.fd", "/usr/share/edk2/ovmf/OVMF_VARS_4M.fd"},
	{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
	{"/opt/homebrew/share/qemu/edk2-x86_64-code.fd", "/opt/homebrew/share/qemu/edk2-i386-vars.fd"},
	{"/usr/local/share/qemu/edk2-x86_64-code.fd", "/usr/local/share/qemu/edk2-i386-vars.fd"},
}

var secureFirmwares = []firmware{
	{"/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE_4M.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS_4M.fd"},
	{"/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
}

func findFirmware(secure bool) (firmware, error) {
	known := firmwares
	if secure {
		known = secureFirmwares
	}
	for _, f := range known {
		_, code := os.Stat(f.code)
		_, variables := os.Stat(f.variables)
		if code == nil && variables == nil {
			return f, nil
		}
	}
	return firmware{}, errors.New("there is no UEFI firmware for virtual machines here: install it (Debian's package is ovmf)")
}

// prepareFirmware gives the machine variables of its own at its first start.
func (vm *VM) prepareFirmware(s Settings) error {
	if !s.byFirmware() {
		return nil
	}
	f, err := findFirmware(s.SecureBoot)
	if err != nil {
		return err
	}
	if _, err := os.Stat(vm.path("firmware.fd")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	template, err := os.ReadFile(f.variables)
	if err != nil {
		return err
	}
	return atomicfile.Write(vm.path("firmware.fd"), template, 0o600)
}

// bootArguments let the machine boot the image's kernel directly, or its disk
// by firmware.
func (s Settings) bootArguments() []string {
	if !s.byFirmware() {
		return []string{
			"-kernel", filepath.Join(s.Image, "kernel"),
			"-initrd", filepath.Join(s.Image, "initramfs"),
			"-append", strings.TrimSpace(defaultCmdline + " " + s.Cmdline),
		}
	}
	f, err := findFirmware(s.SecureBoot)
	if err != nil {
		return nil // prepareFirmware has told
	}
	args := []string{
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + escape(f.code),
		"-drive", "if=pflash,unit=1,id=variables,format=raw,file=firmware.fd",
	}
	if s.SecureBoot {
		// Only the firmware, in system management mode, may write the variables.
		args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1")
	}
	return append(args, s.cdrom()...)
}

// cdrom is the live medium, which is started before the disk.
func (s Settings) cdrom() []string {
	if s.CDROM == "" {
		return nil
	}
	drive := []string{"-drive", "if=none,id=cdrom,format=raw,readonly=on,file=" + escape(s.CDROM)}
	if s.CDROMStick {
		return append(drive, "-device", "virtio-blk-pci,drive=cdrom,serial=cdrom,bootindex=0")
	}
	return append(drive, "-device", "virtio-scsi-pci,id=cdbus", "-device", "scsi-cd,bus=cdbus.0,drive=cdrom,bootindex=0")
}

func (s Settings) machineType() string {
	machine := "q35"
	if !s.PC {
		// No SATA: its driver takes as long as the rest of the boot to find nothing.
		machine += ",sata=off"
	}
	if s.SecureBoot {
		machine += ",smm=on"
	}
	return machine
}

// bootable refuses a machine whose firmware would find nothing to start, and wait in its shell.
func (vm *VM) bootable(s Settings) error {
	if !s.byFirmware() || s.DiskImage != "" || s.CDROM != "" || len(s.ExtraDisks) > 0 {
		return nil
	}
	f, err := os.Open(vm.path("state.img"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("machine %s has nothing to boot from: give --disk-image FILE or --cdrom FILE.iso, or leave --cdrom out to boot %s", vm.name, s.Image)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !bootsByFirmware(f, info.Size()) {
		return fmt.Errorf("machine %s has nothing to boot from: no system is installed on its disk. Start it with --cdrom FILE.iso and install one (`wherry -m %[1]s machine install`)", vm.name)
	}
	return nil
}

// bootsByFirmware tells whether a disk may hold what UEFI firmware starts: a partition for that, or a table of the older
// kind, which may have one.
func bootsByFirmware(disk io.ReaderAt, bytes int64) bool {
	const block = 512
	table, err := gpt.Read(disk, block, uint64(bytes)/block)
	if err == nil {
		return slices.ContainsFunc(table.Partitions, func(p gpt.Partition) bool { return p.Type == gpt.TypeESP })
	}
	var head [block]byte
	_, err = disk.ReadAt(head[:], 0)
	return err == nil && head[block-2] == 0x55 && head[block-1] == 0xaa
}

// copyDiskImage makes the machine's disk out of its image, before the first start.
// The disk is raw from then on: a format that QEMU had to guess could be forged
// by the machine, to have a file of this computer shown to it.
func (vm *VM) copyDiskImage(ctx context.Context, image string) error {
	if image == "" {
		return nil
	}
	if made, err := vm.madeOf(image); made || err != nil {
		return err
	}
	format, err := imageFormat(image)
	if err != nil {
		return err
	}
	qemuImg, err := exec.LookPath("qemu-img")
	if err != nil {
		return errors.New("copying a disk image needs qemu-img: install it (Debian's package is qemu-utils)")
	}
	part := vm.path("state.img.part")
	if out, err := exec.CommandContext(ctx, qemuImg, "convert", "-f", format, "-O", "raw", image, part).CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("copy disk image %s: %w: %s", image, err, bytes.TrimSpace(out)), os.Remove(part))
	}
	return os.Rename(part, vm.path("state.img"))
}

// madeOf tells whether the disk was made of the image. What is left of a first
// start that failed does not count.
func (vm *VM) madeOf(image string) (bool, error) {
	for _, name := range []string{"vm.json", "state.img"} {
		if _, err := os.Stat(vm.path(name)); errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
	}
	s, err := vm.Settings()
	if err == nil && s.DiskImage != image {
		err = fmt.Errorf("machine %s has a disk already that was not made of %s: remove the machine first (`wherry vm rm %s`), or give a new one another name", vm.name, image, vm.name)
	}
	return true, err
}

// imageFormat finds out what a disk image is, as qemu-img names it.
func imageFormat(image string) (string, error) {
	f, err := os.Open(image)
	if err != nil {
		return "", fmt.Errorf("disk image: %w (build it with `wherry build --format raw`)", err)
	}
	defer f.Close()
	var magic [4]byte
	if _, err := f.Read(magic[:]); err != nil {
		return "", fmt.Errorf("disk image %s: %w", image, err)
	}
	switch {
	case string(magic[:]) == "QFI\xfb":
		return "qcow2", nil
	case string(magic[:]) == "KDMV":
		return "vmdk", nil
	case strings.HasSuffix(image, ".ova") || strings.HasSuffix(image, ".tar.gz"):
		return "", fmt.Errorf("disk image %s is an archive: unpack it with tar and give the disk in it", image)
	}
	// A fixed VHD is a raw disk with a footer behind it.
	var footer [8]byte
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("disk image %s: %w", image, err)
	}
	if _, err := f.ReadAt(footer[:], max(0, info.Size()-512)); err == nil && string(footer[:]) == "conectix" {
		return "vpc", nil
	}
	return "raw", nil
}
