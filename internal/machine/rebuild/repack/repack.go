// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package repack is what wherry-shim does when it is called for an update: a
// short-lived process that applies a delta, apart from the one that holds the containers.
//
// It is in that program because it needs the C library that packed the root image, and
// the shim is the one program with C in it; and it is a process of its own so that
// its memory can be bounded (package rebuild on the machine, package differ for the publisher,
// who runs the same program). It reads and writes the files that it is given and nothing else;
// whatever goes wrong is an error on standard error and status 1.
package repack

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"wherry.example/wherry/internal/format/delta"
	"wherry.example/wherry/internal/libzstd"
)

// Commands are the words by which the program is called.
var commands = map[string]func(args []string, in io.Reader, out io.Writer) error{
	"rebuild": rebuild,
	"pack":    pack,
	"codec": func(_ []string, _ io.Reader, out io.Writer) error {
		_, err := fmt.Fprintln(out, libzstd.Codec{}.Name())
		return err
	},
}

// Is tells whether the word is one of this package's.
func Is(command string) bool { return commands[command] != nil }

// Run does what args say, command first.
func Run(args []string, in io.Reader, out io.Writer) error {
	return commands[args[0]](args[1:], in, out)
}

// goMemory is what Go's part is held to; the C library's comes on top, and never while
// the dictionaries of the streams are in use.
const goMemory = 56 << 20

// rebuild makes NEW out of OLD and DELTA, and tells how many bytes of memory it took.
func rebuild(args []string, _ io.Reader, out io.Writer) (err error) {
	var names [4]string
	flags := flag.NewFlagSet("rebuild", flag.ContinueOnError)
	for i, name := range []string{"old", "delta", "scratch", "new"} {
		flags.StringVar(&names[i], name, "", "file")
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	debug.SetMemoryLimit(goMemory)
	debug.SetGCPercent(30)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var files [4]*os.File
	for i, name := range names {
		flag := os.O_RDONLY
		if i >= 2 {
			flag = os.O_RDWR | os.O_CREATE | os.O_TRUNC
		}
		if files[i], err = os.OpenFile(name, flag, 0o600); err != nil {
			return err
		}
		defer files[i].Close() // what was written is synced below
	}
	job := delta.Job{Old: files[0], Delta: files[1], Scratch: files[2], Codec: libzstd.Codec{}, Limits: delta.DefaultLimits()}
	for i, size := range []*int64{&job.OldBytes, &job.DeltaSize} {
		info, err := files[i].Stat()
		if err != nil {
			return err
		}
		*size = info.Size()
	}
	buffered := bufio.NewWriterSize(files[3], 1<<20)
	job.New = buffered
	if err := delta.Apply(ctx, job); err != nil {
		return err
	}
	if err := errors.Join(buffered.Flush(), files[3].Sync()); err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, peak())
	return err
}

// peak is the most memory that this process had, in bytes; 0: unknown. What wait(2)
// tells is no use: it counts the memory of the parent before it became this program.
func peak() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return 0
	}
	return kib << 10
}

// maxContent bounds what pack takes at once.
const maxContent = 16 << 20

// pack packs contents from standard input, each with its length before it, and
// writes frames in the same form. Its arguments are level and logarithms.
func pack(args []string, in io.Reader, out io.Writer) error {
	var numbers [4]int
	if len(args) != len(numbers) {
		return errors.New("usage: pack LEVEL WINDOWLOG CHAINLOG HASHLOG")
	}
	for i := range numbers {
		var err error
		if numbers[i], err = strconv.Atoi(args[i]); err != nil {
			return err
		}
	}
	p := delta.Parameters{Level: numbers[0], WindowLog: numbers[1], ChainLog: numbers[2], HashLog: numbers[3]}
	r := bufio.NewReader(in)
	for {
		size, err := binary.ReadUvarint(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil || size > maxContent {
			return fmt.Errorf("content of %d bytes: %w", size, errors.Join(err, delta.ErrLimit))
		}
		content := make([]byte, size)
		if _, err := io.ReadFull(r, content); err != nil {
			return err
		}
		frame, err := libzstd.Codec{}.Pack(p, content)
		if err != nil {
			return err
		}
		if _, err := out.Write(slices.Concat(binary.AppendUvarint(nil, uint64(len(frame))), frame)); err != nil {
			return err
		}
	}
}
