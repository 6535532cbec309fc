// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/client"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/sshkey"
)

func req[T any](m *T) *connect.Request[T] { return connect.NewRequest(m) }

// registered returns every method of the API.
func registered() map[string]protoreflect.MethodDescriptor {
	all := map[string]protoreflect.MethodDescriptor{}
	protoregistry.GlobalFiles.RangeFilesByPackage("wherry.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				all["/"+string(s.FullName())+"/"+string(m.Name())] = m
			}
		}
		return true
	})
	return all
}

// TestEveryMethodHasARole compares the table with the protobuf registry.
func TestEveryMethodHasARole(t *testing.T) {
	all := registered()
	if len(all) < 40 {
		t.Fatalf("the registry knows only %d methods", len(all))
	}
	for name := range all {
		if m, ok := methods[name]; !ok {
			t.Errorf("%s has no row in the table", name)
		} else if _, ok := ranks[m.role]; !ok {
			t.Errorf("%s has the unknown role %q", name, m.role)
		}
	}
	for name, m := range methods {
		if _, ok := all[name]; !ok {
			t.Errorf("the table names %s, which is not in the API", name)
		}
		if m.role == anybody && name != "/wherry.v1.MachineService/GetVersion" {
			t.Errorf("%s is open to anybody", name)
		}
	}
}

// TestStrangersAreRefused calls every method without a key and with an unknown
// one: the answers are the same, and only the version is told.
func TestStrangersAreRefused(t *testing.T) {
	r := newRig(t, nil)
	hc := func(cert *tls.Certificate) *http.Client {
		c := &tls.Config{InsecureSkipVerify: true}
		if cert != nil {
			c.Certificates = []tls.Certificate{*cert}
		}
		return &http.Client{Transport: &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true}}
	}
	unknown, err := sshkey.Certificate(newKey(t), "stranger")
	if err != nil {
		t.Fatal(err)
	}
	callers := map[string]*http.Client{"no key": hc(nil), "unknown key": hc(&unknown)}
	for name, m := range registered() {
		answers := map[string]string{}
		for who, c := range callers {
			answers[who] = rawCall(t, c, "https://"+r.address+name, m)
		}
		if answers["no key"] != answers["unknown key"] {
			t.Errorf("%s: answers differ: %q", name, answers)
		}
		if open := name == "/wherry.v1.MachineService/GetVersion"; open != (answers["no key"] == "ok") {
			t.Errorf("%s: %q", name, answers["no key"])
		} else if !open && !strings.HasPrefix(answers["no key"], "unauthenticated: this machine does not know your key") {
			t.Errorf("%s: %q", name, answers["no key"])
		}
	}
	if strings.Contains(r.log.String(), "panic") {
		t.Error(r.log.String())
	}
}

func rawCall(t *testing.T, hc *http.Client, url string, m protoreflect.MethodDescriptor) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	options := []connect.ClientOption{connect.WithSchema(m), connect.WithResponseInitializer(func(spec connect.Spec, message any) error {
		if d, ok := message.(*dynamicpb.Message); ok {
			*d = *dynamicpb.NewMessage(m.Output())
		}
		return nil
	})}
	c := connect.NewClient[dynamicpb.Message, dynamicpb.Message](hc, url, options...)
	in := dynamicpb.NewMessage(m.Input())
	var err error
	switch {
	case m.IsStreamingClient() && m.IsStreamingServer():
		s := c.CallBidiStream(ctx)
		_ = s.Send(in)
		_, err = s.Receive()
		s.CloseRequest()
		s.CloseResponse()
	case m.IsStreamingClient():
		s := c.CallClientStream(ctx)
		_ = s.Send(in)
		_, err = s.CloseAndReceive()
	case m.IsStreamingServer():
		var s *connect.ServerStreamForClient[dynamicpb.Message]
		if s, err = c.CallServerStream(ctx, req(in)); err == nil {
			s.Receive()
			err = s.Err()
			s.Close()
		}
	default:
		_, err = c.CallUnary(ctx, req(in))
	}
	if err != nil {
		return err.Error()
	}
	return "ok"
}

