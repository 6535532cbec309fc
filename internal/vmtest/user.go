// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"wherry.example/wherry/client"
	"wherry.example/wherry/internal/host/known"
)

// User is somebody with a home directory and an SSH key, who works with the
// real CLI: the binary that `make build` left beside the image's directory.
type User struct {
	t testing.TB
	// Home is the user's home directory.
	Home string
	// PublicKey is a line for access.keys.
	PublicKey string

	key     ed25519.PrivateKey
	machine string
}

// commandLimit ends a command that hangs. An update is tried for minutes, and a busy computer is slow.
const commandLimit = 20 * time.Minute

// NewUser makes a user with a fresh Ed25519 key in ~/.ssh.
func NewUser(t testing.TB) *User {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	u := &User{t: t, Home: t.TempDir(), key: key, PublicKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public)))}
	block, err := ssh.MarshalPrivateKey(key, "test")
	if err != nil {
		t.Fatal(err)
	}
	u.write(".ssh/id_ed25519", pem.EncodeToMemory(block))
	u.write(".ssh/id_ed25519.pub", []byte(u.PublicKey+"\n"))
	return u
}

func (u *User) write(name string, data []byte) {
	u.t.Helper()
	path := filepath.Join(u.Home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		u.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		u.t.Fatal(err)
	}
}

// Config is a document that gives the user a role; more is appended as it is.
func (u *User) Config(more ...string) []byte {
	return fmt.Appendf(nil, "version: v1\naccess:\n  keys:\n  - key: %s\n    role: admin\n%s", u.PublicKey, strings.Join(more, "\n"))
}

// Knows makes the user know a machine, which commands go to from then on.
func (u *User) Knows(m *Machine) *User {
	u.t.Helper()
	u.machine = m.Name()
	if err := known.Open(filepath.Join(u.Home, ".config", "wherry")).Add(m.Name(), m.API(), m.Fingerprint()); err != nil {
		u.t.Fatal(err)
	}
	return u
}

// In is the same user in a subtest, which then is the one that fails.
func (u *User) In(t testing.TB) *User {
	c := *u
	c.t = t
	return &c
}

// Command is the CLI with arguments, not started.
func (u *User) Command(args ...string) *exec.Cmd {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	u.t.Cleanup(cancel)
	if u.machine != "" {
		args = append([]string{"-m", u.machine}, args...)
	}
	c := exec.CommandContext(ctx, Binary(u.t), args...)
	c.Env = append(withoutUser(os.Environ()), "HOME="+u.Home, "XDG_CONFIG_HOME="+filepath.Join(u.Home, ".config"),
		"XDG_STATE_HOME="+filepath.Join(u.Home, ".local", "state"))
	return c
}

// withoutUser leaves out what would lead to the real user's keys and machines.
func withoutUser(env []string) []string {
	var out []string
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "SSH_AUTH_SOCK", "WHERRY_MACHINE":
		default:
			out = append(out, v)
		}
	}
	return out
}

// Binary is the CLI that was built with the image.
func Binary(t testing.TB) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(findImage(t)), "wherry")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run `make build` first", err)
	}
	return path
}

// Result is what became of a command.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Try runs a command to its end, whatever that is.
func (u *User) Try(args ...string) Result { return u.TryWith(nil, args...) }

// TryWith is Try with standard input.
func (u *User) TryWith(stdin io.Reader, args ...string) Result {
	u.t.Helper()
	c := u.Command(args...)
	var stdout, stderr bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = stdin, &stdout, &stderr
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		u.t.Fatalf("wherry %s: %v", strings.Join(args, " "), err)
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: c.ProcessState.ExitCode()}
}

// Run is Try for a command that must succeed. It returns standard output.
func (u *User) Run(args ...string) string {
	u.t.Helper()
	r := u.Try(args...)
	if r.Code != 0 {
		u.t.Fatalf("wherry %s: exit code %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Client is a connection to a machine's API with the user's key.
func (u *User) Client(m *Machine) *client.Client {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, client.Options{Address: m.API(), Identity: u.key, VerifyKey: func(got string) error {
		if got != m.Fingerprint() {
			return fmt.Errorf("the machine's key is %s, and its console said %s", got, m.Fingerprint())
		}
		return nil
	}})
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(c.Close)
	return c
}
