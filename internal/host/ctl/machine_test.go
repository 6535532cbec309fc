// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/client"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/host/known"
	"wherry.example/wherry/internal/machine/server"
	"wherry.example/wherry/internal/sshkey"
)

// toy is a machine whose containers are Go functions: the API in front of it is the real one.
type toy struct {
	server.Networks
	server.Machine
	*toyUpdates

	mu         sync.Mutex
	containers map[string]*toyContainer
	later      time.Duration // by which it booted later than at first
	images     map[string]bool
	pulled     []*wherryv1.PullImageRequest
	loaded     [][]byte
	applied    []string          // configuration documents
	files      map[string]string // path → content; a directory ends in "/"
	ended      chan error        // what exec sessions ended with
}

type toyContainer struct {
	spec    *wherryv1.ContainerSpec
	phase   wherryv1.ContainerPhase
	exit    int32
	signals chan string
}

// errExit is a start failure with an exit code.
type errExit struct{ code int }

func (e errExit) Error() string { return "exec: not found in the image" }

func (t *toy) Create(_ context.Context, spec *wherryv1.ContainerSpec) (string, string, []string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.images[spec.Image] {
		return "", "", nil, errdefs.ErrNotFound.WithMessage("no such image: " + spec.Image)
	}
	name := spec.Name
	if name == "" {
		name = fmt.Sprintf("made-up-%d", len(t.containers))
	}
	if t.containers[name] != nil {
		return "", "", nil, errdefs.ErrAlreadyExists.WithMessage("the name " + name + " is taken")
	}
	t.containers[name] = &toyContainer{spec: spec, signals: make(chan string, 8)}
	return name, name, []string{"toy warning"}, nil
}

func (t *toy) find(ref string) (*toyContainer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.containers[ref]
	if c == nil {
		return nil, errdefs.ErrNotFound.WithMessage("no such container: " + ref)
	}
	return c, nil
}

func (t *toy) Start(_ context.Context, ref string) error {
	c, err := t.find(ref)
	if err != nil {
		return err
	}
	if len(c.spec.Command) > 0 && c.spec.Command[0] == "nosuch" {
		return errExit{127}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c.phase = wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING
	return nil
}

func (t *toy) Stop(_ context.Context, ref, _ string, _ *time.Duration) error {
	c, err := t.find(ref)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c.phase = wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED
	return nil
}

func (t *toy) Restart(ctx context.Context, ref string, _ *time.Duration) error {
	return t.Start(ctx, ref)
}

func (t *toy) Kill(_ context.Context, ref, signal string) error {
	c, err := t.find(ref)
	if err == nil {
		c.signals <- signal
	}
	return err
}

func (t *toy) Pause(_ context.Context, ref string) error {
	_, err := t.find(ref)
	return err
}

func (t *toy) Unpause(ctx context.Context, ref string) error { return t.Pause(ctx, ref) }

func (t *toy) Top(_ context.Context, ref string) ([]*wherryv1.Process, error) {
	if _, err := t.find(ref); err != nil {
		return nil, err
	}
	return []*wherryv1.Process{
		{Pid: 100, Parent: 1, User: "ann", UserId: 1000, State: "S", StartedAt: timestamppb.New(time.Unix(1, 0)), CpuUsec: 1230000, MemoryBytes: 3 << 20, Command: "/app --serve"},
		{Pid: 101, Parent: 100, UserId: 77, State: "R", StartedAt: timestamppb.New(time.Unix(2, 0)), Command: "worker"},
	}, nil
}

func (t *toy) Remove(_ context.Context, ref string, _, _ bool) error {
	if _, err := t.find(ref); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.containers, ref)
	return nil
}

func (t *toy) List(_ context.Context, req *wherryv1.ListContainersRequest) ([]*wherryv1.Container, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []*wherryv1.Container
	for name, c := range t.containers {
		if !req.All && c.phase != wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING {
			continue
		}
		list = append(list, c.container(name))
	}
	return list, nil
}

func (c *toyContainer) container(name string) *wherryv1.Container {
	return &wherryv1.Container{
		Id: strings.Repeat(fmt.Sprintf("%x", name[0]), 32), Name: name, Image: c.spec.Image, Command: strings.Join(c.spec.Command, " "),
		CreatedAt: timestamppb.New(testNow.Add(-time.Hour)), Labels: c.spec.Labels, Ports: c.spec.Ports,
		State: &wherryv1.ContainerState{Phase: c.phase, ExitCode: c.exit, StartedAt: timestamppb.New(testNow.Add(-5 * time.Minute)), FinishedAt: timestamppb.New(testNow.Add(-time.Minute))},
	}
}

