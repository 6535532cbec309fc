// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package bootslots

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/internal/format/efiload"
	"wherry.example/wherry/internal/format/efitext"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/format/pe"
	"wherry.example/wherry/internal/format/pe/petest"
	"wherry.example/wherry/internal/linux/efivar"
)

var place = efiload.Partition{Number: 1, First: 2048, Blocks: 1 << 20, ID: gpt.MustGUID("40DE6310-112C-43D7-9A01-23ACB57F1B11")}

// machine is slots over directories in place of the firmware and the boot
// partition. It runs version 1.0.0.
func machine(t *testing.T) (s *Slots, esp string) {
	t.Helper()
	esp = t.TempDir()
	if err := os.MkdirAll(filepath.Join(esp, slotsDir), 0o755); err != nil {
		t.Fatal(err)
	}
	s = &Slots{
		log: slog.New(slog.DiscardHandler), variables: efivar.Variables{Dir: t.TempDir()},
		find: func(id string) (partition, error) { return partition{device: id, place: place}, nil },
		mount: func(partition, bool) (volume, error) {
			return volume{root: esp, close: func() error { return nil }}, nil
		},
		reclaim: func(partition) (int64, error) { return 0, nil },
	}
	set(t, s, loaderInfo, efitext.Encode("systemd-boot 252"))
	set(t, s, loaderPartition, efitext.Encode(place.ID.String()))
	set(t, s, loaderSelected, efitext.Encode("wherry_1.0.0.efi"))
	put(t, esp, "wherry_1.0.0.efi", osFile(t, "1.0.0"))
	return s, esp
}

func set(t *testing.T, s *Slots, name efivar.Name, data []byte) {
	t.Helper()
	if err := s.variables.Write(name, data); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, esp, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(esp, slotsDir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func osFile(t *testing.T, version string) []byte {
	t.Helper()
	p, err := pe.Parse(petest.Stub(".text", ".sbat"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Append(
		pe.Added{Name: ".osrel", Data: []byte("ID=wherry\nIMAGE_VERSION=" + version + "\n")},
		pe.Added{Name: ".initrd", Data: bytes.Repeat([]byte("initrd"), 500_000)}, pe.Added{Name: ".linux", Data: []byte("linux")})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func open(t *testing.T, data []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "os")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func names(t *testing.T, esp string) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(esp, slotsDir))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func TestStage(t *testing.T) {
	s, esp := machine(t)
	data := osFile(t, "2.0.0")
	put(t, esp, "wherry_9.0.0.tmp", []byte("half"))
	set(t, s, chosen, efitext.Encode("wherry_1.0.0.efi"))
	if all, err := s.List(); err != nil || len(all) != 1 || !all[0].Running {
		t.Fatalf("at first: %+v, %v", all, err)
	}
	var seen []int64
	err := s.Stage(t.Context(), "2.0.0", open(t, data), func(done, total int64) {
		if total != int64(len(data)) {
			t.Errorf("of %d bytes", total)
		}
		seen = append(seen, done)
	})
	if err != nil || !slices.IsSorted(seen) || len(seen) < 3 || seen[len(seen)-1] != int64(len(data)) {
		t.Fatalf("%v, progress %d", err, seen)
	}
	if got := names(t, esp); got != "wherry_1.0.0.efi wherry_2.0.0+3.efi" {
		t.Errorf("there are %s", got)
	}
	if _, err := s.variables.Read(chosen); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the choice of somebody: %v", err)
	}
	all, err := s.List()
	want := []Slot{
		{Version: "2.0.0", File: "wherry_2.0.0+3.efi", Bytes: int64(len(data)), Trial: true, TriesLeft: 3},
		{Version: "1.0.0", File: "wherry_1.0.0.efi", Bytes: int64(len(osFile(t, "1.0.0"))), Running: true},
	}
	if diff := cmp.Diff(want, all); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if err := s.Check(t.Context(), "2.0.0", sha256.Sum256(data)); err != nil {
		t.Error(err)
	}
	err = s.Read("2.0.0", func(f *os.File) error {
		if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
			t.Errorf("it reads as %d bytes, %v", len(got), err)
		}
		return os.ErrClosed
	})
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("the reader's error became %v", err)
	}
	put(t, esp, "wherry_2.0.0+3.efi", data[:1000])
	if err := s.Check(t.Context(), "2.0.0", sha256.Sum256(data)); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged file: %v", err)
	}
	// Staged again it is whole again, and a used one gets its tries back.
	if err := os.Rename(filepath.Join(esp, slotsDir, "wherry_2.0.0+3.efi"), filepath.Join(esp, slotsDir, "wherry_2.0.0+1-2.efi")); err != nil {
		t.Fatal(err)
	}
	if err := s.Stage(t.Context(), "2.0.0", open(t, data), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context(), "2.0.0", sha256.Sum256(data)); err != nil || names(t, esp) != "wherry_1.0.0.efi wherry_2.0.0+3.efi" {
		t.Errorf("%v: %s", err, names(t, esp))
	}
	if order, err := s.variables.Read(bootOrder); err != nil || !bytes.Equal(order, []byte{0, 0, 1, 0, 2, 0, 3, 0}) {
		t.Errorf("the order is %x, %v", order, err)
	}
}

