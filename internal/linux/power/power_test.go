// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package power

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// attr is one netlink attribute.
func attr(kind uint16, value []byte) []byte {
	b := make([]byte, 4, 4+len(value)+3)
	binary.NativeEndian.PutUint16(b, uint16(4+len(value)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func u32(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func message(kind uint16, attrs ...[]byte) []byte {
	b := make([]byte, genlHeader)
	for _, a := range attrs {
		b = append(b, a...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	return b
}

func join(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func TestMcastGroup(t *testing.T) {
	other := attr(1, join(attr(ctrlAttrMcastName, []byte("other\x00")), attr(ctrlAttrMcastID, u32(3))))
	wanted := attr(2, join(attr(ctrlAttrMcastID, u32(5)), attr(ctrlAttrMcastName, []byte("acpi_mc_group\x00"))))
	msg := message(unix.GENL_ID_CTRL, attr(ctrlAttrFamilyName, []byte("acpi_event\x00")), attr(ctrlAttrMcastGroups|0x8000, join(other, wanted)))
	if id, ok := mcastGroup(msg, acpiGroup); !ok || id != 5 {
		t.Errorf("group %d, %v", id, ok)
	}
	for n := range msg {
		mcastGroup(msg[:n], acpiGroup) // a torn message must not panic
	}
	if _, ok := mcastGroup(message(2, u32(1)), acpiGroup); ok {
		t.Error("an error message has a group")
	}
}

func TestPressed(t *testing.T) {
	event := func(class string) []byte {
		v := make([]byte, 44)
		copy(v, class)
		return attr(acpiAttrEvent, v)
	}
	if !pressed(message(30, event("button/power"))) {
		t.Error("the power button is not heard")
	}
	for _, msg := range [][]byte{nil, message(30), message(30, event("button/lid")), message(30, event("")), message(30, attr(acpiAttrEvent, []byte("button/power")))} {
		if pressed(msg) {
			t.Errorf("%q is heard as the power button", msg)
		}
	}
}

// TestKernelKnowsTheFamily asks the running kernel with the real message.
func TestKernelKnowsTheFamily(t *testing.T) {
	b, err := OpenButton()
	if err != nil {
		t.Skip("no ACPI here:", err)
	}
	b.Close()
}

func FuzzMessages(f *testing.F) {
	f.Add(message(unix.GENL_ID_CTRL, attr(ctrlAttrMcastGroups, attr(1, attr(ctrlAttrMcastName, []byte("acpi_mc_group\x00"))))))
	f.Fuzz(func(t *testing.T, msg []byte) {
		mcastGroup(msg, acpiGroup)
		pressed(msg)
	})
}