func (t *toy) Inspect(_ context.Context, ref string) (*wherryv1.InspectContainerResponse, error) {
	c, err := t.find(ref)
	if err != nil {
		return nil, err
	}
	return &wherryv1.InspectContainerResponse{Container: c.container(ref), Spec: c.spec}, nil
}

func (t *toy) Wait(_ context.Context, req *wherryv1.WaitContainerRequest) (*wherryv1.WaitContainerResponse, error) {
	c, err := t.find(req.Container)
	if err != nil {
		return nil, err
	}
	return &wherryv1.WaitContainerResponse{ExitCode: c.exit}, nil
}

func (t *toy) Logs(_ context.Context, req *wherryv1.StreamContainerLogsRequest, send func(*wherryv1.ContainerLogChunk) error) error {
	at := timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC))
	return errors.Join(
		send(&wherryv1.ContainerLogChunk{Time: at, Data: []byte("out 1\nout ")}),
		send(&wherryv1.ContainerLogChunk{Time: at, Stream: wherryv1.Stream_STREAM_STDERR, Data: []byte("err 1\n")}),
		send(&wherryv1.ContainerLogChunk{Time: at, Data: []byte(fmt.Sprintf("2 tail=%d/%v\n", req.Tail, req.TailSet))}))
}

// Attach runs the container's command as play does.
func (t *toy) Attach(ctx context.Context, o server.AttachOptions, send func(*wherryv1.AttachResponse) error) error {
	c, err := t.find(o.Ref)
	if err != nil {
		return err
	}
	if o.Start {
		if err := t.Start(ctx, o.Ref); err != nil {
			return err
		}
	}
	if err := send(&wherryv1.AttachResponse{Message: &wherryv1.AttachResponse_Started{Started: true}}); err != nil {
		return err
	}
	code, err := play(ctx, c.spec.Command, o.Stdin, o.Size, o.Resize, o.Signals,
		func(p []byte) error {
			return send(&wherryv1.AttachResponse{Message: &wherryv1.AttachResponse_Stdout{Stdout: p}})
		},
		func(p []byte) error {
			return send(&wherryv1.AttachResponse{Message: &wherryv1.AttachResponse_Stderr{Stderr: p}})
		})
	if err != nil {
		return err
	}
	return send(&wherryv1.AttachResponse{Message: &wherryv1.AttachResponse_ExitCode{ExitCode: code}})
}

func (t *toy) Exec(ctx context.Context, o server.ExecOptions, send func(*wherryv1.ExecResponse) error) error {
	if _, err := t.find(o.Start.Container); err != nil {
		return err
	}
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	go func() {
		select {
		case <-o.Detach:
			leave(errLeft)
			if in, ok := o.Stdin.(io.Closer); ok {
				in.Close()
			}
		case <-ctx.Done():
		}
	}()
	code, err := play(ctx, o.Start.Command, o.Stdin, o.Start.Size, o.Resize, o.Signals,
		func(p []byte) error {
			return send(&wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_Stdout{Stdout: p}})
		},
		func(p []byte) error {
			return send(&wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_Stderr{Stderr: p}})
		})
	left := errors.Is(context.Cause(ctx), errLeft)
	if left {
		err = errLeft
	}
	if t.ended != nil {
		t.ended <- err
	}
	if left {
		return nil
	}
	if err != nil {
		return err
	}
	return send(&wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_ExitCode{ExitCode: code}})
}

// errLeft ends a toy's exec whose caller left it running.
var errLeft = errors.New("the caller left")

