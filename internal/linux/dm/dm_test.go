// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package dm

import (
	"bytes"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestVerityTarget(t *testing.T) {
	v := Verity{Device: "/dev/loop1", Blocks: 3, BlockBytes: 4096, Root: []byte{0xab, 1}, Salt: []byte{2}}
	want := Target{Type: "verity", Bytes: 12288, Args: "1 /dev/loop1 /dev/loop1 4096 4096 3 3 sha256 ab01 02"}
	if diff := cmp.Diff(want, v.Target()); diff != "" {
		t.Error(diff)
	}
	v.Salt, v.Panic = nil, true
	if diff := cmp.Diff("1 /dev/loop1 /dev/loop1 4096 4096 3 3 sha256 ab01 - 1 panic_on_corruption", v.Target().Args); diff != "" {
		t.Error(diff)
	}
}

// The kernel wants the arguments to end with a zero inside of the message.
func TestTableRequest(t *testing.T) {
	for n := range 20 {
		args := string(bytes.Repeat([]byte("x"), n))
		m := tableRequest("name", Target{Type: "verity", Bytes: 8192, Args: args})
		h := m.header()
		spec := (*unix.DmTargetSpec)(unsafe.Pointer(&m[h.Data_start]))
		if len(m)%8 != 0 || int(h.Data_size) != len(m) || h.Target_count != 1 || spec.Length != 16 || int(spec.Next) != len(m)-unix.SizeofDmIoctl {
			t.Fatalf("%d: %+v, %+v", n, h, spec)
		}
		if got := unix.ByteSliceToString(m[unix.SizeofDmIoctl+unix.SizeofDmTargetSpec:]); got != args || m[len(m)-1] != 0 {
			t.Errorf("%d: arguments are %q", n, got)
		}
	}
}
