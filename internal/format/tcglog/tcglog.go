// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package tcglog reads the log that UEFI firmware keeps of what it measured
// into a TPM: the crypto-agile form of the TCG PC Client Platform Firmware
// Profile. It is pure, and takes nothing on trust: a log comes from a machine
// that may be anybody's.
//
// A log proves nothing by itself. Replay tells which values the registers have
// if the log is true; the caller compares them with values that a TPM signed.
// Even then only the digests are proven. What an event says about itself is
// proven only where its digest is one of its data, which Event.Proven tells.
package tcglog

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Bounds of a log.
const (
	MaxBytes  = 1 << 20
	MaxEvents = 10_000
	maxBanks  = 16
	maxPCR    = 23
)

// Kinds of events that somebody here asks about.
const (
	NoAction          = 0x03
	Separator         = 0x04
	Action            = 0x05
	IPL               = 0x0d
	VariableConfig    = 0x80000001
	BootServicesApp   = 0x80000003
	BootDriver        = 0x80000004
	RuntimeDriver     = 0x80000005
	EFIAction         = 0x80000007
	VariableAuthority = 0x800000e0
)

var kindNames = map[uint32]string{
	NoAction: "no action", Separator: "separator", Action: "action", IPL: "loaded data", 0x08: "firmware version", 0x01: "firmware",
	0x07: "firmware contents", 0x0a: "platform configuration",
	VariableConfig: "variable", 0x80000002: "boot variable", BootServicesApp: "program", BootDriver: "boot driver", RuntimeDriver: "runtime driver",
	0x80000006: "partition table", EFIAction: "action", 0x80000008: "firmware volume", 0x80000009: "tables", 0x8000000a: "firmware volume",
	0x8000000b: "tables", VariableAuthority: "signed by",
}

// KindName is a kind of event in words.
func KindName(kind uint32) string {
	if name, ok := kindNames[kind]; ok {
		return name
	}
	return fmt.Sprintf("kind 0x%x", kind)
}

// Event is one measurement.
type Event struct {
	PCR    int
	Kind   uint32
	Digest [32]byte // SHA-256
	Data   []byte
}

// Proven says whether the digest is that of the data, so that the data is what
// was measured. Events of other kinds only name what was.
func (e Event) Proven() bool { return sha256.Sum256(e.Data) == e.Digest }

// Log is a log in its order. Events that were not measured (NoAction) are left out.
type Log struct {
	Events []Event
	// locality is where the start of register 0 is told; 0 without such an event.
	locality byte
}

// reader takes little-endian numbers off the front; after a mistake it gives zeros.
type reader struct {
	b   []byte
	err error
}

var errShort = errors.New("the log ends in the middle of an event")

func (r *reader) take(n uint32) []byte {
	if r.err == nil && uint64(n) > uint64(len(r.b)) {
		r.err = errShort
	}
	if r.err != nil {
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// Parse reads a log.
func Parse(data []byte) (*Log, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("event log of %d bytes: the limit is %d", len(data), MaxBytes)
	}
	r := &reader{b: data}
	banks, err := parseHeader(r)
	if err != nil {
		return nil, fmt.Errorf("event log: %w", err)
	}
	log := &Log{}
	for n := 0; len(r.b) > 0; n++ {
		if n == MaxEvents {
			return nil, fmt.Errorf("event log: more than %d events", MaxEvents)
		}
		if err := log.parseEvent(r, banks); err != nil {
			return nil, fmt.Errorf("event log: event %d: %w", n, err)
		}
	}
	return log, nil
}

const algSHA256 = 0x000b

// parseHeader reads the first event, which is in the old form and says which
// banks the others have digests for.
func parseHeader(r *reader) (banks map[uint16]uint16, err error) {
	pcr, kind := r.u32(), r.u32()
	r.take(20)
	var signature []byte
	h := &reader{b: r.take(r.u32()), err: r.err}
	if r.err == nil && pcr == 0 && kind == NoAction {
		signature = h.take(16)
	}
	h.take(8) // platform, versions, size of a native number
	count := h.u32()
	switch {
	case r.err != nil:
		return nil, r.err
	case string(signature) != "Spec ID Event03\x00":
		return nil, errors.New("it is not of the crypto-agile form that goes with a TPM 2.0")
	case h.err != nil:
		return nil, h.err
	case count == 0 || count > maxBanks:
		return nil, fmt.Errorf("it has digests of %d kinds", count)
	}
	banks = map[uint16]uint16{}
	for range count {
		alg, size := h.u16(), h.u16()
		if size == 0 || size > 128 {
			return nil, fmt.Errorf("a digest of %d bytes", size)
		}
		banks[alg] = size
	}
	h.take(uint32(h.u8())) // the vendor's
	if h.err == nil && banks[algSHA256] != sha256.Size {
		return nil, errors.New("it has no SHA-256 digests")
	}
	return banks, h.err
}

func (l *Log) parseEvent(r *reader, banks map[uint16]uint16) error {
	e := Event{}
	pcr := r.u32()
	e.Kind = r.u32()
	found, err := parseDigests(r, banks, &e.Digest)
	if err != nil {
		return err
	}
	e.Data = r.take(r.u32())
	if r.err != nil {
		return r.err
	}
	if e.Kind == NoAction {
		l.noAction(pcr, e.Data)
		return nil
	}
	if pcr > maxPCR {
		return fmt.Errorf("it is for register %d", pcr)
	}
	if !found {
		return errors.New("it has no SHA-256 digest")
	}
	e.PCR = int(pcr)
	l.Events = append(l.Events, e)
	return nil
}

func parseDigests(r *reader, banks map[uint16]uint16, into *[32]byte) (found bool, err error) {
	count := r.u32()
	if r.err == nil && count > maxBanks {
		return false, fmt.Errorf("it has %d digests", count)
	}
	for range count {
		alg := r.u16()
		size, known := banks[alg]
		if r.err != nil {
			return false, r.err
		}
		if !known {
			return false, fmt.Errorf("a digest of kind 0x%04x, which the log's head does not name", alg)
		}
		digest := r.take(uint32(size))
		if alg == algSHA256 && digest != nil {
			if found {
				return false, errors.New("it has two SHA-256 digests")
			}
			found = true
			copy(into[:], digest)
		}
	}
	return found, r.err
}

// noAction reads the one event of its kind that matters to a register: with
// which value register 0 began.
func (l *Log) noAction(pcr uint32, data []byte) {
	const name = "StartupLocality\x00"
	if pcr == 0 && len(data) == len(name)+1 && string(data[:len(name)]) == name && len(l.Events) == 0 {
		l.locality = data[len(name)]
	}
}

// Replay computes what the registers hold after the log.
func (l *Log) Replay() map[int][32]byte {
	values := map[int][32]byte{0: {31: l.locality}}
	for _, e := range l.Events {
		v := values[e.PCR]
		values[e.PCR] = sha256.Sum256(append(v[:], e.Digest[:]...))
	}
	return values
}
