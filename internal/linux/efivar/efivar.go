// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package efivar reads and writes the variables of UEFI firmware through
// efivarfs. They lie in a small flash memory: Write leaves alone what is as it
// should be. A variable is set as a whole or not at all. The kernel keeps most
// of them from being changed by accident with the immutable flag, which is
// taken away for one write and put back.
package efivar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/format/efitext"
	"wherry.example/wherry/internal/linux/mount"
)

// Vendors, by whose GUID a variable's name ends.
const (
	Global   = "8be4df61-93ca-11d2-aa0d-00e098032b8c" // the UEFI standard's own
	Security = "d719b2cb-3d3a-4596-a3bc-dad00e67656f" // db and dbx
	Loader   = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f" // between boot loaders and the OS, as systemd defined them
)

const (
	// Dir is where the kernel shows the variables.
	Dir = "/sys/firmware/efi/efivars"

	// kept over power-off, seen by firmware, loader and OS
	attributes = 7
	// maxBytes bounds a variable; lists of certificates have some ten thousand.
	maxBytes = 1 << 20
	maxNames = 4096
)

// Name of a variable.
type Name struct{ Name, Vendor string }

func (n Name) String() string { return n.Name }

// Variables of this machine. The zero value is those in Dir; tests use another directory.
type Variables struct{ Dir string }

func (v Variables) dir() string {
	if v.Dir == "" {
		return Dir
	}
	return v.Dir
}

func (v Variables) path(n Name) string { return filepath.Join(v.dir(), n.Name+"-"+n.Vendor) }

// Open makes the variables accessible where PID 1 did not do it already. The
// error is fs.ErrNotExist on a machine without UEFI firmware.
func (v Variables) Open() error {
	if v.Dir != "" {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(Dir, &st); err != nil {
		return fmt.Errorf("variables of the firmware: %w", err)
	}
	if st.Type == unix.EFIVARFS_MAGIC {
		return nil
	}
	m := mount.Mount{Source: "efivarfs", Target: Dir, Type: "efivarfs", Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC}
	return m.Do()
}

// Read returns a variable's contents. One that does not exist is fs.ErrNotExist.
func (v Variables) Read(n Name) ([]byte, error) {
	f, err := os.Open(v.path(n))
	if err != nil {
		return nil, fmt.Errorf("read variable %s: %w", n, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err == nil && (len(data) < 4 || len(data) > maxBytes) {
		err = fmt.Errorf("it has %d bytes", len(data))
	}
	if err != nil {
		return nil, fmt.Errorf("read variable %s: %w", n, err)
	}
	return data[4:], nil
}

// Text reads a variable that is a string; one that does not exist is empty.
func (v Variables) Text(n Name) (string, error) {
	data, err := v.Read(n)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return efitext.Decode(data), err
}

// Flag reads a variable that is yes or no; one that does not exist is no.
func (v Variables) Flag(n Name) (bool, error) {
	data, err := v.Read(n)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return len(data) == 1 && data[0] == 1, err
}

// Write sets a variable that outlives power-off, unless it is so already.
func (v Variables) Write(n Name, data []byte) error {
	if old, err := v.Read(n); err == nil && bytes.Equal(old, data) {
		return nil
	}
	err := v.changing(n, func() error {
		f, err := os.OpenFile(v.path(n), os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		// One write is one change: the firmware sees no half of it.
		_, err = f.Write(append(binary.LittleEndian.AppendUint32(nil, attributes), data...))
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return fmt.Errorf("write variable %s: %w", n, err)
	}
	return nil
}

// Delete removes a variable; one that does not exist is no error.
func (v Variables) Delete(n Name) error {
	err := v.changing(n, func() error { return os.Remove(v.path(n)) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete variable %s: %w", n, err)
	}
	return nil
}

// changing calls change while the variable, if it exists, is not immutable.
func (v Variables) changing(n Name, change func() error) error {
	flags, err := v.flags(n)
	if err != nil || flags&unix.STATX_ATTR_IMMUTABLE == 0 {
		return change() // there is none yet, or nothing protects it
	}
	if err := v.setFlags(n, flags&^unix.STATX_ATTR_IMMUTABLE); err != nil {
		return fmt.Errorf("take the immutable flag away: %w", err)
	}
	err = change()
	v.setFlags(n, flags) // gone after Delete
	return err
}

// The flags of an inode are numbered as those of statx: immutable is 0x10 in both.
func (v Variables) flags(n Name) (flags uint32, err error) {
	f, err := os.Open(v.path(n))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
}

func (v Variables) setFlags(n Name, flags uint32) error {
	f, err := os.Open(v.path(n))
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags))
}

// List returns the names of a vendor's variables.
func (v Variables) List(vendor string) ([]string, error) {
	d, err := os.Open(v.dir())
	if err != nil {
		return nil, fmt.Errorf("list variables: %w", err)
	}
	defer d.Close()
	all, err := d.Readdirnames(maxNames)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("list variables: %w", err)
	}
	var out []string
	for _, file := range all {
		if name, ok := strings.CutSuffix(file, "-"+vendor); ok {
			out = append(out, name)
		}
	}
	return out, nil
}
