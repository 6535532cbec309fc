// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"google.golang.org/protobuf/types/known/durationpb"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
)

const hostsOfBox = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff02::1\tip6-allnodes\n" +
	"ff02::2\tip6-allrouters\n192.0.2.1\tpier\n10.9.8.7\tbox\n"

func TestRunToTheEnd(t *testing.T) {
	w := newWorld(t)
	w.must(os.Mkdir(w.dir+"/shared", 0o755))
	w.must(os.WriteFile(w.dir+"/shared/file", []byte("on the host"), 0o644))
	w.must(os.Symlink("shared", w.dir+"/link"))
	w.Configure(Settings{Containers: config.Containers{AllowedHostPaths: []string{w.dir + "/shared"}}})
	out, code := w.outcome(&wherryv1.ContainerSpec{Command: []string{"both", "3"}})
	if code != 3 || out != "to out\nto err\n" && out != "to err\nto out\n" {
		t.Errorf("exit code %d, output %q", code, out)
	}
	for _, tt := range []struct {
		name, want string
		spec       *wherryv1.ContainerSpec
	}{
		{"root by default", "0 0 [0] / box /root image\n", &wherryv1.ContainerSpec{Command: []string{"id"}, Hostname: "box"}},
		{"named user with groups", "1000 1000 [1000 2000] /made/here box /home/ann mine\n",
			&wherryv1.ContainerSpec{Command: []string{"id"}, Hostname: "box", User: "ann", Workdir: "/made/here", Env: []string{"FOO=mine"}}},
		{"numbers", "7 8 [8 2000] / box / image\n",
			&wherryv1.ContainerSpec{Command: []string{"id"}, Hostname: "box", User: "7:8", GroupAdd: []string{"boats"}}},
		{"image's file in a new volume", "from the image", &wherryv1.ContainerSpec{Command: []string{"read", "/data/seed"}}},
		{"read-only root", "open /x: read-only file system\n", &wherryv1.ContainerSpec{Command: []string{"write", "/x", "y"}, ReadOnly: true}},
		{"allowed host path", "on the host", &wherryv1.ContainerSpec{Command: []string{"read", "/host/file"},
			Mounts: []*wherryv1.Mount{{Kind: wherryv1.Mount_KIND_BIND, Source: w.dir + "/link", Target: "/host", ReadOnly: true}}}},
		{"allowed host path is read-only", "open /host/new: read-only file system\n", &wherryv1.ContainerSpec{Command: []string{"write", "/host/new", "x"},
			Mounts: []*wherryv1.Mount{{Kind: wherryv1.Mount_KIND_BIND, Source: w.dir + "/shared", Target: "/host", ReadOnly: true}}}},
		{"hosts", hostsOfBox, &wherryv1.ContainerSpec{Command: []string{"read", "/etc/hosts"}, Hostname: "box", ExtraHosts: []string{"pier:192.0.2.1"}}},
		{"entrypoint replaced", "unknown nope\n", &wherryv1.ContainerSpec{Entrypoint: []string{"/probe", "nope"}}},
		{"project ioctl", "fssetxattr: true\nfsgetxattr: false\n", &wherryv1.ContainerSpec{Command: []string{"setproject", "0"}}},
		{"project ioctl with upper bits", "fssetxattr: true\nfsgetxattr: false\n", &wherryv1.ContainerSpec{Command: []string{"setproject", "1"}}},
	} {
		if out, _ := w.outcome(tt.spec); out != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, out, tt.want)
		}
	}
}

