// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestContainers goes through what a container can be asked, with small ones.
func TestContainers(t *testing.T) {
	g := newRig(t, 2048, "systemContainers:\n- {name: agent, image: REGISTRY/toybox, command: [sleep, inf]}\n")
	g.Run("pull", g.tools())
	g.test("exit codes", exitCodes)
	g.test("safe defaults", defaults)
	g.test("what is asked for", asked)
	g.test("network modes", networkModes)
	g.test("out of memory", outOfMemory)
	g.test("volume limit", volumeLimit)
	g.test("logs", logs)
	g.test("copy", copyFiles)
	g.test("restart policies", restartPolicies)
	g.test("wait, rm, events, stats", watched)
	g.test("pause and top", paused)
	g.test("exec -it", execTerminal)
	g.test("attach and detach", attachDetach)
	g.test("system containers", systemContainers)
	g.test("a hundred containers", hundred)
}

// exitCodes are docker's.
func exitCodes(g *rig) {
	for _, c := range []struct {
		what string
		got  int
		want int
	}{
		{"the container's own", g.run("--rm", "exit", "42").Code, 42},
		{"a command that is not there", g.run("--rm --entrypoint /nothing").Code, 127},
		{"a command that is not in PATH", g.run("--rm --entrypoint nothing").Code, 127},
		{"a command that is no program", g.run("--rm --entrypoint /etc/passwd").Code, 126},
		{"a directory", g.run("--rm --entrypoint /etc").Code, 126},
		{"an unknown flag", g.run("--nonsense").Code, 125},
		{"an image that is not there", g.Try("run", "--rm", g.r.Ref("nothing")).Code, 125},
		{"a user that is not there", g.run("--rm --user nobody", "true").Code, 125},
		{"a bad value", g.run("--rm --memory lots", "true").Code, 125},
	} {
		if c.got != c.want {
			g.t.Errorf("%s: exit code %d, want %d", c.what, c.got, c.want)
		}
	}
	g.start("box", "", "sleep", "inf")
	for want, command := range map[int][]string{0: {"/toybox", "true"}, 7: {"/toybox", "exit", "7"}, 127: {"/nothing"}, 126: {"/etc/passwd"}} {
		if r := g.Try(append([]string{"exec", "box"}, command...)...); r.Code != want {
			g.t.Errorf("exec %v: exit code %d, want %d: %s", command, r.Code, want, r.Stderr)
		}
	}
	r := g.Try("exec", "box", "/toybox", "both", "2")
	if r.Stdout != "out 1\nout 2\n" || r.Stderr != "err 1\nerr 2\n" {
		g.t.Errorf("the streams of exec are not apart: %+v", r)
	}
	if r := g.TryWith(strings.NewReader("from here"), "exec", "-i", "box", "/toybox", "cat"); r.Stdout != "from here" {
		g.t.Errorf("exec -i: %+v", r)
	}
	if out := g.Run("exec", "-u", "1000", "-w", "/tmp", "-e", "X=y", "box", "/toybox", "env"); !strings.Contains(out, "X=y\n") {
		g.t.Errorf("exec -e: %s", out)
	}
}

var tickLine = regexp.MustCompile(`^(\S+) tick (\d+)$`)

