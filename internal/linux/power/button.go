// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package power

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// The kernel multicasts ACPI events (buttons, lids, power supplies) on the
// generic netlink family acpi_event. Buttons report there as well as through
// evdev; this way needs one module (button) and no device node.

const (
	acpiFamily = "acpi_event"
	acpiGroup  = "acpi_mc_group"
	// classPowerButton is the device class of the ACPI power button, fixed or not.
	classPowerButton = "button/power"

	ctrlCmdGetFamily      = 3
	ctrlAttrFamilyName    = 2
	ctrlAttrMcastGroups   = 7
	ctrlAttrMcastName     = 1
	ctrlAttrMcastID       = 2
	acpiAttrEvent         = 1
	deviceClassSize       = 20
	genlHeader            = unix.SizeofNlMsghdr + 4
	netlinkAttrHeader     = 4
	netlinkAttrTypeMask   = 0x3fff
	maxMessage            = 16 << 10
	acpiEventSizeAtLeast  = deviceClassSize
	requestFamilySequence = 1
)

// Button is the machine's power button.
type Button struct {
	fd int
}

// OpenButton begins to listen. It works before the button's driver is loaded.
func OpenButton() (*Button, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("listen for the power button: %w", err)
	}
	b := &Button{fd: fd}
	if err := b.join(); err != nil {
		b.Close()
		return nil, fmt.Errorf("listen for the power button: %w", err)
	}
	return b, nil
}

func (b *Button) join() error {
	if err := unix.Bind(b.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	if err := unix.Sendto(b.fd, familyRequest(acpiFamily), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, maxMessage)
	n, _, err := unix.Recvfrom(b.fd, buf, 0)
	if err != nil {
		return err
	}
	group, ok := mcastGroup(buf[:n], acpiGroup)
	if !ok {
		return errors.New("this kernel has no ACPI events")
	}
	return unix.SetsockoptInt(b.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(group))
}

// Wait returns when the button was pressed.
func (b *Button) Wait() error {
	buf := make([]byte, maxMessage)
	for {
		n, _, err := unix.Recvfrom(b.fd, buf, 0)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) {
			continue
		}
		if err != nil {
			return fmt.Errorf("listen for the power button: %w", err)
		}
		if pressed(buf[:n]) {
			return nil
		}
	}
}

// Close ends listening.
func (b *Button) Close() error { return unix.Close(b.fd) }

func familyRequest(name string) []byte {
	attr := netlinkAttrHeader + len(name) + 1
	msg := make([]byte, genlHeader+(attr+3)&^3)
	binary.NativeEndian.PutUint32(msg[0:], uint32(len(msg)))
	binary.NativeEndian.PutUint16(msg[4:], unix.GENL_ID_CTRL)
	binary.NativeEndian.PutUint16(msg[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(msg[8:], requestFamilySequence)
	msg[unix.SizeofNlMsghdr] = ctrlCmdGetFamily
	msg[unix.SizeofNlMsghdr+1] = 1
	binary.NativeEndian.PutUint16(msg[genlHeader:], uint16(attr))
	binary.NativeEndian.PutUint16(msg[genlHeader+2:], ctrlAttrFamilyName)
	copy(msg[genlHeader+netlinkAttrHeader:], name)
	return msg
}

// attributes calls f with each netlink attribute of b until f returns false.
func attributes(b []byte, f func(kind uint16, value []byte) bool) {
	for len(b) >= netlinkAttrHeader {
		size := int(binary.NativeEndian.Uint16(b))
		if size < netlinkAttrHeader || size > len(b) {
			return
		}
		if !f(binary.NativeEndian.Uint16(b[2:])&netlinkAttrTypeMask, b[netlinkAttrHeader:size]) {
			return
		}
		b = b[min((size+3)&^3, len(b)):]
	}
}

// mcastGroup finds the number of a multicast group in a family's description.
func mcastGroup(msg []byte, name string) (id uint32, ok bool) {
	if len(msg) < genlHeader || binary.NativeEndian.Uint16(msg[4:]) != unix.GENL_ID_CTRL {
		return 0, false
	}
	attributes(msg[genlHeader:], func(kind uint16, groups []byte) bool {
		if kind != ctrlAttrMcastGroups {
			return true
		}
		attributes(groups, func(_ uint16, group []byte) bool {
			found, number := groupNamed(group, name)
			if found {
				id, ok = number, true
			}
			return !ok
		})
		return false
	})
	return id, ok
}

func groupNamed(group []byte, name string) (match bool, id uint32) {
	attributes(group, func(kind uint16, v []byte) bool {
		switch {
		case kind == ctrlAttrMcastName:
			match = string(bytes.TrimRight(v, "\x00")) == name
		case kind == ctrlAttrMcastID && len(v) == 4:
			id = binary.NativeEndian.Uint32(v)
		}
		return true
	})
	return match && id != 0, id
}

// pressed says whether a datagram tells that the power button was pressed.
func pressed(msg []byte) bool {
	if len(msg) < genlHeader {
		return false
	}
	var hit bool
	attributes(msg[genlHeader:], func(kind uint16, v []byte) bool {
		if kind == acpiAttrEvent && len(v) >= acpiEventSizeAtLeast {
			class, _, _ := bytes.Cut(v[:deviceClassSize], []byte{0})
			hit = hit || string(class) == classPowerButton
		}
		return true
	})
	return hit
}
