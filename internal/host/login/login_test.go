// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/host/known"
	"wherry.example/wherry/internal/machine/server"
)

// asker answers as a user would, and counts how often it was asked.
type asker struct {
	phrases []string
	yes     bool
	asked   []string
}

func (a *asker) Passphrase(_ context.Context, prompt string) ([]byte, error) {
	a.asked = append(a.asked, prompt)
	p := a.phrases[0]
	if len(a.phrases) > 1 {
		a.phrases = a.phrases[1:]
	}
	return []byte(p), nil
}

func (a *asker) Confirm(_ context.Context, question string) (bool, error) {
	a.asked = append(a.asked, question)
	return a.yes, nil
}

// home is a user with an SSH directory and a store of known machines.
type home struct {
	Options
	store *known.Store
}

func newHome(t *testing.T) *home {
	t.Helper()
	dir := t.TempDir()
	h := &home{Options: Options{SSHDir: filepath.Join(dir, ".ssh"), ConfigDir: filepath.Join(dir, "config")}}
	if err := os.MkdirAll(h.SSHDir, 0o700); err != nil {
		t.Fatal(err)
	}
	h.store = known.Open(h.ConfigDir)
	return h
}

func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: install openssh-client", name)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// keygen makes a key as the user would, and returns its public line.
func (h *home) keygen(t *testing.T, name, passphrase string, args ...string) string {
	t.Helper()
	path := filepath.Join(h.SSHDir, name)
	run(t, nil, "ssh-keygen", append([]string{"-q", "-f", path, "-N", passphrase, "-C", name + "@home"}, args...)...)
	line, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(line))
}

// startAgent runs a real ssh-agent and adds keys to it.
func (h *home) startAgent(t *testing.T, keys ...string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // short: the path of a socket has a bound
	if err != nil {
		t.Fatal(err)
	}
	h.AgentSocket = filepath.Join(dir, "s")
	cmd := exec.Command("ssh-agent", "-D", "-a", h.AgentSocket)
	cmd.Stdout = io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.RemoveAll(dir)
	})
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", h.AgentSocket); err == nil {
			c.Close()
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	for _, k := range keys {
		run(t, []string{"SSH_AUTH_SOCK=" + h.AgentSocket}, "ssh-add", "-q", filepath.Join(h.SSHDir, k))
	}
}

// nothing is a machine that does nothing: logins need no more.
type nothing struct {
	server.Containers
	server.Images
	server.Volumes
	server.Networks
	server.Machine
}

type remote struct {
	*server.Server
	address string
}

func startMachine(t *testing.T, keys ...string) remote {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var access config.Access
	for _, k := range keys {
		access.Keys = append(access.Keys, config.Key{Key: k})
	}
	p := nothing{}
	s, err := server.New(server.Options{Key: key, Version: "1", Access: access, Log: slog.New(slog.DiscardHandler),
		Containers: p, Images: p, Volumes: p, Networks: p, Machine: p})
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
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return remote{s, l.Addr().String()}
}

// connect logs in to a machine that is known already and returns who it saw.
func (h *home) connect(t *testing.T, m remote) (*wherryv1.WhoAmIResponse, error) {
	t.Helper()
	if _, err := h.store.Get("demo"); err != nil {
		if err := h.store.Add("demo", m.address, m.Fingerprint()); err != nil {
			t.Fatal(err)
		}
	}
	k, err := h.store.Get("demo")
	if err != nil {
		t.Fatal(err)
	}
	c, err := Connect(t.Context(), h.store, k, h.Options)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	who, err := c.Machine.WhoAmI(t.Context(), connect.NewRequest(&wherryv1.WhoAmIRequest{}))
	if err != nil {
		return nil, err
	}
	return who.Msg, nil
}

