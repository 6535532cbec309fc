// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package goimage

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// source writes a module and returns its directory.
func source(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "My_Program")
	for n, body := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, n)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, n), []byte(body), 0o644))
	}
	return dir
}

const program = `package main

import (
	"fmt"
	"os"
	"os/user"
)

func main() {
	u, err := user.Current()
	fmt.Println(u, err)
	_, err = os.Stat("/etc/ssl/certs/ca-certificates.crt")
	fmt.Println("certificates", err)
	err = os.WriteFile("/tmp/x", nil, 0o600)
	fmt.Println("tmp", err)
	err = os.WriteFile("/home/nonroot/x", nil, 0o600)
	fmt.Println("home", err)
	err = os.WriteFile("/etc/x", nil, 0o600)
	fmt.Println("etc", err != nil)
}
`

func good(t *testing.T) string {
	return source(t, map[string]string{"go.mod": "module example.test/My_Program\n\ngo 1.22\n", "main.go": program})
}

func build(t *testing.T, o Options) (Result, []byte, v1.Image) {
	t.Helper()
	var b bytes.Buffer
	r, err := Write(t.Context(), o, &b)
	must(t, err)
	img, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }, nil)
	must(t, err)
	return r, b.Bytes(), img
}

func TestProgramRuns(t *testing.T) {
	if os.Getuid() != 0 || runtime.GOOS != "linux" {
		t.Skip("chroot needs root on Linux")
	}
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(bundle, []byte("pem"), 0o644))
	r, _, img := build(t, Options{Dir: good(t), Certificates: bundle})
	if r.Name != "localhost/my-program:latest" || r.Program != "/app/my-program" || r.Arch != runtime.GOARCH {
		t.Errorf("%+v", r)
	}
	cfg, err := img.ConfigFile()
	must(t, err)
	if cfg.Config.User != "65532:65532" || cfg.Config.Entrypoint[0] != r.Program || cfg.Architecture != runtime.GOARCH {
		t.Errorf("%+v", cfg)
	}
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	extract(t, img, root)
	c := exec.Command(r.Program)
	c.Dir = "/"
	c.Env = cfg.Config.Env
	c.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: user, Gid: user}}
	out, err := c.CombinedOutput()
	must(t, err)
	want := "&{65532 65532 nonroot nonroot /home/nonroot} <nil>\ncertificates <nil>\ntmp <nil>\nhome <nil>\netc true\n"
	if string(out) != want {
		t.Errorf("got %s", out)
	}
}

func extract(t *testing.T, img v1.Image, root string) {
	t.Helper()
	rc := mutate.Extract(img)
	defer rc.Close()
	r := tar.NewReader(rc)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		p := filepath.Join(root, h.Name)
		if h.Typeflag == tar.TypeDir {
			must(t, os.MkdirAll(p, 0o755))
		} else {
			must(t, os.MkdirAll(filepath.Dir(p), 0o755)) // upper layers come first
			f, err := os.Create(p)
			must(t, err)
			_, err = io.Copy(f, r)
			must(t, err)
			must(t, f.Close())
		}
		must(t, os.Chown(p, h.Uid, h.Gid))
		must(t, os.Chmod(p, h.FileInfo().Mode()))
	}
}

func TestSameSourceSameBytes(t *testing.T) {
	_, a, _ := build(t, Options{Dir: good(t)})
	_, b, _ := build(t, Options{Dir: good(t)})
	if !bytes.Equal(a, b) {
		t.Error("two builds in two directories differ")
	}
}

func TestOtherArchitecture(t *testing.T) {
	_, _, img := build(t, Options{Dir: good(t), Arch: "arm64", Name: "me/x:3"})
	rc := mutate.Extract(img)
	defer rc.Close()
	r := tar.NewReader(rc)
	for {
		h, err := r.Next()
		must(t, err)
		if h.Name != "app/my-program" {
			continue
		}
		body, err := io.ReadAll(r)
		must(t, err)
		f, err := elf.NewFile(bytes.NewReader(body))
		must(t, err)
		if f.Machine != elf.EM_AARCH64 || f.Section(".interp") != nil {
			t.Errorf("%v, interpreter %v", f.Machine, f.Section(".interp"))
		}
		return
	}
}

func TestErrors(t *testing.T) {
	mod := "module example.test/x\n\ngo 1.22\n"
	file := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(file, nil, 0o644))
	for _, c := range []struct {
		name string
		o    Options
		want string
		is   error
	}{
		{"no such directory", Options{Dir: "/nonexistent/x"}, "no such file", nil},
		{"a file", Options{Dir: file}, "not a directory", nil},
		{"empty", Options{Dir: source(t, map[string]string{"go.mod": mod})}, "no Go files", ErrNoMain},
		{"a library", Options{Dir: source(t, map[string]string{"go.mod": mod, "x.go": "package x\n"})}, `the package there is "x"`, ErrNoMain},
		{"only for another system", Options{Dir: source(t, map[string]string{"go.mod": mod, "x_windows.go": "package main\nfunc main() {}\n"})}, "no Go files", ErrNoMain},
		{"broken code", Options{Dir: source(t, map[string]string{"go.mod": mod, "x.go": "package main\nfunc main() { undefined() }\n"})}, "./x.go:2:15: undefined: undefined", nil},
		{"a missing module", Options{Dir: source(t, map[string]string{"go.mod": mod, "x.go": "package main\nimport _ \"example.test/none\"\nfunc main() {}\n"})}, "no required module provides package example.test/none", nil},
		{"a bad name", Options{Dir: good(t), Name: "UPPER CASE"}, "image name", nil},
		{"a bad architecture", Options{Dir: good(t), Arch: "z80"}, "z80", nil},
		{"no certificates where named", Options{Dir: good(t), Certificates: "/nonexistent/x"}, "certificates", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			_, err := Write(t.Context(), c.o, &b)
			if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if b.Len() > 0 {
				t.Error("wrote something all the same")
			}
		})
	}
}

func TestGoIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Write(t.Context(), Options{Dir: t.TempDir()}, io.Discard); !errors.Is(err, ErrNoGo) {
		t.Error(err)
	}
}
