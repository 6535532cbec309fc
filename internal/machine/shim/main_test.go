// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"wherry.example/wherry/internal/linux/process"
)

// The tests run in a mount namespace of their own, where /sys/fs/cgroup is
// cgroup v2 whatever the machine has there. The shim's parent is another copy of the
// test that does what PID 1 does: it is given orphans, reaps them and writes it down.
const (
	inNamespaceEnv = "WHERRY_SHIM_TEST_NS"
	firstEnv       = "WHERRY_SHIM_TEST_FIRST"
)

func TestMain(m *testing.M) {
	if args := os.Getenv(firstEnv); args != "" {
		first(strings.Fields(args))
		return
	}
	if os.Getuid() != 0 || os.Getenv(inNamespaceEnv) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespaceEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// first starts a shim for each line on its standard input, says its pid, and
// records what it reaps. args are the program, the state directory and the record.
func first(args []string) {
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	var mu sync.Mutex
	shims := map[int]bool{}
	go func() {
		for ; ; time.Sleep(2 * time.Millisecond) {
			mu.Lock()
			for {
				e, ok := process.Next()
				if !ok {
					break
				}
				if shims[e.Pid] {
					continue
				}
				f, _ := os.OpenFile(args[2], os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
				fmt.Fprintf(f, "%d %d %d %d\n", e.Pid, e.Start, uint32(e.Status), time.Now().UnixNano())
				f.Close()
			}
			mu.Unlock()
		}
	}()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		mu.Lock()
		pid, err := syscall.ForkExec(args[0], []string{args[0], "serve", "--state", args[1], "--reaped", args[2]},
			&syscall.ProcAttr{Dir: "/", Files: []uintptr{0, 2, 2}, Env: []string{"GODEBUG=" + os.Getenv("SHIM_GODEBUG")}, Sys: &syscall.SysProcAttr{Setsid: true}})
		shims[pid] = true
		mu.Unlock()
		fmt.Println(pid, err)
	}
	for pid := range shims {
		unix.Kill(pid, unix.SIGKILL)
	}
}

var mountCgroups = sync.OnceValue(func() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return nil
	}
	return unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, "")
})

