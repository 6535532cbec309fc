// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"slices"
	"sync"
	"time"

	"wherry.example/wherry/internal/linux/module"
	"wherry.example/wherry/internal/linux/power"
	"wherry.example/wherry/internal/linux/watchdog"
)

const (
	// dogTimeout is how long this program may be silent. An emulated machine on
	// a busy computer can stand still for many seconds.
	dogTimeout = 60 * time.Second
	// petEvery leaves room for two that come late, also where the hardware
	// knows only half of dogTimeout.
	petEvery = 10 * time.Second
	// softDog is the kernel's own watchdog: it sees when this program hangs, and
	// all machines have it. A kernel that hangs is seen by hardware alone.
	softDog = "softdog"
)

// kennel holds the machine's watchdogs. They are started as soon as their
// driver is there: the kernel's own before any driver of a device, the hardware's after.
type kennel struct {
	mu   sync.Mutex
	dogs []*watchdog.Dog
	// left: nobody resets the timers any more, or there are none to reset.
	left bool
}

// startSoftDog is the first thing done in the root: what hangs from now on is
// reset. In the initramfs nothing waits for a device. The modules' index is
// kept for coldplug.
func (m *machine) startSoftDog() {
	var err error
	if m.modules, err = module.Open(modules); err == nil {
		err = m.modules.Load(softDog)
	}
	if err != nil {
		m.log.Errorf("watchdog: %v", err)
	}
	m.startDogs()
}

// startDogs starts the watchdogs that have appeared, and resets the timers of all.
func (m *machine) startDogs() {
	k := &m.kennel
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.left {
		return
	}
	for _, name := range watchdog.List("/sys") {
		if slices.ContainsFunc(k.dogs, func(d *watchdog.Dog) bool { return d.Name == name }) {
			continue
		}
		d, err := watchdog.Open(name, dogTimeout)
		if err != nil {
			m.log.Errorf("%v", err)
			continue
		}
		m.log.Infof("watchdog %s (%s) resets the machine after %s of silence", d.Name, d.Identity, d.Timeout)
		k.dogs = append(k.dogs, d)
	}
	for _, d := range k.dogs {
		if err := d.Pet(); err != nil {
			m.log.Errorf("%v", err)
		}
	}
}

// alive is called by the loop that hears requests; once the boot is done, nothing
// else resets the timers: a machine that nobody can end or restart is reset. The
// reaper must answer too; without it nothing that ends is noticed.
func (m *machine) alive() {
	m.reaper.answer()
	m.startDogs()
}

// leaveDogs has the timers run out: what hangs on the way to the end is reset
// by them. A machine that is to stay off, or as it is, must not be reset.
func (m *machine) leaveDogs(end power.End) {
	if end == power.Off {
		m.disarmDogs()
		return
	}
	m.startDogs()
	m.kennel.mu.Lock()
	defer m.kennel.mu.Unlock()
	m.kennel.left = true
}

func (m *machine) disarmDogs() {
	m.kennel.mu.Lock()
	defer m.kennel.mu.Unlock()
	m.kennel.left = true
	for _, d := range m.kennel.dogs {
		if err := d.Disarm(); err != nil {
			m.log.Errorf("%v", err)
		}
	}
	m.kennel.dogs = nil
}