func TestKeyKinds(t *testing.T) {
	cases := []struct {
		name, file, phrase string
		args               []string
	}{
		{"ed25519", "id_ed25519", "", []string{"-t", "ed25519"}},
		{"ed25519 with passphrase", "id_ed25519", "open sesame", []string{"-t", "ed25519"}},
		{"ecdsa 256", "id_ecdsa", "", []string{"-t", "ecdsa", "-b", "256"}},
		{"ecdsa 521 with passphrase", "id_ecdsa", "open sesame", []string{"-t", "ecdsa", "-b", "521"}},
		{"ecdsa in PEM with passphrase", "id_ecdsa", "open sesame", []string{"-t", "ecdsa", "-m", "PEM"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := newHome(t)
			pub := h.keygen(t, c.file, c.phrase, c.args...)
			a := &asker{phrases: []string{"wrong", c.phrase}}
			h.Ask = a
			who, err := h.connect(t, startMachine(t, pub))
			if err != nil {
				t.Fatal(err)
			}
			if who.Comment != c.file+"@home" || who.Role != "admin" {
				t.Errorf("seen as %v", who)
			}
			if asked := len(a.asked); (c.phrase == "") != (asked == 0) {
				t.Errorf("asked %d times", asked)
			}
		})
	}
}

// TestAgent logs in with a key that only a real ssh-agent has, while a file
// that needs a passphrase is never asked for.
func TestAgent(t *testing.T) {
	h := newHome(t)
	h.keygen(t, "id_ed25519", "secret", "-t", "ed25519")
	pub := h.keygen(t, "agentkey", "", "-t", "ed25519")
	h.keygen(t, "other", "", "-t", "ecdsa")
	h.startAgent(t, "other", "agentkey")
	for _, f := range []string{"agentkey", "other"} {
		if err := os.Remove(filepath.Join(h.SSHDir, f)); err != nil {
			t.Fatal(err)
		}
	}
	a := &asker{phrases: []string{"secret"}}
	h.Ask = a
	m := startMachine(t, pub)
	if who, err := h.connect(t, m); err != nil || who.Comment != "agentkey@home" {
		t.Fatal(who, err)
	}
	if len(a.asked) != 0 {
		t.Errorf("asked: %q", a.asked)
	}
}

// TestTriesInOrderAndRemembers has two keys of which the machine knows the second.
func TestTriesInOrderAndRemembers(t *testing.T) {
	h := newHome(t)
	h.keygen(t, "id_ed25519", "", "-t", "ed25519")
	pub := h.keygen(t, "id_ecdsa", "", "-t", "ecdsa")
	m := startMachine(t, pub)
	who, err := h.connect(t, m)
	if err != nil {
		t.Fatal(err)
	}
	if k, _ := h.store.Get("demo"); k.Identity != who.Fingerprint {
		t.Errorf("remembered %q, used %q", k.Identity, who.Fingerprint)
	}
	list, _ := Identities(t.Context(), h.Options)
	preferred(list, who.Fingerprint)
	if len(list) != 2 || list[0].Fingerprint != who.Fingerprint {
		t.Errorf("next time it would not come first: %v", list)
	}
}

func TestRefusals(t *testing.T) {
	h := newHome(t)
	m := startMachine(t)
	if _, err := h.connect(t, m); err == nil || !strings.Contains(err.Error(), "ssh-keygen") {
		t.Errorf("without keys: %v", err)
	}
	h.keygen(t, "id_ed25519", "", "-t", "ed25519")
	if _, err := h.connect(t, m); err == nil || !strings.Contains(err.Error(), "id_ed25519@home") || !strings.Contains(err.Error(), "access.keys") {
		t.Errorf("unknown key: %v", err)
	}
	h.keygen(t, "rsa", "", "-t", "rsa", "-b", "2048")
	h.IdentityFile = filepath.Join(h.SSHDir, "rsa")
	if _, err := h.connect(t, m); err == nil || !strings.Contains(err.Error(), "Ed25519 or ECDSA") {
		t.Errorf("rsa: %v", err)
	}
	h.IdentityFile = filepath.Join(h.SSHDir, "id_ed25519.pub")
	if _, err := h.connect(t, m); err == nil || !strings.Contains(err.Error(), "private key") {
		t.Errorf("public key as identity: %v", err)
	}
	h.keygen(t, "locked", "secret", "-t", "ed25519")
	h.IdentityFile = filepath.Join(h.SSHDir, "locked")
	if _, err := h.connect(t, m); err == nil || !strings.Contains(err.Error(), "no terminal") {
		t.Errorf("locked without a terminal: %v", err)
	}
	a := &asker{phrases: []string{"wrong"}}
	h.Ask = a
	if _, err := h.connect(t, m); err == nil || !strings.Contains(err.Error(), "wrong 3 times") || len(a.asked) != 3 {
		t.Errorf("wrong passphrase: %v, asked %d times", err, len(a.asked))
	}
}

