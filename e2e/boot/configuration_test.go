// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

// configuration changes a running machine through the API.
func configuration(t *testing.T, u *vmtest.User, m *vmtest.Machine) {
	before := u.Run("machine", "config", "show")
	unchanged := func(t *testing.T) {
		t.Helper()
		if now := u.Run("machine", "config", "show"); now != before {
			t.Errorf("the configuration changed:\n%s", now)
		}
	}
	if !strings.HasPrefix(before, "# source: fw_cfg\n") || !strings.Contains(before, "name: boat") {
		t.Errorf("it shows:\n%s", before)
	}
	image := plainRegistry(t)
	other := vmtest.NewUser(t).Knows(m)
	document := string(u.Config("  - {key: '"+other.PublicKey+"', role: operator}", "name: ship", "sysctls: {vm.swappiness: 7}",
		"registries: [{host: '"+strings.Split(image, "/")[0]+"', plainHTTP: true}]", ""))

	t.Run("a dry run changes nothing", func(t *testing.T) {
		out := u.Run("machine", "config", "diff", file(t, document))
		for _, want := range []string{"name: boat -> ship", "sysctls", "registries", "access.keys"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		unchanged(t)
	})
	t.Run("a bad document changes nothing", func(t *testing.T) {
		r := u.Try("machine", "config", "apply", file(t, badDocument+"access: {keys: [{key: nonsense}]}\n"))
		if r.Code != 1 || strings.Count(r.Stderr, "wherry: ") != 1 {
			t.Errorf("not one error: %+v", r)
		}
		for _, path := range append(badPaths, "access.keys[0].key") {
			if !strings.Contains(r.Stderr, path) {
				t.Errorf("%s is not told: %s", path, r.Stderr)
			}
		}
		unchanged(t)
	})
	t.Run("a document without end", func(t *testing.T) {
		_, err := u.Client(m).Machine.ApplyConfig(t.Context(), connect.NewRequest(&wherryv1.ApplyConfigRequest{
			Document: "version: v1\n" + strings.Repeat("#", config.MaxBytes)}))
		if connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "bytes") {
			t.Errorf("too long: %v", err)
		}
		_, err = u.Client(m).Machine.ApplyConfig(t.Context(), connect.NewRequest(&wherryv1.ApplyConfigRequest{Document: strings.Repeat("#", 8<<20)}))
		if connect.CodeOf(err) != connect.CodeResourceExhausted {
			t.Errorf("far too long: %v", err)
		}
		unchanged(t)
	})
	t.Run("applied while it runs", func(t *testing.T) {
		if r := u.Try("pull", image); r.Code == 0 {
			t.Error("a registry without TLS was asked before the configuration allowed it")
		}
		out := u.Run("machine", "config", "apply", file(t, document))
		if !strings.Contains(out, "name: boat -> ship") {
			t.Errorf("it tells:\n%s", out)
		}
		waitFor(t, "the name to change", func() bool { return strings.Contains(u.Run("status"), "ship") })
		waitFor(t, "the setting to change", func() bool { return u.Run("run", "--rm", tools, "sysctl", "vm.swappiness") == "7\n" })
		u.Run("pull", image)
		if out := other.Run("machine", "whoami"); !strings.Contains(out, "role operator") {
			t.Errorf("the new key is %s", out)
		}
		if r := other.Try("machine", "reboot"); r.Code == 0 || !strings.Contains(r.Stderr, "role admin") {
			t.Errorf("an operator reboots: %+v", r)
		}
	})
	t.Run("a role that ends", func(t *testing.T) { roleEnds(t, u, other, document) })
}

// roleEnds takes a key away while its owner follows a log and has a session.
func roleEnds(t *testing.T, u, other *vmtest.User, document string) {
	t.Helper()
	u.Run("run", "-d", "--name", "clock", tools, "tick", "100")
	var stderr bytes.Buffer
	follow := other.Command("logs", "-f", "clock")
	follow.Stderr = &stderr
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	u.Run("machine", "config", "apply", file(t, strings.Replace(document, other.PublicKey, vmtest.NewUser(t).PublicKey, 1)))
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Error(err)
	}
	if err := follow.Wait(); err == nil || !strings.Contains(stderr.String(), "taken away") {
		t.Errorf("the stream ended with %v: %s", err, stderr.String())
	}
	if r := other.Try("ps"); r.Code == 0 || !strings.Contains(r.Stderr, "does not let you in") {
		t.Errorf("the key still works: %+v", r)
	}
	u.Run("rm", "-f", "clock")
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "machine.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// plainRegistry serves an image without TLS and returns its name for the machine.
func plainRegistry(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	addr := s.Listener.Addr().String()
	ref, err := name.ParseReference(addr+"/tools", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, fixture.Toybox(t)); err != nil {
		t.Fatal(err)
	}
	return "10.0.2.2:" + addr[strings.LastIndexByte(addr, ':')+1:] + "/tools"
}
