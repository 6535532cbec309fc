// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"os"
	"path/filepath"
	"testing"

	"wherry.example/wherry/internal/format/efitext"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/linux/efivar"
)

var (
	liveID  = gpt.MustGUID("11111111-2222-4333-8444-555555555555")
	otherID = gpt.MustGUID("99999999-2222-4333-8444-555555555555")
)

func TestLive(t *testing.T) {
	named := func(p place, id gpt.GUID, label string) place { p.ID, p.Label = id, label; return p }
	stick := []place{split(disk("sda", "gpt")), named(partition("sda", "sda1", "vfat"), liveID, "wherry-live")}
	installed := []place{split(disk("vda", "gpt")), named(partition("vda", "vda1", "vfat"), otherID, "wherry-boot")}
	both := append(append([]place{}, stick...), installed...)
	disc, foreign := filepath.Join(t.TempDir(), "sr0"), filepath.Join(t.TempDir(), "sr1")
	for path, label := range map[string]string{disc: "WHERRY_LIVE ", foreign: "WHERRY_LIVE2"} {
		data := make([]byte, 40<<10)
		copy(data[32768:], "\x01CD001\x01")
		copy(data[32768+40:], label)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		origin origin
		places []place
		drives []string
		medium string
		sure   bool
	}{
		"by QEMU or a BIOS":            {origin{}, both, []string{disc}, "", true},
		"the stick":                    {origin{true, liveID}, both, nil, "sda", true},
		"the stick, not seen yet":      {origin{true, liveID}, installed, nil, "", false},
		"the disk, with a stick":       {origin{true, otherID}, both, nil, "", true},
		"the disk, with a CD":          {origin{true, otherID}, installed, []string{disc}, "", true},
		"the CD":                       {origin{stub: true}, installed, []string{filepath.Join(t.TempDir(), "empty"), disc}, "sr0", true},
		"the network, with another CD": {origin{stub: true}, installed, []string{foreign}, "", false},
		"the network":                  {origin{stub: true}, stick, nil, "", false},
	} {
		if medium, sure := c.origin.live(c.places, c.drives); medium != c.medium || sure != c.sure {
			t.Errorf("%s: %q, %v, want %q, %v", name, medium, sure, c.medium, c.sure)
		}
	}
}

func TestObserveOrigin(t *testing.T) {
	wide := func(text string) string { return "\x06\x00\x00\x00" + string(efitext.Encode(text)) }
	const info, partition = "StubInfo", "LoaderDevicePartUUID"
	for name, c := range map[string]struct {
		variables map[string]string
		want      origin
	}{
		"no stub":          {nil, origin{}},
		"another loader":   {map[string]string{partition: wide(liveID.String())}, origin{}},
		"from a CD":        {map[string]string{info: wide("systemd-stub 252")}, origin{stub: true}},
		"from a partition": {map[string]string{info: wide("s"), partition: wide(liveID.String())}, origin{true, liveID}},
		"in small letters": {map[string]string{info: wide("s"), partition: wide("11111111-2222-4333-8444-555555555555")}, origin{true, liveID}},
		"nonsense":         {map[string]string{info: wide("s"), partition: wide("x")}, origin{}},
		"cut":              {map[string]string{info: wide("s"), partition: "\x06"}, origin{}},
	} {
		dir := t.TempDir()
		for v, data := range c.variables {
			if err := os.WriteFile(filepath.Join(dir, v+"-"+efivar.Loader), []byte(data), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := observeOrigin(efivar.Variables{Dir: dir}); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
