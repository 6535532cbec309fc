// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package tcglog

import (
	"errors"
	"fmt"

	"wherry.example/wherry/internal/format/efitext"
)

// Variable is what an event of kind VariableConfig or VariableAuthority holds.
type Variable struct {
	GUID [16]byte
	Name string
	Data []byte
}

const (
	maxVariableName = 512 // characters
	efiGlobalGUID   = "\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c"
	x509GUID        = "\xa1\x59\xc0\xa5\xe4\x94\xa7\x4a\x87\xb5\xab\x15\x5c\x2b\xf0\x72"
)

// Global says whether it is one of UEFI's own variables, such as SecureBoot.
func (v Variable) Global() bool { return string(v.GUID[:]) == efiGlobalGUID }

// ParseVariable reads a UEFI_VARIABLE_DATA.
func ParseVariable(data []byte) (Variable, error) {
	r := &reader{b: data}
	var v Variable
	copy(v.GUID[:], r.take(16))
	characters, size := r.u64(), r.u64()
	if r.err == nil && characters > maxVariableName {
		return v, fmt.Errorf("a variable's name of %d characters", characters)
	}
	name := r.take(uint32(2 * min(characters, maxVariableName)))
	if r.err == nil && size != uint64(len(r.b)) {
		return v, fmt.Errorf("a variable of %d bytes in %d", size, len(r.b))
	}
	if r.err != nil {
		return v, r.err
	}
	v.Name, v.Data = efitext.Decode(name), r.b
	return v, nil
}

// Certificate returns the DER of the certificate in an EFI_SIGNATURE_DATA, as
// the authority's event has it: after the GUID of who put it there.
func (v Variable) Certificate() ([]byte, error) {
	if len(v.Data) <= 16 {
		return nil, errors.New("there is no certificate in it")
	}
	return v.Data[16:], nil
}

// Certificates returns the DER of all certificates in a list of keys, such as db.
func (v Variable) Certificates() (list [][]byte, err error) {
	r := &reader{b: v.Data}
	for len(r.b) > 0 && len(list) < 100 {
		kind := string(r.take(16))
		size, header, each := r.u32(), r.u32(), r.u32()
		if r.err == nil && (size < 28 || uint64(header)+28 > uint64(size)) {
			return nil, fmt.Errorf("a list of %d bytes", size)
		}
		body := r.take(size - 28)
		if r.err != nil {
			return nil, r.err
		}
		for body = body[header:]; kind == x509GUID && each > 16 && uint64(len(body)) >= uint64(each); body = body[each:] {
			list = append(list, body[16:each])
		}
	}
	return list, r.err
}
