// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Command guest is PID 1 of the storage tests' machine: the kernel and modules
// of the real image with nothing but the packages under test above them. It
// opens the state, runs the script that the test hands over as the machine's
// configuration, one line after the other, tells on the console how each went,
// and says that it is ready. The power button unmounts the state in order.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/linux/module"
	"wherry.example/wherry/internal/linux/power"
	"wherry.example/wherry/internal/machine/status"
	"wherry.example/wherry/internal/machine/storage"
	"wherry.example/wherry/internal/machine/volume"
)

const state = "/state"

func main() {
	console := os.Stdout
	if err := run(console); err != nil {
		fmt.Fprintf(console, "guest: failed: %v\n", err)
		time.Sleep(100 * time.Millisecond) // until the console has shown it
	}
	fmt.Fprintln(os.Stderr, power.Off.Do())
}

func run(console io.Writer) error {
	for _, m := range []struct{ kind, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	modules, err := module.Open("/modules")
	if err != nil {
		return err
	}
	if err := modules.Load("virtio_blk", "qemu_fw_cfg", "button", "xfs"); err != nil {
		return err
	}
	button, err := power.OpenButton()
	if err != nil {
		return err
	}
	board := &status.Board{}
	began := time.Now()
	s, err := storage.Open(context.Background(), storage.Options{
		Dir: state, Board: board, Log: slog.New(slog.NewTextHandler(console, nil)),
	})
	if err != nil {
		return err
	}
	report(console, s, board, time.Since(began))
	script, err := os.ReadFile("/sys/firmware/qemu_fw_cfg/by_name/opt/wherry/config/raw")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for line := range strings.Lines(string(script)) {
		fmt.Fprintf(console, "guest: %s: %s\n", strings.TrimSpace(line), outcome(do(strings.Fields(line))))
	}
	fmt.Fprintf(console, "wherry: ready name=guest api=:9473 key=SHA256:%043d version=0 state=%s\n", 0, kind(s))
	if err := button.Wait(); err != nil {
		return err
	}
	return unix.Unmount(state, 0)
}

func report(w io.Writer, s *storage.Storage, board *status.Board, took time.Duration) {
	info := s.State()
	fmt.Fprintf(w, "guest: state=%s device=%s MiB=%d took=%v\n", kind(s), info.Device, info.TotalBytes>>20, took)
	for _, line := range board.List() {
		fmt.Fprintf(w, "guest: board %s ready=%v %s\n", line.Name, line.Ready, line.Message)
	}
	disks, err := s.Disks()
	fmt.Fprintf(w, "guest: disks %v %v\n", describe(disks), outcome(err))
}

func describe(disks []*wherryv1.Disk) string {
	var out []string
	for _, d := range disks {
		out = append(out, fmt.Sprintf("%s:%s:%v", d.Name, d.Content, d.HoldsState))
	}
	return strings.Join(out, ",")
}

func kind(s *storage.Storage) string {
	if s.Persistent() {
		return "persistent"
	}
	return "memory"
}

func outcome(err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	return "ok"
}

// do runs one line of the script.
func do(words []string) error {
	switch {
	case len(words) == 2 && words[0] == "write":
		return write(filepath.Join(state, words[1]), 4<<20)
	case len(words) == 2 && words[0] == "check":
		return check(filepath.Join(state, words[1]))
	case len(words) == 2 && words[0] == "limit":
		return limited(words[1])
	}
	return fmt.Errorf("unknown line of the script: %q", words)
}

// write makes a file that tells its own checksum, and makes it durable.
func write(path string, size int) error {
	body := bytes.Repeat([]byte(path), size/len(path))
	sum := sha256.Sum256(body)
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(append(sum[:], body...)); err != nil {
		return err
	}
	return errors.Join(f.Sync(), syncDir(filepath.Dir(path)))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func check(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if len(data) < sha256.Size || sha256.Sum256(data[sha256.Size:]) != [sha256.Size]byte(data[:sha256.Size]) {
		return errors.New("the file is damaged")
	}
	return nil
}

// limited makes a volume with a limit in MiB and finds out whether it holds.
func limited(mib string) error {
	n, err := strconv.ParseUint(mib, 10, 32)
	if err != nil {
		return err
	}
	ctx := context.Background()
	v, err := volume.Open(volume.Options{Dir: filepath.Join(state, "volumes"), Log: slog.Default()})
	if err != nil {
		return err
	}
	if _, err := v.CreateVolume(ctx, &wherryv1.CreateVolumeRequest{Name: "limited", LimitBytes: n << 20}); err != nil {
		return err
	}
	dir, err := v.Ensure(ctx, "limited", false)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
		return err
	}
	if err := write(filepath.Join(dir, "a", "b", "small"), int(n<<20)/2); err != nil {
		return fmt.Errorf("half of the limit: %w", err)
	}
	if err := write(filepath.Join(dir, "a", "large"), int(n<<20)); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("beyond the limit: %v", err)
	}
	got, err := v.InspectVolume(ctx, "limited")
	if err != nil {
		return err
	}
	if got.UsedBytes < n<<20/2 || got.UsedBytes > n<<20 || got.LimitBytes != n<<20 {
		return fmt.Errorf("used %d of %d bytes", got.UsedBytes, got.LimitBytes)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Blocks*uint64(fs.Bsize) != n<<20 {
		return fmt.Errorf("the volume shows a size of %d bytes, %v", fs.Blocks*uint64(fs.Bsize), err)
	}
	if err := v.RemoveVolume(ctx, "limited", false); err != nil {
		return err
	}
	return unlimitedAgain(v)
}

// unlimitedAgain makes sure that a limit does not stick to the next volume.
func unlimitedAgain(v *volume.Volumes) error {
	dir, err := v.Ensure(context.Background(), "free", false)
	if err != nil {
		return err
	}
	return write(filepath.Join(dir, "large"), 64<<20)
}
