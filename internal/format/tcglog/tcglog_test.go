// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package tcglog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recorded is the log of a machine that OVMF booted with Secure Boot.
func recorded(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "secureboot.log"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var (
	pcrHeading = regexp.MustCompile(`^  sha256:$`)
	pcrLine    = regexp.MustCompile(`^    (\d+) *: *0x([0-9a-f]{64})$`)
)

// tpm2_eventlog reads the same log and computes the same registers.
func TestReplayAsTPM2Tools(t *testing.T) {
	out, err := exec.Command("tpm2_eventlog", filepath.Join("testdata", "secureboot.log")).Output()
	if err != nil {
		t.Fatalf("tpm2_eventlog: %v: run tools/setup.sh test", err)
	}
	want, in := map[int]string{}, false
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\n")
		if m := pcrLine.FindStringSubmatch(line); in && m != nil {
			n, _ := strconv.Atoi(m[1])
			want[n] = m[2]
			continue
		}
		in = pcrHeading.MatchString(line)
	}
	log, err := Parse(recorded(t))
	if err != nil {
		t.Fatal(err)
	}
	got := map[int]string{}
	for n, v := range log.Replay() {
		got[n] = hex.EncodeToString(v[:])
	}
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 9 {
		t.Errorf("registers (-tpm2_eventlog +ours), %d:\n%s", len(want), diff)
	}
}

// Secure Boot's variables are what they are said to be, and proven.
func TestVariables(t *testing.T) {
	log, err := Parse(recorded(t))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, e := range log.Events {
		if e.PCR != 7 || e.Kind == Separator {
			continue
		}
		v, err := ParseVariable(e.Data)
		if err != nil || !e.Proven() {
			t.Fatalf("%v, proven %v", err, e.Proven())
		}
		certificates, err := v.Certificates()
		if e.Kind == VariableConfig && v.Name == "db" && (err != nil || len(certificates) != 1) {
			t.Errorf("db: %d certificates, %v", len(certificates), err)
		}
		if v.Name == "SecureBoot" && (!v.Global() || !bytes.Equal(v.Data, []byte{1})) {
			t.Errorf("SecureBoot: %+v", v)
		}
		if e.Kind == VariableAuthority {
			if der, err := v.Certificate(); err != nil || len(der) < 500 {
				t.Errorf("authority: %d bytes, %v", len(der), err)
			}
		}
		seen[KindName(e.Kind)+" "+v.Name]++
	}
	want := map[string]int{"variable SecureBoot": 1, "variable PK": 1, "variable KEK": 1, "variable db": 1, "variable dbx": 1, "signed by db": 1}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
}

// builder writes logs.
type builder struct{ bytes.Buffer }

func (b *builder) put(values ...any) *builder {
	for _, v := range values {
		_ = binary.Write(b, binary.LittleEndian, v) // into memory
	}
	return b
}

// newLog begins a log with SHA-256 digests alone.
func newLog() *builder {
	b := &builder{}
	head := (&builder{}).put([]byte("Spec ID Event03\x00"), uint32(0), []byte{0, 2, 0, 2}, uint32(1), uint16(algSHA256), uint16(32), uint8(0))
	return b.put(uint32(0), uint32(NoAction), [20]byte{}, uint32(head.Len()), head.Bytes())
}

func (b *builder) event(pcr, kind uint32, data string) *builder {
	return b.put(pcr, kind, uint32(1), uint16(algSHA256), sha256.Sum256([]byte(data)), uint32(len(data)), []byte(data))
}

func TestParseSmall(t *testing.T) {
	l, err := Parse(newLog().event(0, NoAction, "StartupLocality\x00\x03").event(0, Action, "one").event(4, EFIAction, "two").Bytes())
	if err != nil || len(l.Events) != 2 || !l.Events[0].Proven() {
		t.Fatalf("%+v, %v", l, err)
	}
	start := [32]byte{31: 3} // of locality 3, as the TPM itself does
	digest := sha256.Sum256([]byte("one"))
	if got, want := l.Replay()[0], sha256.Sum256(append(start[:], digest[:]...)); got != want {
		t.Errorf("register 0 is %x, want %x", got, want)
	}
	// Later than the first measurement nothing changes how the register began.
	l, err = Parse(newLog().event(0, Action, "one").event(0, NoAction, "StartupLocality\x00\x03").Bytes())
	if err != nil || l.locality != 0 {
		t.Errorf("locality %d, %v", l.locality, err)
	}
}

func TestParseRefuses(t *testing.T) {
	whole := recorded(t)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":            {nil, "middle"},
		"half a head":        {whole[:20], "middle"},
		"half an event":      {whole[:len(whole)-1], "middle"},
		"too long":           {make([]byte, MaxBytes+1), "limit"},
		"old form":           {newLegacy(), "crypto-agile"},
		"register 24":        {newLog().event(24, Action, "x").Bytes(), "register 24"},
		"other digest":       {newLog().put(uint32(0), uint32(Action), uint32(1), uint16(4), [20]byte{}, uint32(0)).Bytes(), "does not name"},
		"two digests":        {newLog().put(uint32(0), uint32(Action), uint32(2), uint16(algSHA256), [32]byte{}, uint16(algSHA256), [32]byte{}, uint32(0)).Bytes(), "two"},
		"no digest":          {newLog().put(uint32(0), uint32(Action), uint32(0), uint32(0)).Bytes(), "no SHA-256"},
		"thousands of banks": {newLog().put(uint32(0), uint32(Action), uint32(5000)).Bytes(), "5000"},
		"a huge event":       {newLog().put(uint32(0), uint32(Action), uint32(1), uint16(algSHA256), [32]byte{}, ^uint32(0)).Bytes(), "middle"},
		"too many events":    {bytes.Join([][]byte{newLog().Bytes(), bytes.Repeat((&builder{}).event(0, Action, "").Bytes(), MaxEvents+1)}, nil), "10000"},
	} {
		if _, err := Parse(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func newLegacy() []byte {
	return (&builder{}).put(uint32(0), uint32(Action), [20]byte{}, uint32(4), uint32(0)).Bytes()
}

func FuzzParse(f *testing.F) {
	f.Add(recorded(f))
	f.Add(newLog().event(7, VariableAuthority, "data").Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(data)
		if err != nil {
			return
		}
		for _, e := range l.Events {
			if e.PCR < 0 || e.PCR > maxPCR {
				t.Fatalf("register %d", e.PCR)
			}
			if v, err := ParseVariable(e.Data); err == nil {
				_, _ = v.Certificates()
				_, _ = v.Certificate()
			}
		}
		l.Replay()
	})
}
