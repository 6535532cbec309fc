// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package differ

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"wherry.example/wherry/internal/format/delta"
)

// programName is where in the root the program is that applies deltas.
const programName = "/bin/wherry-shim"

// MaxMemory is what applying a delta may take on a machine.
const MaxMemory = 96 << 20

// ErrCannot says that an old release has no program that applies deltas, or that it does not
// run here: then machines with that release take full files.
var ErrCannot = errors.New("no deltas can be made from this release")

// Program is the one of the old release that will apply deltas on machines.
type Program struct{ path string }

// ProgramOf takes the program out of an OS file, into a folder.
func ProgramOf(f *File, dir string) (Program, error) {
	i, ok := f.byName[programName]
	if !ok {
		return Program{}, fmt.Errorf("%w: it has no %s", ErrCannot, programName)
	}
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return Program{}, fmt.Errorf("%w: its program runs on Linux on amd64 only, and this is %s on %s", ErrCannot, runtime.GOOS, runtime.GOARCH)
	}
	p := Program{filepath.Join(dir, "wherry-shim")}
	return p, os.WriteFile(p.path, f.content(f.objects[i]), 0o700)
}

// FileProgram is a program that lies in a file.
func FileProgram(path string) Program { return Program{path} }

// Codec asks which compressor the program has.
func (p Program) Codec(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, p.path, "codec").Output()
	if err != nil {
		return "", fmt.Errorf("%w: its program knows nothing of deltas: %w", ErrCannot, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Pack has contents packed.
func (p Program) Pack(ctx context.Context, with delta.Parameters, contents [][]byte, done func(int)) ([][]byte, error) {
	if len(contents) == 0 {
		return nil, nil
	}
	numbers := []string{"pack", strconv.Itoa(with.Level), strconv.Itoa(with.WindowLog), strconv.Itoa(with.ChainLog), strconv.Itoa(with.HashLog)}
	cmd := exec.CommandContext(ctx, p.path, numbers...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { // an error here ends the program, which the reader notices
		defer in.Close()
		for _, c := range contents {
			if _, err := in.Write(append(binary.AppendUvarint(nil, uint64(len(c))), c...)); err != nil {
				return
			}
		}
	}()
	frames, err := readFrames(bufio.NewReader(out), len(contents), done)
	if err2 := cmd.Wait(); err != nil || err2 != nil {
		return nil, fmt.Errorf("pack with the old release's program: %w: %s", errors.Join(err, err2), bytes.TrimSpace(complaint.Bytes()))
	}
	return frames, nil
}

func readFrames(r *bufio.Reader, count int, done func(int)) ([][]byte, error) {
	const limit = 32 << 20
	var frames [][]byte
	for range count {
		size, err := binary.ReadUvarint(r)
		if err != nil || size > limit {
			return frames, errors.Join(err, errors.New("it gave no frame"))
		}
		frame := make([]byte, size)
		if _, err := io.ReadFull(r, frame); err != nil {
			return frames, err
		}
		frames = append(frames, frame)
		done(len(frames))
	}
	return frames, nil
}

// Verdict is what applying a delta took.
type Verdict struct {
	Memory int64 // bytes, at most at one time
	CPU    float64
}

// Apply applies a delta as a machine will, and compares the result with data byte by byte.
func (p Program) Apply(ctx context.Context, old, data, d []byte) (v Verdict, err error) {
	dir, err := os.MkdirTemp("", "wherry-delta-")
	if err != nil {
		return v, err
	}
	defer os.RemoveAll(dir)
	name := func(n string) string { return filepath.Join(dir, n) }
	if err := errors.Join(os.WriteFile(name("old"), old, 0o600), os.WriteFile(name("delta"), d, 0o600)); err != nil {
		return v, err
	}
	cmd := exec.CommandContext(ctx, p.path, "rebuild", "--old", name("old"), "--delta", name("delta"), "--scratch", name("scratch"), "--new", name("new"))
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return v, fmt.Errorf("try the delta with the old release's program: %w: %s", err, bytes.TrimSpace(complaint.Bytes()))
	}
	if v.Memory, err = strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64); err != nil {
		return v, fmt.Errorf("try the delta with the old release's program: %w", err)
	}
	v.CPU = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	got, err := os.ReadFile(name("new"))
	switch {
	case err != nil:
		return v, err
	case !bytes.Equal(got, data):
		return v, errors.New("the delta does not give the new file")
	case v.Memory > MaxMemory:
		return v, fmt.Errorf("applying the delta takes %d MB of memory, more than %d", v.Memory>>20, MaxMemory>>20)
	}
	return v, nil
}

// XZ packs a stream with the program xz, which makes it smaller than delta.LZMA
// does. Without that program it is delta.LZMA.
func XZ(plain []byte) ([]byte, error) {
	if _, err := exec.LookPath("xz"); err != nil {
		return delta.LZMA(plain)
	}
	cmd := exec.Command("xz", "--format=lzma", "--lzma1=preset=9e,dict=8MiB", "--threads=1", "-c")
	cmd.Stdin = bytes.NewReader(plain)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("xz: %w", err)
	}
	return out, nil
}
