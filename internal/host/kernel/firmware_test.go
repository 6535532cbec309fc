// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/internal/host/deb"
)

// TestDebianFirmware takes a real package: the one in Debian's main component.
func TestDebianFirmware(t *testing.T) {
	user, err := os.UserCacheDir()
	if err != nil {
		t.Skip("no cache folder:", err)
	}
	f, err := FirmwareFromApt(t.Context(), "firmware-linux-free", filepath.Join(user, "wherry"), func(s string) { t.Log(s) })
	if errors.Is(err, deb.ErrNoApt) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(f.Files, func(f FirmwareFile) bool { return f.Name == "isci/isci_firmware.bin" })
	if i < 0 || len(f.Files[i].Data) != 232 {
		t.Errorf("the files are %d, isci's is number %d", len(f.Files), i)
	}
	if !slices.Contains(f.Licences, "GPL-2") || !strings.Contains(string(f.Copyright), "Files: isci/*") || f.Source.Version == "" {
		t.Errorf("licences %q of %+v", f.Licences, f.Source)
	}
}

func TestFirmwareRefuses(t *testing.T) {
	for _, name := range []string{"-o", "../x", "a b", ""} {
		if _, err := FirmwareFromApt(t.Context(), name, t.TempDir(), nil); err == nil || !strings.Contains(err.Error(), "not the name") {
			t.Errorf("%q: %v", name, err)
		}
	}
	for target, good := range map[string]bool{"b": true, "../b": true, "../../b": false, "/etc/passwd": false, "": true} {
		f := Firmware{Files: []FirmwareFile{{Name: "dir/a", Target: target}}}
		if err := f.check(); (err == nil) != good {
			t.Errorf("a link to %q: %v", target, err)
		}
	}
}

func TestLicenceNames(t *testing.T) {
	text := "Format: https://x\nFiles-Excluded:\n a\n\nFiles: *\nCopyright: me\nLicense: X-1\n\nFiles: a\nLicense: A\n\nLicense: not used by itself\n text\n"
	if diff := cmp.Diff([]string{"A", "X-1"}, licenceNames([]byte(text))); diff != "" {
		t.Error(diff)
	}
	if got := licenceNames([]byte("This package is\nFiles: x\nLicense: y\n")); got != nil {
		t.Errorf("a text for people gave %q", got)
	}
}