// programs builds the shim and the containers' toybox.
var programs = sync.OnceValues(func() (dir string, err error) {
	dir = filepath.Join(os.TempDir(), "wherry-shim-test-programs")
	for name, args := range map[string][]string{
		"wherry-shim": {"-tags", "seccomp,netgo,osusergo,no_grpc", "-ldflags", "-s -w -linkmode external -extldflags -static", "wherry.example/wherry/cmd/wherry-shim"},
		"toybox":      {"-tags", "netgo,osusergo", "-ldflags", "-s -w -linkmode internal", "wherry.example/wherry/internal/vmtest/fixture/toybox"},
	} {
		cmd := exec.Command("go", append([]string{"build", "-trimpath", "-o", filepath.Join(dir, name)}, args...)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS=-p=2")
		if name == "toybox" {
			cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return dir, nil
})

// world is one shim on this host.
type world struct {
	t      testing.TB
	dir    string
	bin    string
	api    taskapi.TTRPCTaskService
	client *ttrpc.Client
	pid    int // of the shim

	orders  io.Writer // to first
	answers *bufio.Reader
	ids     atomic.Int64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	if os.Getenv(inNamespaceEnv) == "" {
		t.Skip("real containers need root")
	}
	if err := mountCgroups(); err != nil {
		t.Skipf("no cgroup v2 can be mounted here: %v", err)
	}
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "ws")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, bin: bin}
	w.makeRoot()
	w.startFirst()
	w.boot()
	return w
}

// makeRoot makes the root file system of all containers.
func (w *world) makeRoot() {
	root := filepath.Join(w.dir, "root")
	for _, d := range []string{"proc", "dev", "sys", "etc", "tmp"} {
		w.must(os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	b, err := os.ReadFile(filepath.Join(w.bin, "toybox"))
	w.must(err)
	w.must(os.WriteFile(filepath.Join(root, "toybox"), b, 0o755))
	w.must(os.WriteFile(filepath.Join(root, "text"), []byte("text"), 0o644))
}

func (w *world) startFirst() {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), firstEnv+"="+filepath.Join(w.bin, "wherry-shim")+" "+w.shimDir()+" "+filepath.Join(w.dir, "reaped"))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	w.must(err)
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	w.orders, w.answers = in, bufio.NewReader(out)
	w.t.Cleanup(func() {
		w.destroy()
		in.Close()
		cmd.Wait()
	})
}

func (w *world) shimDir() string { return filepath.Join(w.dir, "shim") }

// boot starts a shim and connects.
func (w *world) boot() {
	w.t.Helper()
	fmt.Fprintln(w.orders, "start")
	line, err := w.answers.ReadString('\n')
	w.must(err)
	if _, err := fmt.Sscan(line, &w.pid); err != nil || w.pid == 0 {
		w.t.Fatalf("no shim: %s", line)
	}
	w.connect()
}

func (w *world) connect() {
	w.t.Helper()
	for range 1000 {
		if conn, err := net.Dial("unix", filepath.Join(w.shimDir(), "shim.sock")); err == nil {
			w.client = ttrpc.NewClient(conn)
			w.api = taskapi.NewTTRPCTaskClient(w.client)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatal("the shim does not answer")
}

// killShim is what must not hurt.
func (w *world) killShim() {
	w.t.Helper()
	w.must(unix.Kill(w.pid, unix.SIGKILL))
	w.client.Close()
	w.eventually("the shim's end", func() bool { return errors.Is(unix.Kill(w.pid, 0), unix.ESRCH) })
}

func (w *world) destroy() {
	w.client.Close()
	unix.Kill(w.pid, unix.SIGKILL)
	w.eventually("the shim's end", func() bool { return errors.Is(unix.Kill(w.pid, 0), unix.ESRCH) })
	group := filepath.Join("/sys/fs/cgroup", w.group())
	os.WriteFile(filepath.Join(group, "cgroup.kill"), []byte("1"), 0)
	w.eventually("the cgroups' end", func() bool {
		left, _ := filepath.Glob(group + "/*/cgroup.procs")
		for _, p := range left {
			os.Remove(filepath.Dir(p))
		}
		os.Remove(group)
		_, err := os.Stat(group)
		return err != nil
	})
	// The stand-in for PID 1 may just write down whom it reaped.
	w.eventually("the removal of "+w.dir, func() bool { return os.RemoveAll(w.dir) == nil })
}

func (w *world) group() string { return "/wherry-shim-" + filepath.Base(w.dir) }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) eventually(what string, f func() bool) {
	w.t.Helper()
	for range 1000 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatalf("never: %s", what)
}

// shimSpec is a container of the toybox.
func (w *world) spec(id string, args ...string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID"}
	return &specs.Spec{
		Version: "1.2.1",
		Root:    &specs.Root{Path: filepath.Join(w.dir, "root")},
		Process: &specs.Process{Args: append([]string{"/toybox"}, args...), Cwd: "/", Env: []string{"PATH=/"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=64k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: w.group() + "/" + id,
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.CgroupNamespace}},
			Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64},
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}, Action: specs.ActErrno}}},
		},
	}
}

// box is one process of the shim, as its caller sees it.
type box struct {
	w        *world
	id, exec string
	io       names
	out, err *capture
	stdin    *os.File
}

// capture reads a FIFO to its end.
type capture struct {
	mu   sync.Mutex
	text strings.Builder
	f    *os.File
	over chan struct{}
}

