// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"
	"wherry.example/wherry/api/wherryv1"
)

const (
	kmsg = "/dev/kmsg"
	// maxRecord is the kernel's bound of one record with its dictionary.
	maxRecord = 16 << 10
	// maxKernelLines bounds what is held back to find the last lines of.
	maxKernelLines = 20000
)

// streamKernel sends the kernel's ring buffer from a device as /dev/kmsg is.
func streamKernel(ctx context.Context, path string, req *wherryv1.StreamLogRequest, send func(*wherryv1.LogLine) error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the kernel's log: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
	boot := bootTime()
	kept, err := readKept(f, boot)
	if err != nil {
		return err
	}
	if n := int(req.Tail); n > 0 && n < len(kept) {
		kept = kept[len(kept)-n:]
	}
	for _, l := range kept {
		if err := send(l); err != nil {
			return err
		}
	}
	for req.Follow {
		l, err := readRecord(f, boot, true)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil && l != nil {
			err = send(l)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readKept reads what the kernel has kept until now.
func readKept(f *os.File, boot time.Time) ([]*wherryv1.LogLine, error) {
	var lines []*wherryv1.LogLine
	for len(lines) < maxKernelLines {
		l, err := readRecord(f, boot, false)
		if errors.Is(err, errNoMore) {
			break
		}
		if err != nil {
			return nil, err
		}
		if l != nil {
			lines = append(lines, l)
		}
	}
	return lines, nil
}

var errNoMore = errors.New("no more records")

// readRecord reads one record; wait says whether for one that is still to come.
// The result is nil for a record that says nothing.
func readRecord(f *os.File, boot time.Time, wait bool) (*wherryv1.LogLine, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's log: %w", err)
	}
	buf := make([]byte, maxRecord)
	var n int
	var readErr error
	err = conn.Read(func(fd uintptr) bool {
		n, readErr = unix.Read(int(fd), buf)
		return !wait || !errors.Is(readErr, syscall.EAGAIN)
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the kernel's log: %w", err)
	case errors.Is(readErr, syscall.EAGAIN), readErr == nil && n == 0:
		return nil, errNoMore
	case errors.Is(readErr, syscall.EPIPE), errors.Is(readErr, syscall.EINTR): // records were overwritten: go on with the oldest
		return nil, nil
	case readErr != nil:
		return nil, fmt.Errorf("read the kernel's log: %w", readErr)
	}
	return parseRecord(string(buf[:n]), boot), nil
}

// parseRecord reads "priority,sequence,microseconds,flags;text\n key=value…".
func parseRecord(record string, boot time.Time) *wherryv1.LogLine {
	head, text, ok := strings.Cut(record, ";")
	fields := strings.Split(head, ",")
	if !ok || len(fields) < 3 {
		return nil
	}
	text, _, _ = strings.Cut(text, "\n")
	usec, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return nil
	}
	return &wherryv1.LogLine{
		Time: timestamppb.New(boot.Add(time.Duration(usec) * time.Microsecond)),
		Text: strings.ToValidUTF8(text, "?"),
	}
}

// bootTime is when the clock of the kernel's log was zero.
func bootTime() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(ts.Nano()))
}
