// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/host/ctl"
	"wherry.example/wherry/internal/host/known"
	"wherry.example/wherry/internal/host/qemu"
)

// call runs the command line in an empty home.
func call(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"} {
		t.Setenv(name, dir)
	}
	var b bytes.Buffer
	root := newRootCommand(&app{})
	root.SetArgs(args)
	root.SetOut(&b)
	root.SetErr(&b)
	err = root.ExecuteContext(t.Context())
	return b.String(), err
}

// Whoever calls a command wrongly is told how it is called.
func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"exec web", 1, "usage: wherry exec [flags] CONTAINER COMMAND [ARG...]"},
		{"run", 125, "usage: wherry run [flags] IMAGE"},
		{"run --nosuch nginx", 125, "see `wherry run --help`"},
		{"run --privileged nginx", 125, "--cap-add"},
		{"run -d -P nginx", 125, "name the ports with -p"},
		{"ps --nosuch", 1, "unknown flag: --nosuch"},
		{"network nosuch", 1, `there is no "nosuch"`},
		{"image lss", 1, "did you mean ls?"},
		{"vm start", 1, "usage: wherry vm start NAME"},
		{"compose up -d", 1, "there is no `wherry compose`"},
		{"machine update apply 12.1.0", 1, "say --to 12.1.0"},
		{"machine update apply --to latest", 1, "want DAYS.MINOR.PATCH"},
		{"machine update aply", 1, "did you mean apply?"},
		{"machine rollback 12.0.0", 1, "usage: wherry machine rollback"},
		{"nosuch", 1, `unknown command "nosuch"`},
		{"build .", 1, "wherry run ./FOLDER"},
		{"-m 64m ps", 1, "no such machine is known"},
	} {
		_, err := call(t, strings.Fields(c.args)...)
		if ctl.ExitCode(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("wherry %s: exit code %d, want %d; it does not say %q: %v", c.args, ctl.ExitCode(err), c.code, c.want, err)
		}
	}
	for _, args := range []string{"--version", "network", "container --help", "run --help"} {
		if out, err := call(t, strings.Fields(args)...); err != nil || out == "" {
			t.Errorf("wherry %s: %q, %v", args, out, err)
		}
	}
}

// Every verb that says that it is absent is.
func TestAbsentVerbs(t *testing.T) {
	seen := map[string]int{}
	for _, c := range newRootCommand(&app{}).Commands() {
		seen[c.Name()]++
	}
	for name := range absentVerbs {
		if seen[name] != 1 {
			t.Errorf("%s is there %d times", name, seen[name])
		}
	}
	run := newRunCommand(&app{})
	for name := range absentFlags {
		if run.Flags().Lookup(name) != nil {
			t.Errorf("--%s is there", name)
		}
	}
}

func TestShortOfEveryCommand(t *testing.T) {
	var look func(*cobra.Command)
	look = func(c *cobra.Command) {
		if c.Short == "" && !c.Hidden {
			t.Errorf("%s does not say what it does", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			look(sub)
		}
	}
	look(newRootCommand(&app{}))
}

func TestHostAddress(t *testing.T) {
	for _, c := range []struct{ asked, want string }{
		{"", "127.0.0.1"},
		{"0.0.0.0", "0.0.0.0"},
		{"10.0.2.15", "127.0.0.1"},
		{"127.0.0.1", ""},
		{"::1", ""},
		{"::", ""},
	} {
		got, ok := hostAddress(&wherryv1.PortMapping{HostAddress: c.asked})
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%q: %q, %v", c.asked, got, ok)
		}
	}
}

func TestPlace(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	m := known.Machine{Name: "attic", Address: "192.0.2.7:9473"}
	for _, c := range []struct {
		port *wherryv1.PortMapping
		want string
	}{
		{&wherryv1.PortMapping{HostPort: 80}, "192.0.2.7:80"},
		{&wherryv1.PortMapping{HostAddress: "0.0.0.0", HostPort: 80}, "192.0.2.7:80"},
		{&wherryv1.PortMapping{HostAddress: "198.51.100.1", HostPort: 80, Count: 3}, "198.51.100.1:80-82"},
		{&wherryv1.PortMapping{HostAddress: "127.0.0.1", HostPort: 80}, "127.0.0.1:80 on the machine alone"},
	} {
		if got := place(m, c.port); got != c.want {
			t.Errorf("%v: %q, want %q", c.port, got, c.want)
		}
	}
}

const aKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINJs3cxfvE3xbx3HOUtTkdWxMV6k1GVxskAESMNn5a5j"

func TestVMConfig(t *testing.T) {
	data, err := vmConfig("demo", nil, []string{aKey + " me"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := vmConfig("other", append(data, "sysctls: {vm.swappiness: '7'}\n"...), []string{aKey + " again"})
	if err != nil {
		t.Fatal(err)
	}
	m, report := config.Parse(again)
	if !report.OK() || m.Name != "demo" || len(m.Access.Keys) != 1 || m.Sysctls["vm.swappiness"] != "7" {
		t.Errorf("%+v %v", m, report)
	}
	for _, bad := range []string{"version: v1\nnme: x\n", "version: v1\nname: 'a b'\n", strings.Repeat("#", config.MaxBytes+1)} {
		if _, err := vmConfig("demo", []byte(bad), nil); err == nil {
			t.Errorf("no error: %.40q", bad)
		}
	}
	if _, err := vmConfig("demo", []byte("version: v1\nnme: x\n"), nil); !strings.Contains(err.Error(), `line 2: nme: unknown field "nme": did you mean "name"?`) {
		t.Errorf("it does not say where and what: %v", err)
	}
}

// Who removes a machine is told which, as docker does.
func TestVMRemoveTells(t *testing.T) {
	if out, err := call(t, "vm", "rm", "gone"); err == nil || strings.HasPrefix(out, "gone\n") {
		t.Errorf("one that is not there: %q, %v", out, err)
	}
	store, err := qemu.DefaultStore() // of the folders that call has set
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		vm, err := store.Create(name)
		if err == nil {
			err = os.WriteFile(filepath.Join(vm.Dir(), "vm.json"), []byte("{}"), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	root := newRootCommand(&app{})
	root.SetArgs([]string{"vm", "rm", "one", "two"})
	root.SetOut(&b)
	if err := root.ExecuteContext(t.Context()); err != nil || b.String() != "one\ntwo\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}
