// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/format/pe"
)

func judge(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is needed as a judge: run tools/setup.sh test", name)
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func owner(t *testing.T) *pe.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Owner"}, NotAfter: time.Unix(1<<32, 0)}
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

var contents = Contents{Version: "1.2.3", OS: bytes.Repeat([]byte("kernel"), 5_000_000), Loader: []byte("loader")}

func raw(t *testing.T, c Contents) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := WriteRaw(path, c); err != nil {
		t.Fatal(err)
	}
	return path
}

// sgdisk, fsck.fat and mtools find a good disk with the files where firmware
// and loader look for them; qemu-img finds the same in the other kind.
func TestJudges(t *testing.T) {
	c := contents
	c.Owner, c.Enroll = owner(t), true
	path := raw(t, c)
	out := judge(t, "sgdisk", "-v", "-p", path)
	if !strings.Contains(out, "No problems found") || !strings.Contains(out, "EF00  wherry-boot") {
		t.Errorf("sgdisk:\n%s", out)
	}
	esp := filepath.Join(t.TempDir(), "esp")
	judge(t, "dd", "if="+path, "of="+esp, "bs=1M", "skip=1", "count=512", "conv=sparse", "status=none")
	judge(t, "fsck.fat", "-n", esp)
	// The volume's idea of where it lies, which some firmware believes.
	if out := judge(t, "fsck.fat", "-n", "-v", esp); !strings.Contains(out, "2048 hidden sectors") {
		t.Errorf("fsck.fat:\n%s", out)
	}
	to := t.TempDir()
	judge(t, "mcopy", "-s", "-i", esp, "::/", to)
	for name, want := range map[string]string{
		"EFI/BOOT/BOOTX64.EFI": "loader", "EFI/systemd/systemd-bootx64.efi": "loader", "EFI/Linux/wherry_1.2.3.efi": string(c.OS),
		"loader/loader.conf": "timeout 0\neditor no\nsecure-boot-enroll force\n",
	} {
		if got, err := os.ReadFile(filepath.Join(to, name)); err != nil || string(got) != want {
			t.Errorf("%s has %d bytes, %v", name, len(got), err)
		}
	}
	for _, name := range []string{"PK", "KEK", "db"} {
		if fi, err := os.Stat(filepath.Join(to, "loader/keys/auto", name+".auth")); err != nil || fi.Size() < 1000 {
			t.Errorf("%s: %v", name, err)
		}
	}
	q := filepath.Join(t.TempDir(), "disk.qcow2")
	if err := WriteQCOW2(q, c); err != nil {
		t.Fatal(err)
	}
	judge(t, "qemu-img", "check", q)
	judge(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", path, q)
	if fi, err := os.Stat(q); err != nil || fi.Size() > int64(len(c.OS))+5<<20 {
		t.Errorf("the qcow2 image has %d bytes", fi.Size())
	}
}

func TestSameContentsSameBytes(t *testing.T) {
	a, b := raw(t, contents), raw(t, contents)
	judge(t, "cmp", a, b)
	other := contents
	other.OS = append(bytes.Clone(contents.OS), 'x')
	if err := exec.Command("cmp", "-s", "-n", "4096", a, raw(t, other)).Run(); err == nil {
		t.Error("disks with different OS files have the same identity")
	}
}

func TestRefusesAnOSThatLeavesNoRoom(t *testing.T) {
	c := contents
	c.OS = make([]byte, 180<<20)
	if err := WriteRaw(filepath.Join(t.TempDir(), "x"), c); err == nil || !strings.Contains(err.Error(), "room for 3") {
		t.Errorf("%v", err)
	}
}

// The live medium is a disk to sgdisk, an ESP to fsck.fat and mtools, and a CD to xorriso
// and bsdtar, and all find the same files in it. It holds the OS file once.
func TestISO(t *testing.T) {
	c := contents
	c.Owner = owner(t)
	path := filepath.Join(t.TempDir(), "live.iso")
	if err := WriteISO(path, c); err != nil {
		t.Fatal(err)
	}
	if out := judge(t, "sgdisk", "-v", "-p", path); !strings.Contains(out, "No problems found") || !strings.Contains(out, "EF00  wherry-live") {
		t.Errorf("sgdisk:\n%s", out)
	}
	out := judge(t, "xorriso", "-indev", path, "-report_el_torito", "plain", "-report_system_area", "plain")
	for _, want := range []string{"WHERRY_LIVE", "UEFI  y   none  0x0000", "GPT partname local :   1  wherry-live", "GPT type GUID      :   1  28732ac11ff8d211ba4b00a0c93ec93b"} {
		if !strings.Contains(out, want) {
			t.Errorf("xorriso does not say %q:\n%s", want, out)
		}
	}
	esp := filepath.Join(t.TempDir(), "esp")
	judge(t, "dd", "if="+path, "of="+esp, "bs=1M", "skip=1", "status=none")
	judge(t, "truncate", "-s", "-1M", esp)
	judge(t, "fsck.fat", "-n", esp)
	disk, cd := t.TempDir(), t.TempDir()
	judge(t, "mcopy", "-s", "-i", esp, "::/", disk)
	judge(t, "bsdtar", "-C", cd, "-xf", path)
	judge(t, "diff", "-r", disk, cd)
	if got, err := os.ReadFile(filepath.Join(cd, "EFI/Linux/wherry_1.2.3.efi")); err != nil || !bytes.Equal(got, c.OS) {
		t.Errorf("the OS file has %d bytes, %v", len(got), err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() > int64(len(c.OS))+8<<20 {
		t.Errorf("the medium has %d bytes, %v", fi.Size(), err)
	}
	again := filepath.Join(t.TempDir(), "again.iso")
	if err := WriteISO(again, c); err != nil {
		t.Fatal(err)
	}
	judge(t, "cmp", path, again)
}

// An OS file larger than the smallest volume makes a larger one.
func TestLargeISO(t *testing.T) {
	c := contents
	c.OS = bytes.Repeat([]byte("large"), 20<<20)
	path := filepath.Join(t.TempDir(), "live.iso")
	if err := WriteISO(path, c); err != nil {
		t.Fatal(err)
	}
	judge(t, "sgdisk", "-v", path)
}
