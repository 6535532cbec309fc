// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package tpm speaks with the machine's TPM through the kernel's resource
// manager, /dev/tpmrm0, and reads the event log that the firmware kept.
//
// It owns nothing between calls: a key that is made for a quote lives in the
// TPM until the file is closed, when the kernel removes it. The kernel's drivers
// for TPM 2.0 (tpm_crb, tpm_tis) are built in. A machine without a TPM is
// ErrNone, which is no failure.
package tpm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/format/tpm2"
)

// Where the kernel shows the TPM.
const (
	Device   = "/dev/tpmrm0"
	EventLog = "/sys/kernel/security/tpm0/binary_bios_measurements"
)

// ErrNone says that there is no TPM.
var ErrNone = errors.New("there is no TPM 2.0")

// TPM is an open TPM. Its methods are for one caller at a time.
type TPM struct{ rw io.ReadWriteCloser }

// Open opens the kernel's device.
func Open() (*TPM, error) {
	// Not by os.OpenFile: it would make the device non-blocking, and then a read
	// ends at once when the TPM still thinks.
	fd, err := unix.Open(Device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("open the TPM: %w", err)
	}
	return New(os.NewFile(uintptr(fd), Device)), nil
}

// New speaks over rw, where one write is a whole command and one read its whole answer.
func New(rw io.ReadWriteCloser) *TPM { return &TPM{rw} }

// Close lets the kernel clean up.
func (t *TPM) Close() error { return t.rw.Close() }

func (t *TPM) send(command []byte) ([]byte, error) {
	if _, err := t.rw.Write(command); err != nil {
		return nil, fmt.Errorf("ask the TPM: %w", err)
	}
	answer := make([]byte, tpm2.MaxMessage)
	n, err := t.rw.Read(answer)
	if err != nil {
		return nil, fmt.Errorf("hear the TPM: %w", err)
	}
	return answer[:n], nil
}

// Quoted is a quote with the key that signed it.
type Quoted struct{ Key, Quote, Signature []byte }

// Quote makes the attestation key and lets it sign the registers with a nonce.
func (t *TPM) Quote(nonce []byte, s tpm2.Selection) (q Quoted, err error) {
	answer, err := t.send(tpm2.CreateAttestationKey())
	if err != nil {
		return q, err
	}
	handle, public, err := tpm2.ParseCreated(answer)
	if err != nil {
		return q, err
	}
	defer func() {
		answer, ferr := t.send(tpm2.FlushContext(handle))
		if ferr == nil {
			ferr = tpm2.Done(answer)
		}
		err = errors.Join(err, ferr)
	}()
	q.Key = public
	if answer, err = t.send(tpm2.QuoteCommand(handle, nonce, s)); err != nil {
		return q, err
	}
	q.Quote, q.Signature, err = tpm2.ParseQuoted(answer)
	return q, err
}

// PCRs reads registers.
func (t *TPM) PCRs(s tpm2.Selection) (map[int][32]byte, error) {
	values := map[int][32]byte{}
	for _, n := range s.List() { // one at a time: how many a TPM gives at once is its own choice
		answer, err := t.send(tpm2.ReadPCRs(tpm2.Select(n)))
		if err != nil {
			return nil, err
		}
		got, err := tpm2.ParsePCRs(answer)
		if err != nil {
			return nil, err
		}
		v, ok := got[n]
		if !ok {
			return nil, tpm2.ErrNoSHA256
		}
		values[n] = v
	}
	return values, nil
}

// ReadEventLog reads the log from a file of the kernel's. One that is longer
// than the limit is an error; where the firmware kept none, it is empty.
func ReadEventLog(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the event log: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read the event log: %w", err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read the event log: it is longer than %d bytes", limit)
	}
	return data, nil
}
