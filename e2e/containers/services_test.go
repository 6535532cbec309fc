// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"wherry.example/wherry/internal/vmtest/fixture"
)

// TestServices runs the programs that people run, from images made of Debian's packages.
func TestServices(t *testing.T) {
	g := newRig(t, 1024, "")
	g.test("pull shows progress", pullProgress)
	// Making its database takes the longest: it does that beside the others.
	g.Run("volume", "create", "rows")
	g.Run("run", "-d", "--name", longLived, "--restart", "unless-stopped", "-v", "rows:/var/lib/postgresql/data", g.r.Ref(fixture.Postgres))
	g.test("nginx serves a volume through a published port", nginx)
	g.test("redis passes its benchmark and is healthy", redis)
	g.test("health follows the check", health)
	g.test("postgres keeps its rows", postgres)
}

// pullProgress: lines where no terminal is, bars on one.
func pullProgress(g *rig) {
	out := g.Try("pull", g.r.Ref(fixture.Nginx))
	if out.Code != 0 {
		g.t.Fatal(out.Stderr)
	}
	g.want(out.Stderr, "pulling", "unpacking", "done")
	if layers := regexp.MustCompile(`[0-9a-f]{12}: pulling [\d.]+ ?[kMG]?B`).FindAllString(out.Stderr, -1); len(layers) != 2 {
		g.t.Errorf("%d of 2 layers are shown while they are pulled:\n%s", len(layers), out.Stderr)
	}
	terminal, err := pty.StartWithSize(g.Command("pull", g.r.Ref(fixture.Postgres)), &pty.Winsize{Rows: 24, Cols: 100})
	if err != nil {
		g.t.Fatal(err)
	}
	defer terminal.Close()
	var screen bytes.Buffer
	_, _ = io.Copy(&screen, terminal) // ends with an error when the program does
	if !regexp.MustCompile(`\[=* *\] [\d.]+ ?[kMG]?B/[\d.]+`).Match(screen.Bytes()) {
		g.t.Errorf("no bar was drawn: %q", screen.String())
	}
	g.want(g.Run("images"), "/nginx", "/postgres")
}

func nginx(g *rig) {
	g.Run("volume", "create", "site")
	g.Run("run", "-d", "--name", "web", "-p", "8080:80", "-v", "site:/usr/share/nginx/html", g.r.Ref(fixture.Nginx))
	url := fmt.Sprintf("http://127.0.0.1:%d/", g.m.Forward("tcp", 8080))
	page := make([]byte, 3<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(page) // never fails
	file := filepath.Join(g.t.TempDir(), "page.bin")
	if err := os.WriteFile(file, page, 0o644); err != nil {
		g.t.Fatal(err)
	}
	// The volume was empty, and so has what the image has there.
	g.want(string(g.fetch(url)), "nginx on Wherry")
	g.Run("cp", file, "web:/usr/share/nginx/html/page.bin")
	if got := g.fetch(url + "page.bin"); !bytes.Equal(got, page) {
		g.t.Errorf("%d bytes came back, and not the %d that were put there", len(got), len(page))
	}
	// nginx writes its log after it has answered.
	g.await(30*time.Second, "the line of its log", func() (bool, string) {
		out := g.Run("logs", "web")
		return strings.Contains(out, "GET /page.bin HTTP/1.1\" 200"), out
	})
	// Another container with the same volume and port.
	g.Run("rm", "-f", "web")
	g.Run("run", "-d", "--name", "web2", "-p", "8080:80", "-v", "site:/usr/share/nginx/html:ro", g.r.Ref(fixture.Nginx))
	if got := g.fetch(url + "page.bin"); !bytes.Equal(got, page) {
		g.t.Error("the volume does not hold the file any more")
	}
	if r := g.Try("exec", "web2", "touch", "/usr/share/nginx/html/x"); r.Code != 1 {
		g.t.Errorf("a volume mounted read-only was written to: %+v", r)
	}
	begin := time.Now()
	g.Run("stop", "web2")
	if took := time.Since(begin); took > 8*time.Second {
		g.t.Errorf("nginx did not end by its SIGQUIT: it took %v", took)
	}
	if i := g.inspect("web2"); i.Container.State.ExitCode != 0 {
		g.t.Errorf("nginx ended with %d", i.Container.State.ExitCode)
	}
}

// fetch gets a page, tried until the server is there.
func (g *rig) fetch(url string) []byte {
	g.t.Helper()
	var body []byte
	client := http.Client{Timeout: 20 * time.Second}
	g.await(time.Minute, "answer of "+url, func() (bool, string) {
		resp, err := client.Get(url)
		if err != nil {
			return false, err.Error()
		}
		defer resp.Body.Close()
		body, err = io.ReadAll(resp.Body)
		return err == nil && resp.StatusCode == http.StatusOK, fmt.Sprint(resp.Status, err)
	})
	return body
}

func redis(g *rig) {
	g.Run("run", "-d", "--name", "cache", "-p", "6379:6379", g.r.Ref(fixture.Redis))
	port := g.m.Forward("tcp", 6379)
	g.awaitState("cache", "is healthy", func(i inspected) bool { return i.Container.State.Health == "HEALTH_STATE_HEALTHY" })
	ctx, cancel := context.WithTimeout(g.t.Context(), 2*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "redis-benchmark", "-h", "127.0.0.1", "-p", fmt.Sprint(port), "-n", "2000", "-c", "20", "-q", "-t", "set,get").CombinedOutput()
	if err != nil {
		g.t.Fatalf("redis-benchmark: %v\n%s", err, out)
	}
	for _, test := range []string{"SET", "GET"} {
		if !regexp.MustCompile(test + `: [1-9][\d.]* requests per second`).Match(out) {
			g.t.Errorf("no result of %s: %s", test, out)
		}
	}
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(out), "\r", "\n")), "\n")
	g.t.Logf("redis-benchmark: %s", lines[len(lines)-1])
	if keys := g.Run("exec", "cache", "redis-cli", "dbsize"); strings.TrimSpace(keys) == "0" {
		g.t.Error("redis holds nothing after the benchmark")
	}
}

