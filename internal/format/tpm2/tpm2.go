// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package tpm2 is the part of TPM 2.0's language that attestation needs: five
// commands and their answers, and the structures that a TPM signs. It is pure:
// bytes in, bytes out. The machine speaks it to its TPM, and whoever verifies a
// quote reads with it what the TPM signed; then all of it is hostile, so every
// length is checked against what is there and against a bound of its own.
//
// One kind of key and one bank are known: ECDSA on P-256, and the PCRs of
// SHA-256. Everything is big-endian, as the specification has it (Trusted
// Platform Module Library, part 2 structures, part 3 commands).
package tpm2

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Numbers of the specification.
const (
	tagNoSessions = 0x8001
	tagSessions   = 0x8002

	ccCreatePrimary = 0x131
	ccQuote         = 0x158
	ccFlushContext  = 0x165
	ccPCRRead       = 0x17e

	algSHA256 = 0x000b
	algNull   = 0x0010
	algECDSA  = 0x0018
	algECC    = 0x0023
	curveP256 = 0x0003

	handleEndorsement = 0x4000000b
	handlePassword    = 0x40000009
)

// PCRs is how many registers a TPM of a PC has.
const PCRs = 24

// MaxMessage is more than any TPM takes or gives at once.
const MaxMessage = 4096

// MaxNonce is the most that every TPM takes into a quote.
const MaxNonce = 32

const headerBytes = 10

// command puts a header before the parts. Handles and the authorisation are the caller's.
func command(tag uint16, code uint32, parts ...[]byte) []byte {
	b := make([]byte, headerBytes)
	for _, p := range parts {
		b = append(b, p...)
	}
	binary.BigEndian.PutUint16(b, tag)
	binary.BigEndian.PutUint32(b[2:], uint32(len(b)))
	binary.BigEndian.PutUint32(b[6:], code)
	return b
}

func u16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// sized is a TPM2B: a length and that many bytes.
func sized(b []byte) []byte { return append(u16(uint16(len(b))), b...) }

// noPassword authorises with the empty password, which is what a TPM's
// hierarchies have unless somebody set another.
func noPassword() []byte {
	session := append(u32(handlePassword), 0, 0, 1, 0, 0) // no nonce, continue, no secret
	return append(u32(uint32(len(session))), session...)
}

// Selection are the registers 0 to 23 that a set names.
type Selection uint32

// Select makes a selection.
func Select(pcrs ...int) (s Selection) {
	for _, n := range pcrs {
		s |= 1 << n
	}
	return s
}

// Has says whether a register is selected.
func (s Selection) Has(pcr int) bool { return s&(1<<pcr) != 0 }

// List returns the registers in order.
func (s Selection) List() (list []int) {
	for n := range PCRs {
		if s.Has(n) {
			list = append(list, n)
		}
	}
	return list
}

func (s Selection) marshal() []byte {
	b := append(u32(1), u16(algSHA256)...)
	return append(b, 3, byte(s), byte(s>>8), byte(s>>16))
}

// CreateAttestationKey makes the machine's attestation key: a primary key under
// the endorsement hierarchy, restricted to sign what the TPM itself made. The
// same TPM makes the same key of this template each time, so it is kept nowhere.
func CreateAttestationKey() []byte {
	return command(tagSessions, ccCreatePrimary, u32(handleEndorsement), noPassword(),
		sized([]byte{0, 0, 0, 0}), sized(keyTemplate()), sized(nil), u32(0))
}

// keyAttributes: the TPM made it, it never leaves it, it needs no password, and
// it signs nothing but what the TPM made.
const keyAttributes = attrFixedTPM | attrFixedParent | attrSensitiveDataOrigin | attrUserWithAuth | attrNoDA | attrRestricted | attrSign

func keyTemplate() []byte {
	var b []byte
	for _, part := range [][]byte{
		u16(algECC), u16(algSHA256), u32(keyAttributes), sized(nil),
		u16(algNull), u16(algECDSA), u16(algSHA256), u16(curveP256), u16(algNull),
		sized(nil), sized(nil),
	} {
		b = append(b, part...)
	}
	return b
}