// play is what toy programs do: "exit N", "cat", "sizes", "signals".
func play(ctx context.Context, command []string, stdin io.Reader, size *wherryv1.TerminalSize, resize <-chan *wherryv1.TerminalSize, signals <-chan string, stdout, stderr func([]byte) error) (int32, error) {
	switch command[0] {
	case "exit":
		var code int32
		fmt.Sscan(command[1], &code)
		return code, errors.Join(stdout([]byte("to stdout\n")), stderr([]byte("to stderr\n")))
	case "sizes":
		if err := stdout([]byte(fmt.Sprintf("size %dx%d\r\n", size.GetColumns(), size.GetRows()))); err != nil {
			return 0, err
		}
		select {
		case s := <-resize:
			return 0, stdout([]byte(fmt.Sprintf("now %dx%d\r\n", s.Columns, s.Rows)))
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	case "signals":
		if err := stdout([]byte("waiting\n")); err != nil {
			return 0, err
		}
		select {
		case s := <-signals:
			return 42, stdout([]byte("got " + s + "\n"))
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	buf := make([]byte, 1024)
	for {
		n, err := stdin.Read(buf)
		if n > 0 {
			if err := stdout(bytes.ToUpper(buf[:n])); err != nil {
				return 0, err
			}
		}
		if n > 0 && buf[n-1] == 4 { // ctrl-d, as a terminal inside would take it
			return 5, nil
		}
		if errors.Is(err, io.EOF) {
			return 3, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

func (t *toy) Stats(_ context.Context, _ []string, _ bool, send func(*wherryv1.StatsSample) error) error {
	return send(&wherryv1.StatsSample{Stats: []*wherryv1.ContainerStats{{Id: "0123456789abcdef", Name: "web", CpuPercent: 12.5, MemoryBytes: 64 << 20, MemoryLimitBytes: 128 << 20, Pids: 7}}})
}

func (t *toy) Events(_ context.Context, _ *wherryv1.StreamEventsRequest, send func(*wherryv1.Event) error) error {
	for _, action := range []string{"start", "die"} {
		if err := send(&wherryv1.Event{Time: timestamppb.New(testNow), Kind: "container", Action: action, Name: "web", Attributes: map[string]string{"exitCode": "0"}}); err != nil {
			return err
		}
	}
	return nil
}

// CopyFrom packs what is at a path of files, as the engine does.
func (t *toy) CopyFrom(_ context.Context, _, p string, w io.Writer) error {
	contents := strings.HasSuffix(p, "/.")
	p = path.Clean(p)
	var names []string
	for f := range t.files {
		if c := path.Clean(f); c == p || strings.HasPrefix(c, strings.TrimSuffix(p, "/")+"/") {
			names = append(names, f)
		}
	}
	if len(names) == 0 {
		return errdefs.ErrNotFound.WithMessage("no such file: " + p)
	}
	slices.Sort(names)
	out := tar.NewWriter(w)
	for _, f := range names {
		rel := strings.TrimPrefix(path.Clean(f), p)
		h := &tar.Header{Name: strings.TrimPrefix(path.Base(p)+rel, "/"), Mode: 0o644, Size: int64(len(t.files[f]))}
		if contents {
			h.Name = "." + rel
		}
		if strings.HasSuffix(f, "/") {
			h.Typeflag, h.Mode, h.Name = tar.TypeDir, 0o755, h.Name+"/"
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		io.WriteString(out, t.files[f])
	}
	return out.Close()
}

func (t *toy) CopyTo(_ context.Context, _, dir string, r io.Reader) error {
	if _, ok := t.files[strings.TrimSuffix(path.Clean(dir), "/")+"/"]; !ok {
		return errdefs.ErrNotFound.WithMessage(dir + " is not a directory of the container")
	}
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		data, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		name := path.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir && name != "/" {
			name += "/"
		}
		t.files[name] = string(data)
	}
}

func (t *toy) PullImage(_ context.Context, req *wherryv1.PullImageRequest, send func(*wherryv1.PullImageResponse) error) error {
	t.mu.Lock()
	t.pulled = append(t.pulled, req)
	there := t.images[req.Image]
	t.mu.Unlock()
	if there && req.MissingOnly {
		return send(&wherryv1.PullImageResponse{Status: "done", Image: &wherryv1.Image{}})
	}
	if strings.Contains(req.Image, "missing") {
		return errdefs.ErrNotFound.WithMessage("the registry does not have it")
	}
	layer := func(status string, n uint64) []*wherryv1.LayerProgress {
		return []*wherryv1.LayerProgress{{Digest: "sha256:0123456789abcdef", Status: status, Bytes: n, TotalBytes: 1000}}
	}
	t.mu.Lock()
	t.images[req.Image] = true
	t.mu.Unlock()
	return errors.Join(
		send(&wherryv1.PullImageResponse{Status: "pulling", Layers: layer("pulling", 10)}),
		send(&wherryv1.PullImageResponse{Layers: layer("pulling", 500)}),
		send(&wherryv1.PullImageResponse{Layers: layer("done", 1000)}),
		send(&wherryv1.PullImageResponse{Status: "done", Image: &wherryv1.Image{Digest: "sha256:feed"}}))
}

func (t *toy) LoadImages(_ context.Context, r io.Reader) ([]*wherryv1.Image, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.loaded = append(t.loaded, data)
	t.images["localhost/loaded:latest"] = true
	return []*wherryv1.Image{{Id: "sha256:1", Names: []string{"localhost/loaded:latest"}}}, nil
}

func (t *toy) ListImages(context.Context, *wherryv1.ListImagesRequest) ([]*wherryv1.Image, error) {
	return []*wherryv1.Image{{Id: "sha256:0123456789abcdef", Names: []string{"docker.io/library/nginx:1.27"}, UnpackedBytes: 5e6, Platform: "linux/amd64"}}, nil
}

func (t *toy) InspectImage(_ context.Context, ref string) (*wherryv1.InspectImageResponse, error) {
	return nil, errdefs.ErrNotFound.WithMessage("no such image: " + ref)
}
func (t *toy) TagImage(context.Context, string, string) error { return nil }
func (t *toy) RemoveImage(context.Context, string, bool) (*wherryv1.RemoveImageResponse, error) {
	return &wherryv1.RemoveImageResponse{Untagged: []string{"a"}, Deleted: []string{"b"}}, nil
}
func (t *toy) PruneImages(context.Context, bool) (*wherryv1.PruneImagesResponse, error) {
	return &wherryv1.PruneImagesResponse{FreedBytes: 1e6}, nil
}

func (t *toy) CreateVolume(_ context.Context, req *wherryv1.CreateVolumeRequest) (*wherryv1.Volume, error) {
	return &wherryv1.Volume{Name: req.Name, LimitBytes: req.LimitBytes}, nil
}
func (t *toy) ListVolumes(context.Context) ([]*wherryv1.Volume, error) {
	return []*wherryv1.Volume{{Name: "data", UsedBytes: 2048, LimitBytes: 1 << 30, Containers: []string{"db"}}}, nil
}
func (t *toy) InspectVolume(_ context.Context, name string) (*wherryv1.Volume, error) {
	if name != "data" {
		return nil, errdefs.ErrNotFound.WithMessage("no such volume: " + name)
	}
	return &wherryv1.Volume{Name: name}, nil
}
func (t *toy) RemoveVolume(context.Context, string, bool) error { return nil }
func (t *toy) PruneVolumes(context.Context, bool) (*wherryv1.PruneVolumesResponse, error) {
	return &wherryv1.PruneVolumesResponse{}, nil
}

func (t *toy) ApplyConfig(_ context.Context, document string, dryRun bool) (*wherryv1.ApplyConfigResponse, error) {
	if !dryRun {
		t.applied = append(t.applied, document)
	}
	return &wherryv1.ApplyConfigResponse{}, nil
}

func (t *toy) Reboot(context.Context) error {
	t.later = 30 * time.Minute
	return nil
}

func (t *toy) Status(context.Context) (*wherryv1.GetStatusResponse, error) {
	return &wherryv1.GetStatusResponse{Name: "demo", Version: "1.2.3", Architecture: "amd64", BootedAt: timestamppb.New(testNow.Add(-time.Hour + t.later)), Now: timestamppb.New(testNow),
		Memory: &wherryv1.Memory{TotalBytes: 512 << 20, AvailableBytes: 460 << 20}, State: &wherryv1.StateInfo{}, Containers: &wherryv1.ContainerCounts{Running: 1},
		Subsystems: []*wherryv1.Subsystem{{Name: "network", Message: "no address yet"}, {Name: "engine", Ready: true}}}, nil
}

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// rig is a user at a command line, connected to a toy.
type rig struct {
	*CLI
	toy      *toy
	key      string // the user's, as a line of authorized_keys
	out, err bytes.Buffer
}

func newRig(t *testing.T) *rig {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	r := &rig{toy: &toy{toyUpdates: &toyUpdates{}, containers: map[string]*toyContainer{}, images: map[string]bool{"nginx": true}, files: map[string]string{"/": ""}}}
	user, key := newKey(t), newKey(t)
	line, err := sshkey.AuthorizedLine(user.Public(), "")
	if err != nil {
		t.Fatal(err)
	}
	r.key = line
	s, err := server.New(server.Options{Key: key, Version: "1.2.3", Log: slog.New(slog.DiscardHandler), Access: config.Access{Keys: []config.Key{{Key: line}}},
		Containers: r.toy, Images: r.toy, Volumes: r.toy, Networks: r.toy, Machine: r.toy, Updates: r.toy,
		Classify: func(err error) (connect.Code, int) {
			var exit errExit
			if errors.As(err, &exit) {
				return connect.CodeInvalidArgument, exit.code
			}
			return 0, 0
		}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		r.CLI.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r.CLI = &CLI{In: strings.NewReader(""), Out: &r.out, Err: &r.err, Now: func() time.Time { return testNow },
		Connect: func(ctx context.Context) (*client.Client, known.Machine, error) {
			c, err := client.Dial(ctx, client.Options{Address: l.Addr().String(), Identity: user, VerifyKey: func(string) error { return nil }})
			return c, known.Machine{Name: "demo", Address: l.Addr().String()}, err
		}}
	return r
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// run puts a running container there.
func (r *rig) run(name string, command ...string) {
	r.toy.containers[name] = &toyContainer{spec: &wherryv1.ContainerSpec{Name: name, Image: "nginx", Command: command}, phase: wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING, signals: make(chan string, 8)}
}

// took returns what was printed and forgets it.
func (r *rig) took() (out, err string) {
	out, err = r.out.String(), r.err.String()
	r.out.Reset()
	r.err.Reset()
	return out, err
}
