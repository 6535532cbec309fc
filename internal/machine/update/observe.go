// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/atomicfile"
)

// seen looks at the boot partition.
func (u *Updater) seen(ctx context.Context, r Record) (Seen, error) {
	s := Seen{Persistent: u.o.Persistent, Now: u.o.Now(), Boot: u.o.bootID, Died: u.o.Died}
	var err error
	if s.Running, err = u.o.Slots.Running(); err != nil {
		return s, fmt.Errorf("ask which slot runs: %w", err)
	}
	if s.Slots, err = u.o.Slots.List(); err != nil {
		return s, fmt.Errorf("list the slots: %w", err)
	}
	if wantsCheck(r, s) {
		if err := u.o.Slots.Check(ctx, r.Attempt.To.String(), r.Attempt.File.SHA256); err != nil {
			s.Damage = err.Error()
		}
	}
	return s, nil
}

// bootID is different after each boot.
func bootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// rootRole reads the root role that the image was built with.
func rootRole(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("this image was built without a root role, so that it can trust no release: build it with --release-root FILE")
	}
	if err != nil {
		return nil, fmt.Errorf("read the root role: %w", err)
	}
	return data, nil
}

// identity is what places this machine in rollouts. It is never sent anywhere.
func identity(dir string) (string, error) {
	file := filepath.Join(dir, "id")
	if data, err := os.ReadFile(file); err == nil && len(data) == 32 {
		return string(data), nil
	}
	id := hex.EncodeToString(randomBytes(16))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return id, fmt.Errorf("give the machine an id for rollouts: %w", err)
	}
	return id, atomicfile.Write(file, []byte(id), 0o600)
}

// identifyLocked learns the machine's id, or makes one.
func (u *Updater) identifyLocked() (err error) {
	if u.id == "" {
		u.id, err = identity(u.o.Dir)
	}
	return err
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

// freeBytes is what a file system has left.
func freeBytes(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("ask how much room there is in %s: %w", dir, err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}