// logs: followed while it runs, cut by number and time, and whole.
func logs(g *rig) {
	g.start("clock", "", "tick", "50")
	follow := g.Command("logs", "-f", "-t", "clock")
	var out bytes.Buffer
	follow.Stdout = &out
	if err := follow.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.await(time.Minute, "a hundred lines", func() (bool, string) {
		last := g.Run("logs", "--tail", "1", "clock")
		n, _ := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(last, "tick ")))
		return n >= 100, last
	})
	g.Run("kill", "clock")
	if out := g.Run("wait", "clock"); out != "137\n" {
		g.t.Errorf("killed, it ended with %s", out)
	}
	// It ends with the container.
	if err := follow.Wait(); err != nil {
		g.t.Errorf("logs -f: %v", err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, l := range lines {
		if m := tickLine.FindStringSubmatch(l); m == nil || m[2] != strconv.Itoa(i+1) {
			g.t.Fatalf("line %d of logs -f is %q", i+1, l)
		}
	}
	if all := strings.Count(g.Run("logs", "clock"), "\n"); all != len(lines) {
		g.t.Errorf("logs has %d lines, and logs -f showed %d", all, len(lines))
	}
	middle, _, _ := strings.Cut(lines[49], " ")
	if since := g.Run("logs", "--since", middle, "clock"); !strings.HasPrefix(since, "tick 50\n") || strings.Count(since, "\n") != len(lines)-49 {
		g.t.Errorf("logs --since begins %.60q, with %d lines", since, strings.Count(since, "\n"))
	}
	if until := g.Run("logs", "--until", middle, "--tail", "2", "clock"); until != "tick 49\ntick 50\n" {
		g.t.Errorf("logs --until --tail 2: %q", until)
	}
	g.start("two", "", "both", "3")
	g.Run("wait", "two")
	if r := g.Try("logs", "two"); r.Stdout != "out 1\nout 2\nout 3\n" || r.Stderr != "err 1\nerr 2\nerr 3\n" {
		g.t.Errorf("the streams are not apart: %+v", r)
	}
	// 3 files of 100 kB hold the end of 1 MB.
	g.start("talker", "--log-opt max-size=100k --log-opt max-file=3", "spam", "10000", "100")
	g.Run("wait", "talker")
	kept := g.Run("logs", "talker")
	if len(kept) < 100e3 || len(kept) > 300e3 || !strings.HasSuffix(kept, "line 10000 "+strings.Repeat("x", 100)+"\n") {
		g.t.Errorf("%d bytes are kept of a log of 1 MB", len(kept))
	}
}

// copyFiles both ways, of running and ended containers, and as tar streams.
func copyFiles(g *rig) {
	tree := filepath.Join(g.t.TempDir(), "tree")
	for name, text := range map[string]string{"a": "one", "sub/b": strings.Repeat("two", 100000), "sub/deep/c": ""} {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			g.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			g.t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(tree, "link")); err != nil {
		g.t.Fatal(err)
	}
	same := func(dir string) {
		g.t.Helper()
		if out, err := exec.Command("diff", "-r", "--no-dereference", tree, dir).CombinedOutput(); err != nil {
			g.t.Errorf("the copy differs: %v\n%s", err, out)
		}
	}
	g.start("box", "-v scratch:/vol", "sleep", "inf")
	g.Run("cp", tree, "box:/tmp/")
	g.want(g.Run("exec", "box", "/toybox", "stat", "/tmp/tree/sub/b"), "-rw-r----- 300000")
	back := g.t.TempDir()
	g.Run("cp", "box:/tmp/tree", filepath.Join(back, "1"))
	same(filepath.Join(back, "1"))
	g.Run("cp", tree, "box:/vol/renamed")
	g.Run("kill", "box")
	g.Run("cp", "box:/tmp/tree", filepath.Join(back, "2"))
	same(filepath.Join(back, "2"))
	g.Run("cp", filepath.Join(tree, "a"), "box:/tmp/tree/new")
	g.Run("start", "box")
	if out := g.Run("exec", "box", "/toybox", "cat", "/tmp/tree/new", "/vol/renamed/a"); out != "oneone" {
		g.t.Errorf("it reads %q", out)
	}
	stream := g.Try("cp", "box:/vol/renamed", "-")
	g.Run("exec", "box", "/toybox", "mkdir", "/tmp/untar")
	if r := g.TryWith(strings.NewReader(stream.Stdout), "cp", "-", "box:/tmp/untar"); r.Code != 0 {
		g.t.Errorf("cp -: %+v", r)
	}
	g.Run("cp", "box:/tmp/untar/renamed", filepath.Join(back, "3"))
	same(filepath.Join(back, "3"))
	for _, c := range [][]string{{"box:/nothing", back}, {filepath.Join(tree, "nothing"), "box:/tmp"}, {tree, "box:/no/such/folder"}, {tree, "nobody:/tmp"}, {tree, back}} {
		if r := g.Try("cp", c[0], c[1]); r.Code == 0 || strings.Count(r.Stderr, "wherry: ") != 1 {
			g.t.Errorf("cp %v: %+v", c, r)
		}
	}
}

// restartPolicies decide what follows an end, also of the engine.
func restartPolicies(g *rig) {
	g.start("failing", "--restart on-failure:2", "exit", "3")
	g.start("well", "--restart on-failure:2", "exit", "0")
	g.start("always", "--restart always -v runs:/data", "count", "/data/n")
	g.start("stopped", "--restart unless-stopped", "sleep", "inf")
	g.start("kept", "--restart unless-stopped", "sleep", "inf")
	g.start("once", "", "sleep", "inf")
	g.awaitState("failing", "was started three times", func(i inspected) bool {
		return exited(i) && i.Container.State.RestartCount == 2 && i.Container.State.ExitCode == 3
	})
	g.awaitState("well", "ended", func(i inspected) bool { return exited(i) && i.Container.State.RestartCount == 0 })
	g.awaitState("always", "ran again and again", func(i inspected) bool { return i.Container.State.RestartCount >= 3 })
	g.Run("stop", "always", "stopped")
	stopped := g.inspect("always").Container.State.RestartCount
	g.Run("exec", "kept", "/toybox", "write", "/tmp/mark", "x")
	before := g.inspect("once")
	g.m.KillDaemon()
	g.AwaitAPI(time.Minute)
	for name, up := range map[string]bool{"failing": false, "well": false, "always": false, "stopped": false, "kept": true, "once": true} {
		if running(g.inspect(name)) != up {
			g.t.Errorf("after a crash of wherryd %s: %+v", name, g.inspect(name).Container.State)
		}
	}
	if after := g.inspect("once"); after != before {
		g.t.Errorf("the crash changed a container:\n%+v\n%+v", before, after)
	}
	if n := g.inspect("always").Container.State.RestartCount; n != stopped {
		g.t.Errorf("a stopped container was restarted: %d times, %d before", n, stopped)
	}
	g.Run("kill", "kept")
	time.Sleep(time.Second)
	if running(g.inspect("kept")) {
		g.t.Error("a container that a user killed came back")
	}
}

// watched: what a container does can be waited for, seen and counted.
func watched(g *rig) {
	seen := g.follow("worker", "fleeting")
	g.start("worker", "-l job=7", "sleep", "3", "5")
	if out := g.Run("-o", "json", "stats", "--no-stream", "worker"); !json.Valid([]byte(out)) || !strings.Contains(out, `"worker"`) {
		g.t.Errorf("stats: %s", out)
	}
	g.want(g.Run("stats", "--no-stream"), "worker", "MiB", "%")
	if out := g.Run("wait", "worker"); out != "5\n" {
		g.t.Errorf("wait says %q", out)
	}
	g.want(g.Run("ps", "-a", "--filter", "label=job=7", "--format", "{{.Names}} {{.State}}"), "worker exited")
	g.Run("rm", "worker")
	g.run("--rm --name fleeting", "true")
	want := "worker create, worker start, worker die, worker destroy, fleeting create, fleeting start, fleeting die, fleeting destroy"
	if got := seen("fleeting destroy"); got != want {
		g.t.Errorf("events: %s\nwant: %s", got, want)
	}
	if out := g.Run("ps", "-aq"); out != "" {
		g.t.Errorf("containers are left: %s", out)
	}
}

// follow begins to listen to the events of the containers with those names, and
// returns what says what was heard up to one of them.
func (g *rig) follow(names ...string) (until func(last string) string) {
	g.t.Helper()
	// It may begin to listen late, on a busy computer, and is told of what came before.
	c := g.Command("-o", "json", "events", "--since", "5m", "--filter", "type=container")
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		g.t.Fatal(err)
	}
	return func(last string) string {
		g.t.Helper()
		limit := time.AfterFunc(time.Minute, func() { _ = c.Process.Kill() })
		defer limit.Stop()
		var got []string
		for lines := bufio.NewScanner(out); !slices.Contains(got, last) && lines.Scan(); {
			var e struct{ Name, Action string }
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				g.t.Fatalf("events -o json: %v: %s", err, lines.Bytes())
			}
			if slices.Contains(names, e.Name) {
				got = append(got, e.Name+" "+e.Action)
			}
		}
		_ = c.Process.Signal(os.Interrupt)
		_ = c.Wait() // by the signal
		return strings.Join(got, ", ")
	}
}

