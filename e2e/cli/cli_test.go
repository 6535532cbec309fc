// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package cli promises what the command line does beyond containers: it tells
// machines and users apart by their keys, refuses what a role does not allow
// and a machine whose key changed, prints JSON that programs can read, passes
// signals on, and completes words.
package cli

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

func TestCLI(t *testing.T) {
	owner, reader, stranger := vmtest.NewUser(t), vmtest.NewUser(t), vmtest.NewUser(t)
	r := fixture.NewRegistry(t)
	document := owner.Config("  - key: "+reader.PublicKey+"\n    role: reader", "registries:", "- {host: '"+r.Guest+"', plainHTTP: true}", "")
	m := vmtest.Start(t, vmtest.Options{Name: "one", Config: document})
	// Without a disk a machine has a new key each time.
	other := vmtest.Start(t, vmtest.Options{Name: "two", NoDisk: true, Config: owner.Config("name: second\n")})
	box := func(t *testing.T) *vmtest.User { return owner.In(t) }
	t.Run("machines", func(t *testing.T) { machines(t, box(t), m, other) })
	t.Run("a changed key is refused", func(t *testing.T) { changedKey(t, box(t), other) })
	other.Kill()
	owner.Knows(m)
	t.Run("roles", func(t *testing.T) { roles(t, reader.In(t).Knows(m), r) })
	t.Run("strangers", func(t *testing.T) { strangers(t, stranger.In(t).Knows(m)) })
	t.Run("signals", func(t *testing.T) { signals(t, box(t), r.Ref(fixture.Tools)) })
	t.Run("JSON", func(t *testing.T) { jsonOutputs(t, box(t), r.Ref(fixture.Tools)) })
	t.Run("completion", func(t *testing.T) { completion(t, box(t)) })
}

// fails wants a command to end with a code and one clear error.
func fails(t *testing.T, u *vmtest.User, code int, want string, args ...string) {
	t.Helper()
	r := u.Try(args...)
	if r.Code != code || !strings.Contains(r.Stderr, want) || !strings.Contains(r.Stderr, "wherry: ") {
		t.Errorf("wherry %v: exit code %d, want %d; it does not say %q:\n%s", args, r.Code, code, want, r.Stderr)
	}
}

// machines are known by name and key, and commands go to the right one.
func machines(t *testing.T, u *vmtest.User, one, two *vmtest.Machine) {
	fails(t, u, 1, "no machine is chosen", "ps")
	fails(t, u, 1, "no such machine is known", "-m", "one", "ps")
	fails(t, u, 1, "no terminal to ask on", "machine", "add", "one", one.API())
	fails(t, u, 1, "nothing was sent", "machine", "add", "one", one.API(), "--fingerprint", two.Fingerprint())
	u.Run("machine", "add", "one", one.API(), "--fingerprint", one.Fingerprint())
	if out := u.Run("status"); !strings.Contains(out, one.Fingerprint()) {
		t.Errorf("the only machine is not the one that answers: %s", out)
	}
	u.Run("machine", "add", "two", two.API(), "--fingerprint", two.Fingerprint())
	fails(t, u, 1, "no machine is chosen", "ps")
	u.Run("machine", "use", "two")
	for machine, m := range map[string]*vmtest.Machine{"": two, "one": one, "two": two} {
		args := []string{"-o", "json", "status"}
		if machine != "" {
			args = append([]string{"-m", machine}, args...)
		}
		var status struct{ Fingerprint, Name string }
		if err := json.Unmarshal([]byte(u.Run(args...)), &status); err != nil {
			t.Fatal(err)
		}
		if status.Fingerprint != m.Fingerprint() {
			t.Errorf("-m %q reaches the machine with the key %s", machine, status.Fingerprint)
		}
	}
	if out := u.Run("machine", "ls"); !strings.Contains(out, "one") || !strings.Contains(out, "two") {
		t.Errorf("machine ls: %s", out)
	}
}

// changedKey: a machine with another key than the known one gets nothing.
func changedKey(t *testing.T, u *vmtest.User, m *vmtest.Machine) {
	before := m.Fingerprint()
	m.Kill()
	m.Start()
	if m.Fingerprint() == before {
		t.Fatal("a machine without a disk kept its key")
	}
	r := u.Try("-m", "two", "ps")
	for _, want := range []string{before, m.Fingerprint()} {
		if r.Code != 1 || !strings.Contains(r.Stderr, want) {
			t.Errorf("a changed key: exit code %d, and it does not name %s:\n%s", r.Code, want, r.Stderr)
		}
	}
	u.Run("machine", "rm", "two")
	u.Run("machine", "add", "two", m.API(), "--fingerprint", m.Fingerprint())
	u.Run("-m", "two", "ps")
	u.Run("machine", "rm", "two")
}

