// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package sshkey

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

func keys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]crypto.Signer{"ed25519": ed}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		if out[name], err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: ed}); err != nil {
		t.Fatal(err)
	}
	signers, err := ring.Signers()
	if err != nil {
		t.Fatal(err)
	}
	if out["agent"], err = AgentSigner(signers[0]); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestHandshake proves each kind of key to the other side of a real handshake.
func TestHandshake(t *testing.T) {
	all := keys(t)
	for name, key := range all {
		t.Run(name, func(t *testing.T) {
			client, err := Certificate(key, "caller")
			if err != nil {
				t.Fatal(err)
			}
			server, err := Certificate(all["ed25519"], "machine")
			if err != nil {
				t.Fatal(err)
			}
			a, b := net.Pipe()
			s := tls.Server(a, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{server}, ClientAuth: tls.RequestClientCert})
			c := tls.Client(b, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{client}, InsecureSkipVerify: true})
			done := make(chan error, 1)
			go func() {
				err := c.Handshake()
				done <- err
				c.Read(make([]byte, 1))
			}()
			defer a.Close()
			if err := s.Handshake(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			state := s.ConnectionState()
			got, err := Peer(&state)
			if err != nil {
				t.Fatal(err)
			}
			if want, _ := Fingerprint(key.Public()); got != want {
				t.Errorf("peer %s, want %s", got, want)
			}
		})
	}
}

// TestFingerprint compares with what ssh-keygen says.
func TestFingerprint(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Fatal("ssh-keygen is missing: install openssh-client")
	}
	for name, key := range keys(t) {
		line, err := AuthorizedLine(key.Public(), "somebody at home")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "key.pub")
		if err := os.WriteFile(path, []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(keygen, "-l", "-f", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		pub, err := ParsePublic(line)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(out), " "+pub.Fingerprint+" somebody at home ") {
			t.Errorf("%s: fingerprint %s, ssh-keygen says %s", name, pub.Fingerprint, out)
		}
		if pub.Comment != "somebody at home" {
			t.Errorf("comment %q", pub.Comment)
		}
	}
}

func TestParsePublicRefuses(t *testing.T) {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaPub, err := ssh.NewPublicKey(&r.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	good, err := AuthorizedLine(keys(t)["ed25519"].Public(), "me")
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct{ line, want string }{
		"rsa":     {string(ssh.MarshalAuthorizedKey(rsaPub)), "Ed25519 or ECDSA"},
		"options": {`command="ls" ` + good, "not supported"},
		"two":     {good + "\n" + good, "more than one line"},
		"long":    {good + strings.Repeat("x", MaxLine), "too long"},
		"garbage": {"ssh-ed25519 AAAA", "SSH public key"},
		"empty":   {"", "SSH public key"},
	}
	for name, c := range cases {
		if _, err := ParsePublic(c.line); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want it to say %q", name, err, c.want)
		}
	}
}

func TestAgentRefusesECDSA(t *testing.T) {
	ring := agent.NewKeyring()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	signers, err := ring.Signers()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := AgentSigner(signers[0]); err == nil || !strings.Contains(err.Error(), "--identity") {
		t.Errorf("error %v, want advice to use --identity", err)
	}
}