func TestProcessIsConfined(t *testing.T) {
	w := newWorld(t)
	status := func(s *wherryv1.ContainerSpec) string {
		s.Command = []string{"status"}
		out, code := w.outcome(s)
		if code != 0 {
			t.Fatalf("exit code %d: %s", code, out)
		}
		return out
	}
	plain := status(&wherryv1.ContainerSpec{})
	for _, want := range []string{"CapBnd:\t00000000a80425fb", "CapEff:\t00000000a80425fb", "Seccomp:\t2", "NoNewPrivs:\t0", "CapAmb:\t0000000000000000"} {
		if !strings.Contains(plain, want) {
			t.Errorf("%q is not in the process status:\n%s", want, plain)
		}
	}
	bare := status(&wherryv1.ContainerSpec{CapDrop: []string{"ALL"}, CapAdd: []string{"net_raw"}, NoNewPrivileges: true, User: "ann"})
	for _, want := range []string{"CapBnd:\t0000000000002000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(bare, want) {
			t.Errorf("%q is not in the process status:\n%s", want, bare)
		}
	}
}

func TestStartErrors(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		name string
		spec *wherryv1.ContainerSpec
		code int
	}{
		{"missing binary", &wherryv1.ContainerSpec{Entrypoint: []string{"/nope"}}, 127},
		{"missing in PATH", &wherryv1.ContainerSpec{Entrypoint: []string{"nope"}}, 127},
		{"not executable", &wherryv1.ContainerSpec{Entrypoint: []string{"/notexec"}}, 126},
		{"a directory", &wherryv1.ContainerSpec{Entrypoint: []string{"/etc"}}, 126},
	} {
		id := w.createSpec(tt.spec)
		err := w.Start(t.Context(), id)
		if ExitCodeOf(err) != tt.code {
			t.Errorf("%s: exit code %d of %v, want %d", tt.name, ExitCodeOf(err), err, tt.code)
		}
		if s := w.state(id); s.Error == "" || s.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_CREATED || s.ExitCode != int32(tt.code) {
			t.Errorf("%s: state %v", tt.name, s)
		}
		w.must(w.Remove(t.Context(), id, false, true))
	}
	w.checkNothingLeft()
	before := len(w.table.all())
	for _, tt := range []struct {
		name string
		spec *wherryv1.ContainerSpec
		kind Kind
	}{
		{"missing user", &wherryv1.ContainerSpec{Image: "probe:1", User: "bob"}, KindInvalid},
		{"missing image", &wherryv1.ContainerSpec{Image: "nope:1"}, KindNotFound},
		{"missing network", &wherryv1.ContainerSpec{Image: "probe:1", Networks: []*wherryv1.NetworkAttachment{{Network: "missing"}}}, KindInvalid},
		{"forbidden host path", &wherryv1.ContainerSpec{Image: "probe:1", Mounts: []*wherryv1.Mount{{Kind: wherryv1.Mount_KIND_BIND, Source: "/etc", Target: "/h", ReadOnly: true}}}, KindPermission},
	} {
		if _, _, _, err := w.Create(t.Context(), tt.spec); KindOf(err) != tt.kind {
			t.Errorf("%s: %v of kind %d, want %d", tt.name, err, KindOf(err), tt.kind)
		}
	}
	if n := len(w.table.all()); n != before {
		t.Errorf("%d containers are left of refused requests", n-before)
	}
	w.checkNothingLeft()
}

func TestStop(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := w.create("sleep")
	w.must(w.Start(ctx, id))
	w.untilOutput(id, "ready")
	w.must(w.Stop(ctx, id, "", nil))
	if s := w.state(id); s.ExitCode != 0 || s.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED || !s.StoppedByUser {
		t.Errorf("after stop: %v", s)
	}
	if out := w.output(id); out != "ready\nbye\n" {
		t.Errorf("output %q", out)
	}
	hard := w.createSpec(&wherryv1.ContainerSpec{Command: []string{"stubborn"}, StopTimeout: durationpb.New(300 * time.Millisecond)})
	w.must(w.Start(ctx, hard))
	w.untilOutput(hard, "ready")
	if err := w.Remove(ctx, hard, false, false); KindOf(err) != KindConflict {
		t.Errorf("a running container was removed: %v", err)
	}
	w.must(w.Stop(ctx, hard, "", nil))
	if s := w.state(hard); s.ExitCode != 137 {
		t.Errorf("exit code %d of a killed container", s.ExitCode)
	}
	w.must(w.Restart(ctx, id, nil))
	w.must(w.Kill(ctx, id, "KILL"))
	if s := w.state(id); s.ExitCode != 137 {
		t.Errorf("exit code %d after kill", s.ExitCode)
	}
	if err := w.Kill(ctx, id, "TERM"); KindOf(err) != KindFailedPrecondition {
		t.Errorf("kill of a stopped container: %v", err)
	}
}

