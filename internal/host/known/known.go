// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package known remembers machines: their names, addresses and keys, and which
// of the user's keys each one knew last.
//
// It owns the file machines.json in Wherry's configuration directory. A
// machine is its key: a name whose key changed is never followed silently (the
// caller refuses, see package login). Changes lock the file and replace it
// whole, so that commands at the same time lose nothing. A file that cannot be
// read is an error, never an empty list.
package known

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"wherry.example/wherry/internal/atomicfile"
)

// Machine is one that the user has met.
type Machine struct {
	Name        string `json:"name"`
	Address     string `json:"address"`            // host:port
	Fingerprint string `json:"fingerprint"`        // of its key
	Identity    string `json:"identity,omitempty"` // fingerprint of the user's key that it knew last
}

// document is the file's form.
type document struct {
	Current  string             `json:"current,omitempty"`
	Machines map[string]Machine `json:"machines"`
}

// Store is the file of known machines.
type Store struct {
	dir string
}

// ConfigDir is where Wherry keeps what belongs to the user: known machines and a key.
func ConfigDir() (string, error) {
	if dir := os.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "wherry"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the configuration directory: %w", err)
	}
	return filepath.Join(home, ".config", "wherry"), nil
}

// Default returns the user's store.
func Default() (*Store, error) {
	dir, err := ConfigDir()
	if err != nil {
		return nil, err
	}
	return Open(dir), nil
}

// Open returns the store in a directory, which need not exist yet.
func Open(dir string) *Store { return &Store{dir} }

// Dir is the directory of the store.
func (s *Store) Dir() string { return s.dir }

// ErrUnknown says that no machine has the name.
var ErrUnknown = errors.New("no such machine is known")

// ErrNone says that no machine was named and none is chosen.
var ErrNone = errors.New("no machine is chosen")

// Get returns a machine by name.
func (s *Store) Get(name string) (Machine, error) {
	d, err := s.read()
	if err != nil {
		return Machine{}, err
	}
	m, ok := d.Machines[name]
	if !ok {
		return Machine{}, fmt.Errorf("machine %q: %w (see `wherry machine ls`)", name, ErrUnknown)
	}
	return m, nil
}

// Current returns the machine that commands go to when none is named: the one
// chosen with Use, else the only one there is.
func (s *Store) Current() (Machine, error) {
	d, err := s.read()
	if err != nil {
		return Machine{}, err
	}
	if m, ok := d.Machines[d.Current]; ok {
		return m, nil
	}
	if len(d.Machines) == 1 {
		for _, m := range d.Machines {
			return m, nil
		}
	}
	if len(d.Machines) > 1 {
		return Machine{}, fmt.Errorf("%w of these: %s: name one with -m, or choose one with `wherry machine use`", ErrNone, strings.Join(slices.Sorted(maps.Keys(d.Machines)), ", "))
	}
	return Machine{}, fmt.Errorf("%w: start one with `wherry vm start NAME`, or make one known with `wherry machine add`", ErrNone)
}

// List returns the machines by name, and the name of the one chosen.
func (s *Store) List() (list []Machine, current string, err error) {
	d, err := s.read()
	if err != nil {
		return nil, "", err
	}
	for _, name := range slices.Sorted(maps.Keys(d.Machines)) {
		list = append(list, d.Machines[name])
	}
	if m, err := s.Current(); err == nil {
		current = m.Name
	}
	return list, current, nil
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// Add remembers a machine, in place of one that had the name. The caller has
// made sure that the key is the machine's.
func (s *Store) Add(name, address, fingerprint string) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("%q cannot name a machine: use up to 63 letters, digits, dots, dashes and underscores", name)
	}
	if !strings.HasPrefix(fingerprint, "SHA256:") {
		return fmt.Errorf("machine %s: %q is not a fingerprint: it begins with SHA256:", name, fingerprint)
	}
	return s.change(func(d *document) error {
		m := Machine{Name: name, Address: address, Fingerprint: fingerprint}
		if old := d.Machines[name]; old.Fingerprint == fingerprint {
			m.Identity = old.Identity
		}
		d.Machines[name] = m
		return nil
	})
}

// Remove forgets a machine.
func (s *Store) Remove(name string) error {
	return s.change(func(d *document) error {
		if _, ok := d.Machines[name]; !ok {
			return fmt.Errorf("machine %q: %w", name, ErrUnknown)
		}
		delete(d.Machines, name)
		if d.Current == name {
			d.Current = ""
		}
		return nil
	})
}

// Use chooses the machine that commands go to when none is named.
func (s *Store) Use(name string) error {
	return s.change(func(d *document) error {
		if _, ok := d.Machines[name]; !ok {
			return fmt.Errorf("machine %q: %w", name, ErrUnknown)
		}
		d.Current = name
		return nil
	})
}

// SetIdentity remembers which of the user's keys a machine knows.
func (s *Store) SetIdentity(name, identity string) error {
	return s.change(func(d *document) error {
		m, ok := d.Machines[name]
		if !ok {
			return nil // forgotten meanwhile
		}
		m.Identity = identity
		d.Machines[name] = m
		return nil
	})
}

func (s *Store) path() string { return filepath.Join(s.dir, "machines.json") }

const maxFileBytes = 4 << 20

func (s *Store) read() (document, error) {
	d := document{Machines: map[string]Machine{}}
	info, err := os.Stat(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err == nil && info.Size() > maxFileBytes {
		err = errors.New("the file is too large")
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(s.path())
	}
	if err == nil {
		err = json.Unmarshal(data, &d)
	}
	if err != nil {
		return d, fmt.Errorf("read known machines from %s: %w", s.path(), err)
	}
	if d.Machines == nil {
		d.Machines = map[string]Machine{}
	}
	for name, m := range d.Machines {
		m.Name = name
		d.Machines[name] = m
	}
	return d, nil
}

// change applies f to the file under a lock.
func (s *Store) change(f func(*document) error) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("remember machines: %w", err)
	}
	lock, err := os.OpenFile(s.path()+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("remember machines: %w", err)
	}
	defer lock.Close() // releases the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock the known machines: %w", err)
	}
	d, err := s.read()
	if err != nil {
		return err
	}
	if err := f(&d); err != nil {
		return err
	}
	data, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return fmt.Errorf("remember machines: %w", err)
	}
	return atomicfile.Write(s.path(), append(data, '\n'), 0o600)
}
