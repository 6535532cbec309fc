// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/release"
)

const (
	edKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKpujjtsySrmI5GI6iqxU6PcUi3gTHh0GthzWYnUDVVA ann@example"
	ecKey  = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBKVDES30hDCf8/Cx9OOd69EqE9DjAGlisF191l0M74oMxvDrvsxENz07Zp1cZIxxlfr5qXILMNfs8LI8Gd1qQJA= bob"
	rsaKey = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCxIdfhW7toWYUW2+rHG7upI/299H2k8sNCL3/CXCdNINQGDfNdSQhoGuKEflvyhKbtws0bUcj5voCbScHUAQc1qjaCH67ZQzEl8EpI3E2T4dUlNq7KW0jfEGPjuSwbvTpyAKn+zn5y1Ljp3cMY7vBRdWJ/KCZbaWZdhbjm/ZQBddgP+LGthN1Eck4r/oLwIDjskIE97CoYekOzbsajdS6w8EaZ257bjQ9XEs82Ki/q/8s5ZknB6EPhzsB+uSecfkMegsvpZC4to2OBqcaDFSa1H0fqSGiUccz8r2U42lbdHcMxiK6jtUYw5wXGHbWQ1CITWiKw8fQ0lYitnsfFGX/F old"
)

func TestParseFull(t *testing.T) {
	doc, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	m, report := Parse(doc)
	if len(report.Problems) > 0 {
		t.Fatalf("problems:\n%s", report)
	}
	if m.Name != "edge-7.example.com" || m.Access.Keys[1].Role != RoleReader || m.Network.Interfaces[0].Addresses[1] != "2001:db8::10/64" ||
		m.Containers.StopTimeout != 30*time.Second || m.Sysctls["vm.swappiness"] != "10" || *m.Network.Interfaces[1].DHCP {
		t.Errorf("parsed: %+v", m)
	}
	again, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	back, report := Parse(again)
	if len(report.Problems) > 0 {
		t.Fatalf("problems after Marshal:\n%s\n%s", report, again)
	}
	if d := cmp.Diff(m, back); d != "" {
		t.Errorf("Marshal and Parse change the machine:\n%s", d)
	}
	if len(Diff(m, back)) > 0 {
		t.Errorf("Diff of equals: %v", Diff(m, back))
	}
}

func TestDefault(t *testing.T) {
	for _, doc := range []string{"", "# nothing\n", "---\n", "{}", "null", "version: v1\n"} {
		m, report := Parse([]byte(doc))
		if !report.OK() {
			t.Errorf("%q: %s", doc, report)
		}
		if d := cmp.Diff(Default(), m); d != "" {
			t.Errorf("%q is not the default:\n%s", doc, d)
		}
	}
	if r := Validate(Default()); !r.OK() {
		t.Errorf("the default is refused: %s", r)
	}
}

// TestProblems gives one bad document each and wants exactly its problems.
func TestVersionAsNumber(t *testing.T) {
	_, report := Parse([]byte("version: 1\n"))
	if text := report.String(); !strings.Contains(text, `version: expected "v1", found the number "1"`) {
		t.Error(text)
	}
}

// TestPinIsAVersion: this package reads versions itself, as package release does.
func TestPinIsAVersion(t *testing.T) {
	for _, s := range []string{"0.0.0", "12.0.0", "1.2", "1.2.3.4", "01.2.3", "1.2.-3", "1.2.x", "v1.2.3", "999999.0.0", "1000000.0.0", "1.2.3 ", "+1.2.3", "", "..", "9999999.9999999.9999999"} {
		_, err := release.ParseVersion(s)
		report := Validate(Machine{Updates: Updates{Pin: s}})
		if s != "" && (err == nil) != report.OK() {
			t.Errorf("%q: %v, and here %v", s, err, report)
		}
	}
}