func TestRestartPolicy(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	fails := w.createSpec(&wherryv1.ContainerSpec{Command: []string{"exit", "4"},
		Restart: &wherryv1.RestartPolicy{Kind: wherryv1.RestartPolicy_KIND_ON_FAILURE, MaxRetries: 2}})
	w.must(w.Start(ctx, fails))
	w.eventually("two restarts", func() bool {
		s := w.state(fails)
		return s.RestartCount == 2 && s.Phase == wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED && s.ExitCode == 4
	})
	always := w.createSpec(&wherryv1.ContainerSpec{Command: []string{"exit", "0"}, Restart: &wherryv1.RestartPolicy{Kind: wherryv1.RestartPolicy_KIND_ALWAYS}})
	w.must(w.Start(ctx, always))
	w.eventually("restarts", func() bool { return w.state(always).RestartCount >= 2 })
	w.must(w.Stop(ctx, always, "", nil))
	n := w.state(always).RestartCount
	time.Sleep(time.Second)
	if s := w.state(always); s.RestartCount != n || s.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED {
		t.Errorf("a stopped container was restarted: %v", s)
	}
	gone := w.createSpec(&wherryv1.ContainerSpec{Command: []string{"exit", "0"}, AutoRemove: true})
	w.must(w.Start(ctx, gone))
	w.eventually("automatic removal", func() bool { _, err := w.Inspect(ctx, gone); return KindOf(err) == KindNotFound })
}

func TestAttachWithInput(t *testing.T) {
	w := newWorld(t)
	id := w.createSpec(&wherryv1.ContainerSpec{Command: []string{"cat"}, Stdin: true})
	var out bytes.Buffer
	code := int32(-1)
	err := w.Attach(t.Context(), AttachOptions{Ref: id, Start: true, Stdin: strings.NewReader("one\ntwo\n")}, func(m *wherryv1.AttachResponse) error {
		switch m := m.Message.(type) {
		case *wherryv1.AttachResponse_Stdout:
			out.Write(m.Stdout)
		case *wherryv1.AttachResponse_ExitCode:
			code = m.ExitCode
		}
		return nil
	})
	if err != nil || code != 0 || out.String() != "one\ntwo\nend of input\n" {
		t.Errorf("%v, exit code %d, output %q", err, code, out.String())
	}
}

// TestAttachOfTheShortLived wants every byte of containers that are removed as
// soon as they end, from a caller that is slow.
func TestAttachOfTheShortLived(t *testing.T) {
	w := newWorld(t)
	for range 5 {
		id := w.createSpec(&wherryv1.ContainerSpec{Command: []string{"lines", "3"}, AutoRemove: true})
		var out strings.Builder
		code := int32(-1)
		err := w.Attach(t.Context(), AttachOptions{Ref: id, Start: true}, func(m *wherryv1.AttachResponse) error {
			time.Sleep(100 * time.Millisecond)
			out.Write(m.GetStdout())
			if c, ok := m.Message.(*wherryv1.AttachResponse_ExitCode); ok {
				code = c.ExitCode
			}
			return nil
		})
		if err != nil || code != 0 || out.String() != "line 0\nline 1\nline 2\n" {
			t.Errorf("%v, exit code %d, output %q", err, code, out.String())
		}
	}
	id := w.createSpec(&wherryv1.ContainerSpec{Entrypoint: []string{"/nope"}, AutoRemove: true})
	if err := w.Start(t.Context(), id); ExitCodeOf(err) != 127 {
		t.Errorf("a missing binary: %v", err)
	}
	w.eventually("all are removed", func() bool { return len(w.table.all()) == 0 })
}

