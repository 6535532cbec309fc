// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package gpt

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// TypeESP is the type of the partition that UEFI firmware boots from.
var TypeESP = MustGUID("C12A7328-F81F-11D2-BA4B-00A0C93EC93B")

// GUID as it is on the disk: the first three groups of its text are
// little-endian there.
type GUID [16]byte

// IsZero tells the GUID of unused entries.
func (g GUID) IsZero() bool { return g == GUID{} }

// swap turns the bytes of the text into those of the disk, and back.
func (g GUID) swap() GUID {
	slices.Reverse(g[0:4])
	slices.Reverse(g[4:6])
	slices.Reverse(g[6:8])
	return g
}

func (g GUID) String() string {
	b := g.swap()
	return strings.ToUpper(fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16]))
}

// ParseGUID reads the usual text form.
func ParseGUID(text string) (GUID, error) {
	var g GUID
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != len(g) || len(text) != 36 {
		return g, fmt.Errorf("%q is not a GUID", text)
	}
	copy(g[:], b)
	return g.swap(), nil
}

// MustGUID is ParseGUID for constants.
func MustGUID(text string) GUID {
	g, err := ParseGUID(text)
	if err != nil {
		panic(err)
	}
	return g
}

// RandomGUID makes a version 4 GUID of 16 random bytes.
func RandomGUID(random [16]byte) GUID {
	random[6] = random[6]&0x0f | 0x40
	random[8] = random[8]&0x3f | 0x80
	return GUID(random).swap()
}
