// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/linux/module"
	"wherry.example/wherry/internal/linux/random"
	"wherry.example/wherry/internal/linux/uevent"
)

// unwanted are modules that hardware asks for and a container host has no use
// for. They stay in the image: a configuration may name them. Each module left
// out saves at least 30 million instructions, most of them to check its signature.
var unwanted = []string{
	"psmouse", "serio_raw", "pcspkr", "joydev", "mousedev", "evdev", "floppy", "parport_pc", "snd_hda_intel", "snd_intel8x0",
	"bochs", "cirrus", "qxl", "virtio_gpu", "i915", "amdgpu", "nouveau", "sr_mod", "uvcvideo", "bluetooth", "btusb",
}

// unwantedBuses begin the modaliases that are not followed. What a CPU can do
// asks for some twenty crypto modules; the crypto API asks for them again when
// somebody wants the algorithm.
var unwantedBuses = []string{"input:", "dmi:", "cpu:"}

// maxAlias bounds a modalias; the kernel's own bound is a page.
const maxAlias = 4096

// settledFile exists once the modules for all devices that were there at boot
// are loaded. Until then a disk that is missing may still appear.
const settledFile = "/run/wherry/settled"

// latePriority is the nice value at which modules load beside wherryd.
const latePriority = 10

// coldplug loads the modules that the hardware which is there asks for. It
// returns when wherryd has what nearly every machine needs to begin: its
// configuration, its links and a hypervisor's disk. The rest (a SATA
// controller's six empty ports cost a third of a boot) is loaded beside
// wherryd, which waits for settledFile only while it finds no state.
func (m *machine) coldplug() {
	l := m.modules
	m.modules = nil
	if l == nil {
		var err error
		if l, err = module.Open(modules); err != nil {
			m.log.Errorf("modules for the hardware: %v", err)
			m.settled()
			return
		}
	}
	soon, later := split(aliases("/sys"), random.Ready())
	m.load(l, wanted(l.Match, soon))
	go func() {
		defer m.survive("modules for the hardware")
		// The index was most of this program's memory.
		defer debug.FreeOSMemory()
		defer m.settled()
		// The thread is not given back: it ends with the goroutine, and its priority with it.
		runtime.LockOSThread()
		unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), latePriority)
		m.load(l, wanted(l.Match, later))
		m.loadRevealed(l)
	}()
}

func (m *machine) settled() {
	if err := os.WriteFile(settledFile, nil, 0o644); err != nil {
		m.log.Errorf("%v", err)
	}
}

// split takes apart what wherryd needs at once and what can wait.
func split(aliases []string, entropy bool) (soon, later []string) {
	for _, a := range aliases {
		if urgent(a) || !entropy && strings.HasPrefix(a, "virtio:d00000004v") {
			soon = append(soon, a)
		} else {
			later = append(later, a)
		}
	}
	return soon, later
}

// urgent are the network adapters and disks of hypervisors, other network
// adapters, and the configuration that QEMU hands over.
func urgent(alias string) bool {
	for _, p := range []string{"virtio:d00000001v", "virtio:d00000002v", "virtio:d00000008v", "vmbus:", "xen:", "acpi:QEMU0002:"} {
		if strings.HasPrefix(alias, p) {
			return true
		}
	}
	return strings.HasPrefix(alias, "pci:") && strings.Contains(alias, "bc02")
}

// aliases reads what the devices on all buses ask for, each once. Devices that
// are on no bus (input, dmi) are left out with that.
func aliases(sysfs string) []string {
	var out []string
	for _, bus := range names(filepath.Join(sysfs, "bus")) {
		dir := filepath.Join(sysfs, "bus", bus, "devices")
		for _, device := range names(dir) {
			text, err := os.ReadFile(dir + "/" + device + "/modalias")
			if a := strings.TrimSpace(string(text)); err == nil && a != "" && len(a) <= maxAlias {
				out = append(out, a)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// names lists a directory; one that can't be read is empty.
func names(dir string) []string {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	out, _ := d.Readdirnames(-1)
	return out
}

// wanted returns the modules that the aliases ask for, without those that nobody here needs.
func wanted(match func(string) []string, aliases []string) []string {
	var out []string
	for _, a := range aliases {
		if slices.ContainsFunc(unwantedBuses, func(bus string) bool { return strings.HasPrefix(a, bus) }) {
			continue
		}
		for _, name := range match(a) {
			if !slices.Contains(unwanted, name) && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// maxDepth bounds how often a driver may reveal devices that need another one
// (controller, disk, partition table …).
const maxDepth = 4

// loadRevealed loads what the devices ask for that the drivers have found so
// far. The listener of hotplug hears of them too; but only this tells when all
// of it is done.
func (m *machine) loadRevealed(l *module.Loader) {
	var before []string
	for range maxDepth {
		names := wanted(l.Match, aliases("/sys"))
		if slices.Equal(names, before) {
			return
		}
		m.load(l, names)
		before = names
	}
}

// load loads modules side by side as far as there are CPUs: much of the work
// (signature, relocation, probing) is done in the process that asks. Each
// failure is a line of the log and no reason to stop.
func (m *machine) load(l *module.Loader, names []string) {
	m.log.Debugf("modules for the hardware: %s", strings.Join(names, " "))
	todo := make(chan string, len(names))
	for _, n := range names {
		todo <- n
	}
	close(todo)
	work := func() {
		defer m.survive("load modules")
		for n := range todo {
			begun := time.Now()
			if err := l.Load(n); err != nil {
				m.log.Errorf("modules for the hardware: %v", err)
			}
			if took := time.Since(begun); took > time.Millisecond {
				m.log.Debugf("module %s: %s", n, took.Round(time.Microsecond))
			}
		}
	}
	var others sync.WaitGroup
	for range min(runtime.NumCPU(), len(names)) - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
}

// hotplug does the same for devices that appear later. The listener is open
// since before coldplug, so that nothing is missed in between.
func (m *machine) hotplug() error {
	if m.events == nil {
		events, err := uevent.Listen()
		if err != nil {
			return err
		}
		m.events = events
	}
	for {
		e, err := m.events.Next()
		switch {
		case errors.Is(err, uevent.ErrLost):
			m.coldplug()
		case err != nil:
			m.events.Close()
			m.events = nil
			return err
		case e.Action == "add" && e.Vars["MODALIAS"] != "" && !m.flags.noColdplug:
			m.plugged(e.Vars["MODALIAS"])
		}
	}
}

// plugged loads the modules for one new device. The index is read anew: it is
// needed rarely, and would be the largest part of this program's memory.
func (m *machine) plugged(alias string) {
	if len(alias) > maxAlias {
		return
	}
	l, err := module.Open(modules)
	if err != nil {
		m.log.Errorf("modules for a new device: %v", err)
		return
	}
	names := wanted(l.Match, []string{alias})
	if len(names) == 0 {
		return
	}
	m.log.Infof("new device: loading %s", strings.Join(names, " "))
	if err := l.Load(names...); err != nil {
		m.log.Errorf("modules for a new device: %v", err)
	}
}