func TestTerminal(t *testing.T) {
	w := newWorld(t)
	in, typed := io.Pipe()
	id := w.createSpec(&wherryv1.ContainerSpec{Command: []string{"ask"}, Stdin: true, Tty: true})
	var out strings.Builder
	err := w.Attach(t.Context(), AttachOptions{Ref: id, Start: true, Stdin: in}, func(m *wherryv1.AttachResponse) error {
		if m.GetStdout() != nil {
			out.Write(m.GetStdout())
			if strings.HasSuffix(out.String(), "name? ") {
				go io.WriteString(typed, "sailor\n")
			}
		}
		return nil
	})
	if err != nil || !strings.Contains(out.String(), "hello sailor\r\n") {
		t.Errorf("%v, output %q", err, out.String())
	}
	size := w.createSpec(&wherryv1.ContainerSpec{Command: []string{"winsize", "133"}, Tty: true})
	out.Reset()
	err = w.Attach(t.Context(), AttachOptions{Ref: size, Start: true, Size: &wherryv1.TerminalSize{Columns: 133, Rows: 40}}, func(m *wherryv1.AttachResponse) error {
		out.Write(m.GetStdout())
		return nil
	})
	if err != nil || !strings.Contains(out.String(), "133 columns") {
		t.Errorf("%v, output %q", err, out.String())
	}
}

