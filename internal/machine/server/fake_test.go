// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
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
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/containerd/errdefs"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/client"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/sshkey"
)

// exitError is a start failure as a part reports it that has its own kinds of errors.
type exitError struct{ code int }

func (e exitError) Error() string { return "exec: \"nosuch\": not found in the image" }

var errClassified = errors.New("a kind of the part's own")

// classify stands for what the composition root passes on from the engine.
func classify(err error) (connect.Code, int) {
	var exit exitError
	switch {
	case errors.As(err, &exit):
		return connect.CodeFailedPrecondition, exit.code
	case errors.Is(err, errClassified):
		return connect.CodeAborted, 0
	}
	return 0, 0
}

// fakeParts is a machine without an engine. Methods that a test does not use
// are nil functions of the embedded interfaces and would panic, which a test notices.
type fakeParts struct {
	Containers
	Images
	Volumes
	Networks
	Machine
	Attester

	mu      sync.Mutex
	created []*wherryv1.ContainerSpec
	active  int // streams under way
	loaded  int64
}

func (f *fakeParts) under(delta int) {
	f.mu.Lock()
	f.active += delta
	f.mu.Unlock()
}

func (f *fakeParts) activeNow() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.active
}

func (f *fakeParts) Create(_ context.Context, spec *wherryv1.ContainerSpec) (string, string, []string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.created = append(f.created, spec)
	return "0123", spec.Name, []string{"a warning"}, nil
}

func (f *fakeParts) Start(_ context.Context, ref string) error {
	switch ref {
	case "missing":
		return fmt.Errorf("container %q: %w", ref, errdefs.ErrNotFound)
	case "classified":
		return errClassified
	case "nobinary":
		return fmt.Errorf("start %s: %w", ref, exitError{127})
	case "panic":
		panic("a bug")
	}
	return nil
}

func (f *fakeParts) List(context.Context, *wherryv1.ListContainersRequest) ([]*wherryv1.Container, error) {
	return []*wherryv1.Container{{Id: "0123", Name: "web"}}, nil
}

func (f *fakeParts) Inspect(context.Context, string) (*wherryv1.InspectContainerResponse, error) {
	return &wherryv1.InspectContainerResponse{Spec: &wherryv1.ContainerSpec{Env: []string{"PASSWORD=secret"}}}, nil
}

func (f *fakeParts) Events(ctx context.Context, _ *wherryv1.StreamEventsRequest, send func(*wherryv1.Event) error) error {
	f.under(1)
	defer f.under(-1)
	if err := send(&wherryv1.Event{Kind: "container", Action: "start"}); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// Exec echoes standard input upwards, tells sizes and signals on standard error, and exits with 7.
func (f *fakeParts) Exec(ctx context.Context, o ExecOptions, send func(*wherryv1.ExecResponse) error) error {
	f.under(1)
	defer f.under(-1)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		for {
			var text string
			select {
			case size := <-o.Resize:
				text = fmt.Sprintf("size %dx%d", size.Columns, size.Rows)
			case s := <-o.Signals:
				text = "signal " + s
			case <-stop:
				return
			}
			if send(&wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_Stderr{Stderr: []byte(text)}}) != nil {
				return
			}
		}
	})
	if o.Start.Command[0] == "stuck" {
		<-ctx.Done()
		return ctx.Err()
	}
	buf := make([]byte, 4096)
	for {
		n, err := o.Stdin.Read(buf)
		if n > 0 {
			if err := send(&wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_Stdout{Stdout: bytes.ToUpper(buf[:n])}}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return send(&wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_ExitCode{ExitCode: 7}})
		}
		if err != nil {
			return err
		}
	}
}

func (f *fakeParts) CopyFrom(_ context.Context, _, _ string, w io.Writer) error {
	_, err := io.CopyN(w, zeros{}, 3<<20+5)
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func (f *fakeParts) LoadImages(_ context.Context, r io.Reader) ([]*wherryv1.Image, error) {
	n, err := io.Copy(io.Discard, r)
	f.mu.Lock()
	f.loaded = n
	f.mu.Unlock()
	return nil, err
}

func (f *fakeParts) Status(context.Context) (*wherryv1.GetStatusResponse, error) {
	return &wherryv1.GetStatusResponse{Name: "demo"}, nil
}

func (f *fakeParts) Reboot(context.Context) error { return nil }

// rig is a server on the loopback with three keys, and its log.
type rig struct {
	*Server
	parts   *fakeParts
	address string
	log     *safeBuffer
	keys    map[config.Role]crypto.Signer
	stop    context.CancelFunc
	served  chan error
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (r *rig) list(t *testing.T, roles ...config.Role) config.Access {
	t.Helper()
	var a config.Access
	for _, role := range roles {
		line, err := sshkey.AuthorizedLine(r.keys[role].Public(), string(role)+"@test")
		if err != nil {
			t.Fatal(err)
		}
		a.Keys = append(a.Keys, config.Key{Key: line, Role: role})
	}
	return a
}

func newRig(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	r := &rig{parts: &fakeParts{}, log: &safeBuffer{}, keys: map[config.Role]crypto.Signer{
		config.RoleReader: newKey(t), config.RoleOperator: newKey(t), config.RoleAdmin: newKey(t),
	}, served: make(chan error, 1)}
	o := Options{
		Key: newKey(t), Version: "1.2.3", Log: slog.New(slog.NewTextHandler(r.log, nil)),
		Access:     r.list(t, config.RoleReader, config.RoleOperator, config.RoleAdmin),
		Classify:   classify,
		Containers: r.parts, Images: r.parts, Volumes: r.parts, Networks: r.parts, Machine: r.parts, Attester: r.parts,
	}
	if change != nil {
		change(&o)
	}
	var err error
	if r.Server, err = New(o); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.served <- r.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.served; err != nil {
			t.Error(err)
		}
	})
	return r
}

// dial connects with a key, and with none when it is nil.
func (r *rig) dial(t *testing.T, key crypto.Signer) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Options{Address: r.address, Identity: key, VerifyKey: func(f string) error {
		if f != r.Fingerprint() {
			return fmt.Errorf("unexpected key %s", f)
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// eventually waits until something is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 10 s: %s", what)
}
