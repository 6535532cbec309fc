// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/api/wherryv1"
)

func aSpec(name, image string, command ...string) *wherryv1.ContainerSpec {
	return &wherryv1.ContainerSpec{Name: name, Image: image, Command: command, Resources: &wherryv1.Resources{}}
}

func TestRunAttached(t *testing.T) {
	r := newRig(t)
	err := r.Run(t.Context(), aSpec("job", "nginx", "exit", "7"), RunOptions{})
	out, stderr := r.took()
	if ExitCode(err) != 7 || out != "to stdout\n" || stderr != "warning: toy warning\nto stderr\n" {
		t.Errorf("code %d, out %q, err %q: %v", ExitCode(err), out, stderr, err)
	}
}

func TestRunInput(t *testing.T) {
	r := newRig(t)
	r.In = strings.NewReader("hello")
	s := aSpec("", "nginx", "cat")
	s.Stdin = true
	err := r.Run(t.Context(), s, RunOptions{})
	if out, _ := r.took(); ExitCode(err) != 3 || out != "HELLO" {
		t.Errorf("code %d, out %q: %v", ExitCode(err), out, err)
	}
}

func TestRunDetachedPullsWhatIsMissing(t *testing.T) {
	r := newRig(t)
	if err := r.Run(t.Context(), aSpec("web", "redis"), RunOptions{Detach: true}); err != nil {
		t.Fatal(err)
	}
	out, stderr := r.took()
	if out != "web\n" || !strings.Contains(stderr, "redis: 0123456789ab: done 1kB") || strings.Contains(stderr, "\x1b") {
		t.Errorf("out %q, err %q", out, stderr)
	}
	if err := r.Run(t.Context(), aSpec("web2", "redis"), RunOptions{Detach: true}); err != nil {
		t.Fatal(err)
	}
	if _, stderr := r.took(); strings.Contains(stderr, "pull") || len(r.toy.pulled) != 2 || !r.toy.pulled[1].MissingOnly {
		t.Errorf("the image was there: %q, %v", stderr, r.toy.pulled)
	}
}

func TestExitCodes(t *testing.T) {
	r := newRig(t)
	s := aSpec("bad", "nginx", "nosuch")
	s.AutoRemove = true
	run := func(s *wherryv1.ContainerSpec, o RunOptions) int { return ExitCode(r.Run(t.Context(), s, o)) }
	if code := run(s, RunOptions{}); code != 127 {
		t.Errorf("missing command attached: %d", code)
	}
	if code := run(s, RunOptions{Detach: true}); code != 127 {
		t.Errorf("missing command detached: %d", code)
	}
	if len(r.toy.containers) != 0 {
		t.Errorf("--rm containers that never ran are still there: %v", r.toy.containers)
	}
	if code := run(aSpec("x", "missing-image"), RunOptions{}); code != 125 {
		t.Errorf("missing image: %d", code)
	}
	if code := run(aSpec("x", "redis"), RunOptions{Pull: "never"}); code != 125 {
		t.Errorf("--pull never: %d", code)
	}
	tty := aSpec("x", "nginx", "cat")
	tty.Tty, tty.Stdin = true, true
	if code := run(tty, RunOptions{}); code != 125 {
		t.Errorf("-it without a terminal: %d", code)
	}
	r.run("web")
	exec := func(container string, command ...string) int {
		return ExitCode(r.Exec(t.Context(), &wherryv1.ExecStart{Container: container, Command: command}, ""))
	}
	if code := exec("web", "exit", "9"); code != 9 {
		t.Errorf("exec: %d", code)
	}
	if code := exec("nosuch", "exit", "9"); code != 1 {
		t.Errorf("exec in no container: %d", code)
	}
}

