// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
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
	"wherry.example/wherry/internal/format/pe/petest"
)

// secureBootKey makes a key and its certificate, and returns their files.
func secureBootKey(t *testing.T) (key, certificate string) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Owner"}, NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, "key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)})))
	write(t, dir, "certificate", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return filepath.Join(dir, "key"), filepath.Join(dir, "certificate")
}

// formatOptions are options with a boot stub and a loader that are none.
func formatOptions(t *testing.T, formats ...string) Options {
	t.Helper()
	o := options(t)
	o.Formats, o.BootFiles = formats, t.TempDir()
	write(t, o.BootFiles, stubName, string(petest.Stub(".text", ".sbat", ".sdmagic")))
	write(t, o.BootFiles, loaderName, string(petest.Stub(".text")))
	return o
}

func TestFormats(t *testing.T) {
	o := formatOptions(t, "qcow2", "efi", "qcow2")
	o.SecureBootKey, o.SecureBootCertificate = secureBootKey(t)
	r, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(r.Manifest, r.Dir); err != nil {
		t.Error(err)
	}
	var names []string
	for _, p := range r.Manifest.Parts[len(parts):] {
		names = append(names, p.Name)
	}
	if got := strings.Join(names, " "); got != "wherry.efi wherry.qcow2" {
		t.Errorf("the formats are %s", got)
	}
	if _, err := os.Stat(filepath.Join(r.Dir, "wherry.raw")); err == nil {
		t.Error("there is a raw disk that nobody asked for")
	}
	if b := r.Manifest.Boot; b == nil || len(b.PCR11) != 64 || len(b.SignedBy) != 64 {
		t.Errorf("the manifest tells %+v of the OS file", b)
	}
	efi := filepath.Join(r.Dir, "wherry.efi")
	if out, err := exec.Command("sbverify", "--cert", o.SecureBootCertificate, efi).CombinedOutput(); err != nil {
		t.Errorf("sbverify: %v: %s", err, out)
	}
	checkSections(t, r.Dir, efi)
	o.Formats, o.SecureBootKey, o.SecureBootCertificate = nil, "", ""
	if r, err = Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.Dir, "wherry.*")); len(left) != 0 || r.Manifest.Boot != nil {
		t.Errorf("a build without formats leaves %v, %+v", left, r.Manifest.Boot)
	}
}

// checkSections compares the OS file with the parts it is made of.
func checkSections(t *testing.T, dir, efi string) {
	t.Helper()
	data, err := os.ReadFile(efi)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pe.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	for section, name := range map[string]string{".linux": "kernel", ".initrd": "initramfs"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(p.Data(section)) != string(want) {
			t.Errorf("%s is not the %s (%v)", section, name, err)
		}
	}
	if text := string(p.Data(".osrel")); !strings.Contains(text, "\nIMAGE_VERSION=3.2.1\n") {
		t.Errorf(".osrel is %q", text)
	}
	if text := string(p.Data(".cmdline")); !strings.HasPrefix(text, "console=") || strings.HasSuffix(text, "\x00") {
		t.Errorf(".cmdline is %q", text)
	}
}

// Whatever is wrong with key or stub is told before anything is replaced.
func TestFormatsRefuse(t *testing.T) {
	key, certificate := secureBootKey(t)
	_, other := secureBootKey(t)
	for name, c := range map[string]struct {
		change func(*Options)
		says   string
	}{
		"another's certificate": {func(o *Options) { o.SecureBootKey, o.SecureBootCertificate = key, other }, "not that of the key"},
		"swapped":               {func(o *Options) { o.SecureBootKey, o.SecureBootCertificate = certificate, key }, "CERTIFICATE"},
		"no such key":           {func(o *Options) { o.SecureBootKey, o.SecureBootCertificate = key+"x", certificate }, "key for Secure Boot"},
		"no stub":               {func(o *Options) { o.BootFiles = t.TempDir() }, "boot loader"},
		"a foreign stub":        {func(o *Options) { write(t, o.BootFiles, stubName, string(petest.Stub(".text"))) }, "not systemd's"},
	} {
		o := formatOptions(t, "efi")
		c.change(&o)
		if _, err := Build(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}