// paused: a frozen container is shown as such, does nothing, and can be stopped.
func paused(g *rig) {
	g.start("clock", "", "tick", "50")
	g.want(g.Run("top", "clock"), "PID", "tick 50")
	if out := g.Run("-o", "json", "top", "clock"); !json.Valid([]byte(out)) || !strings.Contains(out, `"memoryBytes"`) {
		g.t.Errorf("top: %s", out)
	}
	g.Run("pause", "clock")
	g.want(g.Run("ps"), "clock", "(Paused)")
	// What it wrote last may still be on its way to the log.
	before := ""
	g.await(20*time.Second, "its silence", func() (bool, string) {
		last := before
		before = g.Run("logs", "clock")
		time.Sleep(time.Second)
		return before == last, before
	})
	if r := g.Try("exec", "clock", "/toybox", "true"); r.Code == 0 || !strings.Contains(r.Stderr, "paused") {
		g.t.Errorf("exec in a paused container: %+v", r)
	}
	g.Run("unpause", "clock")
	g.await(20*time.Second, "its going on", func() (bool, string) {
		out := g.Run("logs", "clock")
		return len(out) > len(before), out
	})
	g.Run("pause", "clock")
	g.Run("stop", "-t", "5", "clock")
	g.want(g.Run("ps", "-a"), "clock", "Exited")
}

