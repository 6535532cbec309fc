// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// openssl reads what is written here, and what it writes is read here.
func TestKeyFilesAgainstOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("no openssl")
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	for _, passphrase := range []string{"", "correct horse"} {
		data, err := marshalKey(key, []byte(passphrase))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		plain, err := exec.Command("openssl", "pkey", "-in", file, "-passin", "pass:"+passphrase).Output()
		if err != nil {
			t.Fatalf("passphrase %q: openssl does not read it: %v", passphrase, err)
		}
		want, _ := marshalKey(key, nil)
		if !bytes.Equal(plain, want) {
			t.Errorf("passphrase %q: openssl reads another key", passphrase)
		}
	}
	out, err := exec.Command("openssl", "genpkey", "-algorithm", "ed25519", "-aes-256-cbc", "-pass", "pass:secret").Output()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseKey(out, func() ([]byte, error) { return []byte("secret"), nil }); err != nil {
		t.Errorf("a key of openssl's: %v", err)
	}
}

func TestParseKeyRefuses(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	locked, err := marshalKey(key, []byte("right"))
	if err != nil {
		t.Fatal(err)
	}
	wrong := func() ([]byte, error) { return []byte("wrong"), nil }
	if _, err := parseKey(locked, wrong); err == nil {
		t.Error("the wrong passphrase opened it")
	}
	for _, bad := range []string{"", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"} {
		if _, err := parseKey([]byte(bad), wrong); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
	if strings.Contains(string(locked), "\nMC4CAQAw") {
		t.Error("the key is not encrypted")
	}
	nobody := errors.New("nobody to ask")
	if _, err := parseKey(locked, func() ([]byte, error) { return nil, nobody }); !errors.Is(err, nobody) {
		t.Errorf("%v", err)
	}
}

func FuzzParseKey(f *testing.F) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		f.Fatal(err)
	}
	plain, err := marshalKey(key, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := parseKey(data, func() ([]byte, error) { return nil, errPassphrase })
		if err == nil && len(k) != ed25519.PrivateKeySize {
			t.Errorf("a key of %d bytes", len(k))
		}
	})
}
