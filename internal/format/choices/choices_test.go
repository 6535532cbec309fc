// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package choices

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"testing"
)

// memory is a file with a bound.
type memory struct{ b []byte }

func (m *memory) ReadAt(b []byte, at int64) (int, error) { return bytes.NewReader(m.b).ReadAt(b, at) }

func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	if at+int64(len(b)) > int64(len(m.b)) {
		return 0, errors.New("the disk is full")
	}
	return copy(m.b[at:], b), nil
}

// zstd packs with the program, as Debian packs its kernels.
func zstd(t testing.TB, content []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("zstd", append([]string{"-q", "-c", "--ultra", "-22"}, args...)...)
	cmd.Stdin = bytes.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// code is what programs are like: words from a list that repeat, and numbers between them.
func code(n int) []byte {
	r := rand.New(rand.NewPCG(5, 6))
	words := make([][]byte, 3000)
	for i := range words {
		words[i] = make([]byte, 2+r.IntN(12))
		for k := range words[i] {
			words[i][k] = byte(r.IntN(40))
		}
	}
	var b []byte
	for len(b) < n {
		b = append(b, words[min(r.IntN(3000), r.IntN(3000))]...)
		if r.IntN(4) == 0 {
			b = append(b, byte(r.Uint32()))
		}
	}
	return append(b[:n/2:n/2], append(make([]byte, 400_000), b[n/2:n]...)...)
}

// case of an old and a new content: the new one has more at some places, and other bytes at others.
type pair struct {
	old, data []byte
	moves     []Move
}

func newPair(n int) pair {
	p := pair{old: code(n)}
	r := rand.New(rand.NewPCG(7, 8))
	at := 0
	for at < len(p.old) {
		run := min(len(p.old)-at, 5000+r.IntN(60_000))
		p.moves = append(p.moves, Move{int64(at), int64(len(p.data)), int64(run)})
		p.data = append(p.data, p.old[at:at+run]...)
		for range 5 {
			p.data[len(p.data)-1-r.IntN(run)]++
		}
		p.data = append(p.data, "something that is new"[:r.IntN(21)]...)
		at += run
	}
	return p
}

// past unpacks the old frame.
func (p pair) past(t testing.TB, frame []byte) Past {
	t.Helper()
	m := &memory{make([]byte, 9*len(p.old)+100)}
	parse, err := Unpack(context.Background(), bytes.NewReader(frame), Room{File: m, Offset: 50, Bytes: int64(len(p.old)), Records: int64(len(p.old))})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.b[50:50+len(p.old)], p.old) {
		t.Fatal("the frame was unpacked to something else")
	}
	return Past{Old: bytes.NewReader(p.old), OldBytes: int64(len(p.old)), New: bytes.NewReader(p.data), NewBytes: int64(len(p.data)), Parse: parse, Moves: p.moves, Back: p.moves}
}

// TestThereAndBack: the frame comes back to the bit, whatever packed it, and what was
// expected is cheap.
func TestThereAndBack(t *testing.T) {
	p := newPair(800_000)
	for name, args := range map[string][]string{"as Debian does": nil, "a checksum": {"--check"}, "a fast one": {"-3"}, "in one piece": {"--no-check", "--long=27"}} {
		old, frame := zstd(t, p.old, args...), zstd(t, p.data, args...)
		past := p.past(t, old)
		told, err := Encode(t.Context(), bytes.NewReader(frame), past)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := Decode(t.Context(), bytes.NewReader(told), past, &out); err != nil || !bytes.Equal(out.Bytes(), frame) {
			t.Errorf("%s: equal %t, %v", name, bytes.Equal(out.Bytes(), frame), err)
		}
		t.Logf("%s: %d bytes for a frame of %d", name, len(told), len(frame))
		if len(told) > len(frame)/20 {
			t.Errorf("%s: the choices have %d bytes, of %d of the frame", name, len(told), len(frame))
		}
	}
}