func newCapture(path string) (*capture, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	c := &capture{f: f, over: make(chan struct{})}
	go func() {
		defer close(c.over)
		b := make([]byte, 4096)
		for {
			n, err := f.Read(b)
			c.mu.Lock()
			c.text.Write(b[:n])
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return c, nil
}

func (c *capture) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// all waits for the end of the stream.
func (c *capture) all() string {
	select {
	case <-c.over:
	case <-time.After(10 * time.Second):
		return "the stream does not end: " + c.String()
	}
	return c.String()
}

// fifos makes the FIFOs of a process.
func (w *world) fifos(name string, tty bool) names {
	dir := filepath.Join(w.dir, "io", name)
	w.must(os.MkdirAll(dir, 0o755))
	n := names{Terminal: tty, Stdin: dir + "/stdin", Stdout: dir + "/stdout"}
	if !tty {
		n.Stderr = dir + "/stderr"
	}
	for _, p := range []string{n.Stdin, n.Stdout, n.Stderr} {
		if p != "" {
			w.must(unix.Mkfifo(p, 0o600))
		}
	}
	return n
}

func (w *world) newID() string { return fmt.Sprintf("%064x", w.ids.Add(1)) }

// create makes a container; read opens its output.
func (w *world) create(spec *specs.Spec, id string) (*box, error) {
	bundle := filepath.Join(w.dir, "bundle", id)
	w.must(os.MkdirAll(bundle, 0o700))
	text, err := json.Marshal(spec)
	w.must(err)
	w.must(os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600))
	b := &box{w: w, id: id, io: w.fifos(id, spec.Process.Terminal)}
	_, err = w.api.Create(w.ctx(), &taskapi.CreateTaskRequest{ID: id, Bundle: bundle, Terminal: b.io.Terminal, Stdin: b.io.Stdin, Stdout: b.io.Stdout, Stderr: b.io.Stderr})
	return b, errgrpc.ToNative(err)
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	w.t.Cleanup(cancel)
	return ctx
}

// run creates and starts a container and reads its output.
func (w *world) run(args ...string) *box {
	w.t.Helper()
	id := w.newID()
	return w.runSpec(id, w.spec(id, args...))
}

func (w *world) runSpec(id string, spec *specs.Spec) *box {
	w.t.Helper()
	b, err := w.create(spec, id)
	w.must(err)
	b.open()
	w.must(b.start())
	return b
}

// open opens the caller's ends; before the shim has opened its own they would be at their end at once.
func (b *box) open() {
	b.w.t.Helper()
	var err error
	b.out, err = newCapture(b.io.Stdout)
	b.w.must(err)
	if b.io.Stderr != "" {
		b.err, err = newCapture(b.io.Stderr)
		b.w.must(err)
	}
	b.stdin, err = os.OpenFile(b.io.Stdin, os.O_RDWR|unix.O_NONBLOCK, 0)
	b.w.must(err)
}

func (b *box) start() error {
	_, err := b.w.api.Start(b.w.ctx(), &taskapi.StartRequest{ID: b.id, ExecID: b.exec})
	return errgrpc.ToNative(err)
}

func (b *box) wait() int {
	b.w.t.Helper()
	r, err := b.w.api.Wait(b.w.ctx(), &taskapi.WaitRequest{ID: b.id, ExecID: b.exec})
	b.w.must(err)
	return int(r.ExitStatus)
}

func (b *box) state() *taskapi.StateResponse {
	b.w.t.Helper()
	r, err := b.w.api.State(b.w.ctx(), &taskapi.StateRequest{ID: b.id, ExecID: b.exec})
	b.w.must(err)
	return r
}

func (b *box) kill(sig unix.Signal, all bool) error {
	_, err := b.w.api.Kill(b.w.ctx(), &taskapi.KillRequest{ID: b.id, ExecID: b.exec, Signal: uint32(sig), All: all})
	return errgrpc.ToNative(err)
}

func (b *box) delete() error {
	_, err := b.w.api.Delete(b.w.ctx(), &taskapi.DeleteRequest{ID: b.id, ExecID: b.exec})
	return errgrpc.ToNative(err)
}

// end kills and deletes.
func (b *box) end() {
	b.w.t.Helper()
	b.kill(unix.SIGKILL, false)
	b.wait()
	b.w.must(b.delete())
}

// addExec describes a further process.
func (b *box) addExec(name string, tty bool, args ...string) (*box, error) {
	p := &specs.Process{Args: args, Cwd: "/", Terminal: tty, Env: []string{"PATH=/"}}
	text, err := json.Marshal(p)
	b.w.must(err)
	x := &box{w: b.w, id: b.id, exec: name, io: b.w.fifos(fmt.Sprintf("%s-%s-%d", b.id, name, b.w.ids.Add(1)), tty)}
	_, err = b.w.api.Exec(b.w.ctx(), &taskapi.ExecProcessRequest{ID: b.id, ExecID: name, Terminal: tty, Stdin: x.io.Stdin, Stdout: x.io.Stdout, Stderr: x.io.Stderr,
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: text}})
	return x, errgrpc.ToNative(err)
}

func (b *box) closeStdin() {
	b.w.t.Helper()
	b.stdin.Close()
	_, err := b.w.api.CloseIO(b.w.ctx(), &taskapi.CloseIORequest{ID: b.id, ExecID: b.exec, Stdin: true})
	b.w.must(err)
}

func (b *box) untilOutput(want string) {
	b.w.t.Helper()
	for range 1000 {
		if strings.Contains(b.out.String(), want) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.w.t.Fatalf("never said %q; said %q", want, b.out.String())
}