func roles(t *testing.T, u *vmtest.User, r *fixture.Registry) {
	u.Run("ps")
	u.Run("status")
	if out := u.Run("machine", "whoami"); !strings.Contains(out, "reader") {
		t.Errorf("whoami: %s", out)
	}
	const want = "your key has the role reader"
	fails(t, u, 125, want, "run", r.Ref(fixture.Tools))
	fails(t, u, 125, want, "create", "--pull", "never", r.Ref(fixture.Tools))
	fails(t, u, 1, want, "pull", r.Ref(fixture.Tools))
	fails(t, u, 1, want, "volume", "create", "v")
	fails(t, u, 1, want, "network", "create", "n")
	fails(t, u, 1, want, "machine", "poweroff")
	fails(t, u, 1, "only the role admin", "ps", "--system")
}

func strangers(t *testing.T, u *vmtest.User) {
	for _, args := range [][]string{{"ps"}, {"status"}, {"machine", "whoami"}, {"pull", "x"}} {
		fails(t, u, 1, "does not let you in", args...)
	}
	// One without any key learns what to do.
	if err := os.RemoveAll(filepath.Join(u.Home, ".ssh")); err != nil {
		t.Fatal(err)
	}
	fails(t, u, 1, "you have no SSH key", "ps")
}

// start runs a command and waits until it has written something.
func start(t *testing.T, u *vmtest.User, want string, args ...string) *exec.Cmd {
	t.Helper()
	c := u.Command(args...)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 0, 4096)
	for !strings.Contains(string(got), want) {
		n, err := out.Read(got[len(got):cap(got)])
		got = got[:len(got)+n]
		if err != nil || len(got) == cap(got) {
			t.Fatalf("it does not write %q: %v: %s", want, err, got)
		}
	}
	return c
}

func ends(t *testing.T, c *exec.Cmd, s syscall.Signal, want int) {
	t.Helper()
	if err := c.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	_ = c.Wait() // the exit code says it
	if got := c.ProcessState.ExitCode(); got != want || time.Since(begin) > 20*time.Second {
		t.Errorf("%v: exit code %d after %v, want %d", c.Args[3:], got, time.Since(begin), want)
	}
}

// signals end what only looks, and go to the container where one is attached.
func signals(t *testing.T, u *vmtest.User, image string) {
	u.Run("run", "-d", "--name", "clock", image, "tick", "100")
	ends(t, start(t, u, "tick", "logs", "-f", "clock"), syscall.SIGINT, 130)
	ends(t, start(t, u, "clock", "stats"), syscall.SIGTERM, 143)
	if out := u.Run("ps", "-q"); out == "" {
		t.Error("ctrl-C in logs -f ended the container")
	}
	ends(t, start(t, u, "waiting", "run", "--rm", image, "signal", "INT", "9"), syscall.SIGINT, 9)
	ends(t, start(t, u, "waiting", "run", "--rm", image, "signal", "USR1", "4"), syscall.SIGUSR1, 4)
	ends(t, start(t, u, "tick", "attach", "--sig-proxy=false", "clock"), syscall.SIGINT, 130)
	ends(t, start(t, u, "waiting", "exec", "clock", "/toybox", "signal", "TERM", "5"), syscall.SIGTERM, 5)
	u.Run("rm", "-f", "clock")
}

// jsonOutputs: every list and every object can be read by a program.
func jsonOutputs(t *testing.T, u *vmtest.User, image string) {
	u.Run("run", "-d", "--name", "box", "-v", "data:/data", image, "sleep", "inf")
	for _, args := range [][]string{{"ps"}, {"ps", "-a"}, {"images"}, {"volume", "ls"}, {"network", "ls"}, {"machine", "ls"}, {"status"}, {"version"},
		{"machine", "whoami"}, {"inspect", "box"}, {"image", "inspect", image}, {"volume", "inspect", "data"}, {"stats", "--no-stream"}, {"pull", image}} {
		out := u.Run(append([]string{"-o", "json"}, args...)...)
		if !json.Valid([]byte(out)) || len(strings.TrimSpace(out)) < 3 {
			t.Errorf("-o json %v: %s", args, out)
		}
	}
	for line := range strings.Lines(u.Run("-o", "json", "events", "--since", "5m", "--until", "0s")) {
		if !json.Valid([]byte(line)) {
			t.Errorf("-o json events: %s", line)
		}
	}
	fails(t, u, 1, "want table or json", "-o", "xml", "ps")
	u.Run("rm", "-f", "box")
}

// completion: the scripts load in their shells, and names come from the machine.
func completion(t *testing.T, u *vmtest.User) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script := u.Run("completion", shell)
		if !strings.Contains(script, "wherry") || len(script) < 1000 {
			t.Errorf("the script for %s has %d bytes", shell, len(script))
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			continue // bash at least is everywhere
		}
		check := exec.Command(path, "-n")
		check.Stdin = strings.NewReader(script)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s does not take its script: %v\n%s", shell, err, out)
		}
	}
	u.Run("volume", "create", "completed")
	if out := u.Run("__complete", "volume", "rm", "comp"); !strings.HasPrefix(out, "completed\n") {
		t.Errorf("volume rm comp<TAB> gives %s", out)
	}
	if out := u.Run("__complete", "run", "--restart", ""); !strings.Contains(out, "unless-stopped\n") {
		t.Errorf("run --restart <TAB> gives %s", out)
	}
}