// TestNothingKnown: without anything in common the choices are larger, and as right.
func TestNothingKnown(t *testing.T) {
	p := newPair(200_000)
	past := p.past(t, zstd(t, p.old))
	past.Moves, past.Back = nil, nil
	frame := zstd(t, p.data)
	told, err := Encode(t.Context(), bytes.NewReader(frame), past)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Decode(t.Context(), bytes.NewReader(told), past, &out); err != nil || !bytes.Equal(out.Bytes(), frame) {
		t.Errorf("equal %t, %v", bytes.Equal(out.Bytes(), frame), err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	content := code(100_000)
	frame := zstd(t, content)
	n := int64(len(content))
	for name, c := range map[string]struct {
		frame []byte
		room  Room
	}{
		"more content":    {frame, Room{Bytes: n - 1, Records: n}},
		"less content":    {frame, Room{Bytes: n + 1, Records: n}},
		"more records":    {frame, Room{Bytes: n, Records: 5}},
		"no room on disk": {frame, Room{Offset: n, Bytes: n, Records: n}},
		"cut off":         {frame[:len(frame)-5], Room{Bytes: n, Records: n}},
		"no frame":        {content, Room{Bytes: n, Records: n}},
	} {
		c.room.File = &memory{make([]byte, 2*n)}
		if _, err := Unpack(t.Context(), bytes.NewReader(c.frame), c.room); err == nil {
			t.Errorf("%s: it was unpacked", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Unpack(ctx, bytes.NewReader(frame), Room{File: &memory{make([]byte, 9*n)}, Bytes: n, Records: n}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestParse finds matches at every place, in groups and between them.
func TestParse(t *testing.T) {
	const count = 3*groupSize + 7
	m := &memory{make([]byte, count*RecordBytes)}
	r := newRecorder(m, 0, count)
	var want []match
	at := int64(0)
	for i := range int64(count - 2) {
		want = append(want, match{at + i%3, 3 + i%5, i + 1})
		r.add(i%3, 3+i%5, i+1)
		at = want[i].end()
	}
	r.add(200_000, 0, 0)
	p, err := r.close()
	if err != nil || p.Records() != count {
		t.Fatal(p.Records(), err)
	}
	next := 0
	for q := int64(0); q < at; q++ {
		for want[next].end() <= q {
			next++
		}
		if got, ok := p.find(q); !ok || got != want[next] {
			t.Fatalf("at %d: %v, %t, want %v", q, got, ok, want[next])
		}
	}
	for _, q := range []int64{at, at + 200_000, -1, 7, 1} {
		got, ok := p.find(q)
		if i := slices.IndexFunc(want, func(m match) bool { return m.end() > q }); ok != (q >= 0 && q < at) || ok && got != want[i] {
			t.Errorf("at %d: %v, %t", q, got, ok)
		}
	}
}

// TestCoder: what was written is read, and costs what it should.
func TestCoder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	var values []int
	for range 20_000 {
		values = append(values, r.IntN(1<<r.IntN(31)), r.IntN(2)*r.IntN(2)*r.IntN(2)*r.IntN(2), r.IntN(4))
	}
	code := func(c *coder) (out []int) {
		var n numbers
		var rare chance
		var tree [4]chance
		for i := 0; i < len(values); i += 3 {
			out = append(out, c.number(&n, values[i]), c.bit(&rare, values[i+1]), c.symbol(tree[:], values[i+2]))
		}
		return out
	}
	w := newWriter()
	code(w)
	told := w.close()
	want := values
	values = make([]int, len(want))
	if got := code(newReader(bytes.NewReader(told))); !slices.Equal(got, want) {
		t.Error("something else was read")
	}
	if most := 20_000 * (21 + 1) / 8; len(told) > most {
		t.Errorf("%d bytes, more than %d", len(told), most)
	}
}

// slowly counts what is written, and fails behind a limit.
type slowly struct{ left int }

func (s *slowly) Write(b []byte) (int, error) {
	if s.left -= len(b); s.left < 0 {
		return 0, fmt.Errorf("%d bytes too many", -s.left)
	}
	return len(b), nil
}

// FuzzDecode: any bytes are an error or choices, and make no more than the content can give.
func FuzzDecode(f *testing.F) {
	p := newPair(20_000)
	past := p.past(f, zstd(f, p.old))
	told, err := Encode(f.Context(), bytes.NewReader(zstd(f, p.data)), past)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(told)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, told []byte) {
		if err := Decode(t.Context(), bytes.NewReader(told), past, &slowly{1 << 20}); err != nil {
			return
		}
	})
}

// FuzzUnpack: no frame writes beyond its room, or makes records that can't be read.
func FuzzUnpack(f *testing.F) {
	content := code(1000)
	f.Add(zstd(f, content), len(content))
	f.Fuzz(func(t *testing.T, frame []byte, n int) {
		if n < 0 || n > 1<<20 {
			return
		}
		m := &memory{make([]byte, n+RecordBytes*1000)}
		p, err := Unpack(t.Context(), bytes.NewReader(frame), Room{File: m, Bytes: int64(n), Records: 1000})
		if err != nil {
			return
		}
		for at := range int64(n) {
			if got, ok := p.find(at); ok && got.end() <= at {
				t.Fatalf("at %d: %v", at, got)
			}
		}
	})
}