func TestRoles(t *testing.T) {
	r := newRig(t, nil)
	ctx := t.Context()
	calls := map[string]func(*client.Client) error{
		"list": func(c *client.Client) error {
			_, err := c.Containers.ListContainers(ctx, req(&wherryv1.ListContainersRequest{}))
			return err
		},
		"list system": func(c *client.Client) error {
			_, err := c.Containers.ListContainers(ctx, req(&wherryv1.ListContainersRequest{System: true}))
			return err
		},
		"create": func(c *client.Client) error {
			_, err := c.Containers.CreateContainer(ctx, req(&wherryv1.CreateContainerRequest{Spec: &wherryv1.ContainerSpec{Name: "web"}}))
			return err
		},
		"reboot": func(c *client.Client) error {
			_, err := c.Machine.Reboot(ctx, req(&wherryv1.RebootRequest{}))
			return err
		},
	}
	may := map[config.Role]string{config.RoleReader: "list", config.RoleOperator: "list create", config.RoleAdmin: "list list system create reboot"}
	for role, allowed := range may {
		c := r.dial(t, r.keys[role])
		who, err := c.Machine.WhoAmI(ctx, req(&wherryv1.WhoAmIRequest{}))
		if err != nil || who.Msg.Role != string(role) || who.Msg.Comment != string(role)+"@test" {
			t.Errorf("whoami as %s: %v %v", role, who, err)
		}
		for name, call := range calls {
			err := call(c)
			if strings.Contains(allowed, name) {
				if err != nil {
					t.Errorf("%s as %s: %v", name, role, err)
				}
			} else if connect.CodeOf(err) != connect.CodePermissionDenied {
				t.Errorf("%s as %s: %v, want permission denied", name, role, err)
			}
		}
	}
	if log := r.log.String(); strings.Count(log, "method=CreateContainer subject=\"name=\\\"web\\\"\" result=ok") != 2 {
		t.Errorf("the log does not hold both creations:\n%s", log)
	}
}

func TestReadersDoNotSeeEnv(t *testing.T) {
	r := newRig(t, nil)
	for role, want := range map[config.Role]string{config.RoleReader: "PASSWORD=(hidden)", config.RoleOperator: "PASSWORD=secret"} {
		res, err := r.dial(t, r.keys[role]).Containers.InspectContainer(t.Context(), req(&wherryv1.InspectContainerRequest{Container: "web"}))
		if err != nil || res.Msg.Spec.Env[0] != want {
			t.Errorf("as %s: %v %v, want %s", role, res, err, want)
		}
	}
}

// TestAccessChanges takes a key away while its owner follows a stream.
func TestAccessChanges(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial(t, r.keys[config.RoleReader])
	stream, err := c.Containers.StreamEvents(t.Context(), req(&wherryv1.StreamEventsRequest{}))
	if err != nil || !stream.Receive() {
		t.Fatal(err, stream.Err())
	}
	r.SetAccess(r.list(t, config.RoleAdmin))
	if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeUnauthenticated {
		t.Errorf("the stream went on: %v", stream.Err())
	}
	if _, err := c.Containers.ListContainers(t.Context(), req(&wherryv1.ListContainersRequest{})); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("the same connection still works: %v", err)
	}
}

func TestErrors(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial(t, r.keys[config.RoleOperator])
	start := func(name string) error {
		_, err := c.Containers.StartContainer(t.Context(), req(&wherryv1.StartContainerRequest{Container: name}))
		return err
	}
	if err := start("missing"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("missing: %v", err)
	}
	if err := start(""); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("empty: %v", err)
	}
	if err := start("classified"); connect.CodeOf(err) != connect.CodeAborted {
		t.Errorf("classified: %v", err)
	}
	var ce *connect.Error
	if err := start("nobinary"); !errors.As(err, &ce) || ce.Meta().Get(ExitCodeHeader) != "127" {
		t.Errorf("nobinary: %v without exit code", err)
	}
	if err := start("panic"); connect.CodeOf(err) != connect.CodeInternal || strings.Contains(err.Error(), "a bug") {
		t.Errorf("panic: %v", err)
	}
	if err := start("fine"); err != nil {
		t.Errorf("after a panic: %v", err)
	}
	if !strings.Contains(r.log.String(), "a bug") {
		t.Error("the panic is not in the log")
	}
}

