// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"wherry.example/wherry/internal/linux/module"
	"wherry.example/wherry/internal/linux/uevent"
)

// unwanted are modules that hardware asks for and a container host has no use
// for. They stay in the image: a configuration may name them.
var unwanted = []string{
	"psmouse", "pcspkr", "joydev", "mousedev", "evdev", "floppy", "parport_pc", "snd_hda_intel", "snd_intel8x0",
	"bochs", "cirrus", "qxl", "virtio_gpu", "i915", "amdgpu", "nouveau", "sr_mod", "uvcvideo", "bluetooth", "btusb",
}

// unwantedBuses begin the modaliases that are not followed. What a CPU can do
// asks for some twenty crypto modules; the crypto API asks for them again when
// somebody wants the algorithm.
var unwantedBuses = []string{"input:", "dmi:", "cpu:"}

// maxAlias bounds a modalias; the kernel's own bound is a page.
const maxAlias = 4096

// coldplug loads the modules that the hardware which is there asks for.
func (m *machine) coldplug() {
	l, err := module.Open(modules)
	if err != nil {
		m.log.Errorf("modules for the hardware: %v", err)
		return
	}
	names := wanted(l.Match, aliases("/sys"))
	m.log.Debugf("modules for the hardware: %s", strings.Join(names, " "))
	if err := loadAll(l, names); err != nil {
		m.log.Errorf("modules for the hardware: %v", err)
	}
}

// aliases reads what the devices on all buses ask for, each once.
func aliases(sysfs string) []string {
	// Devices of classes (input, dmi) are left out on purpose: see unwantedBuses.
	files, _ := filepath.Glob(filepath.Join(sysfs, "bus/*/devices/*/modalias"))
	var out []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if a := strings.TrimSpace(string(text)); err == nil && a != "" && len(a) <= maxAlias {
			out = append(out, a)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
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

// loadAll loads modules side by side, as far as there are CPUs: much of the
// work (signature, relocation, probing) is done in the loading process.
func loadAll(l *module.Loader, names []string) error {
	todo := make(chan string, len(names))
	for _, n := range names {
		todo <- n
	}
	close(todo)
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for range min(runtime.NumCPU(), max(len(names), 1)) {
		wg.Go(func() {
			for n := range todo {
				if err := l.Load(n); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// hotplug does the same for devices that appear later.
func (m *machine) hotplug() error {
	events, err := uevent.Listen()
	if err != nil {
		return err
	}
	defer events.Close()
	for {
		e, err := events.Next()
		switch {
		case errors.Is(err, uevent.ErrLost):
			m.coldplug()
		case err != nil:
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
