// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package efitext is text as UEFI keeps it in variables, load options and event
// logs: UTF-16, little-endian, with a zero at its end (UEFI specification,
// CHAR16 strings). What cannot be decoded becomes U+FFFD; nothing is refused.
package efitext

import (
	"encoding/binary"
	"unicode/utf16"
)

// Decode reads text up to the first zero, or to the end.
func Decode(data []byte) string {
	var units []uint16
	for ; len(data) >= 2; data = data[2:] {
		u := binary.LittleEndian.Uint16(data)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// Encode writes text with a zero at its end.
func Encode(text string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(text + "\x00")) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}
