// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package disk promises what the disk images do: UEFI firmware boots them
// through the boot loader, the machine's state comes to be on the same disk and
// stays, and under Secure Boot nothing starts but what the owner signed.
package disk

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/format/pe"
	"wherry.example/wherry/internal/host/disk"
	"wherry.example/wherry/internal/host/image"
	"wherry.example/wherry/internal/host/qemu"
	"wherry.example/wherry/internal/vmtest"
)

// owner is a key with its certificate, in PEM and parsed.
type owner struct {
	key, certificate []byte
	signer           *pe.Signer
}

func newOwner(t *testing.T, name string) owner {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	o := owner{
		key:         pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}
	if o.signer, err = pe.ParseSigner(o.key, o.certificate); err != nil {
		t.Fatal(err)
	}
	return o
}

// built is the image of this checkout in all formats, signed, made once.
type built struct {
	dir   string
	owner owner
}

var (
	once  sync.Once
	ready built
)

func TestMain(m *testing.M) {
	code := m.Run()
	if ready.dir != "" {
		os.RemoveAll(ready.dir)
	}
	os.Exit(code)
}

func build(t *testing.T) built {
	t.Helper()
	once.Do(func() {
		dir, err := os.MkdirTemp("", "wherry-disk-")
		if err != nil {
			t.Fatal(err)
		}
		b := built{dir, newOwner(t, "Owner")}
		key, certificate := filepath.Join(dir, "key"), filepath.Join(dir, "certificate")
		if err := errors.Join(os.WriteFile(key, b.owner.key, 0o600), os.WriteFile(certificate, b.owner.certificate, 0o600)); err != nil {
			t.Fatal(err)
		}
		_, err = image.Build(t.Context(), image.Options{
			Output: dir, Formats: []string{"efi", "raw", "qcow2"}, Progress: func(line string) { t.Log(line) },
			SecureBootKey: key, SecureBootCertificate: certificate, SecureBootEnroll: true,
		})
		if err != nil {
			os.RemoveAll(dir)
			t.Fatal(err)
		}
		ready = b
	})
	if ready.dir == "" {
		t.Fatal("there is no image: its build failed")
	}
	return ready
}

func (b built) file(name string) string { return filepath.Join(b.dir, name) }

// The raw disk boots, makes its state, and keeps it: over reboots, when the
// disk grows, and when the boot partition is written anew.
func TestRaw(t *testing.T) {
	b := build(t)
	u := vmtest.NewUser(t)
	// Without keys to enrol: also firmware that keeps them less safely would.
	raw := filepath.Join(t.TempDir(), "raw")
	if err := disk.WriteRaw(raw, disk.Contents{Version: "1.0.0", OS: unsigned(t, read(t, b.file("wherry.efi"))), Loader: loaderOf(t, b)}); err != nil {
		t.Fatal(err)
	}
	m := vmtest.Start(t, vmtest.Options{DiskImage: raw, DiskBytes: 2 << 30, Config: u.Config()})
	u.Knows(m)
	key := m.Fingerprint()
	same := func(what string) {
		t.Helper()
		if m.Ready().State != "persistent" || m.Fingerprint() != key {
			t.Fatalf("%s: state %s, key %s, it was %s", what, m.Ready().State, m.Fingerprint(), key)
		}
	}
	same("at first")
	if out := u.Run("status"); !strings.Contains(out, "xfs on vda2") {
		t.Errorf("the state is not on the disk's second partition:\n%s", out)
	}
	u.Run("machine", "reboot")
	m.WaitReboot()
	same("after a reboot")
	if log := u.Run("machine", "log", "--kernel"); strings.Contains(log, "locked down") {
		t.Error("the kernel is locked down without Secure Boot: the test below proves nothing")
	}
	m.Stop()
	judge(t, m)

	m.Configure(func(o *vmtest.Options) { o.DiskBytes = 4 << 30 })
	m.Start()
	same("on a larger disk")
	if out := u.Run("status"); !regexp.MustCompile(`xfs on vda2, \S+ of 3\.\d+GB used`).MatchString(out) {
		t.Errorf("the state did not grow with the disk:\n%s", out)
	}
	m.Stop()
	judge(t, m)

	rewrite(t, m, raw)
	m.Start()
	same("after the boot partition was written anew")
	m.Kill()
}

func TestQCOW2(t *testing.T) {
	u := vmtest.NewUser(t)
	m := vmtest.Start(t, vmtest.Options{DiskImage: build(t).file("wherry.qcow2"), DiskBytes: 2 << 30, Config: u.Config()})
	u.Knows(m)
	if out := u.Run("status"); !strings.Contains(out, "xfs on vda2") {
		t.Errorf("the state is not on the disk's second partition:\n%s", out)
	}
	m.Kill()
}

// A disk that is no larger than its image has no room for the state: the
// machine runs from memory, says why, and leaves the disk as it is.
func TestNoRoom(t *testing.T) {
	u := vmtest.NewUser(t)
	image := build(t).file("wherry.raw")
	m := vmtest.Start(t, vmtest.Options{DiskImage: image, DiskBytes: disk.Bytes, Config: u.Config()})
	u.Knows(m)
	if out := u.Run("status"); !strings.Contains(out, "vda has no room behind the boot partition: make the disk larger") {
		t.Errorf("it does not say what is missing:\n%s", out)
	}
	m.Kill()
	if out, err := exec.Command("cmp", image, state(m)).CombinedOutput(); err != nil {
		t.Errorf("the disk was changed: %s", out)
	}
}

