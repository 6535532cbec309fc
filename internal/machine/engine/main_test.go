// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
)

// Tests with real containers run in a mount namespace of their own, where
// /sys/fs/cgroup is cgroup v2 whatever the machine has there.
const inNamespaceEnv = "WHERRY_ENGINE_TEST_NS"

// prebuiltEnv names a directory with wherry-shim and probe,
// for a machine without a Go compiler: this test also runs as a binary in a VM.
const prebuiltEnv = "WHERRY_ENGINE_BIN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		childMain(dir)
		return
	}
	if dir := os.Getenv(readerEnv); dir != "" {
		readerMain(dir)
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

// components builds the shim once per machine: Go's build cache makes the later
// times quick.
var components = sync.OnceValues(func() (dir string, err error) {
	if given := os.Getenv(prebuiltEnv); given != "" {
		return given, nil
	}
	dir = filepath.Join(os.TempDir(), "wherry-engine-test-components")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "seccomp,netgo,osusergo", "-ldflags", "-s -w -linkmode external -extldflags -static",
		"-o", filepath.Join(dir, "wherry-shim"), "wherry.example/wherry/cmd/wherry-shim")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1", "GOFLAGS=-p=2")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the shim: %w\n%s", err, out)
	}
	return dir, nil
})

// probeImage is an image of the probe program, as docker save writes it.
var probeImage = sync.OnceValues(func() ([]byte, error) {
	program, err := probeProgram()
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(probeLayer(program))), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	img, err = mutate.ConfigFile(img, probeConfig(img))
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = tarball.Write(name.MustParseReference("probe:1"), img, &out)
	return out.Bytes(), err
})

func probeProgram() ([]byte, error) {
	if given := os.Getenv(prebuiltEnv); given != "" {
		return os.ReadFile(filepath.Join(given, "probe"))
	}
	bin := filepath.Join(os.TempDir(), fmt.Sprintf("wherry-engine-probe-%d", os.Getpid()))
	defer os.Remove(bin)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-p=2")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the probe: %w\n%s", err, out)
	}
	return os.ReadFile(bin)
}

func probeConfig(img v1.Image) *v1.ConfigFile {
	c, err := img.ConfigFile()
	if err != nil {
		panic(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture = "linux", "amd64"
	c.Config.Entrypoint = []string{"/probe"}
	c.Config.Cmd = []string{"sleep"}
	c.Config.Env = []string{"FOO=image"}
	c.Config.Volumes = map[string]struct{}{"/data": {}}
	c.Config.Labels = map[string]string{"from": "image"}
	return c
}

func probeLayer(program []byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct {
		name, content, link string
		mode                int64
		dir                 bool
	}{
		{name: "probe", content: string(program), mode: 0o755},
		{name: "etc/", mode: 0o755, dir: true},
		{name: "etc/passwd", content: "root:x:0:0:root:/root:/probe\nann:x:1000:1000::/home/ann:/probe\n", mode: 0o644},
		{name: "etc/group", content: "root:x:0:\nann:x:1000:\nboats:x:2000:ann\n", mode: 0o644},
		{name: "data/", mode: 0o755, dir: true},
		{name: "data/seed", content: "from the image", mode: 0o640},
		{name: "notexec", content: "text", mode: 0o644},
		{name: "tmp/", mode: 0o1777, dir: true},
		{name: "evil", link: "/etc"},
		{name: "escape", link: "../../../../../../etc"},
	} {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), ModTime: time.Unix(1, 0)}
		switch {
		case f.dir:
			h.Typeflag = tar.TypeDir
		case f.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		io.WriteString(w, f.content)
	}
	w.Close()
	return b.Bytes()
}

// fakeNetwork remembers who is attached. Bridge containers get a namespace and no link.
type fakeNetwork struct {
	mu       sync.Mutex
	attached map[string]bool
	last     time.Time // somebody was attached
}

func (n *fakeNetwork) Attach(_ context.Context, r NetworkRequest) (NetworkResult, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.attached == nil {
		n.attached = map[string]bool{}
	}
	n.attached[r.Container] = true
	n.last = time.Now()
	return NetworkResult{Endpoints: []*wherryv1.Endpoint{{Network: "default", Ipv4: "10.9.8.7/24"}}, Ports: r.Ports}, nil
}

func (n *fakeNetwork) Detach(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.attached, id)
	return nil
}

func (n *fakeNetwork) Retain(context.Context, []string) error { return nil }

func (n *fakeNetwork) Check(r NetworkRequest) error {
	for _, a := range r.Networks {
		if a.Network == "missing" {
			return fmt.Errorf("network %s does not exist", a.Network)
		}
	}
	return nil
}

func (n *fakeNetwork) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.attached)
}

// fakeVolumes keeps volumes as directories.
type fakeVolumes struct{ dir string }

