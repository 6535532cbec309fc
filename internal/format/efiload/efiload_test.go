// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package efiload

import (
	"bytes"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wherry.example/wherry/internal/format/gpt"
)

var wherry = Option{
	Active: true, Description: "Wherry",
	Partition: Partition{Number: 1, First: 0x800, Blocks: 0x100000, ID: gpt.MustGUID("40DE6310-112C-43D7-9A01-23ACB57F1B11")},
	File:      `\EFI\systemd\systemd-bootx64.efi`,
}

// efibootmgr reads what Encode writes.
func TestJudge(t *testing.T) {
	if _, err := exec.LookPath("efibootmgr"); err != nil {
		t.Fatal("efibootmgr is needed as a judge: run tools/setup.sh test")
	}
	dir := t.TempDir()
	const vendor = "-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	for name, data := range map[string][]byte{"Boot001A": wherry.Encode(), "BootOrder": {0x1a, 0}, "BootCurrent": {0x1a, 0}} {
		if err := os.WriteFile(filepath.Join(dir, name+vendor), append([]byte{7, 0, 0, 0}, data...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("efibootmgr", "-v")
	cmd.Env = append(os.Environ(), "EFIVARFS_PATH="+dir+"/", "LIBEFIVAR_OPS=efivarfs", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	want := "Boot001A* Wherry\tHD(1,GPT,40de6310-112c-43d7-9a01-23acb57f1b11,0x800,0x100000)/File(\\EFI\\systemd\\systemd-bootx64.efi)\n"
	if err != nil || !strings.Contains(string(out), want) {
		t.Errorf("efibootmgr: %v\n%s\nwant %s", err, out, want)
	}
}

// What OVMF writes by itself.
func TestParse(t *testing.T) {
	for text, want := range map[string]Option{
		// UiApp, in a firmware volume
		"09010000 2c00 55006900410070007000 0000 04071400 c9bdb87cebf8344faaea3ee4af6516a1 04061400 21aa2c4614760345836e8ab6f4662331 7fff0400": {Active: true, Description: "UiApp"},
		// UEFI Misc Device: a disk as a whole
		"01000000 1600 550045004600490000 00 02010c00 d041030a 00000000 01010600 0003 7fff0400": {Active: true, Description: "UEFI"},
		// nothing but an end, and not active
		"00000000 0400 0000 7fff0400": {},
	} {
		got, err := Parse(unhex(t, text))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	if got, err := Parse(append(wherry.Encode(), "optional data"...)); err != nil || got != wherry {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{
		"", "01000000", "01000000 0400 0000", "01000000 0400 4100", "01000000 ff00 0000 7fff0400",
		"01000000 0400 0000 7fff0300", "01000000 0400 0000 04010400", "01000000 0600 0000 0401 ffff 0000",
		"01000000 0001 0000" + strings.Repeat("01010400", 64),
	} {
		if got, err := Parse(unhex(t, text)); err == nil {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func FuzzParse(f *testing.F) {
	f.Add(wherry.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := Parse(data)
		if err != nil || o.File == "" {
			return
		}
		again, err := Parse(o.Encode())
		if err != nil || again.Partition != o.Partition || again.Active != o.Active {
			t.Errorf("%+v became %+v, %v", o, again, err)
		}
		if !bytes.Equal(again.Encode(), o.Encode()) {
			t.Error("it is not the same when written again")
		}
	})
}