func TestLogsFollow(t *testing.T) {
	w := newWorld(t)
	id := w.create("lines", "20", "20")
	w.must(w.Start(t.Context(), id))
	var out strings.Builder
	err := w.Logs(t.Context(), &wherryv1.StreamContainerLogsRequest{Container: id, Follow: true}, func(c *wherryv1.ContainerLogChunk) error {
		if c.Time.AsTime().IsZero() {
			t.Error("a chunk has no time")
		}
		out.Write(c.Data)
		return nil
	})
	if err != nil || strings.Count(out.String(), "\n") != 20 || !strings.HasSuffix(out.String(), "line 19\n") {
		t.Errorf("%v, %q", err, out.String())
	}
	out.Reset()
	w.must(w.Logs(t.Context(), &wherryv1.StreamContainerLogsRequest{Container: id, TailSet: true, Tail: 2}, func(c *wherryv1.ContainerLogChunk) error {
		out.Write(c.Data)
		return nil
	}))
	if out.String() != "line 18\nline 19\n" {
		t.Errorf("tail: %q", out.String())
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := w.createSpec(&wherryv1.ContainerSpec{Health: &wherryv1.HealthCheck{Test: []string{"CMD", "/probe", "health"}, Interval: durationpb.New(100 * time.Millisecond), Retries: 2}})
	w.must(w.Start(ctx, id))
	w.eventually("healthy", func() bool { return w.state(id).Health == wherryv1.HealthState_HEALTH_STATE_HEALTHY })
	_, err := w.exec(ctx, ExecOptions{Start: &wherryv1.ExecStart{Container: id, Command: []string{"/probe", "write", "/sick", ""}}})
	w.must(err)
	w.eventually("unhealthy", func() bool { return w.state(id).Health == wherryv1.HealthState_HEALTH_STATE_UNHEALTHY })
	log := w.state(id).HealthLog
	if last := log[len(log)-1]; last.ExitCode != 1 || last.Output != "sick\n" || len(log) > 5 {
		t.Errorf("health log %v", log)
	}
	if w.Counts().Unhealthy != 1 {
		t.Error("the counts show no unhealthy container")
	}
}

// TestMany is the load that a machine normally has, on a smaller scale.
func TestMany(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	w := newWorld(t)
	n := 200 // a normal load
	if v, err := strconv.Atoi(os.Getenv("WHERRY_ENGINE_MANY")); err == nil {
		n = v
	}
	began := time.Now()
	lap := func(what string) {
		var ru unix.Rusage
		w.must(unix.Getrusage(unix.RUSAGE_SELF, &ru))
		var kids unix.Rusage
		w.must(unix.Getrusage(unix.RUSAGE_CHILDREN, &kids))
		t.Logf("%s of %d took %v; CPU so far: engine %v, its children %v", what, n, time.Since(began).Round(time.Millisecond),
			time.Duration(ru.Utime.Nano()+ru.Stime.Nano()).Round(time.Millisecond), time.Duration(kids.Utime.Nano()+kids.Stime.Nano()).Round(time.Millisecond))
		began = time.Now()
	}
	lap("beginning")
	var ids []string
	for range n {
		ids = append(ids, w.create("sleep"))
	}
	lap("create")
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() {
			if err := w.Start(context.Background(), id); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	lap("start")
	if list, err := w.List(t.Context(), &wherryv1.ListContainersRequest{}); err != nil || len(list) != n {
		t.Errorf("%d containers are listed: %v", len(list), err)
	}
	lap("list")
	asked := time.Now()
	w.must(w.Stats(t.Context(), nil, true, func(s *wherryv1.StatsSample) error {
		if d := time.Since(asked); d > 3*time.Second {
			t.Errorf("statistics took %v", d)
		}
		if len(s.Stats) != n {
			t.Errorf("statistics of %d containers", len(s.Stats))
		}
		return nil
	}))
	lap("stats")
	w.Shutdown(t.Context())
	lap("stop")
	if c := w.Counts(); c.Running != 0 || int(c.Stopped) != n {
		t.Errorf("after the shutdown: %v", c)
	}
	for _, id := range ids {
		w.must(w.Remove(t.Context(), id, false, true))
	}
	lap("remove")
}

func tarOf(entries ...tar.Header) *bytes.Buffer {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		h.Size = int64(len(h.Uname)) // the content of these small files
		content := h.Uname
		h.Uname = ""
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		w.WriteHeader(&h)
		io.WriteString(w, content)
	}
	w.Close()
	return &b
}

func TestCopy(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	running, stopped := w.create("sleep"), w.create("sleep")
	w.must(w.Start(ctx, running))
	for _, id := range []string{running, stopped} {
		archive := tarOf(tar.Header{Name: "d/f", Typeflag: tar.TypeReg, Uname: "copied"}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"},
			tar.Header{Name: "l/inside", Typeflag: tar.TypeReg, Uname: "x"}, tar.Header{Name: "../../up", Typeflag: tar.TypeReg, Uname: "u"})
		w.must(w.CopyTo(ctx, id, "/data", archive))
		for name, want := range map[string]string{"/data/d": "d/ d/f=copied", "/etc/inside": "inside=x", "/data/up": "up=u", "/data/seed": "seed=from the image",
			"/escape": "escape->../../../../../../etc"} {
			var out bytes.Buffer
			w.must(w.CopyFrom(ctx, id, name, &out))
			if got := listTar(t, &out); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if err := w.CopyFrom(ctx, id, "/nope", io.Discard); KindOf(err) != KindNotFound {
			t.Errorf("a missing file: %v", err)
		}
		if err := w.CopyTo(ctx, id, "/data", strings.NewReader("not a tar at all, but long enough to look at "+strings.Repeat("x", 1024))); KindOf(err) != KindInvalid {
			t.Errorf("garbage: %v", err)
		}
	}
}

func listTar(t *testing.T, r io.Reader) string {
	t.Helper()
	var list []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return strings.Join(list, " ")
		}
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(tr)
		switch {
		case h.Linkname != "":
			list = append(list, h.Name+"->"+h.Linkname)
		case h.Typeflag == tar.TypeDir:
			list = append(list, h.Name)
		default:
			list = append(list, h.Name+"="+string(b))
		}
	}
}
