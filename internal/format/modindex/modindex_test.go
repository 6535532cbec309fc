// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package modindex

import (
	"bytes"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var sample = &Index{
	Modules: []Module{
		{Name: "libcrc32c", File: "libcrc32c.ko", Soft: []string{"crc32c"}},
		{Name: "xfs", File: "xfs.ko", Depends: []string{"libcrc32c"}, Aliases: []string{"fs-xfs"}},
		{Name: "net_failover", File: "net_failover.ko"},
		{Name: "virtio_net", File: "virtio_net.ko", Depends: []string{"net_failover"}, Aliases: []string{"virtio:d00000001v*"}},
		{Name: "ahci", File: "ahci.ko", Aliases: []string{"pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv*sd*bc*sc*i*"}},
		{Name: "round", File: "round.ko", Depends: []string{"about"}},
		{Name: "about", File: "about.ko", Depends: []string{"round"}},
		{Name: "broken", File: "broken.ko", Depends: []string{"absent"}},
	},
	Builtin: []string{"ext4", "virtio_pci"},
}

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	if err := sample.Encode(&b); err != nil {
		t.Fatal(err)
	}
	got, err := Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample, got, cmpopts.IgnoreUnexported(Index{})); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, text := range []string{
		"alias\tx\n", "module\tx\n", "module\tx\ty\tz\n", "module\tx\ty\nbad\tz\n", "builtin\n", "\n", "module\t\ty\n", "<html>",
	} {
		if x, err := Decode(strings.NewReader(text)); err == nil {
			t.Errorf("%q: decoded as %+v", text, x.Modules)
		}
	}
}

func TestMatch(t *testing.T) {
	for alias, want := range map[string][]string{
		"pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01": {"ahci"},
		"pci:v00008086d00002923sv00001AF4sd00001100bc01sc06i02": nil,
		"virtio:d00000001v00001AF4":                             {"virtio_net"},
		"fs-xfs":                                                {"xfs"},
		"net-failover":                                          {"net_failover"},
		"fs-ext4":                                               nil,
		"":                                                      nil,
	} {
		if diff := cmp.Diff(want, sample.Match(alias)); diff != "" {
			t.Errorf("%s: %s", alias, diff)
		}
	}
}

func TestOrder(t *testing.T) {
	for names, want := range map[string]string{
		"xfs":               "libcrc32c xfs",
		"virtio-net xfs":    "net_failover virtio_net libcrc32c xfs",
		"ext4":              "",
		"round":             "about round",
		"absent":            "kernel module absent is not in this image",
		"broken":            "kernel module absent is not in this image",
		"xfs xfs libcrc32c": "libcrc32c xfs",
	} {
		order, err := sample.Order(strings.Fields(names)...)
		var got []string
		for _, m := range order {
			got = append(got, m.Name)
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = err.Error()
		}
		if text != want {
			t.Errorf("%s: %s, want %s", names, text, want)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"*", "a/b", true}, {"a*c", "abbc", true}, {"a*c", "abbd", false}, {"a?c", "a/c", true}, {"a?c", "ac", false},
		{"x[0-9]y", "x5y", true}, {"x[0-9]y", "xay", false}, {"x[!0-9]y", "xay", true}, {"x[ab-", "x[ab-", true}, {"x[]y", "x[]y", true},
		{"*a*b*", "xxaxxbxx", true}, {"*a*b*", "xxbxxa", false}, {"a", "ab", false}, {"a*", "a", true}, {"a?", "a", false},
	} {
		if got := glob(c.pattern, c.s); got != c.want {
			t.Errorf("glob(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

// FuzzGlob compares with the standard library, where the two mean the same.
func FuzzGlob(f *testing.F) {
	f.Add("pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01")
	f.Add("a*[0-9]b", "axx7b")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern)+len(s) > 1000 || !plain(pattern) || !plain(s) {
			return
		}
		want, err := path.Match(pattern, s)
		if err != nil {
			return
		}
		if got := glob(pattern, s); got != want {
			t.Errorf("glob(%q, %q) = %v, path.Match says %v", pattern, s, got, want)
		}
	})
}

// plain leaves out what path.Match reads differently: '/', escapes, runes, and odd classes.
func plain(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`/\\^!]-[`, r) })
}

// FuzzDecode feeds the reader anything; what it accepts must survive a round trip.
func FuzzDecode(f *testing.F) {
	var b bytes.Buffer
	if err := sample.Encode(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.String())
	f.Fuzz(func(t *testing.T, text string) {
		x, err := Decode(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, m := range x.Modules {
			x.Match(m.Name)
			x.Order(m.Name)
		}
		var out bytes.Buffer
		if err := x.Encode(&out); err != nil {
			t.Fatal(err)
		}
		again, err := Decode(&out)
		if err != nil {
			t.Fatalf("what was written is refused: %v", err)
		}
		if diff := cmp.Diff(x, again, cmpopts.IgnoreUnexported(Index{})); diff != "" {
			t.Error(diff)
		}
	})
}