func TestChangedKey(t *testing.T) {
	h := newHome(t)
	pub := h.keygen(t, "id_ed25519", "", "-t", "ed25519")
	old, fresh := startMachine(t, pub), startMachine(t, pub)
	if err := h.store.Add("demo", fresh.address, old.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	_, err := h.connect(t, fresh)
	var changed *ChangedKeyError
	if !errors.As(err, &changed) || changed.Got != fresh.Fingerprint() {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"HAS CHANGED", old.Fingerprint(), "wherry machine rm demo"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the message lacks %q:\n%v", want, err)
		}
	}
}

func TestFirstContact(t *testing.T) {
	h := newHome(t)
	m := startMachine(t)
	meet := func(fingerprint string, ask Asker) error {
		_, err := Meet(t.Context(), h.store, "demo", m.address, fingerprint, ask)
		return err
	}
	if err := meet("", nil); err == nil || !strings.Contains(err.Error(), m.Fingerprint()) {
		t.Errorf("without a terminal: %v", err)
	}
	if err := meet("SHA256:other", &asker{yes: true}); err == nil || !strings.Contains(err.Error(), "not SHA256:other") {
		t.Errorf("wrong fingerprint: %v", err)
	}
	no := &asker{}
	if err := meet("", no); err == nil || len(no.asked) != 1 || !strings.Contains(no.asked[0], m.Fingerprint()) {
		t.Errorf("refused by the user: %v, asked %q", err, no.asked)
	}
	if _, err := h.store.Get("demo"); !errors.Is(err, known.ErrUnknown) {
		t.Errorf("a refused machine is known: %v", err)
	}
	if err := meet(m.Fingerprint(), nil); err != nil {
		t.Errorf("with the right fingerprint: %v", err)
	}
	k, err := Find(t.Context(), h.store, m.address, nil)
	if err != nil || k.Name != "demo" {
		t.Errorf("by address: %v %v", k, err)
	}
	if _, err := Find(t.Context(), h.store, "nosuch", nil); !errors.Is(err, known.ErrUnknown) {
		t.Errorf("unknown name: %v", err)
	}
}

func TestPublicKeys(t *testing.T) {
	h := newHome(t)
	first, err := PublicKeys(t.Context(), h.Options)
	if err != nil || len(first) != 1 {
		t.Fatal(first, err)
	}
	again, err := PublicKeys(t.Context(), h.Options)
	if err != nil || len(again) != 1 || strings.Fields(again[0])[1] != strings.Fields(first[0])[1] {
		t.Errorf("second time: %v %v, first %v", again, err, first)
	}
	if info, err := os.Stat(h.ownKey()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("own key: %v %v", info, err)
	}
	if who, err := h.connect(t, startMachine(t, first...)); err != nil || who.Role != "admin" {
		t.Errorf("login with the own key: %v %v", who, err)
	}

	h = newHome(t)
	pub := h.keygen(t, "id_ed25519", "", "-t", "ed25519")
	lines, err := PublicKeys(t.Context(), h.Options)
	if err != nil || len(lines) != 1 || lines[0] != pub {
		t.Errorf("with a key: %q %v, want %q", lines, err, pub)
	}
	if _, err := os.Stat(h.ownKey()); err == nil {
		t.Error("an own key was made although the user has one")
	}
}
