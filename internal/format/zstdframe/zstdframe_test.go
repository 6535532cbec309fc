// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package zstdframe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"testing"
)

// contents are of many kinds, so that all kinds of blocks, literals and tables come up.
func contents() map[string][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 140_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	var text, skewed []byte
	for len(text) < 300_000 {
		text = fmt.Appendf(text, "%x %s ", r.Uint32()&0xfff, []string{"push", "move", "call", "return"}[r.IntN(4)])
	}
	for range 200_000 {
		skewed = append(skewed, byte(bitsOf(r)))
	}
	return map[string][]byte{
		"nothing": nil, "one byte": {7}, "zeros": make([]byte, 400_000), "noise": noise, "text": text, "few literals": []byte("abcabcabcabcabcabcabcabcabcabd"),
		"skewed": skewed, "all": bytes.Join([][]byte{text[:5000], make([]byte, 300_000), noise[:70_000], text, skewed, text[9000:100_000], noise}, nil),
		"long": bytes.Repeat(noise[:135_000], 3),
	}
}

// bitsOf is small, mostly.
func bitsOf(r *rand.Rand) int {
	n := 0
	for r.IntN(3) > 0 {
		n++
	}
	return n
}

// zstd packs with the program, as Debian packs its kernels: from a pipe.
func zstd(t testing.TB, content []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("zstd", append([]string{"-q", "-c", "--single-thread"}, args...)...)
	cmd.Stdin = bytes.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// again reads a frame and writes it again, and returns its content as well.
func again(frame []byte) (written, content []byte, err error) {
	r, err := NewReader(bytes.NewReader(frame))
	if err != nil {
		return nil, nil, err
	}
	var out bytes.Buffer
	w, err := NewWriter(&out, r.Bytes)
	for err == nil {
		var b *Block
		var literals []byte
		if b, literals, err = r.Next(); err != nil {
			break
		}
		if content, err = appendBlock(content, b, literals); err == nil {
			err = w.Block(b, literals)
		}
	}
	if !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	sum, err := r.Checksum()
	return append(out.Bytes(), sum...), content, err
}

func appendBlock(to []byte, b *Block, literals []byte) ([]byte, error) {
	if b.Kind == RLE {
		return append(to, bytes.Repeat(literals, b.Bytes)...), nil
	}
	for _, s := range b.Sequences {
		to = append(to, literals[:s.Literals]...)
		literals = literals[s.Literals:]
		if s.Distance == 0 || int(s.Distance) > len(to) {
			return nil, errDamaged
		}
		for range s.Match {
			to = append(to, to[len(to)-int(s.Distance)])
		}
	}
	return append(to, literals...), nil
}

// TestAgain: what zstd has packed is written again to the bit, at all levels.
func TestAgain(t *testing.T) {
	for name, want := range contents() {
		for _, level := range []int{1, 5, 13, 19, 22} {
			for _, sum := range []string{"--check", "--no-check"}[:1+level/22] {
				frame := zstd(t, want, "--ultra", "-"+strconv.Itoa(level), sum)
				got, content, err := again(frame)
				if err != nil || !bytes.Equal(content, want) || !bytes.Equal(got, frame) {
					t.Errorf("%s, level %d: content %t, frame %t, %v", name, level, bytes.Equal(content, want), bytes.Equal(got, frame), err)
				}
			}
		}
	}
}

// TestRepeats: the short codes of distances are found, and mean what was written.
func TestRepeats(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	a, b := NewRepeats(), NewRepeats()
	short := 0
	for range 100_000 {
		literals, distance := uint32(r.IntN(2)), uint32(1+r.IntN(6))
		code := a.Code(distance, literals)
		if code <= 3 {
			short++
		}
		a.Distance(code, literals)
		if got := b.Distance(code, literals); got != distance {
			t.Fatalf("distance %d behind %d literals: code %d means %d", distance, literals, code, got)
		}
	}
	if short < 10_000 {
		t.Errorf("%d short codes", short)
	}
}

func TestDamaged(t *testing.T) {
	frame := zstd(t, contents()["text"][:20_000], "-19", "--no-check")
	for n := range frame {
		if _, _, err := again(frame[:n]); err == nil {
			t.Fatalf("cut at byte %d of %d it was read", n, len(frame))
		}
	}
	for name, b := range map[string][]byte{
		"no frame":       []byte("what is this"),
		"a dictionary":   append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x21}, frame[5:]...),
		"a fourth kind":  {0x28, 0xb5, 0x2f, 0xfd, 0, 0x58, 7, 0, 0},
		"a large block":  {0x28, 0xb5, 0x2f, 0xfd, 0, 0x58, 1, 0, 0xff},
		"an empty block": {0x28, 0xb5, 0x2f, 0xfd, 0, 0x58, 5, 0, 0},
		"a header":       frame[:6],
	} {
		if _, _, err := again(b); !errors.Is(err, errDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWrongChoices: choices that can't be are errors, whatever they are.
func TestWrongChoices(t *testing.T) {
	for name, b := range map[string]Block{
		"no tree":       {Kind: Compressed, LiteralsKind: LiteralsTreeless},
		"a bad tree":    {Kind: Compressed, LiteralsKind: LiteralsHuffman, Tree: []byte{200}},
		"no table":      {Kind: Compressed, Sequences: []Sequence{{Match: 3, Code: 4}}, Modes: [3]int{TableRepeat}},
		"a bad table":   {Kind: Compressed, Sequences: []Sequence{{Match: 3, Code: 4}}, Modes: [3]int{TableOwn}},
		"no code":       {Kind: Compressed, Sequences: []Sequence{{Match: 3}}},
		"no word for a": {Kind: Compressed, LiteralsKind: LiteralsHuffman, LiteralsFormat: 0, Tree: []byte{128, 0x10}},
		"no bytes":      {Kind: RLE},
	} {
		w, err := NewWriter(io.Discard, nil)
		if err != nil {
			t.Fatal(err)
		}
		literals := []byte("a")
		if b.Kind == RLE {
			literals = nil
		}
		if err := w.Block(&b, literals); err == nil {
			t.Errorf("%s: it was written", name)
		}
	}
}

// FuzzReader: any bytes are an error or a frame, and a frame that was read can be written.
func FuzzReader(f *testing.F) {
	all := contents()
	for _, name := range []string{"one byte", "few literals", "skewed"} {
		f.Add(zstd(f, all[name][:min(3000, len(all[name]))], "-19"))
	}
	f.Add(zstd(f, all["text"][:9000], "-22", "--ultra"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, content, err := again(b); err == nil && len(content) > MaxBlock*(len(b)/3+1) {
			t.Errorf("%d bytes out of %d", len(content), len(b))
		}
	})
}
