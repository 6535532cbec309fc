// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"strconv"
	"strings"
)

// defaultCmdline lets the console be the serial port and a machine that
// panicked start again, late enough for the panic to be seen. The kernel does
// not test its timer's wiring, which under emulation on a busy computer fails
// about once in fifty boots, nor its ciphers, which costs a third of the boot.
// Memory for each processor comes in pages instead of blocks of 2 MB: with one
// or two processors that leaves 4 MB to a small machine (docs/decisions/0012).
const defaultCmdline = "console=tty0 console=ttyS0 quiet panic=15 no_timer_check cryptomgr.notests percpu_alloc=page"

// arguments is QEMU's command line. It is run in the machine's directory, so
// the names of the machine's own files are relative and short.
func arguments(name string, s Settings, accelerator string, config bool) []string {
	args := []string{
		"-name", "wherry-" + name,
		"-machine", s.machineType(),
		"-accel", accelOption(accelerator),
		"-cpu", cpuModel(accelerator),
		"-m", strconv.Itoa(s.MemoryMiB) + "M",
		"-smp", strconv.Itoa(s.CPUs),
		"-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", "socket,id=console,path=console.sock,server=on,wait=off,logfile=console.log,logappend=on",
		"-serial", "chardev:console",
		"-qmp", "unix:qmp.sock,server=on,wait=off",
		"-device", "virtio-rng-pci",
		"-netdev", netdev(s),
		// Without a ROM the firmware does not try to boot from the network.
		"-device", s.networkAdapter() + ",netdev=net0,romfile=",
	}
	args = append(append(args, s.bootArguments()...), s.tpmArguments()...)
	if s.DiskBytes > 0 {
		state := s.disk(0, "state", "state.img")
		if s.byFirmware() {
			// Else the firmware tries the network too.
			state[len(state)-1] += ",bootindex=1"
		}
		args = append(args, state...)
	}
	for i, path := range s.ExtraDisks {
		args = append(args, s.disk(i+1, "extra"+strconv.Itoa(i), path)...)
	}
	if s.DiskImage != "" {
		// What the kernel's own watchdog can't see, a kernel that hangs, is reset
		// by this one, where the image has its driver.
		args = append(args, "-device", "i6300esb", "-action", "watchdog=reset")
	}
	if config {
		args = append(args, "-fw_cfg", "name=opt/wherry/config,file=config.yaml")
	}
	return append(args, s.Args...)
}

// accelOption runs emulated processors in turns: in parallel, QEMU now and then
// executes an instruction that the guest's kernel is just patching (an oops
// "int3" about once in fifteen boots on a busy computer). It keeps less of what it
// translated, 128 MB and not 1 GB: after a restart of the guest nothing of it is of use,
// and to forget it page by page costs a third of the boot.
func accelOption(accelerator string) string {
	if accelerator == "tcg" {
		return "tcg,thread=single,tb-size=128"
	}
	return accelerator
}

// cpuModel leaves AVX2 out where the processor is emulated: programs that find it
// use it, and emulated it takes twice as long as what they do without (SHA-256 in
// Go: 8 MB/s and 15).
func cpuModel(accelerator string) string {
	if accelerator == "tcg" {
		return "max,-avx2"
	}
	return "host"
}

func netdev(s Settings) string {
	var b strings.Builder
	b.WriteString("user,id=net0")
	fmt.Fprintf(&b, ",hostfwd=%s", apiForward(s).rule())
	for _, f := range s.Forwards {
		fmt.Fprintf(&b, ",hostfwd=%s", f.rule())
	}
	return b.String()
}

func apiForward(s Settings) Forward {
	return Forward{HostPort: s.APIPort, GuestPort: APIPort}.withDefaults()
}

func (s Settings) networkAdapter() string {
	if s.PC {
		return "e1000e"
	}
	return "virtio-net-pci"
}

// disk is the machine's n-th. The chipset of q35 has six SATA ports.
func (s Settings) disk(n int, id, path string) []string {
	device := "virtio-blk-pci"
	if s.PC {
		device = fmt.Sprintf("ide-hd,bus=ide.%d", n)
	}
	return []string{
		"-drive", "if=none,id=" + id + ",format=raw,discard=unmap,detect-zeroes=unmap,file=" + escape(path),
		"-device", device + ",drive=" + id + ",serial=" + id,
	}
}

// escape makes a value safe inside QEMU's comma-separated options.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }
