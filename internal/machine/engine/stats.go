// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
)

const (
	statsPeriod = time.Second
	statsOnce   = 300 * time.Millisecond // between the two looks that a CPU share needs
)

// Stats sends a sample every second, or one. It reads a few small files per
// container and starts nothing.
func (e *Engine) Stats(ctx context.Context, refs []string, once bool, send func(*wherryv1.StatsSample) error) error {
	if len(refs) > maxContainers {
		return errorf(KindInvalid, "too many containers are named")
	}
	for _, ref := range refs {
		if _, err := e.table.find(ref, false); err != nil {
			return err
		}
	}
	period := statsPeriod
	before, at := e.sample(refs), time.Now()
	if once {
		period = statsOnce
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now := time.Now()
		list := e.sample(refs)
		fillCPU(list, before, now.Sub(at))
		if err := send(&wherryv1.StatsSample{Time: timestamppb.New(now), Stats: list}); err != nil || once {
			return err
		}
		before, at = list, now
	}
}

func fillCPU(now, before []*wherryv1.ContainerStats, elapsed time.Duration) {
	used := map[string]uint64{}
	for _, s := range before {
		used[s.Id] = s.CpuUsec
	}
	for _, s := range now {
		if u, ok := used[s.Id]; ok && s.CpuUsec >= u && elapsed > 0 {
			s.CpuPercent = float64(s.CpuUsec-u) / float64(elapsed.Microseconds()) * 100
		}
	}
}

// sample reads all running containers, or the named ones that run.
func (e *Engine) sample(refs []string) []*wherryv1.ContainerStats {
	var list []*wherryv1.ContainerStats
	total := machineMemory()
	add := func(c *container) {
		if r := c.running(); r != nil && !c.system {
			list = append(list, e.readStats(c, r, total))
		}
	}
	if len(refs) == 0 {
		for _, c := range e.table.all() {
			add(c)
		}
	}
	for _, ref := range refs {
		if c, err := e.table.find(ref, false); err == nil {
			add(c)
		}
	}
	return list
}

func (e *Engine) readStats(c *container, r *run, total uint64) *wherryv1.ContainerStats {
	dir := e.cgroupPath(c.id)
	s := &wherryv1.ContainerStats{Id: c.id, Name: c.record().Name, MemoryLimitBytes: total}
	s.CpuUsec = readCounters(filepath.Join(dir, "cpu.stat"))["usage_usec"]
	s.MemoryBytes = readNumber(filepath.Join(dir, "memory.current"))
	if cache := readCounters(filepath.Join(dir, "memory.stat"))["inactive_file"]; cache < s.MemoryBytes {
		s.MemoryBytes -= cache
	}
	if limit := readNumber(filepath.Join(dir, "memory.max")); limit > 0 && limit < total {
		s.MemoryLimitBytes = limit
	}
	s.Pids = readNumber(filepath.Join(dir, "pids.current"))
	s.BlockReadBytes, s.BlockWriteBytes = readBlockIO(filepath.Join(dir, "io.stat"))
	if c.record().Effective.NetworkMode != wherryv1.NetworkMode_NETWORK_MODE_HOST {
		s.NetworkRxBytes, s.NetworkTxBytes = readNetwork(fmt.Sprintf("/proc/%d/net/dev", r.pid))
	}
	return s
}

func machineMemory() uint64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	if f := strings.Fields(line); len(f) == 3 && f[0] == "MemTotal:" {
		n, _ := strconv.ParseUint(f[1], 10, 64)
		return n << 10
	}
	return 0
}

// readNumber is 0 for a missing file and for "max".
func readNumber(path string) uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// readBlockIO sums "MAJ:MIN rbytes=N wbytes=N …" over the devices.
func readBlockIO(path string) (read, written uint64) {
	b, _ := os.ReadFile(path)
	for _, f := range strings.Fields(string(b)) {
		name, value, _ := strings.Cut(f, "=")
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			continue
		}
		switch name {
		case "rbytes":
			read += n
		case "wbytes":
			written += n
		}
	}
	return read, written
}

// readNetwork sums /proc/PID/net/dev over all links but the loopback.
func readNetwork(path string) (rx, tx uint64) {
	b, _ := os.ReadFile(path)
	for line := range strings.Lines(string(b)) {
		name, rest, found := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !found || strings.TrimSpace(name) == "lo" || len(f) < 16 {
			continue
		}
		r, _ := strconv.ParseUint(f[0], 10, 64)
		t, _ := strconv.ParseUint(f[8], 10, 64)
		rx, tx = rx+r, tx+t
	}
	return rx, tx
}
