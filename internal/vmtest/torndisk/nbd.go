// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package torndisk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// The Network Block Device protocol, as much of it as QEMU needs: the fixed
// newstyle negotiation, simple replies.
const (
	magicOption  = 0x49484156454F5054 // "IHAVEOPT"
	magicReply   = 0x3e889045565a9
	magicRequest = 0x25609513
	magicAnswer  = 0x67446698

	optionExportName = 1
	optionAbort      = 2
	optionInfo       = 6
	optionGo         = 7

	replyAck         = 1
	replyInfo        = 3
	replyUnsupported = 1<<31 + 1

	commandRead       = 0
	commandWrite      = 1
	commandDisconnect = 2
	commandFlush      = 3

	flagFUA = 1

	// hasFlags, sendFlush, sendFUA
	transmissionFlags = 1 | 4 | 8

	errnoIO      = 5
	errnoInvalid = 22

	maxRequest = 32 << 20
)

var big = binary.BigEndian

// accept serves each connection until the listener is closed.
func (d *Disk) accept() {
	for {
		c, err := d.listener.Accept()
		if err != nil {
			return // closed
		}
		d.mu.Lock()
		d.conns = append(d.conns, c)
		d.mu.Unlock()
		d.serving.Go(func() {
			defer c.Close()
			err := d.serve(c)
			d.mu.Lock()
			defer d.mu.Unlock()
			// A QEMU that was killed does not say goodbye: how its connection ends says nothing.
			if errors.Is(err, errFault) {
				d.err = errors.Join(d.err, err)
			}
		})
	}
}

// errFault is wrapped by what nobody's death explains.
var errFault = errors.New("torndisk")

func (d *Disk) serve(c net.Conn) error {
	life, err := d.open()
	if err != nil {
		return fmt.Errorf("%w: open the disk's file: %w", errFault, err)
	}
	going, err := d.negotiate(c)
	if err != nil || !going {
		return err
	}
	for {
		if going, err := d.answer(c, life); err != nil || !going {
			return err
		}
	}
}

// negotiate is true when the client goes on to use the disk.
func (d *Disk) negotiate(c net.Conn) (bool, error) {
	hello := append([]byte("NBDMAGICIHAVEOPT"), 0, 3) // fixed newstyle, no zeros behind the export's name
	if _, err := c.Write(hello); err != nil {
		return false, err
	}
	var flags [4]byte
	if _, err := io.ReadFull(c, flags[:]); err != nil {
		return false, err
	}
	for {
		var head [16]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return false, err
		}
		option, length := big.Uint32(head[8:]), big.Uint32(head[12:])
		if big.Uint64(head[:]) != magicOption || length > 1<<16 {
			return false, fmt.Errorf("%w: not an option of NBD", errFault)
		}
		if _, err := io.CopyN(io.Discard, c, int64(length)); err != nil {
			return false, err
		}
		done, going, err := d.option(c, option)
		if done || err != nil {
			return going, err
		}
	}
}

func (d *Disk) option(c net.Conn, option uint32) (done, going bool, err error) {
	switch option {
	case optionExportName:
		out := big.AppendUint16(big.AppendUint64(nil, uint64(d.size)), transmissionFlags)
		_, err := c.Write(out)
		return true, true, err
	case optionAbort:
		return true, false, reply(c, option, replyAck, nil)
	case optionInfo, optionGo:
		export := big.AppendUint16(big.AppendUint64([]byte{0, 0}, uint64(d.size)), transmissionFlags)
		sizes := []byte{0, 3}
		for _, n := range []uint32{sector, 4096, maxRequest} {
			sizes = big.AppendUint32(sizes, n)
		}
		err := errors.Join(reply(c, option, replyInfo, export), reply(c, option, replyInfo, sizes), reply(c, option, replyAck, nil))
		return option == optionGo, option == optionGo, err
	}
	return false, false, reply(c, option, replyUnsupported, nil)
}

