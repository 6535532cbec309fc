// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"errors"
	"testing"
	"unsafe"
)

// The kernel reads these by size and place.
func TestLayout(t *testing.T) {
	var r record
	var a attributes
	for name, c := range map[string]struct{ got, want uintptr }{
		"fs_disk_quota":             {unsafe.Sizeof(r), 112},
		"fs_disk_quota.d_bcount":    {unsafe.Offsetof(r.blocks), 40},
		"fs_disk_quota.d_itimer":    {unsafe.Offsetof(r.inodeTimer), 56},
		"fs_disk_quota.d_rtb_limit": {unsafe.Offsetof(r.realtimeHard), 72},
		"fsxattr":                   {unsafe.Sizeof(a), 28},
		"fsxattr.fsx_projid":        {unsafe.Offsetof(a.project), 12},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", name, c.got, c.want)
		}
	}
}

// Where there is no quota, the answer is that and nothing more puzzling. That
// limits hold is proven in a VM (e2e/storage).
func TestUnsupported(t *testing.T) {
	dir := "/dev/shm" // a tmpfs everywhere
	if Supported(dir) {
		t.Fatal("a tmpfs has project quota")
	}
	if err := SetLimit(dir, 1<<20, 1<<20); !errors.Is(err, ErrUnsupported) {
		t.Errorf("SetLimit: %v", err)
	}
	if _, err := Get(dir, 1<<20); !errors.Is(err, ErrUnsupported) {
		t.Errorf("Get: %v", err)
	}
}
