// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
)

// readerEnv makes the test binary a reader of output and nothing else, in the
// named directory. It starts in milliseconds, so it can be killed often.
const readerEnv = "WHERRY_ENGINE_READER"

// diesEnv names the step at which the reader kills itself, and the how-manieth.
const diesEnv = "WHERRY_ENGINE_DIES"

var readerID = strings.Repeat("5a", idBytes/2)

// readerLog rotates all the time and keeps everything.
var readerLog = &wherryv1.LogOptions{MaxBytes: 50_000, MaxFiles: 1 << 20}

func readerMain(dir string) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	all, err := openHolds(filepath.Join(dir, "holds"), log)
	if err != nil {
		panic(err)
	}
	all.step = diesAt(dir)
	l := newLogFile(dir, readerLog, log)
	all.recover(func(id string) *logFile {
		if id != readerID {
			panic("output of nobody: " + id)
		}
		return l
	})
	s, err := reopenStdio(filepath.Join(dir, "io"), false, false, all.mover(readerID, l))
	if err != nil {
		panic(err)
	}
	fmt.Println("reading")
	s.output.Wait()
}

// diesAt parses diesEnv. "torn" is a step of the kernel's: some of the frames are written.
func diesAt(dir string) func(string) {
	var which string
	var count int
	if _, err := fmt.Sscanf(os.Getenv(diesEnv), "%d %s", &count, &which); err != nil {
		return nil
	}
	which = os.Getenv(diesEnv)[strings.Index(os.Getenv(diesEnv), " ")+1:]
	var seen atomic.Int32
	return func(step string) {
		torn := which == "torn" && step == "place is noted"
		if step != which && !torn || int(seen.Add(1)) != count {
			return
		}
		if torn {
			tearLog(dir)
		}
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
}

// tearLog writes a whole frame and a half to the end of the log.
func tearLog(dir string) {
	l := newLogFile(dir, readerLog, slog.New(slog.DiscardHandler))
	b := appendFrames(nil, wherryv1.Stream_STREAM_STDOUT, time.Now(), []byte("torn 1\ntorn 2\n"))
	f, err := os.OpenFile(l.path(l.seq), os.O_RDWR, 0)
	if err != nil {
		panic(err)
	}
	if _, err := f.WriteAt(b[:len(b)*3/4], l.size); err != nil {
		panic(err)
	}
	f.Close()
}

// talk is what a program writes to both streams while readers come and go.
type talk struct {
	t     *testing.T
	dir   string
	keep  []*os.File // as the shim does
	done  sync.WaitGroup
	wrote [2]int
}

// talkLine is a line that says which it is; its length varies. The probe's flood writes the same.
func talkLine(stream, i int) string {
	return fmt.Sprintf("stream %d line %d %s\n", stream, i, strings.Repeat("-", i*7919%211))
}

// startTalk writes lines to both streams as fast as they are taken, until more says no.
func startTalk(t *testing.T, more func(stream, line int) bool) *talk {
	k := &talk{t: t, dir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(k.dir, "io"), 0o700); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"stdout", "stderr"} {
		path := filepath.Join(k.dir, "io", name)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		keeper, err1 := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		writer, err2 := os.OpenFile(path, os.O_WRONLY, 0)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		k.keep = append(k.keep, keeper)
		k.done.Go(func() {
			defer writer.Close()
			for ; more(i, k.wrote[i]); k.wrote[i]++ {
				if _, err := io.WriteString(writer, talkLine(i, k.wrote[i])); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return k
}

// reader starts a reader; dies is the step at which it kills itself.
func (k *talk) reader(dies string) *exec.Cmd {
	k.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), readerEnv+"="+k.dir, diesEnv+"="+dies)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	if dies == "" { // else it may die before
		bufio.NewReader(out).ReadString('\n')
	}
	return cmd
}

func wasKilled(cmd *exec.Cmd) bool {
	cmd.Wait()
	st, ok := cmd.ProcessState.Sys().(interface{ Signaled() bool })
	return ok && st.Signaled()
}

// check wants every byte of both streams in the log, once and in order.
func (k *talk) check() {
	k.t.Helper()
	for _, f := range k.keep {
		f.Close()
	}
	l := newLogFile(k.dir, readerLog, slog.New(slog.DiscardHandler))
	for _, n := range l.sequence() {
		if st, err := os.Stat(l.path(n)); err != nil || st.Size() > l.bytes {
			k.t.Errorf("a file of the log has %d bytes, %v", st.Size(), err)
		}
	}
	got := checkTalk(k.t, l, func(_, _ int) string { return "" })
	if got != k.wrote {
		k.t.Fatalf("%v lines are in the log; %v were written", got, k.wrote)
	}
}

// checkTalk counts the lines of each stream; each has to be the one after the last.
// What ends a stream, if that is not empty, comes last.
func checkTalk(t *testing.T, l *logFile, ending func(stream, lines int) string) (lines [2]int) {
	t.Helper()
	var rest [2][]byte
	var ended [2]bool
	r := l.reader(l.start())
	defer r.close()
	err := r.drain(t.Context(), func(f frame) error {
		s := f.stream
		rest[s] = append(rest[s], f.data...)
		for !f.piece && len(rest[s]) > 0 {
			got := string(rest[s])
			switch want := talkLine(int(s), lines[s]); {
			case got == want && !ended[s]:
				lines[s]++
			case got == ending(int(s), lines[s]) && !ended[s]:
				ended[s] = true
			default:
				return fmt.Errorf("instead of %q the log has %q", want, got)
			}
			rest[s] = rest[s][:0]
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for s := range rest {
		if len(rest[s]) > 0 || ended[s] != (ending(s, 0) != "") {
			t.Fatalf("the log of stream %d ends after %d lines with %q", s, lines[s], rest[s])
		}
	}
	return lines
}

// inFlight looks how far the output was that a kill met.
func (k *talk) inFlight() (taken, placed bool) {
	all, err := openHolds(filepath.Join(k.dir, "holds"), slog.New(slog.DiscardHandler))
	if err != nil {
		k.t.Fatal(err)
	}
	defer all.close()
	for _, h := range all.idle {
		if size, _ := h.size(); size > h.note.start.Load() {
			taken = true
			placed = placed || h.note.seq.Load() != 0
		}
	}
	return taken, placed
}

// TestOutputSurvivesEachStep has a reader die between each two steps of taking
// a piece of output to the log, and the next one at each step of bringing that back.
func TestOutputSurvivesEachStep(t *testing.T) {
	steps := []string{"whose is noted", "taken", "placed", "place is noted", "torn", "written", "done", "emptied"}
	for _, first := range steps {
		for _, second := range steps {
			k := startTalk(t, func(_, line int) bool { return line < 2000 })
			for i, dies := range []string{"3 " + first, "1 " + second} {
				if !wasKilled(k.reader(dies)) {
					t.Fatalf("reader %d did not get as far as %q after one died at %q", i, dies, first)
				}
			}
			if wasKilled(k.reader("")) {
				t.Fatal("the last reader was killed")
			}
			k.done.Wait()
			k.check()
		}
	}
}

// TestOutputSurvivesKills kills a reader at random moments while both streams
// are written to as fast as they are read and the log rotates.
func TestOutputSurvivesKills(t *testing.T) {
	var enough atomic.Bool
	k := startTalk(t, func(_, _ int) bool { return !enough.Load() })
	var kills, taken, placed int
	for ; kills < 60 || taken < 3 && kills < 600; kills++ {
		cmd := k.reader("")
		time.Sleep(time.Duration(rand.IntN(4000)) * time.Microsecond)
		cmd.Process.Kill()
		cmd.Wait()
		if t, p := k.inFlight(); t {
			taken++
			if p {
				placed++
			}
		}
	}
	enough.Store(true)
	last := k.reader("")
	k.done.Wait()
	if wasKilled(last) {
		t.Fatal("the last reader was killed")
	}
	k.check()
	t.Logf("%d kills; %d met output between FIFO and log, %d of them around its writing; %v lines", kills, taken, placed, k.wrote)
	if taken < 3 {
		t.Error("hardly a kill met output on its way: the test proves nothing")
	}
}

// TestOutputWithoutHold wants output to go on where no hold can be made.
func TestOutputWithoutHold(t *testing.T) {
	dir := t.TempDir()
	var told bytes.Buffer
	all, err := openHolds(filepath.Join(dir, "holds"), slog.New(slog.NewTextHandler(&told, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "holds")); err != nil {
		t.Fatal(err)
	}
	l := testLog(t, 0, 0)
	s, err := makeStdio(filepath.Join(dir, "io"), false, false, all.mover(readerID, l))
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(s.keepers[0], "all the same\n")
	if err := s.read(); err != nil {
		t.Fatal(err)
	}
	s.output.Wait()
	s.close()
	if got := readLog(t, l, l.start()); got != "all the same\n" {
		t.Errorf("the log says %q", got)
	}
	if n := strings.Count(told.String(), "not safe"); n != 1 {
		t.Errorf("it was told %d times: %s", n, &told)
	}
}

// TestLastWordsAreWaitedFor has a FIFO that does not end, as when a process
// escaped with it, and a disk that is slow: what was written by then is kept.
func TestLastWordsAreWaitedFor(t *testing.T) {
	var got bytes.Buffer
	s, err := makeStdio(filepath.Join(t.TempDir(), "io"), true, false, func(stream wherryv1.Stream, fifo int) (int, error) {
		time.Sleep(20 * time.Millisecond)
		b := make([]byte, 1000)
		n, err := unix.Read(fifo, b)
		got.Write(b[:max(n, 0)])
		return max(n, 0), err
	})
	if err != nil {
		t.Fatal(err)
	}
	escaped, err := os.OpenFile(s.names.Stdout, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer escaped.Close()
	want := strings.Repeat("0123456789", 2000)
	io.WriteString(escaped, want)
	if err := s.read(); err != nil {
		t.Fatal(err)
	}
	s.waitOutput(50 * time.Millisecond)
	s.close()
	if got.String() != want {
		t.Errorf("%d bytes of %d were kept", got.Len(), len(want))
	}
}