// Under Secure Boot the signed disk boots and the kernel is locked down. What
// is not signed, was changed, or is signed by somebody else does not start.
func TestSecureBoot(t *testing.T) {
	b := build(t)
	u := vmtest.NewUser(t)
	m := vmtest.Start(t, vmtest.Options{DiskImage: b.file("wherry.raw"), SecureBoot: true, DiskBytes: 2 << 30, Config: u.Config()})
	u.Knows(m)
	log := u.Run("machine", "log", "--kernel")
	for _, want := range []string{"Secure boot enabled", "Kernel is locked down from EFI Secure Boot"} {
		if !strings.Contains(log, want) {
			t.Errorf("the kernel does not say %q:\n%s", want, log)
		}
	}
	if m.Ready().State != "persistent" {
		t.Error("XFS was not loaded")
	}
	sum := sha256.Sum256(b.owner.signer.Certificate.Raw)
	for _, want := range []string{"Boot ", "wherry_" + m.Ready().Version + ".efi\n", fmt.Sprintf("verified by Secure Boot, signed by CN=Owner (SHA-256 %x)\n", sum)} {
		if out := u.Run("status"); !strings.Contains(out, want) {
			t.Errorf("status does not say %q:\n%s", want, out)
		}
	}
	m.Stop()

	signed, loader := read(t, b.file("wherry.efi")), loaderOf(t, b)
	evil := newOwner(t, "Evil").signer
	tampered := bytes.Clone(signed)
	tampered[len(tampered)/2] ^= 1
	refused := regexp.MustCompile(`(?i)access denied|security violation`)
	for name, c := range map[string]disk.Contents{
		"unsigned":                {Loader: loader, OS: unsigned(t, signed)},
		"tampered":                {Loader: loader, OS: tampered},
		"signed by somebody else": {Loader: loader, OS: sign(t, signed, evil)},
		"loader of somebody else": {Loader: sign(t, loader, evil), OS: signed},
	} {
		c.Version = "1.0.0"
		raw := filepath.Join(t.TempDir(), "raw")
		if err := disk.WriteRaw(raw, c); err != nil {
			t.Fatal(err)
		}
		rewrite(t, m, raw)
		err := m.TryStart()
		var start *qemu.StartError
		if !errors.As(err, &start) || !strings.Contains(start.Cause, "Secure Boot") || !refused.MatchString(m.Console()) {
			t.Errorf("%s: %v\n%s", name, err, m.Console())
		}
	}
	rewrite(t, m, b.file("wherry.raw"))
	m.Start() // the same machine still starts what is right
	m.Kill()
}

func state(m *vmtest.Machine) string { return filepath.Join(m.VM().Dir(), "state.img") }

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// rewrite writes an image over the beginning of the machine's disk.
func rewrite(t *testing.T, m *vmtest.Machine, image string) {
	t.Helper()
	run(t, "dd", "if="+image, "of="+state(m), "bs=1M", "conv=notrunc", "status=none")
}

// judge has others look at the machine's disk.
func judge(t *testing.T, m *vmtest.Machine) {
	t.Helper()
	if out := run(t, "sgdisk", "-v", "-p", state(m)); !strings.Contains(out, "No problems found") || !strings.Contains(out, "wherry-state") {
		t.Errorf("sgdisk:\n%s", out)
	}
	f, err := os.Open(state(m))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(f, 512, uint64(info.Size())/512)
	if err != nil || len(table.Partitions) != 2 {
		t.Fatalf("the table: %+v, %v", table, err)
	}
	for i, judge := range [][]string{{"fsck.fat", "-n"}, {"xfs_repair", "-n", "-f", "-o", "force_geometry"}} {
		p := table.Partitions[i]
		part := filepath.Join(t.TempDir(), "partition")
		run(t, "dd", "if="+state(m), "of="+part, "bs=1M", "conv=sparse", "iflag=skip_bytes,count_bytes", "status=none",
			"skip="+bytesOf(p.First), "count="+bytesOf(p.Last+1-p.First))
		run(t, judge[0], append(judge[1:], part)...)
	}
}

func bytesOf(blocks uint64) string { return new(big.Int).SetUint64(blocks * 512).String() }

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// loaderOf takes the signed loader out of the disk.
func loaderOf(t *testing.T, b built) []byte {
	t.Helper()
	to := filepath.Join(t.TempDir(), "loader")
	run(t, "mcopy", "-i", b.file("wherry.raw")+"@@1M", "::/EFI/BOOT/BOOTX64.EFI", to)
	return read(t, to)
}

func parse(t *testing.T, program []byte) *pe.Image {
	t.Helper()
	p, err := pe.Parse(program)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func sign(t *testing.T, program []byte, s *pe.Signer) []byte {
	t.Helper()
	out, err := parse(t, program).Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// unsigned takes the signature off.
func unsigned(t *testing.T, program []byte) []byte {
	t.Helper()
	out, err := parse(t, program).Append()
	if err != nil {
		t.Fatal(err)
	}
	return out
}
