// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"wherry.example/wherry/internal/linux/quota"
)

// walkBudget bounds how long all the walks of one call may take. Where volumes
// are projects none is needed.
type walkBudget struct{ until time.Time }

func newWalkBudget() walkBudget { return walkBudget{time.Now().Add(time.Second)} }

// errSpent ends a walk.
var errSpent = errors.New("budget spent")

// used returns the bytes that a volume takes. Without quota it walks; where the
// budget does not suffice, the answer is what was seen until then.
func (v *Volumes) used(name string, r record, budget walkBudget) uint64 {
	if v.limits && r.Project != 0 {
		if usage, err := quota.Get(v.options.Dir, r.Project); err == nil {
			return usage.Bytes
		}
	}
	var total uint64
	_ = filepath.WalkDir(v.dataDir(name), func(_ string, d fs.DirEntry, err error) error {
		if time.Now().After(budget.until) {
			return errSpent
		}
		if err != nil {
			return nil // gone meanwhile
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			total += uint64(st.Blocks) * 512
		}
		return nil
	})
	return total
}