// health: the state follows a check that is made to fail and to succeed again.
func health(g *rig) {
	g.Run("run", "-d", "--name", "sick", "--health-cmd", "test ! -e /data/sick", "--health-interval", "1s", "--health-retries", "2", g.r.Ref(fixture.Redis))
	state := func(want string) func(inspected) bool {
		return func(i inspected) bool { return i.Container.State.Health == "HEALTH_STATE_"+want }
	}
	g.awaitState("sick", "is healthy", state("HEALTHY"))
	g.Run("exec", "sick", "touch", "/data/sick")
	g.awaitState("sick", "is unhealthy", state("UNHEALTHY"))
	g.want(g.Run("ps"), "(unhealthy)")
	// The two clocks differ a little, and until is of this one.
	g.await(30*time.Second, "the events of its health", func() (bool, string) {
		out := g.Run("events", "--since", "5m", "--until", "0s", "--filter", "event=health")
		return strings.Contains(out, "state=healthy") && strings.Contains(out, "state=unhealthy"), out
	})
	g.Run("exec", "sick", "rm", "/data/sick")
	g.awaitState("sick", "is healthy again", state("HEALTHY"))
	if r := g.Try("inspect", "-f", "{{len .container.state.healthLog}}", "sick"); strings.TrimSpace(r.Stdout) == "0" {
		g.t.Error("the results of the checks are not kept")
	}
}

// postgres keeps rows through a restart, a crash of the engine, which it does
// not even notice, and a reboot, which it is asked to get ready for.
func postgres(g *rig) {
	g.awaitSQL("select 1", "1")
	g.sql("create table t (n int primary key, at timestamptz default now()); insert into t (n) select generate_series(1, 100)")
	begin := time.Now()
	check := func(when string, rows int) {
		g.t.Helper()
		g.awaitSQL("select count(*), sum(n) from t", fmt.Sprintf("%d|%d", rows, rows*(rows+1)/2))
		g.sql(fmt.Sprintf("insert into t (n) values (%d)", rows+1))
		g.t.Logf("%s: %d rows, %.0f s since the first query", when, rows, time.Since(begin).Seconds())
	}
	check("at first", 100)
	g.Run("restart", longLived)
	check("after a restart", 101)

	before, since := g.inspect(longLived), g.sql("select pg_postmaster_start_time()")
	g.m.KillDaemon()
	g.AwaitAPI(time.Minute)
	if after := g.inspect(longLived); after != before {
		g.t.Errorf("the engine's crash changed the container:\n%+v\n%+v", before, after)
	}
	if now := g.sql("select pg_postmaster_start_time()"); now != since {
		g.t.Errorf("postgres was started again: %s, %s", since, now)
	}
	check("after wherryd was killed", 102)

	g.Run("machine", "reboot")
	g.awaitState(longLived, "runs", running)
	check("after a reboot", 103)
	log := g.Try("logs", "--since", "3m", longLived)
	g.want(log.Stdout+log.Stderr, "database system was shut down at")
	if strings.Contains(log.Stdout+log.Stderr, "was not properly shut down") {
		g.t.Errorf("postgres was not asked to end:\n%s%s", log.Stdout, log.Stderr)
	}
}

func (g *rig) trySQL(query string) (string, error) {
	r := g.Try("exec", longLived, "psql", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-qtAc", query)
	if r.Code != 0 {
		return "", fmt.Errorf("exit code %d: %s", r.Code, r.Stderr)
	}
	return strings.TrimSpace(r.Stdout), nil
}

func (g *rig) sql(query string) string {
	g.t.Helper()
	out, err := g.trySQL(query)
	if err != nil {
		g.t.Fatalf("%s: %v", query, err)
	}
	return out
}

// awaitSQL waits until postgres answers, which must be with want.
func (g *rig) awaitSQL(query, want string) {
	g.t.Helper()
	g.await(2*time.Minute, "answer of postgres", func() (bool, string) {
		got, err := g.trySQL(query)
		if err == nil && got != want {
			g.t.Fatalf("%s: %s, want %s", query, got, want)
		}
		return err == nil, fmt.Sprint(err)
	})
}
