// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pe

import (
	"fmt"
	"time"
	"unicode/utf16"
)

// Variable is one of the variables that hold whom the firmware trusts.
type Variable string

// The platform's owner (PK) may change KEK; who is in KEK may change db; what
// is signed by a certificate in db may run.
const (
	PK  Variable = "PK"
	KEK Variable = "KEK"
	DB  Variable = "db"
)

// GUIDs as they are in memory.
var (
	guidGlobal   = [16]byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	guidSecurity = [16]byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
	guidX509     = [16]byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	guidPKCS7    = [16]byte{0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7}
)

const (
	// kept over power-off, seen by the boot loader and the OS, authenticated by time
	variableAttributes = 0x27
	winGUID            = 0x0ef1 // certificate type: one that a GUID tells
)

// SignatureList is an EFI signature list with the certificate in it. Owner is
// any GUID by which whoever put it there knows it again.
func (s *Signer) SignatureList(owner [16]byte) []byte {
	raw := s.Certificate.Raw
	out := append([]byte{}, guidX509[:]...)
	out = little.AppendUint32(out, uint32(28+16+len(raw)))
	out = little.AppendUint32(out, 0) // no header
	out = little.AppendUint32(out, uint32(16+len(raw)))
	out = append(out, owner[:]...)
	return append(out, raw...)
}

// AuthenticatedVariable is the contents of an .auth file: what sets a variable
// to a signature list, signed by s. Firmware refuses one that is not newer than
// what it has.
func (s *Signer) AuthenticatedVariable(v Variable, list []byte, at time.Time) ([]byte, error) {
	vendor := guidGlobal
	if v == DB {
		vendor = guidSecurity
	}
	stamp := timestamp(at)
	var signed []byte
	for _, unit := range utf16.Encode([]rune(string(v))) {
		signed = little.AppendUint16(signed, unit)
	}
	signed = append(signed, vendor[:]...)
	signed = little.AppendUint32(signed, variableAttributes)
	signed = append(signed, stamp[:]...)
	signed = append(signed, list...)
	message, err := s.signedData(signedContent{kind: oidData, digested: signed})
	if err != nil {
		return nil, fmt.Errorf("sign variable %s: %w", v, err)
	}
	out := append([]byte{}, stamp[:]...)
	out = little.AppendUint32(out, uint32(24+len(message)))
	out = little.AppendUint16(out, winRevision)
	out = little.AppendUint16(out, winGUID)
	out = append(out, guidPKCS7[:]...)
	out = append(out, message...)
	return append(out, list...), nil
}

// timestamp is an EFI_TIME in UTC, to the second.
func timestamp(at time.Time) (out [16]byte) {
	at = at.UTC()
	little.PutUint16(out[:], uint16(at.Year()))
	for i, part := range []int{int(at.Month()), at.Day(), at.Hour(), at.Minute(), at.Second()} {
		out[2+i] = byte(part)
	}
	return out
}
