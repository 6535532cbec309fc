// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

// rig is a machine with work to do, its user, and the publisher of its releases.
type rig struct {
	*vmtest.User
	t *testing.T
	m *vmtest.Machine
	p *fixture.Publisher
	r *fixture.Registry
	// next is the release that variants are made of; minor numbers them.
	next  fixture.Release
	minor *int
	// used is the CPU time of those of the machine's lives that are over.
	used *time.Duration
}

// in is the rig in a subtest, which then is the one that fails.
func (g *rig) in(t *testing.T) *rig {
	c := *g
	c.t, c.User = t, g.User.In(t)
	return &c
}

// test runs a subtest. What follows needs the machine as it leaves it, and so does
// not begin when the subtest did not come to its end.
func (g *rig) test(name string, f func(*rig)) {
	begin, cpu := time.Now(), g.cpu()
	ended := false
	well := g.t.Run(name, func(t *testing.T) {
		f(g.in(t))
		ended = true
	})
	if !well && !ended { // -run may leave subtests out
		g.t.FailNow()
	}
	// Computers are busy; what the machine itself took tells more.
	g.t.Logf("%s: %.0f s, CPU time of the machine %.0f s", name, time.Since(begin).Seconds(), (g.cpu() - cpu).Seconds())
}

// cpu is what all lives of the machine took so far.
func (g *rig) cpu() time.Duration {
	run, ok := g.m.VM().Run()
	if !ok {
		return *g.used
	}
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", run.PID))
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return *g.used
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	const tick = time.Second / 100
	return *g.used + time.Duration(user+system)*tick
}

// nextVersion is newer than all before.
func (g *rig) nextVersion() string {
	*g.minor++
	return fmt.Sprintf("1.%d.0", *g.minor)
}

// document is the machine's configuration; limit is that of a trial.
func (g *rig) document(limit string) []byte {
	return g.Config(
		"registries:", "- {host: '"+g.r.Guest+"', plainHTTP: true}",
		"updates:", "  url: "+g.p.Guest, "  channel: alpha", "  mode: manual", "  report: true",
		"  trial:", "    limit: "+limit, "    checks:",
		"    - {name: words, exec: {container: cache, command: [redis-cli, ping]}}",
		"")
}

// limit changes how long a trial may take.
func (g *rig) limit(limit string) {
	g.t.Helper()
	file := filepath.Join(g.t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, g.document(limit), 0o600); err != nil {
		g.t.Fatal(err)
	}
	g.Run("machine", "config", "apply", file)
}

// update is what `update status -o json` tells.
type update struct {
	Version, Phase, Target, Unavailable, Why, CheckError string
	Offer                                                *struct{ Version string }
	Last                                                 record
	Slots                                                []struct {
		Version, File               string
		Running, Trial, Bad, Next   bool
		TriesLeft, TriesDone, Bytes json.Number
	}
	Avoided []string
	Trust   struct {
		SecureBoot bool
		SignedBy   string
	}
}

type record struct {
	From, To, State, Reason, Downtime, By, Source, DeltaRefused string
	Delta                                                       bool
	DownloadedBytes, Bytes                                      json.Number
}

// status asks until the machine answers: it may be about to reboot.
func (g *rig) status() update {
	g.t.Helper()
	var u update
	g.await("update status", func() error {
		r := g.Try("machine", "update", "status", "-o", "json")
		if r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		u = update{}
		return json.Unmarshal([]byte(r.Stdout), &u)
	})
	return u
}

// slots are the OS files, as in "1.1.0* 1.0.0": the running one has a star, a bad one a cross.
func (u update) slots() string {
	var out []string
	for _, s := range u.Slots {
		mark := ""
		if s.Running {
			mark = "*"
		}
		if s.Bad {
			mark += "x"
		}
		out = append(out, s.Version+mark)
	}
	return strings.Join(out, " ")
}

func (g *rig) await(what string, ok func() error) {
	g.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(300 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("not within %v: %s: %v", patience, what, err)
		}
	}
}

// match wants a regular expression in a text.
func (g *rig) match(what, text, pattern string) {
	g.t.Helper()
	if !regexp.MustCompile(pattern).MatchString(text) {
		g.t.Errorf("%s does not tell %q:\n%s", what, pattern, text)
	}
}

// work starts what the machine is for: two databases with data, and a
// container that is not to come back.
func (g *rig) work() {
	g.t.Helper()
	g.runPostgres()
	// A release can be bad for a container alone: this one is healthy unless the kernel was told otherwise.
	g.Run("run", "-d", "--name", "cache", "--restart", "always", "-v", "cache:/data", "--health-interval", "2s", "--health-retries", "2",
		"--health-cmd", "if grep -q wherry.test=sick /proc/cmdline; then echo the kernel makes me sick; exit 1; fi; redis-cli ping", g.r.Ref(fixture.Redis))
	g.Run("run", "-d", "--name", "once", g.r.Ref(fixture.Tools), "sleep", "3600")
	g.await("postgres", func() error { return g.sql("create table if not exists t (n int)", "CREATE TABLE") })
	if err := g.sql("insert into t select generate_series(1, 1000)", "INSERT 0 1000"); err != nil {
		g.t.Fatal(err)
	}
	g.await("redis", func() error { return g.say("OK", "exec", "cache", "redis-cli", "set", "word", "wherry") })
	g.await("redis is healthy", func() error { return g.contains("(healthy)", "ps") })
}

func (g *rig) runPostgres() {
	g.t.Helper()
	g.Run("run", "-d", "--name", "db", "--restart", "unless-stopped", "-v", "rows:/var/lib/postgresql/data", g.r.Ref(fixture.Postgres))
}

func (g *rig) sql(query, want string) error {
	return g.say(want, "exec", "db", "psql", "-U", "postgres", "-Atc", query)
}

// say runs a command that is to print something.
func (g *rig) say(want string, args ...string) error {
	r := g.Try(args...)
	if got := strings.TrimSpace(r.Stdout); r.Code != 0 || got != want {
		return fmt.Errorf("%q: exit code %d, %q, want %q: %s", args, r.Code, got, want, r.Stderr)
	}
	return nil
}

func (g *rig) contains(want string, args ...string) error {
	if r := g.Try(args...); !strings.Contains(r.Stdout, want) {
		return fmt.Errorf("%q: exit code %d, %q has no %q: %s", args, r.Code, r.Stdout, want, r.Stderr)
	}
	return nil
}

// works makes sure that the machine does its work, with the data of before.
func (g *rig) works() {
	g.t.Helper()
	g.await("redis has its word", func() error { return g.say("wherry", "exec", "cache", "redis-cli", "get", "word") })
	g.await("redis is healthy", func() error { return g.contains("(healthy)", "ps") })
}

// rows makes sure that postgres has its rows.
func (g *rig) rows() {
	g.t.Helper()
	g.await("postgres has its rows", func() error { return g.sql("select count(*), sum(n) from t", "1000|500500") })
}

func (g *rig) read(path string) []byte {
	g.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		g.t.Fatal(err)
	}
	return data
}
