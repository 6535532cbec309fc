// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/linux/loop"
	"wherry.example/wherry/internal/linux/mount"
	"wherry.example/wherry/internal/linux/power"
	"wherry.example/wherry/internal/linux/process"
)

// How long each part of the end may take. wherryd's own time is in policy.
const (
	termGrace    = 5 * time.Second
	killGrace    = 5 * time.Second
	unmountGrace = 10 * time.Second
	syncGrace    = 20 * time.Second
)

// deadline ends the run by force when something in the end itself hangs: a
// machine that does not come back is worse than a file system that needs its log replayed.
func (m *machine) deadline(end power.End) {
	defer m.survive("deadline")
	time.Sleep(policy.Grace + policy.KillGrace + termGrace + killGrace + unmountGrace + 2*syncGrace)
	m.log.Errorf("the end takes too long: ending by force")
	m.finish(end)
}

// shutdown ends the run after wherryd has stopped its containers and itself.
func (m *machine) shutdown(end power.End) {
	m.stopAll()
	m.unmountAll()
	within(syncGrace, unix.Sync)
	m.notice("%s", end)
	m.finish(end)
}

// finish calls the firmware, by a second way when the first one fails.
func (m *machine) finish(end power.End) {
	m.leaveDogs(end)
	m.log.Errorf("%v", end.Do())
	m.log.Errorf("%v", setting{"/proc/sysrq-trigger", map[power.End]string{power.Restart: "b", power.Off: "o"}[end]}.Do())
}

// stopAll ends whatever still runs: containers that wherryd could not stop, shims, exec sessions.
func (m *machine) stopAll() {
	for _, way := range []struct {
		signal unix.Signal
		grace  time.Duration
	}{{unix.SIGTERM, termGrace}, {unix.SIGKILL, killGrace}} {
		left := process.Alive()
		if len(left) == 0 {
			return
		}
		m.notice("%s to %s", unix.SignalName(way.signal), describe(left))
		unix.Kill(-1, way.signal)
		until(way.grace, func() bool { return len(process.Alive()) == 0 })
	}
	if left := process.Alive(); len(left) > 0 {
		m.log.Errorf("still there after SIGKILL: %s", describe(left))
	}
}

// maxDescribed bounds a line about processes.
const maxDescribed = 8

func describe(pids []int) string {
	var names []string
	for _, pid := range pids[:min(len(pids), maxDescribed)] {
		names = append(names, fmt.Sprintf("%s(%d)", process.Name(pid), pid))
	}
	if more := len(pids) - maxDescribed; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, " ")
}

// unmountAll unmounts everything that can be, newest first, again and again
// while something is still held; what stays is made read-only. So is, with
// nothing wrong, the file system that the root is read from (package osimage):
// it is then as clean on its disk as an unmounted one.
func (m *machine) unmountAll() {
	var left []mount.Entry
	until(unmountGrace, func() bool {
		left = m.unmountOnce()
		return len(left) == 0
	})
	for _, e := range left {
		if err := mount.ReadOnly(e.Target); err != nil {
			m.log.Errorf("%v", err)
		} else {
			m.log.Errorf("%s is still in use: it is read-only now", e.Target)
		}
	}
}

// unmountOnce returns the mounts that are left.
func (m *machine) unmountOnce() (left []mount.Entry) {
	all, err := mount.List()
	if err != nil {
		m.log.Errorf("%v", err)
		return nil
	}
	below := underRoot(all, rootFiles(all))
	for _, e := range toUnmount(all) {
		if err := endMount(e, below); err != nil {
			m.log.Debugf("%v", err)
			left = append(left, e)
		}
	}
	return left
}

// endMount ends the writing to a mount: by unmounting it unless it is the one below the root.
func endMount(e mount.Entry, below string) error {
	if e.Target == below {
		return mount.ReadOnly(e.Target)
	}
	return mount.Undo(e.Target, unix.UMOUNT_NOFOLLOW)
}

// rootFiles are the files that the root is read from, while they have a name.
func rootFiles(all []mount.Entry) []string {
	for _, e := range slices.Backward(all) {
		if e.Target == "/" {
			return loop.Files("/sys", loop.Name("/sys", e.Device))
		}
	}
	return nil
}

// underRoot returns the mount that holds a file of the root's; empty when they are all in memory.
func underRoot(all []mount.Entry, files []string) (target string) {
	for _, e := range all {
		holds := slices.ContainsFunc(files, func(file string) bool { return strings.HasPrefix(file, e.Target+"/") })
		if holds && !kept(e.Target) && len(e.Target) >= len(target) {
			target = e.Target
		}
	}
	return target
}

// toUnmount picks what holds data and must be written, and what is mounted on
// that, newest first. The kernel's own file systems and the root need no end.
func toUnmount(all []mount.Entry) []mount.Entry {
	var out []mount.Entry
	for _, e := range all {
		if !kept(e.Target) {
			out = append(out, e)
		}
	}
	slices.Reverse(out)
	return out
}

func kept(target string) bool {
	if target == "/" {
		return true
	}
	return slices.ContainsFunc([]string{"/proc", "/sys", "/dev"}, func(dir string) bool {
		return target == dir || strings.HasPrefix(target, dir+"/")
	})
}

// until tries f often, until it says that it is done or the time is over.
func until(d time.Duration, f func() bool) {
	for end := time.Now().Add(d); !f() && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
}

// within runs f and waits for it no longer than d.
func within(d time.Duration, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(d):
	}
}
