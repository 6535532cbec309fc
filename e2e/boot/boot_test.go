// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package boot promises what a machine is from its power-on to its power-off:
// what it shows on its console, what it keeps over reboots and power cuts, in
// which order it ends, how its kernel is set up, and how it follows its
// configuration or says why not.
package boot

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

const tools = "localhost/tools:1"

// badDocument has four problems: two unknown fields, two wrong types.
const badDocument = `version: v1
name: 7up
colour: red
network:
  nameservers: yes
  mtu: 9000
sysctls: [vm.swappiness]
`

// badPaths are what must be told of it.
var badPaths = []string{"colour", "network.nameservers", "network.mtu", "sysctls"}

// One machine lives through all its ends.
func TestLife(t *testing.T) {
	u := vmtest.NewUser(t)
	config := u.Config("name: boat", "containers:", "  allowedHostPaths: [/proc, /sys]", "")
	m := vmtest.Start(t, vmtest.Options{Config: config})
	u.Knows(m)
	key := m.Fingerprint()
	t.Run("console", func(t *testing.T) { consoleTells(t, m, "persistent") })
	if out := u.Run("status"); !regexp.MustCompile(`(?m)^Health +good$`).MatchString(out) {
		t.Errorf("it is not well:\n%s", out)
	}
	u.Run("load", "-i", fixture.Archive(t, tools, fixture.Toybox(t)))
	t.Run("kernel", func(t *testing.T) { kernel(t, u) })
	start(t, u)

	t.Run("power cut, and a bad document", func(t *testing.T) {
		m.Kill()
		m.Configure(func(o *vmtest.Options) { o.Config = []byte(badDocument) })
		m.Start()
		same(t, u, m, key)
		if log := kernelLog(u); !strings.Contains(log, "Starting recovery") {
			t.Error("the state needed no recovery after a power cut: an orderly end can't be told from it")
		}
		m.WaitConsole(`problem +config\S*: uses the last good configuration`, 30*time.Second)
		r := u.Try("status")
		for _, path := range badPaths {
			if !strings.Contains(r.Stdout, path) {
				t.Errorf("the status does not tell of %s:\n%s", path, r.Stdout)
			}
		}
		if m.Ready().Name != "boat" {
			t.Errorf("its name is %q", m.Ready().Name)
		}
	})
	m.Configure(func(o *vmtest.Options) { o.Config = config })
	t.Run("reboot through the API", func(t *testing.T) {
		if r := u.Try("machine", "reboot"); r.Code != 0 || !strings.Contains(r.Stderr, "is back after") {
			t.Fatalf("%+v", r)
		}
		m.WaitReboot()
		endedWell(t, u, m, key)
	})
	t.Run("power button", func(t *testing.T) {
		m.Stop()
		inOrder(t, m.Console())
		m.Start()
		endedWell(t, u, m, key)
	})
	t.Run("configuration", func(t *testing.T) { configuration(t, u, m) })
	t.Run("power-off through the API", func(t *testing.T) {
		u.Run("machine", "poweroff")
		m.WaitOff(2 * time.Minute)
		inOrder(t, m.Console())
	})
}

// start leaves a container that runs and says farewell, and one that has ended.
func start(t *testing.T, u *vmtest.User) {
	t.Helper()
	u.Run("run", "-d", "--name", "last", "--restart", "always", "-v", "words:/words", tools, "farewell", "/words/last", "2")
	u.Run("run", "--name", "ended", tools, "exit", "0")
	u.Run("run", "--rm", "-v", "words:/words", tools, "write", "/words/first", "hello")
}

// same says that the machine and its containers are those of before.
func same(t *testing.T, u *vmtest.User, m *vmtest.Machine, key string) {
	t.Helper()
	if m.Fingerprint() != key {
		t.Fatalf("its key was %s and is %s", key, m.Fingerprint())
	}
	if m.Ready().State != "persistent" {
		t.Errorf("its state is %q", m.Ready().State)
	}
	waitFor(t, "the container to run again", func() bool {
		return u.Try("ps", "-q", "--filter", "name=last").Stdout != ""
	})
	if out := u.Run("ps", "-a"); strings.Count(out, "\n") != 3 || !regexp.MustCompile(`Exited \(0\).*ended`).MatchString(out) {
		t.Errorf("containers:\n%s", out)
	}
	if out := u.Run("run", "--rm", "-v", "words:/words", tools, "cat", "/words/first"); out != "hello\n" {
		t.Errorf("the volume has %q", out)
	}
}

// endedWell says that the run before ended in order: containers had their
// signal and their time, and what they wrote last is there without the file
// system's log being replayed.
func endedWell(t *testing.T, u *vmtest.User, m *vmtest.Machine, key string) {
	t.Helper()
	same(t, u, m, key)
	out := u.Run("run", "--rm", "-v", "words:/words", tools, "cat", "/words/last")
	if out != "farewell\n" {
		t.Errorf("the last words are %q", out)
	}
	u.Run("run", "--rm", "-v", "words:/words", tools, "rm", "/words/last")
	log := kernelLog(u)
	if !strings.Contains(log, "Ending clean mount") || strings.Contains(log, "ecovery") {
		t.Errorf("the state was not unmounted:\n%s", regexp.MustCompile(`(?m)^.*XFS.*$`).FindAllString(log, -1))
	}
}

// inOrder reads an end off the console: nothing had to be killed or left mounted.
func inOrder(t *testing.T, console string) {
	t.Helper()
	if !strings.Contains(console, "stopping") {
		t.Error("the console does not show the end")
	}
	for _, bad := range []string{"still in use", "still there", "SIGKILL", "takes too long"} {
		if strings.Contains(console, bad) {
			t.Errorf("the console shows %q", bad)
		}
	}
}

func kernelLog(u *vmtest.User) string { return u.Run("machine", "log", "--kernel") }

func consoleTells(t *testing.T, m *vmtest.Machine, state string) {
	t.Helper()
	r := m.Ready()
	if r.Name == "" || r.State != state || !strings.HasPrefix(r.Fingerprint, "SHA256:") || r.Version == "" {
		t.Errorf("ready: %+v", r)
	}
	for _, want := range []string{
		`Wherry ` + regexp.QuoteMeta(r.Version) + ` on ` + r.Name,
		`10\.0\.2\.15:9473`,
		`\[fec0:[0-9a-f:]+\]:9473`,
		`key +` + regexp.QuoteMeta(r.Fingerprint),
	} {
		m.WaitConsole(want, 30*time.Second)
	}
	if n := strings.Count(m.Console(), "wherry: ready "); n != 1 {
		t.Errorf("%d ready lines", n)
	}
	if strings.Contains(m.Console(), "problem    time") {
		t.Error("no time server is shown as a problem")
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(300 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// A machine without a disk, whose only document is bad, and with odd words on
// its command line, still comes up, says both, and lets nobody in.
func TestFromMemoryWithABadDocument(t *testing.T) {
	m := vmtest.Start(t, vmtest.Options{NoDisk: true, Config: []byte(badDocument), Cmdline: oddWords})
	consoleTells(t, m, "memory")
	m.WaitConsole(`state +in memory: nothing outlives a restart`, 10*time.Second)
	m.WaitConsole(`problem +config\S*: uses the default configuration`, 10*time.Second)
	u := vmtest.NewUser(t).Knows(m)
	if r := u.Try("ps"); r.Code == 0 || !strings.Contains(r.Stderr, "does not let you in") {
		t.Errorf("%+v", r)
	}
	if name := m.Ready().Name; name != "wherry" {
		t.Errorf("its name is %q", name)
	}
	m.Stop()
}
