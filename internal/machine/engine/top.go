// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/moby/sys/user"
	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/linux/process"
)

const (
	// maxTop is how many processes are described.
	maxTop        = 4096
	maxCommandLen = 4096
)

// Top lists the processes of a running container by their age.
func (e *Engine) Top(ctx context.Context, ref string) ([]*wherryv1.Process, error) {
	c, err := e.table.find(ref, false)
	if err != nil {
		return nil, err
	}
	r, err := c.runningOrError()
	if err != nil {
		return nil, err
	}
	pids, err := e.shim.Pids(ctx, c.id)
	if err != nil {
		return nil, fmt.Errorf("list the processes of container %s: %w", c.record().Name, err)
	}
	names := userNames(r.pid)
	boot := bootTime()
	list := []*wherryv1.Process{}
	for _, pid := range pids[:min(len(pids), maxTop)] {
		s, err := process.ReadStat(pid)
		if err != nil {
			continue // it has just ended
		}
		list = append(list, &wherryv1.Process{
			Pid: uint32(pid), Parent: uint32(s.Parent), UserId: s.UserID, User: names[s.UserID], State: s.State, CpuUsec: uint64(s.CPU.Microseconds()),
			MemoryBytes: s.Memory, StartedAt: timestamppb.New(boot.Add(s.Start)), Command: truncate(validText([]byte(s.Command)), maxCommandLen),
		})
	}
	slices.SortFunc(list, func(a, b *wherryv1.Process) int {
		return a.StartedAt.AsTime().Compare(b.StartedAt.AsTime())
	})
	return list, nil
}

// userNames reads the container's own /etc/passwd; one that can't be read has no names.
func userNames(pid int) map[uint32]string {
	names := map[uint32]string{}
	root, err := openRootDir(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return names
	}
	defer root.Close()
	b, err := readUserFile(root, "/etc/passwd")
	if err != nil {
		return names
	}
	users, err := user.ParsePasswd(bytes.NewReader(b))
	if err != nil {
		return names
	}
	for _, u := range users {
		if _, known := names[uint32(u.Uid)]; !known {
			names[uint32(u.Uid)] = truncate(validText([]byte(u.Name)), 64)
		}
	}
	return names
}

// bootTime is when the machine's clock of process starts began, by today's clock.
func bootTime() time.Time {
	return time.Now().Add(-process.SinceBoot())
}
