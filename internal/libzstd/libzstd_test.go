// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package libzstd

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"os/exec"
	"testing"

	"wherry.example/wherry/internal/format/delta"
)

// text is something between noise and order.
func text(n int) []byte {
	r := rand.New(rand.NewPCG(7, 7))
	b := make([]byte, n)
	for i := range b {
		if b[i] = byte(r.IntN(40)); i > 1000 && r.IntN(10) > 0 {
			b[i] = b[i-1-r.IntN(1+r.IntN(900))]
		}
	}
	return b
}

var early = delta.Parameters{Level: 22, WindowLog: 23, ChainLog: 22, HashLog: 21}

// TestVectors: a library that packs otherwise would turn every block of every delta into
// a literal. When this fails with a new version of Debian, give that version's values a row:
// machines with the old version go on as they are.
func TestVectors(t *testing.T) {
	vectors := map[string][]string{
		"zstd-1.5.4": {
			"6fb85438", "4cda9305", "109e4450", "649d102b",
		},
	}
	want, known := vectors[Codec{}.Name()]
	if !known {
		t.Fatalf("%s is not known here", Codec{}.Name())
	}
	for i, c := range []struct {
		p    delta.Parameters
		size int
	}{{delta.Parameters{Level: 22}, 0}, {delta.Parameters{Level: 22}, 5000}, {delta.Parameters{Level: 22}, 256 << 10}, {early, 400_000}} {
		content := text(c.size)
		frame, err := Codec{}.Pack(c.p, content)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(frame)
		if got := hex.EncodeToString(sum[:4]); got != want[i] {
			t.Errorf("%d bytes, %+v: %s, want %s", c.size, c.p, got, want[i])
		}
		back, err := Codec{}.Unpack(frame, int64(c.size))
		if err != nil || !bytes.Equal(back, content) {
			t.Errorf("%d bytes came back as %d, %v", c.size, len(back), err)
		}
	}
}

// TestAsTheProgram: the program zstd, which packs the early part of an image,
// makes the same of it, and reads it.
func TestAsTheProgram(t *testing.T) {
	if _, err := exec.LookPath("zstd"); err != nil {
		t.Skip("zstd is not installed")
	}
	content := text(400_000)
	cmd := exec.Command("zstd", "--ultra", "-22", "--zstd=wlog=23,clog=22,hlog=21", "--single-thread", "--no-check", "--stream-size=400000", "-q", "-c")
	cmd.Stdin = bytes.NewReader(content)
	want, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Codec{}.Pack(early, content)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v, and the program's are %d", len(got), err, len(want))
	}
}

func TestRefused(t *testing.T) {
	frame, err := Codec{}.Pack(early, text(1000))
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string][]byte{"none": nil, "cut off": frame[:len(frame)-1], "two": append(bytes.Clone(frame), frame...), "old format": append([]byte("\x25\xb5\x2f\xfd"), frame[4:]...)} {
		if _, err := (Codec{}).Unpack(f, 1000); err == nil {
			t.Errorf("%s: it was unpacked", name)
		}
	}
	if _, err := (Codec{}).Unpack(frame, 999); err == nil {
		t.Error("more was unpacked than there was room for")
	}
	if _, err := (Codec{}).Pack(delta.Parameters{Level: 3}, nil); err == nil {
		t.Error("it packed at a level whose code is not there")
	}
	if _, err := (Codec{}).Pack(delta.Parameters{Level: 22, WindowLog: 23, ChainLog: 23, HashLog: 22}, make([]byte, 16<<20)); err == nil {
		t.Error("it took more memory than it may")
	}
}