func (v fakeVolumes) Ensure(_ context.Context, name string, _ bool) (string, error) {
	d := filepath.Join(v.dir, name)
	return d, os.MkdirAll(d, 0o755)
}
func (v fakeVolumes) Remove(_ context.Context, name string) error {
	return os.RemoveAll(filepath.Join(v.dir, name))
}

// testOptions puts an engine below dir, whose path must be short: sockets live there.
func testOptions(dir, bin string) Options {
	return Options{
		Root: filepath.Join(dir, "root"), RunDir: filepath.Join(dir, "run"),
		Shim: filepath.Join(bin, "wherry-shim"), ShimDir: filepath.Join(dir, "shim"), Reaped: filepath.Join(dir, "reaped"),
		CgroupParent: "/wherry-test-" + filepath.Base(dir), Hostname: "machine",
		Network: &fakeNetwork{}, Volumes: fakeVolumes{filepath.Join(dir, "volumes")},
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
}

// world is one engine on this host.
type world struct {
	*Engine
	t    *testing.T
	dir  string
	opts Options
	net  *fakeNetwork
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getenv(inNamespaceEnv) == "" {
		t.Skip("real containers need root")
	}
	if err := mountCgroups(); err != nil {
		t.Skipf("no cgroup v2 can be mounted here: %v", err)
	}
	bin, err := components()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "we")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, opts: testOptions(dir, bin)}
	w.net = w.opts.Network.(*fakeNetwork)
	w.boot()
	t.Cleanup(w.destroy)
	image, err := probeImage()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.LoadImages(t.Context(), bytes.NewReader(image)); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) boot() {
	w.t.Helper()
	e, err := New(context.Background(), w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Engine = e
}

// destroy removes every container, and fails when anything is left of them.
func (w *world) destroy() {
	for _, c := range w.table.all() {
		if err := w.remove(context.Background(), c, removal{force: true, volumes: true}); err != nil && KindOf(err) != KindNotFound {
			w.t.Errorf("remove %s: %v", c.id, err)
		}
	}
	w.checkNothingLeft()
	w.Close()
	if pid := w.shimPid(); pid != 0 {
		w.must(unix.Kill(pid, unix.SIGKILL))
	}
	os.Remove("/sys/fs/cgroup" + w.opts.CgroupParent)
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, w.dir+"/") {
			w.t.Errorf("a mount is left: %s", line)
			return // never delete below a mount
		}
	}
	if err := os.RemoveAll(w.dir); err != nil {
		w.t.Error(err)
	}
}

func (w *world) checkNothingLeft() {
	w.t.Helper()
	if n := w.net.count(); n != 0 {
		w.t.Errorf("%d containers are still attached to networks", n)
	}
	for _, pattern := range []string{"run/[^h]*" /* holds/ stays */, "root/containers/*"} {
		if left, _ := filepath.Glob(filepath.Join(w.dir, pattern)); len(left) > 0 {
			w.t.Errorf("left over: %v", left)
		}
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup" + w.opts.CgroupParent + "/*/"); len(left) > 0 {
		w.t.Errorf("cgroups left over: %v", left)
	}
}

// create makes a container of the probe.
func (w *world) create(args ...string) string {
	w.t.Helper()
	return w.createSpec(&wherryv1.ContainerSpec{Command: args})
}

func (w *world) createSpec(s *wherryv1.ContainerSpec) string {
	w.t.Helper()
	s.Image = "probe:1"
	id, _, _, err := w.Create(w.t.Context(), s)
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// outcome runs a container to its end.
func (w *world) outcome(s *wherryv1.ContainerSpec) (output string, code int32) {
	w.t.Helper()
	id := w.createSpec(s)
	w.must(w.Start(w.t.Context(), id))
	code = w.wait(id)
	return w.output(id), code
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) wait(id string) int32 {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	r, err := w.Wait(ctx, &wherryv1.WaitContainerRequest{Container: id})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.ExitCode
}

func (w *world) output(id string) string {
	w.t.Helper()
	var out strings.Builder
	err := w.Logs(w.t.Context(), &wherryv1.StreamContainerLogsRequest{Container: id}, func(c *wherryv1.ContainerLogChunk) error {
		out.Write(c.Data)
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.String()
}

// eventually polls until f holds.
func (w *world) eventually(what string, f func() bool) {
	w.t.Helper()
	for range 1000 {
		if f() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	w.t.Fatalf("never: %s", what)
}

func (w *world) state(id string) *wherryv1.ContainerState {
	w.t.Helper()
	r, err := w.Inspect(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Container.State
}

// untilOutput waits until a container has written something.
func (w *world) untilOutput(id, want string) {
	w.t.Helper()
	w.eventually("output "+want, func() bool { return strings.Contains(w.output(id), want) })
}