// ParseCreated reads the answer: the key's handle and its public area.
func ParseCreated(response []byte) (handle uint32, public []byte, err error) {
	r, err := answer(response)
	if err != nil {
		return 0, nil, fmt.Errorf("make the attestation key: %w", err)
	}
	handle = r.u32()
	r.u32() // length of the parameters
	public = r.sized(MaxMessage)
	if r.err != nil {
		return 0, nil, fmt.Errorf("make the attestation key: %w", r.err)
	}
	return handle, public, nil
}

// QuoteCommand asks the key to sign the registers' digest with a nonce.
func QuoteCommand(handle uint32, nonce []byte, s Selection) []byte {
	return command(tagSessions, ccQuote, u32(handle), noPassword(), sized(nonce), u16(algNull), s.marshal())
}

// ParseQuoted reads the answer: what was signed, and the signature, both as the TPM wrote them.
func ParseQuoted(response []byte) (quoted, signature []byte, err error) {
	r, err := answer(response)
	if err != nil {
		return nil, nil, fmt.Errorf("quote: %w", err)
	}
	parameters := r.take(int(r.u32()))
	p := reader{b: parameters, err: r.err}
	quoted = p.sized(MaxMessage)
	if p.err != nil {
		return nil, nil, fmt.Errorf("quote: %w", p.err)
	}
	return quoted, p.b, nil
}

// ReadPCRs asks for registers; a TPM answers with eight of them at most.
func ReadPCRs(s Selection) []byte {
	return command(tagNoSessions, ccPCRRead, s.marshal())
}

// ParsePCRs reads the answer: the values by register.
func ParsePCRs(response []byte) (map[int][32]byte, error) {
	r, err := answer(response)
	if err != nil {
		return nil, fmt.Errorf("read PCRs: %w", err)
	}
	r.u32() // counts all changes of registers
	s := r.selection()
	count := r.u32()
	list := s.List()
	if r.err == nil && int64(count) != int64(len(list)) {
		r.err = fmt.Errorf("%d values for %d registers", count, len(list))
	}
	values := map[int][32]byte{}
	for _, n := range list {
		v := r.sized(32)
		if r.err == nil && len(v) != 32 {
			r.err = fmt.Errorf("a value of %d bytes", len(v))
		}
		if r.err != nil {
			return nil, fmt.Errorf("read PCRs: %w", r.err)
		}
		values[n] = [32]byte(v)
	}
	return values, r.err
}

// FlushContext lets the TPM forget a key that was made.
func FlushContext(handle uint32) []byte {
	return command(tagNoSessions, ccFlushContext, u32(handle))
}

// Done reads an answer that says nothing but whether it worked.
func Done(response []byte) error {
	_, err := answer(response)
	return err
}

// ErrNoSHA256 says that the TPM keeps no PCRs of SHA-256.
var ErrNoSHA256 = errors.New("the TPM keeps no SHA-256 registers: switch that bank on in the firmware's settings")

// Code is a TPM's own number for what went wrong.
type Code uint32

func (c Code) Error() string {
	switch {
	case c == 0x9a2: // TPM_RC_BAD_AUTH of the first session
		return "the TPM's endorsement hierarchy has a password that Wherry does not know: clear it in the firmware's settings"
	case c == 0x98e: // TPM_RC_AUTH_FAIL
		return "the TPM refuses the empty password of its endorsement hierarchy"
	case c == 0x921: // TPM_RC_LOCKOUT
		return "the TPM is locked after too many wrong passwords: wait until it forgets them"
	case c == 0x185: // TPM_RC_HIERARCHY
		return "the TPM's endorsement hierarchy is switched off in the firmware"
	case c == 0x922, c == 0x908, c == 0x909: // TPM_RC_RETRY, YIELDED, CANCELED
		return "the TPM is busy: try again"
	}
	return fmt.Sprintf("the TPM answers with error 0x%x", uint32(c))
}

// answer checks a response's header and returns what follows.
func answer(response []byte) (reader, error) {
	r := reader{b: response}
	r.u16()
	size, code := r.u32(), r.u32()
	switch {
	case r.err != nil:
		return r, r.err
	case int64(size) != int64(len(response)):
		return r, fmt.Errorf("an answer of %d bytes that says it has %d", len(response), size)
	case code != 0:
		return r, Code(code)
	}
	return r, nil
}