// crowd is how many containers are a normal load.
const crowd = 100

// hundred containers are started, listed and stopped.
func hundred(g *rig) {
	names := make([]string, crowd)
	begin := time.Now()
	work := make(chan string)
	failed := make(chan string, crowd)
	done := make(chan struct{})
	for range 4 {
		go func() {
			defer func() { done <- struct{}{} }()
			for name := range work {
				if r := g.run("-d --name "+name, "sleep", "inf"); r.Code != 0 {
					failed <- name + ": " + r.Stderr
				}
			}
		}()
	}
	for i := range names {
		names[i] = fmt.Sprintf("small%03d", i)
		work <- names[i]
	}
	close(work)
	for range 4 {
		<-done
	}
	close(failed)
	for f := range failed {
		g.t.Error(f)
	}
	up := time.Since(begin)
	begin = time.Now()
	out := g.Run("ps", "--format", "{{.Names}} {{.State}}")
	listed := time.Since(begin)
	for _, n := range names {
		g.want(out, n+" running\n")
	}
	begin = time.Now()
	if n := strings.Count(g.Run("stats", "--no-stream"), "small"); n != crowd {
		g.t.Errorf("stats shows %d containers", n)
	}
	counted := time.Since(begin)
	status := g.Run("status")
	begin = time.Now()
	g.Run(append([]string{"stop"}, names...)...)
	stopped := time.Since(begin)
	g.t.Logf("%d containers: started in %.1f s, listed in %.1f s, stats in %.1f s, stopped in %.1f s\n%s", crowd, up.Seconds(), listed.Seconds(), counted.Seconds(), stopped.Seconds(), status)
	if listed > 5*time.Second || counted > 15*time.Second || stopped > 90*time.Second {
		g.t.Error("that is too slow")
	}
	if n := strings.Count(g.Run("ps", "-a", "--filter", "status=exited", "-q"), "\n"); n != crowd {
		g.t.Errorf("%d of %d are stopped", n, crowd)
	}
	if n := strings.Count(g.Run("ps", "-a", "--filter", "exited=143", "-q"), "\n"); n != crowd {
		g.t.Errorf("%d of %d ended by their stop signal", n, crowd)
	}
}
