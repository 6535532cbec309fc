// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package known

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

func TestStore(t *testing.T) {
	s := Open(t.TempDir() + "/new")
	if _, err := s.Current(); !errors.Is(err, ErrNone) {
		t.Errorf("empty store: %v", err)
	}
	add := func(name, address, fingerprint string) {
		t.Helper()
		if err := s.Add(name, address, fingerprint); err != nil {
			t.Fatal(err)
		}
	}
	add("demo", "127.0.0.1:1", "SHA256:a")
	if m, err := s.Current(); err != nil || m.Name != "demo" {
		t.Errorf("the only machine is not the current one: %v %v", m, err)
	}
	add("other", "127.0.0.1:2", "SHA256:b")
	if _, err := s.Current(); !errors.Is(err, ErrNone) {
		t.Errorf("two machines, none chosen: %v", err)
	}
	if err := s.Use("other"); err != nil {
		t.Fatal(err)
	}
	if err := s.SetIdentity("other", "SHA256:me"); err != nil {
		t.Fatal(err)
	}
	add("other", "127.0.0.1:3", "SHA256:b") // moved: the same machine
	if m, _ := s.Get("other"); m.Identity != "SHA256:me" || m.Address != "127.0.0.1:3" {
		t.Errorf("after a move: %+v", m)
	}
	add("other", "127.0.0.1:3", "SHA256:c") // another machine
	if m, _ := s.Get("other"); m.Identity != "" {
		t.Errorf("a new machine inherited the identity: %+v", m)
	}
	if err := s.Remove("other"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("other"); !errors.Is(err, ErrUnknown) {
		t.Errorf("after rm: %v", err)
	}
	for _, name := range []string{"", "-x", "a/b", "a b", strings.Repeat("x", 64)} {
		if err := s.Add(name, "h:1", "SHA256:a"); err == nil {
			t.Errorf("name %q was taken", name)
		}
	}
}

func TestConcurrentAdds(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := Open(dir).Add(fmt.Sprintf("m%d", i), "h:1", "SHA256:a"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list, _, err := Open(dir).List(); err != nil || len(list) != 20 {
		t.Errorf("%d machines, %v", len(list), err)
	}
}

func TestBrokenFileIsNotOverwritten(t *testing.T) {
	s := Open(t.TempDir())
	if err := os.WriteFile(s.path(), []byte("{broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Add("demo", "h:1", "SHA256:a"); err == nil || !strings.Contains(err.Error(), s.path()) {
		t.Errorf("got %v", err)
	}
	if data, _ := os.ReadFile(s.path()); string(data) != "{broken" {
		t.Errorf("the file became %q", data)
	}
}
