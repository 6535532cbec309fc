// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import "slices"

// Kind is one of Debian's kernels, and what an image takes of it.
type Kind struct {
	Name string
	// Suffix is what an edition with this kernel has behind its name: a machine
	// is offered releases of its own edition alone, and so of its own kind.
	Suffix string
	// Root are the groups of modules in the root image.
	Root []Group
	// packages are the meta-packages, the preferred one first.
	packages []string
}

// Cloud is the kind of builds that name none: the kernel for virtual machines
// and clouds. Metal is the one for real hardware: all drivers, twice the size.
var (
	Cloud = Kind{Name: "cloud", Root: Root, packages: []string{"linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"}}
	Metal = Kind{Name: "metal", Suffix: "-metal", Root: slices.Concat(Root, Hardware), packages: []string{"linux-image-6.12-amd64", "linux-image-amd64"}}
)

// Kinds are all of them.
var Kinds = []Kind{Cloud, Metal}

// FindKind finds a kind by name; "" is Cloud.
func FindKind(name string) (Kind, bool) {
	if name == "" {
		return Cloud, true
	}
	i := slices.IndexFunc(Kinds, func(k Kind) bool { return k.Name == name })
	if i < 0 {
		return Kind{}, false
	}
	return Kinds[i], true
}