func TestProblems(t *testing.T) {
	keys := "version: v1\naccess: {keys: [{key: " + edKey + "}]}\n"
	for _, tc := range []struct{ name, doc, want string }{
		{"unknown field", "nme: x", `line 3: nme: unknown field "nme": did you mean "name"?`},
		{"snake case", "system_containers: []", `line 3: system_containers: unknown field "system_containers": did you mean "systemContainers"?`},
		{"unknown far field", "kubernetes: 1", `unknown field "kubernetes" (known: version, name`},
		{"nested unknown", "network:\n  interfaces:\n  - match: eth0\n    adresses: [a]", `line 6: network.interfaces[0].adresses: unknown field "adresses": did you mean "addresses"?`},
		{"duplicate", "name: a\nname: b", `line 4: name: "name" is given twice, first in line 3`},
		{"alias", "name: &x a\nmodules: [*x]", "anchors (&x) are not supported"},
		{"merge key", "network: {<<: {search: [a]}}", `unknown field "<<"`},
		{"tag", "name: !!str 5", "tags (!!str) are not supported"},
		{"python tag", "name: !!python/object:os.system x", "are not supported"},
		{"number for text", "name: 5", `name: expected text, found the number "5": put it in quotes`},
		{"bool for text", "name: true", `expected text, found the truth value "true"`},
		{"text for bool", "registries: [{host: a, plainHTTP: \"yes\"}]", `registries[0].plainHTTP: expected true or false, found the text "yes"`},
		{"list for text", "name: [a]", "name: expected text, found a list"},
		{"text for list", "modules: a", "modules: expected a list"},
		{"fields for list", "modules: {a: b}", "modules: expected a list, found fields"},
		{"list for fields", "network: []", "network: expected fields, found a list"},
		{"empty item", "modules: [a, ]\nnetwork: {nameservers: [~]}", "network.nameservers[0]: is empty"},
		{"huge number", "network: {interfaces: [{match: eth0, mtu: 99999999999999999999}]}", "network.interfaces[0].mtu"},
		{"float", "network: {interfaces: [{match: eth0, mtu: 1.5e3}]}", "expected a whole number"},
		{"duration without unit", "containers: {stopTimeout: 10}", `containers.stopTimeout: "10" is not a duration`},
		{"negative duration", "containers: {stopTimeout: -1s}", "is negative"},
		{"long duration", "containers: {stopTimeout: 2h}", "is longer than"},
		{"host name", "name: my_machine", `"my_machine" is not a host name`},
		{"long host name", "name: " + strings.Repeat("a", 65), "is longer than 64 letters"},
		{"long part of a host name", "name: " + strings.Repeat("a", 64), "is not a host name"},
		{"hyphen", "name: -a", "is not a host name"},
		{"match", "network: {interfaces: [{match: '[a'}]}", "network.interfaces[0].match"},
		{"no match", "network: {interfaces: [{mtu: 1500}]}", "network.interfaces[0].match"},
		{"double match", "network: {interfaces: [{match: '02:00:00:00:00:01'},{match: '02-00-00-00-00-01'}]}", "network.interfaces[1].match: \"02-00-00-00-00-01\" is matched by an entry before"},
		{"address without prefix", "network: {interfaces: [{match: eth0, addresses: [10.0.0.1]}]}", `network.interfaces[0].addresses[0]: "10.0.0.1" is not an address with its prefix length`},
		{"network address", "network: {interfaces: [{match: eth0, addresses: [10.0.0.0/24]}]}", "is the address of the network itself"},
		{"multicast", "network: {interfaces: [{match: eth0, addresses: ['ff02::1/64']}]}", "cannot be the address"},
		{"same address", "network: {interfaces: [{match: eth0, addresses: [10.0.0.1/24, 10.0.0.1/16]}]}", "addresses[1]: 10.0.0.1 is given twice"},
		{"gateway family", "network: {interfaces: [{match: eth0, gateway: 'fe80::1'}]}", "is not the IPv4 address of a gateway"},
		{"gateway alone", "network: {interfaces: [{match: eth0, dhcp: false, gateway: 10.0.0.1}]}", "there is no IPv4 address to reach it from"},
		{"ipv6 word", "network: {interfaces: [{match: eth0, ipv6: dhcp}]}", `"dhcp" is not auto, off or static`},
		{"place of the OS image", "storage: {osImage: cloud}", `"cloud" is no place for the OS image: auto, memory or disk`},
		{"install nowhere", "install: {wipe: true}", "install.disk"},
		{"install onto a path", "install: {disk: ../sda}", `"../sda" is no disk`},
		{"wipe any disk", "install: {disk: first, wipe: true}", "install.wipe: a disk that may be wiped must be named"},
		{"update url", "updates: {url: 'ftp://a/'}", `updates.url: "ftp://a/" is not an http or https address`},
		{"update url without host", "updates: {url: 'https:///x'}", `is not an http or https address`},
		{"update url with password", "updates: {url: 'https://u:p@a/'}", `updates.url: cannot hold a user name`},
		{"update CA", "updates: {url: 'https://a/', ca: x}", `updates.ca: holds no PEM certificate`},
		{"channel", "updates: {channel: edge}", `updates.channel: "edge" is not a channel: alpha, beta or stable`},
		{"channel and pin", "updates: {channel: beta, pin: 1.2.3}", `updates.pin: excludes channel`},
		{"pin", "updates: {pin: v1.2.3}", `updates.pin: "v1.2.3" is not a version`},
		{"pin number", "updates: {pin: 1.2}", `updates.pin: expected text, found the number "1.2"`},
		{"mode", "updates: {mode: auto}", `updates.mode: "auto" is not a mode`},
		{"window day", "updates: {window: {days: [mon, monday, mon], start: '02:00', length: 1h}}", "line 3: updates.window.days[1]: \"monday\" is not a day: mon, tue, wed, thu, fri, sat or sun\nline 3: updates.window.days[2]: mon is given twice"},
		{"window start", "updates: {window: {start: '2:00', length: 1h}}", `updates.window.start: "2:00" is not a time of day`},
		{"window start as YAML 1.1 number", "updates: {window: {start: 24:00, length: 1h}}", `updates.window.start: "24:00" is not a time of day`},
		{"window without start", "updates: {window: {days: [mon]}}", "line 3: updates.window.start: \"\" is not a time of day: write it like 02:00\nline 3: updates.window.length: 0s is less than 10m0s"},
		{"window too long", "updates: {window: {start: '02:00', length: 25h}}", `updates.window.length: 25h0m0s is longer than 24h0m0s`},
		{"time zone", "updates: {window: {start: '02:00', length: 1h, timeZone: Europe/Bonn}}", `updates.window.timeZone: time zone "Europe/Bonn" is not known`},
		{"spread", "updates: {spread: 200h}", `updates.spread: 200h0m0s is longer than 168h0m0s`},
		{"trial limit", "updates: {trial: {limit: 1h}}", `updates.trial.limit: 1h0m0s is longer than 30m0s`},
		{"no check", "updates: {trial: {checks: [{name: a}]}}", `updates.trial.checks[0]: wants exactly one of http, tcp and exec`},
		{"two checks", "updates: {trial: {checks: [{name: a, tcp: 'a:1', http: {url: 'http://a'}}]}}", `updates.trial.checks[0]: wants exactly one`},
		{"nameless check", "updates: {trial: {checks: [{tcp: 'a:1'}]}}", `updates.trial.checks[0].name: is missing`},
		{"check twice", "updates: {trial: {checks: [{name: a, tcp: 'a:1'},{name: a, tcp: 'a:1'}]}}", `updates.trial.checks[1].name: "a" is the name of another check`},
		{"check without port", "updates: {trial: {checks: [{name: a, tcp: a},{name: b, tcp: '[::1]'}]}}", "checks[0].tcp: \"a\" is not host:port\nline 3: updates.trial.checks[1].tcp: \"[::1]\" is not host:port"},
		{"check's status", "updates: {trial: {checks: [{name: a, http: {url: 'http://a', status: 99}}]}}", `updates.trial.checks[0].http.status: 99 is not an HTTP status`},
		{"check's command", "updates: {trial: {checks: [{name: a, exec: {container: a}}]}}", `updates.trial.checks[0].exec.command: is missing`},
		{"check's container", "updates: {trial: {checks: [{name: a, exec: {command: [a]}}]}}", `updates.trial.checks[0].exec.container: "" is not the name`},
		{"many checks", "updates: {trial: {checks: [" + strings.Repeat("{name: a},", 17) + "]}}", `updates.trial.checks: 17 are more than 16`},
		{"ipv6 off with address", "network: {interfaces: [{match: eth0, ipv6: \"off\", addresses: ['2001:db8::1/64']}]}", "is off, and there is an IPv6 address"},
		{"route", "network: {interfaces: [{match: eth0, routes: [{to: 10.0.0.1/8, via: 'fe80::1', metric: -1}]}]}", "write 10.0.0.0/8\nline 3: network.interfaces[0].routes[0].via: fe80::1 is not of the same family as 10.0.0.1/8\nline 3: network.interfaces[0].routes[0].metric: -1 is negative"},
		{"mtu", "network: {interfaces: [{match: eth0, mtu: 100}]}", "100 is not between 576 and 65535"},
		{"nameserver", "network: {nameservers: [dns.example]}", "is not the address of a name server"},
		{"search", "network: {search: ['a b']}", "is not a domain"},
		{"time server", "time: {servers: ['http://x/']}", "is not the name or address of a server"},
		{"time port", "time: {servers: ['a:99999']}", "is not the name or address of a server"},
		{"registry scheme", "registries: [{host: 'https://r.example'}]", "is not host or host:port (no scheme"},
		{"registry twice", "registries: [{host: r.example},{host: R.example}]", "has an entry before"},
		{"plain for all", "registries: [{host: '*', plainHTTP: true}]", "must name its registry"},
		{"password for all", "registries: [{host: '*', username: a, password: b}]", "would be sent to all of them"},
		{"password alone", "registries: [{host: a.example, password: b}]", "is missing beside the password"},
		{"bad CA", "registries: [{host: a.example, ca: hello}]", "holds no PEM certificate"},
		{"broken CA", "registries: [{host: a.example, ca: \"-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\"}]", "registries[0].ca: x509"},
		{"mirror scheme", "registries: [{host: a.example, mirrors: ['http://m']}]", "is not host[:port][/prefix]"},
		{"mirror dots", "registries: [{host: a.example, mirrors: ['m/../x']}]", "is not host[:port][/prefix]"},
		{"relative path", "containers: {allowedHostPaths: [etc]}", "is not an absolute path"},
		{"dotted path", "containers: {allowedHostPaths: [/sys/../state]}", `is not a clean path: write "/state"`},
		{"state", "containers: {allowedHostPaths: [/state/machine]}", "which is the machine's own"},
		{"everything", "containers: {allowedHostPaths: [/]}", "which is the machine's own"},
		{"pool family", "containers: {addressPool4: 'fd00::/48'}", "is not a network of its family"},
		{"pool size", "containers: {addressPool4: 10.0.0.0/30}", "must be between /8 and /24"},
		{"sysctl path", "sysctls: {../../etc/passwd: 1}", "is not the dotted name of a kernel setting"},
		{"sysctl of ours", "sysctls: {kernel.modprobe: /bin/sh}", "cannot be set: the kernel's calls for modules"},
		{"sysctl list", "sysctls: {vm.swappiness: [1]}", `sysctls["vm.swappiness"]: expected text or a whole number, found a list`},
		{"module path", "modules: [../evil]", "is not the name of a kernel module"},
		{"long module", "modules: [" + strings.Repeat("a", 65) + "]", "is not the name of a kernel module"},
		{"long container", "systemContainers: [{image: b, name: " + strings.Repeat("a", 129) + "}]", "is not a container name"},
		{"container", "systemContainers: [{image: 'UPPER/x'}, {name: a, image: b, env: [x]}, {name: a, image: b}]", "systemContainers[0].name: is missing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m, report := Parse([]byte(keys + tc.doc + "\n"))
			if report.OK() {
				t.Fatalf("accepted: %+v", m)
			}
			if !strings.Contains(report.String(), tc.want) {
				t.Errorf("report:\n%s\nwant it to hold:\n%s", report, tc.want)
			}
			if d := cmp.Diff(Machine{}, m); d != "" {
				t.Errorf("a refused document gave a machine:\n%s", d)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	for _, tc := range []struct{ doc, want string }{
		{"name: a", `line 1: version: warning: there is no version: "v1" is assumed`},
		{"version: v1", "access.keys: warning: there are no keys: nobody can log in"},
		{"version: v1\naccess: {keys: [{key: " + edKey + ", role: reader}]}", "no key is an admin's"},
		{"network: {interfaces: [{match: eth0, mtu: 1000}]}", "the link will have no IPv6"},
		{"registries: [{host: a.example, plainHTTP: true, username: a, password: b}]", "will be sent without TLS"},
		{"containers: {addressPool4: 8.8.0.0/16}", "is not a private network"},
	} {
		_, report := Parse([]byte(tc.doc))
		if !report.OK() {
			t.Errorf("%q is refused:\n%s", tc.doc, report)
		}
		if !strings.Contains(report.String(), tc.want) {
			t.Errorf("%q: report:\n%s\nwant it to hold %q", tc.doc, report, tc.want)
		}
	}
}

func TestKeys(t *testing.T) {
	doc := "version: v1\naccess:\n  keys:\n"
	for _, k := range []string{edKey, ecKey, rsaKey, "nonsense", edKey, "command=\"x\" " + ecKey} {
		doc += fmt.Sprintf("  - key: %q\n", k)
	}
	_, report := Parse([]byte(doc + "  - key: \"\"\n    role: root\n"))
	for _, want := range []string{
		"line 6: access.keys[2].key: ", "RSA", "use an Ed25519 or ECDSA key",
		"line 7: access.keys[3].key: ", "line 8: access.keys[4].key: the key SHA256:", "is the same as keys[0]",
		"options (command", `access.keys[6].role: "root" is not a role`,
	} {
		if want == "RSA" {
			want = "ssh-rsa"
		}
		if !strings.Contains(report.String(), want) {
			t.Errorf("no %q in:\n%s", want, report)
		}
	}
	if n := len(report.Errors()); n != 6 {
		t.Errorf("%d errors, want 6:\n%s", n, report)
	}
}

// TestHostile gives documents that are made to cost much.
func TestHostile(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	for name, doc := range map[string]string{
		"alias bomb":      bomb,
		"self alias":      "network: &n\n  search: *n\n",
		"too long":        strings.Repeat("#", MaxBytes+1),
		"many lines":      strings.Repeat("a: 1\n", 100_000),
		"deep flow":       strings.Repeat("[", 50_000),
		"deep flow maps":  strings.Repeat("{a: ", 50_000),
		"deep sequence":   strings.Repeat("- ", 200_000),
		"deep question":   strings.Repeat("? ", 100_000),
		"deep in field":   "network: " + strings.Repeat("[", 900) + strings.Repeat("]", 900),
		"long list":       "modules: [" + strings.Repeat("a,", 60_000) + "]",
		"two documents":   "version: v1\n---\nversion: v1\n",
		"zero byte":       "name: a\x00b",
		"not UTF-8":       "name: \xff\xfe",
		"UTF-16":          "\xff\xfen\x00a\x00",
		"binary":          "\x7fELF\x02\x01\x01",
		"tab":             "network:\n\tsearch: []",
		"unclosed quote":  "name: \"abc",
		"list at the top": "- a\n- b\n",
		"text at the top": "hello",
		"key is a map":    "? {a: b}\n: c\n",
		"long field":      strings.Repeat("x", 100_000) + ": 1\n",
		"escaped zero":    "name: \"a\\0b\"",
		"long name":       "name: " + strings.Repeat("a", 900_000),
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, report := Parse([]byte(doc))
			if report.OK() {
				t.Errorf("accepted")
			}
			if len(report.Problems) > maxProblems || len(report.String()) > 64<<10 {
				t.Errorf("%d problems in %d bytes", len(report.Problems), len(report.String()))
			}
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
}

// TestErrorSurvivesWarnings keeps the error when warnings fill the report.
func TestErrorSurvivesWarnings(t *testing.T) {
	var r Report
	for range maxProblems + 5 {
		r.warnf("a", 1, "w")
	}
	r.errorf("b", 2, "e")
	if r.OK() || len(r.Problems) != maxProblems {
		t.Errorf("OK %v with %d problems", r.OK(), len(r.Problems))
	}
}

func FuzzParse(f *testing.F) {
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	for _, s := range []string{"", "{}", "a: *a", "? a", "name: &a b", "- - -", "%YAML 1.1\n---\n", "{version: v1, name: a}", "\ufeffversion: v1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		m, report := Parse(doc)
		if !report.OK() {
			return
		}
		out, err := m.Marshal()
		if err != nil {
			t.Fatalf("Marshal: %v", err)
		}
		back, report := Parse(out)
		if !report.OK() {
			t.Fatalf("own document refused:\n%s\n%s", report, out)
		}
		if changes := Diff(m, back); len(changes) > 0 {
			t.Fatalf("changed by Marshal and Parse: %v", changes)
		}
	})
}