// Clusters are given back when no leftover has a name any more and before
// the file is written; that it fails keeps nobody from trying.
func TestStageTidies(t *testing.T) {
	s, esp := machine(t)
	put(t, esp, "wherry_9.0.0.tmp", []byte("half"))
	var seen string
	s.reclaim = func(partition) (int64, error) {
		seen = names(t, esp)
		return 0, errors.New("it is damaged")
	}
	if err := s.Stage(t.Context(), "2.0.0", open(t, osFile(t, "2.0.0")), nil); err != nil {
		t.Fatal(err)
	}
	if seen != "wherry_1.0.0.efi" {
		t.Errorf("clusters were given back beside %q", seen)
	}
}

func TestStageRefuses(t *testing.T) {
	s, esp := machine(t)
	good := osFile(t, "2.0.0")
	for name, c := range map[string]struct {
		version string
		data    []byte
		is      error
		want    string
	}{
		"nothing":                     {"2.0.0", nil, ErrRefused, "0 bytes"},
		"noise":                       {"2.0.0", bytes.Repeat([]byte("noise"), 1000), ErrRefused, "no PE file"},
		"cut off":                     {"2.0.0", good[:len(good)-1000], ErrRefused, "outside of the file"},
		"no kernel in it":             {"2.0.0", petest.Stub(".text", ".sbat"), ErrRefused, "no section .osrel"},
		"of another version":          {"3.0.0", good, ErrRefused, "another version"},
		"the version that runs":       {"1.0.0", osFile(t, "1.0.0"), nil, "the one that runs"},
		"older":                       {"0.9.0", osFile(t, "0.9.0"), nil, "older than 1.0.0"},
		"a version that is no number": {"x", osFile(t, "x"), nil, "version"},
	} {
		err := s.Stage(t.Context(), c.version, open(t, c.data), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.Stage(ctx, "2.0.0", open(t, good), func(done, total int64) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("ended amid it: %v", err)
	}
	if got := names(t, esp); got != "wherry_1.0.0.efi" {
		t.Errorf("left over: %s", got)
	}
	if order, err := s.variables.Read(bootOrder); err == nil {
		t.Errorf("the firmware was changed: %x", order)
	}
}

func TestBlessRetireRemove(t *testing.T) {
	s, esp := machine(t)
	put(t, esp, "wherry_2.0.0+2-1.efi", osFile(t, "2.0.0"))
	set(t, s, loaderSelected, efitext.Encode("wherry_2.0.0+3.efi"))
	set(t, s, loaderCounted, efitext.Encode(`\EFI\Linux\wherry_2.0.0+2-1.efi`))
	set(t, s, oneShot, efitext.Encode("wherry_2.0.0.efi"))
	if r, err := s.Running(); err != nil || r.Version != "2.0.0" || !r.Trial || r.TriesLeft != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	for range 2 {
		if err := s.Bless(); err != nil || names(t, esp) != "wherry_1.0.0.efi wherry_2.0.0.efi" {
			t.Fatalf("%v: %s", err, names(t, esp))
		}
	}
	if r, err := s.Running(); err != nil || r.Trial {
		t.Errorf("kept: %+v, %v", r, err)
	}
	if err := s.Retire("2.0.0"); err != nil || names(t, esp) != "wherry_1.0.0.efi wherry_2.0.0+0.efi" {
		t.Errorf("%v: %s", err, names(t, esp))
	}
	if _, err := s.variables.Read(oneShot); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the choice of somebody: %v", err)
	}
	if err := s.Bless(); err == nil {
		t.Error("what was given up is kept")
	}
	if err := s.Remove("1.0.0"); err == nil {
		t.Error("the last good one is removed")
	}
	put(t, esp, "wherry_0.5.0.efi", []byte("both"))
	put(t, esp, "wherry_0.5.0+2-1.efi", []byte("both")) // a rename that a power cut interrupted
	if err := s.Remove("0.5.0"); err != nil || names(t, esp) != "wherry_1.0.0.efi wherry_2.0.0+0.efi" {
		t.Errorf("%v: %s", err, names(t, esp))
	}
	if err := s.Remove("0.5.0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
}

func TestUnsupported(t *testing.T) {
	s, _ := machine(t)
	if err := s.Supported(); err != nil {
		t.Error(err)
	}
	s, _ = machine(t)
	if err := s.variables.Delete(loaderInfo); err != nil {
		t.Fatal(err)
	}
	if err := s.Supported(); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "systemd-boot") {
		t.Errorf("another loader: %v", err)
	}
	if _, err := s.List(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("another loader: %v", err)
	}
	s, _ = machine(t)
	s.find = func(string) (partition, error) { return partition{}, errors.New("the disk is not there") }
	if err := s.Supported(); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "the disk is not there") {
		t.Errorf("no disk: %v", err)
	}
}

