// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package osimage

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/linux/loop"
	"wherry.example/wherry/internal/linux/mount"
)

// rootDevice finds the loop device that holds the root.
func rootDevice() (string, error) {
	all, err := mount.List()
	if err != nil {
		return "", err
	}
	number := ""
	for _, e := range all {
		if e.Target == "/" {
			number = e.Device
		}
	}
	name := loop.Name("/sys", number)
	if loop.Backing("/sys", name) == "" {
		return "", errors.New("the root is not on a loop device")
	}
	return name, nil
}

// moved tells whether a loop device reads what the device mapper checks.
func moved(device string) bool {
	return strings.HasPrefix(loop.Backing("/sys", device), "/dev/dm-")
}

// observe looks at the machine.
func (m *Image) observe(device string) (situation, error) {
	s := situation{Moved: moved(device), Persistent: m.options.Persistent}
	if s.Moved {
		return s, nil
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return s, fmt.Errorf("ask the kernel how much memory there is: %w", err)
	}
	s.Memory = info.Totalram * uint64(info.Unit)
	var fs unix.Statfs_t
	if err := unix.Statfs(m.options.State, &fs); err != nil {
		return s, fmt.Errorf("look at %s: %w", m.options.State, err)
	}
	s.Free = fs.Bavail * uint64(fs.Bsize)
	if own, err := m.stored(); err == nil { // the space of what is replaced or used
		s.Free += own
	}
	var err error
	s.Bytes, err = deviceBytes("/dev/" + device)
	return s, err
}

// stored is the space that images on the disk take.
func (m *Image) stored() (sum uint64, err error) {
	entries, err := os.ReadDir(m.dir())
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			sum += uint64(info.Size())
		}
	}
	return sum, err
}

func deviceBytes(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Seek(0, 2)
}

// available is the memory that the kernel could give to programs, 0 if it does not say.
func available() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	return 0
}