// TestSizes sends messages that are too large, plain and compressed.
func TestSizes(t *testing.T) {
	r := newRig(t, nil)
	c := r.dial(t, r.keys[config.RoleAdmin])
	big := strings.Repeat("a", largeMessage+1)
	_, err := c.Containers.CreateContainer(t.Context(), req(&wherryv1.CreateContainerRequest{Spec: &wherryv1.ContainerSpec{Name: big}}))
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("large spec: %.200v", err)
	}
	_, err = c.Containers.StartContainer(t.Context(), req(&wherryv1.StartContainerRequest{Container: big[:smallMessage+1]}))
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("large name: %.200v", err)
	}
	load := c.Images.LoadImages(t.Context())
	err = load.Send(&wherryv1.LoadImagesRequest{Archive: make([]byte, 2*chunkMessage)})
	if err == nil || errors.Is(err, io.EOF) {
		_, err = load.CloseAndReceive()
	}
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("large chunk: %.200v", err)
	}
	load = c.Images.LoadImages(t.Context())
	for range 5 {
		if err := load.Send(&wherryv1.LoadImagesRequest{Archive: make([]byte, 1<<20)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := load.CloseAndReceive(); err != nil || r.parts.loaded != 5<<20 {
		t.Errorf("chunks of 1 MiB: %v, %d bytes", err, r.parts.loaded)
	}
	// One request whose headers are larger than allowed.
	long := req(&wherryv1.WhoAmIRequest{})
	long.Header().Set("X-Long", strings.Repeat("x", 200<<10))
	if _, err := c.Machine.WhoAmI(t.Context(), long); err == nil {
		t.Error("a header of 200 KiB was taken")
	}
	if _, err := c.Machine.WhoAmI(t.Context(), req(&wherryv1.WhoAmIRequest{})); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// TestExec runs input, sizes and signals through a stream in both directions.
func TestExec(t *testing.T) {
	r := newRig(t, nil)
	s := r.dial(t, r.keys[config.RoleOperator]).Containers.Exec(t.Context())
	send := func(m *wherryv1.ExecRequest) {
		t.Helper()
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	send(&wherryv1.ExecRequest{Message: &wherryv1.ExecRequest_Start{Start: &wherryv1.ExecStart{
		Container: "web", Command: []string{"upper"}, Stdin: true, Size: &wherryv1.TerminalSize{Columns: 80, Rows: 24}}}})
	var stdout, stderr bytes.Buffer
	receive := func() *wherryv1.ExecResponse {
		t.Helper()
		m, err := s.Receive()
		if err != nil {
			t.Fatal(err)
		}
		stdout.Write(m.GetStdout())
		stderr.Write(m.GetStderr())
		return m
	}
	send(&wherryv1.ExecRequest{Message: &wherryv1.ExecRequest_Signal{Signal: "SIGHUP"}})
	receive()
	send(&wherryv1.ExecRequest{Message: &wherryv1.ExecRequest_Resize{Resize: &wherryv1.TerminalSize{Columns: 100, Rows: 30}}})
	receive()
	send(&wherryv1.ExecRequest{Message: &wherryv1.ExecRequest_Stdin{Stdin: []byte("hello")}})
	receive()
	send(&wherryv1.ExecRequest{Message: &wherryv1.ExecRequest_CloseStdin{CloseStdin: true}})
	if code, ok := receive().Message.(*wherryv1.ExecResponse_ExitCode); !ok || code.ExitCode != 7 {
		t.Errorf("no exit code")
	}
	if _, err := s.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("after the exit code: %v", err)
	}
	if stdout.String() != "HELLO" || stderr.String() != "signal SIGHUPsize 100x30" {
		t.Errorf("stdout %q stderr %q", stdout.String(), stderr.String())
	}
}

// TestVanish cuts connections in the middle of streams: every handler ends.
func TestVanish(t *testing.T) {
	r := newRig(t, nil)
	var conns []net.Conn
	for i := range 5 {
		c, err := client.Dial(t.Context(), client.Options{
			Address: r.address, Identity: r.keys[config.RoleOperator], VerifyKey: func(string) error { return nil },
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, address)
				conns = append(conns, c)
				return c, err
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Containers.StreamEvents(t.Context(), req(&wherryv1.StreamEventsRequest{})); err != nil {
			t.Fatal(err)
		}
		s := c.Containers.Exec(t.Context())
		command := []string{"upper", "stuck"}[i%2]
		if err := s.Send(&wherryv1.ExecRequest{Message: &wherryv1.ExecRequest_Start{Start: &wherryv1.ExecStart{Container: "web", Command: []string{command}, Stdin: true}}}); err != nil {
			t.Fatal(err)
		}
		// More input than anybody reads: the pump is blocked when the connection goes.
		go s.Send(&wherryv1.ExecRequest{Message: &wherryv1.ExecRequest_Stdin{Stdin: make([]byte, 1<<20)}})
	}
	eventually(t, "ten streams", func() bool { return r.parts.activeNow() == 10 })
	for _, c := range conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	eventually(t, "no stream", func() bool { return r.parts.activeNow() == 0 })
	if _, err := r.dial(t, r.keys[config.RoleReader]).Containers.ListContainers(t.Context(), req(&wherryv1.ListContainersRequest{})); err != nil {
		t.Error(err)
	}
}

func TestCopyFromIsCutIntoChunks(t *testing.T) {
	r := newRig(t, nil)
	s, err := r.dial(t, r.keys[config.RoleOperator]).Containers.CopyFrom(t.Context(), req(&wherryv1.CopyFromRequest{Container: "web", Path: "/"}))
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for s.Receive() {
		if n := len(s.Msg().Tar); n > chunkBytes {
			t.Fatalf("chunk of %d bytes", n)
		}
		total += len(s.Msg().Tar)
	}
	if s.Err() != nil || total != 3<<20+5 {
		t.Errorf("%d bytes, %v", total, s.Err())
	}
}

// TestJSON speaks as curl does, over HTTP/1.1.
func TestJSON(t *testing.T) {
	r := newRig(t, nil)
	cert, err := sshkey.Certificate(r.keys[config.RoleReader], "curl")
	if err != nil {
		t.Fatal(err)
	}
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}}}
	res, err := hc.Post("https://"+r.address+"/wherry.v1.MachineService/GetStatus", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(res.Body)
	if res.ProtoMajor != 1 || string(body) != `{"name":"demo"}` {
		t.Errorf("%s: %s", res.Proto, body)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	r := newRig(t, nil)
	if _, err := tls.Dial("tcp", r.address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 was accepted")
	}
}

func TestConnectionLimits(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxConnectionsPerAddress = 3 })
	var open []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	closed := func(c net.Conn) bool {
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, err := c.Read(make([]byte, 1))
		return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
	}
	eventually(t, "the fourth connection is refused", func() bool {
		c, err := net.Dial("tcp", r.address)
		return err != nil || closed(c)
	})
	for _, c := range open {
		c.Close()
	}
	eventually(t, "room again", func() bool {
		fp, err := client.Probe(t.Context(), client.Options{Address: r.address})
		return err == nil && fp == r.Fingerprint()
	})
}

func TestWrongMachineKey(t *testing.T) {
	r := newRig(t, nil)
	refused := errors.New("not this one")
	_, err := client.Dial(t.Context(), client.Options{Address: r.address, VerifyKey: func(string) error { return refused }})
	var key *client.KeyError
	if !errors.As(err, &key) || key.Fingerprint != r.Fingerprint() || !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
}

func TestMachineKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machine", "key")
	first, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := fmt.Sprint(first.Public()), fmt.Sprint(again.Public()); a != b {
		t.Error("the second load made another key")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path); err == nil {
		t.Error("rubbish was replaced by a new identity")
	}
}
