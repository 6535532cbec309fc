// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/internal/host/deb"
	"wherry.example/wherry/internal/host/kernel"
	"wherry.example/wherry/internal/host/kernel/kerneltest"
	"wherry.example/wherry/internal/host/rootfs"
	"wherry.example/wherry/release"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// checkout is a source tree of two tiny programs and no components.
func checkout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "go.mod", "module wherry.example/wherry\n\ngo 1.26\n")
	write(t, dir, "VERSION", "3.2.1\n")
	write(t, dir, "editions/core.yaml", "name: core\nprograms: [wherryd]\n")
	for _, name := range []string{"wherryd", "wherry-init", "wherry-early"} {
		write(t, dir, "cmd/"+name+"/main.go", "package main\n\nfunc main() { println(\""+name+"\") }\n")
	}
	return dir
}

// certificate makes a CA certificate.
func certificate(t *testing.T) string {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// options build a tiny image around a kernel that is none.
func options(t *testing.T) Options {
	t.Helper()
	if _, err := exec.LookPath("mksquashfs"); err != nil {
		t.Skip("mksquashfs is not installed")
	}
	dir := t.TempDir()
	write(t, dir, "vmlinuz", "kernel")
	write(t, dir, "certs.pem", certificate(t))
	write(t, dir, "modules/modules.builtin", "kernel/drivers/nvme/host/nvme.ko\n")
	for _, g := range kernel.Root {
		for _, name := range g.Modules {
			if g.Required {
				write(t, dir, "modules/"+name+".ko", string(kerneltest.Module("alias=test-"+name)))
			}
		}
	}
	return Options{
		Source: checkout(t), Cache: t.TempDir(), Kernel: filepath.Join(dir, "vmlinuz"),
		Modules: filepath.Join(dir, "modules"), Certificates: filepath.Join(dir, "certs.pem"),
	}
}

func TestBuild(t *testing.T) {
	o := options(t)
	r, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(o.Source, "build/core-amd64"); r.Dir != want {
		t.Errorf("the image is in %s, want %s", r.Dir, want)
	}
	m, err := ReadManifest(r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r.Manifest, m); diff != "" {
		t.Error(diff)
	}
	if m.Version.String() != "3.2.1" || m.Edition != "core" || len(m.Parts) != 4 {
		t.Errorf("the manifest is %+v", m)
	}
	if err := Verify(m, r.Dir); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(r.Dir, ".parts-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	checkRoot(t, filepath.Join(r.Dir, "root.squashfs"), o.Certificates)
}

// checkRoot reads the root with a program that is not ours.
func checkRoot(t *testing.T, file, certs string) {
	t.Helper()
	out, err := exec.Command("unsquashfs", "-lls", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"squashfs-root/bin/wherryd", "squashfs-root/lib/modules/index", "squashfs-root/lib/modules/xfs.ko", "squashfs-root/sbin/init",
		"squashfs-root/etc/resolv.conf -> /run/wherry/resolv.conf", "squashfs-root/state", "squashfs-root/var", "squashfs-root/proc",
	} {
		if !strings.Contains(string(out), want+"\n") {
			t.Errorf("the root lacks %s", want)
		}
	}
	if strings.Contains(string(out), ".ko.xz") {
		t.Error("the root holds compressed modules")
	}
	got, err := exec.Command("unsquashfs", "-cat", file, "etc/ssl/certs/ca-certificates.crt", "etc/os-release").Output()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(certs)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(got, want) || !bytes.Contains(got, []byte("VERSION_ID=3.2.1\n")) {
		t.Errorf("certificates and os-release are %s", got)
	}
}

// TestTwoFoldersSameBytes builds in two folders with two empty caches.
func TestFirmwareInTheRoot(t *testing.T) {
	p := kernel.Firmware{
		Source: deb.Candidate{Package: "firmware-x"}, Copyright: []byte("ours"),
		Files: []kernel.FirmwareFile{{Name: "a/b.bin", Data: []byte("code")}, {Name: "c.bin", Target: "a/b.bin"}},
	}
	tree := &rootfs.Tree{}
	if err := addFirmware(tree, []kernel.Firmware{p}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range tree.Entries() {
		if !e.Mode.IsDir() {
			got = append(got, e.Path+"="+string(e.Data)+e.Target)
		}
	}
	want := []string{"lib/firmware/a/b.bin=code", "lib/firmware/c.bin=a/b.bin", "lib/firmware/firmware-x.copyright=ours"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := addFirmware(tree, []kernel.Firmware{{Source: deb.Candidate{Package: "firmware-y"}, Files: p.Files}}); err == nil {
		t.Error("two packages brought the same file")
	}
}

func TestTwoFoldersSameBytes(t *testing.T) {
	first := options(t)
	second := first
	second.Source, second.Cache = checkout(t), t.TempDir()
	second.Output = filepath.Join(t.TempDir(), "elsewhere")
	a, err := Build(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Build(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, a.Dir, b.Dir)
}

func compare(t *testing.T, a, b string, more ...string) {
	t.Helper()
	for _, name := range slices.Concat([]string{release.ManifestName}, parts, more) {
		x, err := os.ReadFile(filepath.Join(a, name))
		if err != nil {
			t.Fatal(err)
		}
		y, err := os.ReadFile(filepath.Join(b, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x, y) {
			t.Errorf("%s differs between two builds: %d and %d bytes", name, len(x), len(y))
		}
	}
}

func TestChangesReachTheImage(t *testing.T) {
	o := options(t)
	before, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	write(t, o.Source, "cmd/wherryd/main.go", "package main\n\nfunc main() { println(\"changed\") }\n")
	after, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if before.Manifest.Parts[1] == after.Manifest.Parts[1] {
		t.Error("another wherryd made the same root")
	}
	if before.Manifest.Parts[0] != after.Manifest.Parts[0] {
		t.Error("the kernel changed")
	}
}

// TestFailedBuildKeepsTheOldImage: an error leaves what was there.
// Where to put the image is meant from the current folder, not from the checkout.
func TestRelativeOutput(t *testing.T) {
	o := options(t)
	t.Chdir(t.TempDir())
	o.Output = "out"
	r, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := Verify(r.Manifest, "out"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(o.Source, "out")); err == nil {
		t.Error("it is in the checkout")
	}
}

func TestFailedBuildKeepsTheOldImage(t *testing.T) {
	o := options(t)
	r, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	write(t, o.Source, "cmd/wherryd/main.go", "package main\n\nfunc main() { oops }\n")
	if _, err := Build(t.Context(), o); err == nil || !strings.Contains(err.Error(), "oops") {
		t.Errorf("the error is %v", err)
	}
	if err := Verify(r.Manifest, r.Dir); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(r.Dir, ".parts-*")); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "kernel", "good")
	p, err := measure(dir, "kernel")
	if err != nil {
		t.Fatal(err)
	}
	m := release.Manifest{Parts: []release.Part{p}}
	if err := Verify(m, dir); err != nil {
		t.Error(err)
	}
	write(t, dir, "kernel", "evil")
	if err := Verify(m, dir); err == nil {
		t.Error("a changed kernel was not noticed")
	}
	m.Parts[0].Name = "../kernel"
	if err := Verify(m, dir); err == nil {
		t.Error("a part outside of the folder was taken")
	}
	if _, err := ReadManifest(dir); err == nil || !strings.Contains(err.Error(), "wherry build") {
		t.Errorf("no manifest: %v", err)
	}
	write(t, dir, release.ManifestName, "{")
	if _, err := ReadManifest(dir); err == nil {
		t.Error("a broken manifest was taken")
	}
}

func TestRefuses(t *testing.T) {
	own, source := options(t), checkout(t)
	write(t, source, "editions/odd.yaml", "name: odd\nprogramms: []\n")
	write(t, source, "editions/other.yaml", "name: core\n")
	for name, c := range map[string]struct {
		o    Options
		says string
	}{
		"kernel alone":     {Options{Kernel: "x"}, "--modules"},
		"modules alone":    {Options{Modules: "x"}, "--kernel"},
		"unknown edition":  {Options{Edition: "nope"}, "nope"},
		"a path":           {Options{Edition: "../core"}, "not a name"},
		"unknown field":    {Options{Edition: "odd"}, "programms"},
		"wrong name":       {Options{Edition: "other"}, "core"},
		"unknown format":   {Options{Formats: []string{"efi", "floppy"}}, "there are efi, raw, qcow2"},
		"key alone":        {Options{Formats: []string{"efi"}, SecureBootKey: "x"}, "--secure-boot-cert"},
		"nothing to sign":  {Options{SecureBootKey: "x", SecureBootCertificate: "y"}, "--format"},
		"no live medium":   {Options{Formats: []string{"efi"}, LiveConfig: "x"}, "--format iso"},
		"no key to enrol":  {Options{Formats: []string{"efi"}, SecureBootEnroll: true}, "--secure-boot-key"},
		"kind and modules": {Options{Kernel: "metal", Modules: "x"}, "cloud or metal"},
		"kind in edition":  {Options{Edition: "core-metal"}, "--edition core --kernel metal"},
		"odd firmware":     {Options{Firmware: []string{"-o"}, Kernel: own.Kernel, Modules: own.Modules}, "not the name of a package"},
		"no such kernel":   {Options{Kernel: "/nonexistent", Modules: source}, "kernel image /nonexistent"},
	} {
		c.o.Source, c.o.Cache = source, t.TempDir()
		if _, err := Build(t.Context(), c.o); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// What is wrong with a file that somebody gave is told before anything is built.
func TestRefusesEarly(t *testing.T) {
	good := options(t)
	good.Formats = []string{"iso"}
	write(t, good.Source, "cmd/wherryd/main.go", "package main\n\nfunc main() { oops }\n")
	write(t, good.Source, "bad.yaml", "hostnam: x\n")
	key, certificate := secureBootKey(t)
	bad := filepath.Join(good.Source, "bad.yaml")
	for name, c := range map[string]struct {
		change func(*Options)
		says   []string
	}{
		"live configuration":    {func(o *Options) { o.LiveConfig = bad }, []string{"configuration for the live medium, " + bad, "hostnam"}},
		"no live configuration": {func(o *Options) { o.LiveConfig = bad + "x" }, []string{"configuration for the live medium", "no such file"}},
		"swapped keys":          {func(o *Options) { o.SecureBootKey, o.SecureBootCertificate = certificate, key }, []string{"sign for Secure Boot"}},
		"certificates":          {func(o *Options) { o.Certificates = bad }, []string{"certificates in " + bad}},
		"boot files":            {func(o *Options) { o.BootFiles = good.Source }, []string{"boot loader"}},
		"firmware":              {func(o *Options) { o.Firmware = []string{"Not A Name"} }, []string{"not the name of a package"}},
		"two at once":           {func(o *Options) { o.LiveConfig, o.Certificates = bad, bad }, []string{"hostnam", "certificates in " + bad}},
	} {
		o := good
		c.change(&o)
		_, err := Build(t.Context(), o)
		for _, want := range c.says {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "oops") {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
	}
}

func TestCertificates(t *testing.T) {
	good := certificate(t)
	for name, c := range map[string]struct {
		text string
		ok   bool
	}{
		"one":      {good, true},
		"two":      {good + "\n# a comment\n" + good, true},
		"none":     {"", false},
		"no pem":   {"hello", false},
		"bad body": {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", false},
	} {
		file := filepath.Join(t.TempDir(), "x")
		if err := os.WriteFile(file, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := readCertificates(file); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	got := concatenate(map[string][]byte{"b": []byte("B\n\n"), "a": []byte("A")})
	if string(got) != "A\nB\n" {
		t.Errorf("joined are %q", got)
	}
}

func TestLockWaits(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	unlock, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan func())
	go func() {
		u, err := lock(dir)
		if err != nil {
			t.Error(err)
		}
		second <- u
	}()
	select {
	case <-second:
		t.Fatal("two builds hold one folder")
	case <-time.After(50 * time.Millisecond):
	}
	unlock()
	(<-second)()
}
