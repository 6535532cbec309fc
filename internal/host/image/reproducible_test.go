// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wherry.example/wherry/internal/host/deb"
	"wherry.example/wherry/internal/host/kernel"
)

// TestCoreIsReproducible builds the whole core edition of this checkout twice,
// in two folders, with nothing shared but the downloaded Debian packages and
// Go's build cache. The first takes its packed root from the user's cache, or
// leaves it there for `make build`: it was packed sometime, and the second one is now.
func TestCoreIsReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	user, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(user, "wherry")
	if _, err := kernel.FromApt(t.Context(), kernel.Cloud, cache, func(string) {}); errors.Is(err, deb.ErrNoApt) {
		t.Skip(err)
	}
	if _, err := loadCertificates(t.Context(), cache, func(string) {}); err != nil {
		t.Fatal(err)
	}
	warm := &build{Options: Options{Cache: cache, Formats: Formats, Progress: func(string) {}}}
	if err := warm.takeBootFiles(t.Context()); err != nil {
		t.Fatal(err)
	}
	key, certificate := secureBootKey(t)
	// Copied once from the checkout, which somebody may be editing, and again from there.
	first, second := t.TempDir(), t.TempDir()
	cloneCheckout(t, first)
	if err := os.CopyFS(second, os.DirFS(first)); err != nil {
		t.Fatal(err)
	}
	var dirs [2]string
	for i, source := range []string{first, second} {
		o := Options{Source: source, Cache: t.TempDir(), Formats: Formats, SecureBootKey: key, SecureBootCertificate: certificate}
		shares := []string{"kernel", "certificates", "bootloader"}
		if i == 0 {
			shares = append(shares, "root")
			if err := os.MkdirAll(filepath.Join(cache, "root"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, shared := range shares {
			if err := os.Symlink(filepath.Join(cache, shared), filepath.Join(o.Cache, shared)); err != nil {
				t.Fatal(err)
			}
		}
		r, err := Build(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		dirs[i] = r.Dir
	}
	// The manifest, which is compared too, has the hashes of all formats; here are
	// those that are not mostly zeros.
	compare(t, dirs[0], dirs[1], "wherry.efi", "wherry.qcow2", "wherry.iso", "wherry.ova", "wherry-gce.tar.gz", "wherry-oci.tar")
}

// cloneCheckout copies the files that git knows of, or would know of.
func cloneCheckout(t *testing.T, dir string) {
	t.Helper()
	source, err := findSource()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("git", "-C", source, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Skip("not a git checkout:", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		if err := copyFile(filepath.Join(source, name), filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
