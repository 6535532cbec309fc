// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const control = "Package: sample\nVersion: 1:2.3-4\nArchitecture: amd64\nDescription: a sample\n Version: not this one\n"

// dpkgDeb has dpkg-deb build a package with the compression.
func dpkgDeb(t *testing.T, compression string) string {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("dpkg-deb is not installed")
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for name, text := range map[string]string{
		"DEBIAN/control": control, "boot/vmlinuz-1": "kernel", "usr/share/doc/x": strings.Repeat("text ", 50000),
	} {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("vmlinuz-1", filepath.Join(root, "boot/vmlinuz")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "sample.deb")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-Z"+compression, "--build", root, file).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	return file
}

func collect(file string) (Control, []string, error) {
	var got []string
	c, err := Unpack(file, func(name string) bool { return strings.HasPrefix(name, "boot/") },
		func(h *tar.Header, r io.Reader) error {
			b, err := io.ReadAll(r)
			got = append(got, fmt.Sprintf("%s %s %s", h.Name, h.Linkname, b))
			return err
		})
	slices.Sort(got)
	return c, got, err
}

func TestUnpackWhatDpkgBuilt(t *testing.T) {
	for _, compression := range []string{"none", "gzip", "xz", "zstd"} {
		t.Run(compression, func(t *testing.T) {
			c, got, err := collect(dpkgDeb(t, compression))
			if err != nil {
				t.Fatal(err)
			}
			if want := (Control{Package: "sample", Version: "1:2.3-4", Architecture: "amd64"}); c != want {
				t.Errorf("control is %+v", c)
			}
			if diff := cmp.Diff([]string{"boot/vmlinuz vmlinuz-1 ", "boot/vmlinuz-1  kernel"}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestUnpackPassesTheVisitorsError(t *testing.T) {
	mine := errors.New("disk full")
	_, err := Unpack(dpkgDeb(t, "xz"), func(string) bool { return true }, func(*tar.Header, io.Reader) error { return mine })
	if !errors.Is(err, mine) {
		t.Errorf("the error is %v", err)
	}
}

// pack builds a package by hand, to break it.
func pack(members ...string) []byte {
	b := []byte("!<arch>\n")
	for i := 0; i < len(members); i += 2 {
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", members[i], 0, 0, 0, "100644", len(members[i+1]), members[i+1])
		if len(members[i+1])%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}

func tarOf(name, text string) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))})
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.String()
}

func xzOf(text string) string {
	var b bytes.Buffer
	w, _ := xz.NewWriter(&b)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.String()
}

func zstdOf(text string) string {
	w, _ := zstd.NewWriter(nil)
	return string(w.EncodeAll([]byte(text), nil))
}

func TestUnpackBroken(t *testing.T) {
	meta, data := tarOf("./control", control), tarOf("./boot/x", strings.Repeat("x", 4000))
	write := func(b []byte) string {
		file := filepath.Join(t.TempDir(), "x.deb")
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	if _, got, err := collect(write(pack("debian-binary", "2.0\n", "control.tar.xz", xzOf(meta), "data.tar.zst", zstdOf(data)))); err != nil || len(got) != 1 {
		t.Fatalf("the good one: %v, %v", got, err)
	}
	for name, b := range map[string][]byte{
		"empty":               nil,
		"no control":          pack("debian-binary", "2.0\n", "data.tar", data),
		"no data":             pack("debian-binary", "2.0\n", "control.tar", meta),
		"control has no name": pack("control.tar", tarOf("control", "Version: 1\n"), "data.tar", data),
		"unknown compression": pack("control.tar", meta, "data.tar.br", data),
		"not xz":              pack("control.tar", meta, "data.tar.xz", data),
		"not zstd":            pack("control.tar", meta, "data.tar.zst", data),
		"cut tar":             pack("control.tar", meta, "data.tar", data[:2000]),
		"cut xz":              pack("control.tar", meta, "data.tar.xz", xzOf(data)[:60]),
		"cut archive":         pack("control.tar", meta, "data.tar", data)[:3000],
	} {
		if _, got, err := collect(write(b)); err == nil {
			t.Errorf("%s: no error, files %v", name, got)
		}
	}
}

func TestNamesStayInside(t *testing.T) {
	b := pack("control.tar", tarOf("control", control), "data.tar", tarOf("../../etc/passwd", "x"))
	var names []string
	_, err := unpack(bytes.NewReader(b), func(string) bool { return true }, func(h *tar.Header, _ io.Reader) error {
		names = append(names, h.Name)
		return nil
	})
	if err != nil || len(names) != 1 || names[0] != "etc/passwd" {
		t.Errorf("names %v, %v", names, err)
	}
}

func TestParseCandidate(t *testing.T) {
	got := parseCandidate("Package: linux-image-6.12-cloud-amd64\nVersion: 6.12.117-1\nArchitecture: amd64\n" +
		"Depends: linux-image-6.12.117+deb12-cloud-amd64 (= 6.12.117-1), a | b, c\n\nPackage: older\nVersion: 1\n")
	want := Candidate{Package: "linux-image-6.12-cloud-amd64", Version: "6.12.117-1", Architecture: "amd64",
		Depends: []string{"linux-image-6.12.117+deb12-cloud-amd64", "c"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestWithoutApt: where there is no apt the error says just that.
func TestWithoutApt(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Resolve(t.Context(), "x"); !errors.Is(err, ErrNoApt) {
		t.Errorf("Resolve: %v", err)
	}
	if _, err := Fetch(t.Context(), Candidate{Package: "x"}, t.TempDir()); !errors.Is(err, ErrNoApt) {
		t.Errorf("Fetch: %v", err)
	}
	if v := Installed(t.Context(), "x"); v != "" {
		t.Errorf("Installed: %q", v)
	}
}

// TestEmptyLists: apt without lists makes an error that tells what to do.
func TestEmptyLists(t *testing.T) {
	if _, err := exec.LookPath("apt-cache"); err != nil {
		t.Skip("apt is not installed")
	}
	conf := filepath.Join(t.TempDir(), "apt.conf")
	text := fmt.Sprintf("Dir::State::lists %q;\nDir::State::status \"/dev/null\";\nDir::Cache %q;\n", t.TempDir(), t.TempDir())
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("APT_CONFIG", conf)
	_, err := Resolve(t.Context(), "linux-image-6.12-cloud-amd64")
	if err == nil || !strings.Contains(err.Error(), "apt-get update") {
		t.Errorf("the error is %v", err)
	}
}
