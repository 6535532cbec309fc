// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

// rig is a machine with work to do, its user, and the publisher of its releases.
type rig struct {
	*vmtest.User
	t    *testing.T
	m    *vmtest.Machine
	p    *fixture.Publisher
	r    *fixture.Registry
	does work
	// road leads to the repository; clock is a time server, at first silent.
	road  *road
	clock *fixture.TimeServer
	// next is the release that variants are made of, minor numbers them. What it is
	// matters where a variant is to stay: its programs tell its version.
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

// stop switches the machine off in order.
func (g *rig) stop() {
	g.t.Helper()
	*g.used = g.cpu()
	g.m.Stop()
}

// nextVersion is newer than all before.
func (g *rig) nextVersion() string {
	*g.minor++
	return fmt.Sprintf("1.%d.0", *g.minor)
}

// work is what a machine is for: a container named cache with a word in its volume, which is healthy unless
// the kernel was told otherwise: a release can be bad for a container alone. So can it for words, a check of
// the configuration, which is a command in that container (YAML).
type work struct {
	words string
	begin func(*rig)
	word  []string // says the word
}

var (
	redis = work{"[sh, -c, 'if grep -q wherry.test=mute /proc/cmdline; then echo the kernel says nothing; exit 1; fi; redis-cli ping']",
		(*rig).redis, []string{"redis-cli", "get", "word"}}
	// plain is one program: on machines that restart often most of the time would be that of redis and its shells.
	plain = work{"[/toybox, told, wherry.test=mute, the kernel says nothing]",
		(*rig).plain, []string{"/toybox", "cat", "/data/word"}}
)

// document is the machine's configuration; limit is that of a trial.
func (g *rig) document(limit string) []byte {
	return g.Config(
		"registries:", "- {host: '"+g.r.Guest+"', plainHTTP: true}",
		"time: {servers: ['"+g.clock.Guest+"']}",
		"updates:", "  url: "+g.road.guest, "  channel: alpha", "  mode: manual", "  report: true",
		"  trial:", "    limit: "+limit, "    checks:",
		"    - {name: words, exec: {container: cache, command: "+g.does.words+"}}",
		"")
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

func (u update) running() string {
	for _, s := range u.Slots {
		if s.Running {
			return s.Version
		}
	}
	return ""
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
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Second) { // a command in a container takes an emulated machine half a second
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("not within %v: %s: %v", patience, what, err)
		}
	}
}

// ask is Run that asks again: soon after a boot a connection may be lost.
func (g *rig) ask(args ...string) (out string) {
	g.t.Helper()
	g.await(strings.Join(args, " "), func() error {
		r := g.Try(args...)
		if out = r.Stdout; r.Code != 0 {
			return fmt.Errorf("exit code %d: %s", r.Code, r.Stderr)
		}
		return nil
	})
	return out
}

// match wants a regular expression in a text.
func (g *rig) match(what, text, pattern string) {
	g.t.Helper()
	if !regexp.MustCompile(pattern).MatchString(text) {
		g.t.Errorf("%s does not tell %q:\n%s", what, pattern, text)
	}
}

func (g *rig) redis() {
	g.t.Helper()
	g.Run("run", "-d", "--name", "cache", "--restart", "always", "-v", "cache:/data", "--health-interval", "10s", "--health-retries", "2",
		"--health-cmd", "if grep -q wherry.test=sick /proc/cmdline; then echo the kernel makes me sick; exit 1; fi; redis-cli ping", g.r.Ref(fixture.Redis))
	g.await("redis", func() error { return g.say("OK", "exec", "cache", "redis-cli", "set", "word", "wherry") })
}

// plain has its health check from the image.
func (g *rig) plain() {
	g.t.Helper()
	img := fixture.Toybox(g.t)
	file, err := img.ConfigFile()
	if err == nil {
		c := file.Config
		c.Healthcheck = &v1.HealthConfig{Test: []string{"CMD", "/toybox", "told", "wherry.test=sick", "the kernel makes me sick"}, Interval: 5 * time.Second, Retries: 2}
		img, err = mutate.Config(img, c)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	g.r.Push("plain", img)
	g.Run("run", "-d", "--name", "cache", "--restart", "always", "-v", "cache:/data", g.r.Ref("plain"), "sleep", "inf")
	g.Run("exec", "cache", "/toybox", "write", "/data/word", "wherry")
}

// databases adds one with rows, and a container that is not to come back.
func (g *rig) databases() {
	g.t.Helper()
	g.runPostgres()
	g.Run("run", "-d", "--name", "once", g.r.Ref(fixture.Tools), "sleep", "3600")
	g.await("postgres", func() error { return g.sql("create table if not exists t (n int)", "CREATE TABLE") })
	if err := g.sql("insert into t select generate_series(1, 1000)", "INSERT 0 1000"); err != nil {
		g.t.Fatal(err)
	}
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
	g.await("the container has its word", func() error { return g.say("wherry", append([]string{"exec", "cache"}, g.does.word...)...) })
	g.await("the container is healthy", func() error { return g.contains("(healthy)", "ps") })
}

// rows makes sure that postgres has its rows.
func (g *rig) rows() {
	g.t.Helper()
	g.await("postgres has its rows", func() error { return g.sql("select count(*), sum(n) from t", "1000|500500") })
}

// start makes the user know where the machine is after QEMU was started again.
func (g *rig) start() {
	g.t.Helper()
	g.m.Start()
	g.Knows(g.m)
}

// esp is the boot partition for mtools.
func (g *rig) esp() string { return filepath.Join(g.m.VM().Dir(), "state.img") + "@@1M" }

// mtools works on the boot partition of the machine, which is off.
func (g *rig) mtools(name string, args ...string) string {
	g.t.Helper()
	out, err := exec.Command(name, append([]string{"-i", g.esp()}, args...)...).CombinedOutput()
	if err != nil {
		g.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// osFile is the name of a release's file on the boot partition, with its counter.
func (g *rig) osFile(version string) string {
	g.t.Helper()
	list := g.mtools("mdir", "-b", "::/EFI/Linux")
	m := regexp.MustCompile(`::/EFI/Linux/wherry_` + regexp.QuoteMeta(version) + `[^\s]*\.efi`).FindString(list)
	if m == "" {
		g.t.Fatalf("there is no file of %s:\n%s", version, list)
	}
	return m
}

// espFree is how many bytes the boot partition has left.
func (g *rig) espFree() int {
	g.t.Helper()
	m := regexp.MustCompile(`([\d ]+) bytes free`).FindStringSubmatch(g.mtools("mdir", "::/EFI/Linux"))
	if m == nil {
		g.t.Fatal("mdir does not tell what is free")
	}
	n, err := strconv.Atoi(strings.ReplaceAll(m[1], " ", ""))
	if err != nil {
		g.t.Fatal(err)
	}
	return n
}

// put writes a file over one of the boot partition.
func (g *rig) put(data []byte, to string) {
	g.t.Helper()
	file := filepath.Join(g.t.TempDir(), "file")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		g.t.Fatal(err)
	}
	g.mtools("mcopy", "-D", "o", "-o", file, to)
}

func (g *rig) read(path string) []byte {
	g.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		g.t.Fatal(err)
	}
	return data
}
