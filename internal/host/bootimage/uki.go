// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package bootimage

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"wherry.example/wherry/internal/format/pe"
)

// Cmdline is the kernel's command line of an OS file. The file is signed as a
// whole, so it is the same on every machine: the last console is where a
// machine writes, which is the serial port in all clouds, and tty0 shows the
// rest. The cloud kernel runs in virtual machines only, where the kernel's test
// of its timer's wiring says nothing, and now and then hangs. The rest is as
// where QEMU starts the kernel itself (package qemu, docs/decisions/0012).
const Cmdline = "console=tty0 console=ttyS0,115200 quiet panic=15 no_timer_check cryptomgr.notests percpu_alloc=page"

// UKI is the OS in one file that UEFI firmware starts: systemd's boot stub
// with the kernel, the initramfs and all that they need to know as sections.
type UKI struct {
	Stub      []byte // linuxx64.efi.stub of systemd
	Kernel    []byte
	Initramfs []byte
	Cmdline   string
	OSRelease string // by its IMAGE_VERSION boot loaders order the files
	Release   string // what uname -r will say; may be empty
	// Signer signs the file for Secure Boot; nil: it is not signed.
	Signer *pe.Signer
}

// measured are the sections whose contents go into PCR 11, in the stub's order.
func (u UKI) measured() []pe.Added {
	return []pe.Added{
		{Name: ".linux", Data: u.Kernel},
		{Name: ".osrel", Data: []byte(u.OSRelease)},
		{Name: ".cmdline", Data: []byte(u.Cmdline)},
		{Name: ".initrd", Data: u.Initramfs},
	}
}

// Build returns the file. The small sections come first, so that tools which
// read only a file's beginning find them.
func (u UKI) Build() ([]byte, error) {
	stub, err := pe.Parse(u.Stub)
	if err != nil {
		return nil, fmt.Errorf("the boot stub: %w", err)
	}
	if stub.Data(".sbat") == nil || stub.Data(".sdmagic") == nil {
		return nil, errors.New("the boot stub is not systemd's: it has no .sbat or no .sdmagic")
	}
	sections := []pe.Added{{Name: ".osrel", Data: []byte(u.OSRelease)}, {Name: ".cmdline", Data: []byte(u.Cmdline)}}
	if u.Release != "" {
		sections = append(sections, pe.Added{Name: ".uname", Data: []byte(u.Release)})
	}
	sections = append(sections, pe.Added{Name: ".initrd", Data: u.Initramfs}, pe.Added{Name: ".linux", Data: u.Kernel})
	out, err := stub.Append(sections...)
	if err != nil {
		return nil, err
	}
	return Sign(out, u.Signer)
}

// Sign signs a program for Secure Boot; without a signer it is returned as it is.
func Sign(program []byte, signer *pe.Signer) ([]byte, error) {
	if signer == nil {
		return program, nil
	}
	p, err := pe.Parse(program)
	if err != nil {
		return nil, err
	}
	return p.Sign(signer)
}

// PCR11 is what the stub of systemd 252 leaves in the TPM's register 11 (of
// SHA-256) before it starts the kernel: the name of each section, with a zero
// byte, and its contents.
func (u UKI) PCR11() string {
	var register [sha256.Size]byte
	extend := func(data []byte) {
		digest := sha256.Sum256(data)
		register = sha256.Sum256(append(register[:], digest[:]...))
	}
	for _, s := range u.measured() {
		extend([]byte(s.Name + "\x00"))
		extend(s.Data)
	}
	return hex.EncodeToString(register[:])
}