func reply(c net.Conn, option, kind uint32, data []byte) error {
	out := big.AppendUint64(nil, magicReply)
	for _, n := range []uint32{option, kind, uint32(len(data))} {
		out = big.AppendUint32(out, n)
	}
	_, err := c.Write(append(out, data...))
	return err
}

// answer serves one request. It is false when the client is done.
func (d *Disk) answer(c net.Conn, life int) (bool, error) {
	var head [28]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return false, err
	}
	flags, command := big.Uint16(head[4:]), big.Uint16(head[6:])
	offset, length := int64(big.Uint64(head[16:])), int64(big.Uint32(head[24:]))
	if big.Uint32(head[:]) != magicRequest || length > maxRequest {
		return false, fmt.Errorf("%w: not a request of NBD", errFault)
	}
	var data []byte
	if command == commandRead || command == commandWrite {
		data = make([]byte, length)
	}
	if command == commandWrite {
		if _, err := io.ReadFull(c, data); err != nil {
			return false, err
		}
	}
	if command == commandDisconnect {
		return false, nil
	}
	errno, off := d.do(life, command, flags, offset, data)
	if off {
		return false, nil // no answer, ever
	}
	out := big.AppendUint32(big.AppendUint32(nil, magicAnswer), errno)
	out = append(out, head[8:16]...)
	if command == commandRead && errno == 0 {
		out = append(out, data...)
	}
	_, err := c.Write(out)
	return true, err
}

// do carries out a request; off says that the power is cut, or was since the client came.
func (d *Disk) do(life int, command, flags uint16, offset int64, data []byte) (errno uint32, off bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.off || d.life != life {
		return 0, true
	}
	n := int64(len(data))
	if offset < 0 || offset%sector != 0 || n%sector != 0 || offset > d.size-n {
		return errnoInvalid, false
	}
	var err error
	switch command {
	case commandRead:
		_, err = d.file.ReadAt(data, offset)
	case commandWrite:
		err = d.write(offset, data, flags&flagFUA != 0)
		if d.journal != nil {
			d.journal.note(d, Event{Offset: offset, safe: flags&flagFUA != 0}, data)
		}
		if d.trapped(offset, offset+n) {
			d.stopLocked()
			return 0, true
		}
	case commandFlush:
		d.safeLocked()
		if d.journal != nil {
			d.journal.note(d, Event{Flush: true}, nil)
		}
	default:
		return errnoInvalid, false
	}
	if err != nil {
		d.err = errors.Join(d.err, err)
		return errnoIO, false
	}
	return 0, d.off
}

// write remembers what it replaces, unless it is to be safe at once.
func (d *Disk) write(offset int64, data []byte, safe bool) error {
	old := make([]byte, len(data))
	if _, err := d.file.ReadAt(old, offset); err != nil {
		return err
	}
	d.writes++
	if d.pending > maxUnsafe {
		d.safeLocked()
	}
	safe = safe || d.flash
	for i := 0; i < len(data); i += sector {
		n, was := (offset+int64(i))/sector, old[i:i+sector]
		if safe {
			d.pending -= len(d.before[n])
			delete(d.before, n)
			continue
		}
		if bytes.Equal(was, data[i:i+sector]) {
			continue
		}
		v := version{write: d.writes}
		if !zeros(was) {
			v.data = was
		}
		d.before[n] = append(d.before[n], v)
		d.pending++
	}
	if bytes.Equal(old, data) {
		return nil // a file with holes keeps them
	}
	_, err := d.file.WriteAt(data, offset)
	return err
}

func zeros(data []byte) bool {
	for _, b := range data {
		if b != 0 {
			return false
		}
	}
	return true
}

// trapped counts a write and tells whether the power goes with it.
func (d *Disk) trapped(from, to int64) bool {
	a := d.armed
	if a == nil {
		return false
	}
	a.started = a.started || from < a.to && to > a.from
	if a.started {
		a.left--
	}
	return a.started && a.left <= 0
}
