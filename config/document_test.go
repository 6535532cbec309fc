// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDiff(t *testing.T) {
	no := false
	a := Machine{
		Name:       "a",
		Network:    Network{Interfaces: []Interface{{Match: "eth0", Addresses: []string{"10.0.0.1/24"}}}},
		Registries: []Registry{{Host: "r.example", Username: "u", Password: "old"}},
		Sysctls:    map[string]string{"vm.swappiness": "1", "vm.a": "1"},
	}
	b := Machine{
		Name:       "b",
		Network:    Network{Interfaces: []Interface{{Match: "eth0", DHCP: &no, Addresses: []string{"10.0.0.1/24", "10.0.0.2/24"}}}},
		Registries: []Registry{{Host: "r.example", Username: "u", Password: "new"}, {Host: "s.example", Username: "v", Password: "x"}},
		Sysctls:    map[string]string{"vm.swappiness": "2", "vm.b": "3"},
		Containers: Containers{StopTimeout: time.Minute},
	}
	want := []Change{
		{"name", "a", "b"},
		{"network.interfaces[0].dhcp", "", "false"},
		{"network.interfaces[0].addresses[1]", "", "10.0.0.2/24"},
		{"registries[0].password", Hidden, Hidden},
		{"registries[1].host", "", "s.example"},
		{"registries[1].username", "", "v"},
		{"registries[1].password", "", Hidden},
		{"containers.stopTimeout", "", "1m0s"},
		{`sysctls["vm.a"]`, "1", ""},
		{`sysctls["vm.b"]`, "", "3"},
		{`sysctls["vm.swappiness"]`, "1", "2"},
	}
	if d := cmp.Diff(want, Diff(a, b)); d != "" {
		t.Error(d)
	}
	for _, c := range Diff(b, Machine{}) {
		if strings.Contains(c.Before, "new") {
			t.Errorf("the password is shown: %v", c)
		}
	}
}

func TestRedactAndReveal(t *testing.T) {
	m := Machine{Registries: []Registry{{Host: "r.example", Username: "u", Password: "s3cret"}, {Host: "open.example"}}}
	shown := m.Redact()
	doc, err := shown.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(doc), "s3cret") || m.Registries[0].Password != "s3cret" {
		t.Fatalf("Redact: shows %s, original %+v", doc, m.Registries[0])
	}
	back, report := shown.Reveal(m)
	if d := cmp.Diff(m, back); d != "" || !report.OK() {
		t.Errorf("Reveal: %s%s", d, report)
	}
	other := Machine{Registries: []Registry{{Host: "r.example", Username: "thief", Password: "s3cret"}}}
	if _, report := shown.Reveal(other); report.OK() {
		t.Error("Reveal gave one user's password to another")
	}
}