func TestRunLocalArchiveAndFolder(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	archive := filepath.Join(dir, "image.tar")
	if err := os.WriteFile(archive, []byte("an archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context(), aSpec("a", archive), RunOptions{Detach: true}); err != nil {
		t.Fatal(err)
	}
	r.BuildLocal = buildFake("built", nil)
	if err := r.Run(t.Context(), aSpec("b", dir), RunOptions{Detach: true}); err != nil {
		t.Fatal(err)
	}
	if len(r.toy.loaded) != 2 || string(r.toy.loaded[0]) != "an archive" || string(r.toy.loaded[1]) != "built" {
		t.Errorf("loaded %q", r.toy.loaded)
	}
	if got := r.toy.containers["b"].spec.Image; got != "localhost/loaded:latest" {
		t.Errorf("created from %q", got)
	}
	r.BuildLocal = buildFake("", errors.New("main.go:3: syntax error"))
	err := r.Run(t.Context(), aSpec("c", dir), RunOptions{Detach: true})
	if ExitCode(err) != 125 || !strings.Contains(err.Error(), "syntax error") || len(r.toy.loaded) != 2 {
		t.Errorf("broken program: %v, loaded %d", err, len(r.toy.loaded))
	}
}

func TestPS(t *testing.T) {
	r := newRig(t)
	r.run("web", "a command that is much too long for a column")
	r.run("old")
	r.toy.containers["old"].phase, r.toy.containers["old"].exit = wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED, 3
	r.toy.containers["web"].spec.Ports = []*wherryv1.PortMapping{{HostPort: 8080, ContainerPort: 80}}
	ps := func(o ListOptions) string {
		t.Helper()
		if err := r.PS(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		out, _ := r.took()
		return out
	}
	want := "CONTAINER ID   IMAGE   COMMAND                  CREATED             STATUS         PORTS             NAMES\n" +
		"777777777777   nginx   \"a command that is m…\"   About an hour ago   Up 5 minutes   *:8080->80/tcp    web\n"
	if got := ps(ListOptions{}); strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("got\n%s", got)
	}
	if got := ps(ListOptions{All: true, Format: "{{.Names}} {{.Status}}"}); got != "old Exited (3) About a minute ago\nweb Up 5 minutes\n" {
		t.Errorf("got %q", got)
	}
	if got := ps(ListOptions{Filters: []string{"status=exited"}, Quiet: true}); got != "6f6f6f6f6f6f\n" {
		t.Errorf("got %q", got)
	}
	r.JSON = true
	var list []struct {
		Name  string
		State struct{ Phase string }
	}
	if err := json.Unmarshal([]byte(ps(ListOptions{All: true})), &list); err != nil || len(list) != 2 || list[1].State.Phase != "CONTAINER_PHASE_RUNNING" {
		t.Errorf("JSON: %v %v", list, err)
	}
	if err := r.PS(t.Context(), ListOptions{Filters: []string{"colour=red"}}); err == nil {
		t.Error("an unknown filter was taken")
	}
}

func TestLogs(t *testing.T) {
	r := newRig(t)
	r.run("web")
	if err := r.Logs(t.Context(), "web", LogOptions{Tail: "5"}); err != nil {
		t.Fatal(err)
	}
	if out, stderr := r.took(); out != "out 1\nout 2 tail=5/true\n" || stderr != "err 1\n" {
		t.Errorf("out %q, err %q", out, stderr)
	}
	if err := r.Logs(t.Context(), "web", LogOptions{Timestamps: true}); err != nil {
		t.Fatal(err)
	}
	const at = "2026-01-02T03:04:05.000006Z "
	if out, stderr := r.took(); out != at+"out 1\n"+at+"out 2 tail=0/false\n" || stderr != at+"err 1\n" {
		t.Errorf("out %q, err %q", out, stderr)
	}
	for _, o := range []LogOptions{{Tail: "-1"}, {Since: "yesterday"}} {
		if err := r.Logs(t.Context(), "web", o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestSeveralAtOnce(t *testing.T) {
	r := newRig(t)
	var names []string
	for i := range 40 {
		names = append(names, string(rune('A'+i)))
		r.run(names[i])
	}
	if err := r.Stop(t.Context(), names, "", 0, false); err != nil {
		t.Fatal(err)
	}
	if out, _ := r.took(); out != strings.Join(names, "\n")+"\n" {
		t.Errorf("the order is not that of the arguments: %q", out)
	}
	err := r.Remove(t.Context(), []string{"A", "nosuch", "B"}, false, false)
	out, stderr := r.took()
	if ExitCode(err) != 1 || out != "A\nB\n" || stderr != "nosuch: no such container: nosuch\n" {
		t.Errorf("code %d, out %q, err %q", ExitCode(err), out, stderr)
	}
	if err := r.Kill(t.Context(), []string{"nosuch"}, ""); err == nil || err.Error() != "no such container: nosuch" {
		t.Errorf("a single failure: %v", err)
	}
}

func TestInspect(t *testing.T) {
	r := newRig(t)
	r.run("web")
	kinds := []string{"container", "image", "volume"}
	if err := r.Inspect(t.Context(), kinds, []string{"web", "data"}, `{{with index . "container"}}{{.state.phase}}{{else}}{{.name}}{{end}}`); err != nil {
		t.Fatal(err)
	}
	if out, _ := r.took(); out != "CONTAINER_PHASE_RUNNING\ndata\n" {
		t.Errorf("got %q", out)
	}
	if err := r.Inspect(t.Context(), kinds, []string{"web"}, "{{.spec.resources}}"); err != nil {
		t.Errorf("a part that the container does not have: %v", err)
	}
	if err := r.Inspect(t.Context(), kinds, []string{"web"}, "{{.Config.Image}}"); err == nil || !strings.Contains(err.Error(), `"Config"`) {
		t.Errorf("a name that is only docker's: %v", err)
	}
	r.took()
	err := r.Inspect(t.Context(), kinds, []string{"nosuch", "web"}, "")
	var list []any
	if out, _ := r.took(); err == nil || json.Unmarshal([]byte(out), &list) != nil || len(list) != 1 {
		t.Errorf("one of two: %v %v", err, list)
	}
}

func TestCopy(t *testing.T) {
	r := newRig(t)
	r.run("web")
	r.toy.files = map[string]string{"/": "", "/srv/": "", "/srv/index.html": "old", "/srv/css/": "", "/srv/css/a.css": "red"}
	dir := t.TempDir()
	local := func(p string) string { return filepath.Join(dir, p) }
	for p, text := range map[string]string{"new.html": "new", "tree/x": "1", "tree/sub/y": "2"} {
		if err := os.MkdirAll(filepath.Dir(local(p)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(local(p), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	cp := func(from, to string) {
		t.Helper()
		if err := r.Copy(t.Context(), from, to, false); err != nil {
			t.Fatalf("cp %s %s: %v", from, to, err)
		}
	}
	cp(local("new.html"), "web:/srv")            // into a directory
	cp(local("new.html"), "web:/srv/index.html") // over a file
	cp(local("new.html"), "web:/srv/fresh")      // to a new name
	cp(local("tree"), "web:/srv/css")            // a directory into a directory
	cp(local("tree")+"/.", "web:/srv/css")       // its content
	cp(local("tree"), "web:/copy")               // to a new name
	for p, want := range map[string]string{"/srv/new.html": "new", "/srv/index.html": "new", "/srv/fresh": "new", "/srv/css/tree/sub/y": "2", "/srv/css/x": "1", "/copy/sub/y": "2"} {
		if got, ok := r.toy.files[p]; !ok || got != want {
			t.Errorf("%s: %q, want %q", p, got, want)
		}
	}
	cp("web:/srv", dir)                       // into a directory
	cp("web:/srv", local("renamed"))          // to a new name
	cp("web:/srv/css/.", local("tree"))       // content into a directory
	cp("web:srv/index.html", local("x.html")) // a file to a new name; relative is from the root
	for p, want := range map[string]string{"srv/css/a.css": "red", "renamed/index.html": "new", "tree/a.css": "red", "x.html": "new"} {
		if got, err := os.ReadFile(local(p)); err != nil || string(got) != want {
			t.Errorf("%s: %q %v, want %q", p, got, err, want)
		}
	}
	for _, bad := range [][2]string{{"a", "b"}, {"web:/a", "web:/b"}, {"web:/nosuch", dir}, {local("nosuch"), "web:/srv"}, {local("tree"), "web:/srv/index.html"}, {local("new.html"), "web:/nosuch/"}} {
		if err := r.Copy(t.Context(), bad[0], bad[1], true); err == nil {
			t.Errorf("cp %v worked", bad)
		}
	}
}

// TestUnpackStaysInside gives an archive that wants to write elsewhere.
func TestUnpackStaysInside(t *testing.T) {
	dir := t.TempDir()
	inside := filepath.Join(dir, "inside")
	if err := os.Mkdir(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string][][3]string{
		"dots": {{"f", "x/../../../evil", "bad"}}, "absolute": {{"f", "/evil", "bad"}},
		"through a link": {{"l", "x/link", "../.."}, {"f", "x/link/evil", "bad"}},
		"link then file": {{"l", "x/evil", "../../evil"}, {"f", "x/evil", "bad"}},
		"hard link":      {{"h", "x/h", "../../../etc/passwd"}},
	} {
		_ = unpackFiles(tarOf(t, files), "/x", inside, func(string, ...any) {}) // an error is as good as staying inside
		if _, err := os.Lstat(filepath.Join(dir, "evil")); err == nil {
			t.Errorf("%s: it got out", name)
		}
	}
}

func TestRest(t *testing.T) {
	r := newRig(t)
	r.run("web", "x")
	for name, c := range map[string]struct {
		do   func() error
		want string
	}{
		"stats":  {func() error { return r.Stats(t.Context(), nil, true) }, "0123456789ab web 12.50% 64MiB / 128MiB 50.00% 0B / 0B 0B / 0B 7"},
		"events": {func() error { return r.Events(t.Context(), EventOptions{Filters: []string{"event=die"}}) }, "container die web (exitCode=0)"},
		"images": {func() error { return r.Images(t.Context(), ImageListOptions{}) }, "nginx 1.27 0123456789ab N/A linux/amd64 5MB"},
		"rmi":    {func() error { return r.RemoveImages(t.Context(), []string{"x"}, false) }, "Untagged: a Deleted: b"},
		"volume": {func() error { return r.Volumes(t.Context(), false) }, "data 2KiB 1GiB N/A db"},
		"create": {func() error { return r.CreateVolume(t.Context(), "v", "1g", nil) }, "v"},
		"whoami": {func() error { return r.WhoAmI(t.Context()) }, "role admin"},
		"status": {func() error { return r.Status(t.Context()) }, "Health network is not ready"},
		"wait":   {func() error { return r.Wait(t.Context(), []string{"web"}) }, "0"},
		"pull":   {func() error { r.JSON = true; return r.Pull(t.Context(), []string{"redis"}, "") }, `"digest": "sha256:feed"`},
	} {
		r.JSON = false
		if err := c.do(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if out, _ := r.took(); !strings.Contains(strings.Join(strings.Fields(out), " "), c.want) {
			t.Errorf("%s: %s", name, out)
		}
	}
	if got := r.Names(t.Context(), "running", "w"); !slices.Equal(got, []string{"web"}) {
		t.Errorf("completion: %q", got)
	}
}

func TestCredentials(t *testing.T) {
	r := newRig(t)
	path := filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json")
	if err := os.WriteFile(path, []byte(`{"credsStore":"","other":{"kept":true}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r.In = strings.NewReader("secret\n")
	if err := r.Login(t.Context(), "reg.example:5000", "me", "", true, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.Pull(t.Context(), []string{"reg.example:5000/app"}, ""); err != nil {
		t.Fatal(err)
	}
	if a := r.toy.pulled[0].Auth; a.GetUsername() != "me" || a.GetPassword() != "secret" {
		t.Errorf("the pull carried %v", a)
	}
	if err := r.Pull(t.Context(), []string{"other.example/app"}, ""); err != nil || r.toy.pulled[1].Auth != nil {
		t.Errorf("another registry was given %v", r.toy.pulled[1].Auth)
	}
	if err := r.Logout("reg.example:5000"); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(data), "reg.example") || !strings.Contains(string(data), `"kept": true`) {
		t.Errorf("after logout: %s %v", data, err)
	}
}

func buildFake(archive string, err error) func(_ ctxt, _, _ string, w io.Writer) (string, error) {
	return func(_ ctxt, _, _ string, w io.Writer) (string, error) {
		if err != nil {
			return "", err
		}
		_, err := io.WriteString(w, archive)
		return "localhost/built", err
	}
}

// Who restarts a machine is told which containers do not run again yet; lists say that these start, and did not fail.
func TestRebootTellsWhatStarts(t *testing.T) {
	r := newRig(t)
	r.run("web")
	for _, name := range []string{"shop", "db"} {
		r.run(name)
		r.toy.containers[name].phase = wherryv1.ContainerPhase_CONTAINER_PHASE_STARTING
	}
	if err := r.Reboot(t.Context(), true, time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, said := r.took(); !strings.HasSuffix(said, " s, and still starts db, shop\n") {
		t.Errorf("said %s", said)
	}
	if err := r.PS(t.Context(), ListOptions{All: true, Filters: []string{"status=starting"}, Format: "{{.Names}} {{.Status}} {{.State}}"}); err != nil {
		t.Fatal(err)
	}
	if out, _ := r.took(); out != "db Starting starting\nshop Starting starting\n" {
		t.Errorf("printed %s", out)
	}
}