func newSigner(t *testing.T, name string) *pe.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := pe.ParseSigner(
		pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sign(t *testing.T, data []byte, s *pe.Signer) []byte {
	t.Helper()
	p, err := pe.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSecureBoot(t *testing.T) {
	owner, evil := newSigner(t, "Owner"), newSigner(t, "Evil")
	s, esp := machine(t)
	put(t, esp, "wherry_1.0.0.efi", sign(t, osFile(t, "1.0.0"), owner))
	set(t, s, allowed, owner.SignatureList([16]byte{1}))
	unsigned, good, bad := osFile(t, "2.0.0"), sign(t, osFile(t, "2.0.0"), owner), sign(t, osFile(t, "2.0.0"), evil)
	tampered := bytes.Clone(good)
	tampered[bytes.Index(good, []byte("initrdinitrd"))] ^= 1

	if v, err := s.VerifiedBoot(); err != nil || v.SecureBoot || v.SignedBy != "CN=Owner" {
		t.Errorf("Secure Boot is off: %+v, %v", v, err)
	}
	if err := s.Accepts(open(t, unsigned)); err != nil {
		t.Errorf("Secure Boot is off: %v", err)
	}
	set(t, s, secureBoot, []byte{1})
	s.signed.Store(nil)
	sum := sha256.Sum256(owner.Certificate.Raw)
	want := Verified{Firmware: true, SecureBoot: true, SignedBy: "CN=Owner", Fingerprint: hex.EncodeToString(sum[:])}
	if v, err := s.VerifiedBoot(); err != nil || v != want {
		t.Errorf("%+v, %v", v, err)
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"unsigned": {unsigned, "no signature"}, "signed by somebody else": {bad, "does not know the key"}, "tampered": {tampered, "changed after"},
	} {
		if err := s.Stage(t.Context(), "2.0.0", open(t, c.data), nil); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := names(t, esp); got != "wherry_1.0.0.efi" {
		t.Errorf("there are %s", got)
	}
	if err := s.Stage(t.Context(), "2.0.0", open(t, good), nil); err != nil {
		t.Error(err)
	}
}

func TestPlanEntries(t *testing.T) {
	want := efiload.Option{Active: true, Description: entryName, Partition: place, File: loaderPath}
	other := want
	other.Partition.ID = gpt.MustGUID("11111111-112C-43D7-9A01-23ACB57F1B11")
	elsewhere := other
	elsewhere.Partition.First = 4096
	o, w, e := other.Encode(), want.Encode(), elsewhere.Encode()
	linux := efiload.Option{Active: true, Description: "Linux", Partition: other.Partition, File: `\EFI\debian\grubx64.efi`}.Encode()
	for _, c := range []struct {
		name   string
		have   bootEntries
		writes []uint16
		order  []uint16
	}{
		{"nothing", bootEntries{}, []uint16{0, 1, 2, 3}, []uint16{0, 1, 2, 3}},
		{"done already", bootEntries{map[uint16][]byte{4: w, 5: w, 6: w, 7: w}, []uint16{7, 4, 5, 6}}, nil, []uint16{4, 5, 6, 7}},
		{"five", bootEntries{map[uint16][]byte{4: w, 5: w, 6: w, 7: w, 8: w}, []uint16{8}}, nil, []uint16{4, 5, 6, 7, 8}},
		{"others", bootEntries{map[uint16][]byte{0: linux, 1: linux, 3: linux}, []uint16{1, 0, 3}}, []uint16{2, 4, 5, 6}, []uint16{2, 4, 5, 6, 1, 0, 3}},
		{"half done", bootEntries{map[uint16][]byte{0: linux, 1: w, 2: w}, []uint16{0}}, []uint16{3, 4}, []uint16{1, 2, 3, 4, 0}},
		{"of a disk written anew", bootEntries{map[uint16][]byte{0: o, 1: o, 2: o, 3: o}, []uint16{0, 1, 2, 3}}, []uint16{0, 1, 2, 3}, []uint16{0, 1, 2, 3}},
		{"of another disk", bootEntries{map[uint16][]byte{0: e}, []uint16{0}}, []uint16{1, 2, 3, 4}, []uint16{1, 2, 3, 4, 0}},
		{"damaged, and twice in the order", bootEntries{map[uint16][]byte{0: {1, 2}}, []uint16{0, 0, 9}}, []uint16{1, 2, 3, 4}, []uint16{1, 2, 3, 4, 0, 9}},
	} {
		plan, err := planEntries(c.have, w)
		if err != nil {
			t.Fatal(err)
		}
		var writes []uint16
		for n, data := range plan.options {
			writes = append(writes, n)
			if !bytes.Equal(data, w) {
				t.Errorf("%s: Boot%04X is %x", c.name, n, data)
			}
		}
		slices.Sort(writes)
		if diff := cmp.Diff(c.writes, writes); diff != "" {
			t.Errorf("%s, written: %s", c.name, diff)
		}
		if diff := cmp.Diff(c.order, plan.order); diff != "" {
			t.Errorf("%s, order: %s", c.name, diff)
		}
	}
	full := bootEntries{options: map[uint16][]byte{}}
	for n := range 1 << 16 {
		full.options[uint16(n)] = linux
	}
	if _, err := planEntries(full, w); err == nil {
		t.Error("there is room in a full firmware")
	}
	for name, want := range map[string]bool{"Boot0000": true, "BootFFFF": true, "Bootffff": false, "BootOrder": false, "BootNext": false, "Boot000": false} {
		if _, ok := optionNumber(name); ok != want {
			t.Errorf("%s: %v", name, ok)
		}
	}
}
