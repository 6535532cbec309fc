// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package bootslots

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/format/pe"
	"wherry.example/wherry/internal/linux/efivar"
)

var (
	secureBoot = efivar.Name{Name: "SecureBoot", Vendor: efivar.Global}
	setupMode  = efivar.Name{Name: "SetupMode", Vendor: efivar.Global}
	allowed    = efivar.Name{Name: "db", Vendor: efivar.Security}
	forbidden  = efivar.Name{Name: "dbx", Vendor: efivar.Security}
)

// VerifiedBoot tells whether the firmware checked what it started, and whose
// signature the running OS file has. Without Secure Boot a signature is named
// too, but nobody checked it.
func (s *Slots) VerifiedBoot() (Verified, error) {
	if v := s.signed.Load(); v != nil {
		return *v, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.variables.Open(); err != nil {
		return Verified{}, nil // no UEFI firmware: nothing was checked
	}
	out, err := s.modes()
	if err != nil {
		return out, err
	}
	err = s.with(false, func(v volume) error {
		all, _, err := s.scan(v)
		if err != nil {
			return err
		}
		for _, slot := range all {
			if slot.Running {
				return s.nameSigner(v, slot, &out)
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, ErrUnsupported): // from a CD, or by another loader
		return out, nil
	case err != nil:
		return out, fmt.Errorf("look at the running OS file: %w", err)
	}
	s.signed.Store(&out)
	return out, nil
}

func (s *Slots) modes() (out Verified, err error) {
	var errSetup error
	out.Firmware = true
	out.SecureBoot, err = s.variables.Flag(secureBoot)
	out.SetupMode, errSetup = s.variables.Flag(setupMode)
	return out, errors.Join(err, errSetup)
}

// nameSigner reads a slot's signature: the one that the firmware trusts where there are several.
func (s *Slots) nameSigner(v volume, slot Slot, out *Verified) error {
	f, err := os.Open(v.path(slot.File))
	if err != nil {
		return err
	}
	defer f.Close()
	return parsed(f, func(p *pe.Image) error {
		signatures, err := p.Signatures()
		if err != nil || len(signatures) == 0 {
			return err
		}
		signer := signatures[0].Signer
		if out.SecureBoot && len(signatures) > 1 {
			db, dbx, err := s.databases()
			if err != nil {
				return err
			}
			if c, err := p.Check(db, dbx); err == nil && c != nil {
				signer = c
			}
		}
		out.SignedBy, out.Fingerprint = pe.Subject(signer), fingerprint(signer)
		return nil
	})
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Accepts tells whether the firmware would start an OS file: under Secure Boot
// one that is signed by whom db trusts. The file that it does not is ErrRefused.
func (s *Slots) Accepts(f *os.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepts(f)
}

func (s *Slots) accepts(f *os.File) error {
	if err := s.variables.Open(); err != nil {
		return fmt.Errorf("%w: it was not started by UEFI firmware", ErrUnsupported)
	}
	modes, err := s.modes()
	if err != nil {
		return err
	}
	return parsed(f, func(p *pe.Image) error {
		// What is cut off, or no kernel at all, must not get as far as the loader.
		for _, section := range []string{".osrel", ".linux", ".initrd"} {
			if len(p.Data(section)) == 0 {
				return fmt.Errorf("%w: it has no section %s", ErrRefused, section)
			}
		}
		if !modes.SecureBoot {
			return nil
		}
		db, dbx, err := s.databases()
		if err != nil {
			return err
		}
		if _, err := p.Check(db, dbx); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return nil
	})
}

// databases reads whom the firmware trusts, and whom no longer.
func (s *Slots) databases() (db, dbx *pe.Database, err error) {
	for _, d := range []struct {
		name efivar.Name
		to   **pe.Database
	}{{allowed, &db}, {forbidden, &dbx}} {
		data, err := s.variables.Read(d.name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		if *d.to, err = pe.ParseDatabase(data); err != nil {
			return nil, nil, fmt.Errorf("variable %s: %w", d.name, err)
		}
	}
	return db, dbx, nil
}

// parsed maps a file instead of reading it: it is as large as the machine's
// free memory may be, and mostly not looked at. A disk that fails meanwhile is
// a fault of memory then, which becomes an error.
func parsed(f *os.File, use func(*pe.Image) error) (err error) {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	const largest = 1 << 30
	if info.Size() == 0 || info.Size() > largest {
		return fmt.Errorf("%w: it has %d bytes", ErrRefused, info.Size())
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("map the OS file: %w", err)
	}
	defer unix.Munmap(data)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("read the OS file: %v", fault)
		}
	}()
	p, err := pe.Parse(data)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return use(p)
}
