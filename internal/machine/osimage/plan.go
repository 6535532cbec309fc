// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package osimage

import (
	"fmt"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/format/verity"
)

// situation is what the decision is made from.
type situation struct {
	Moved      bool // the root reads from the state disk already
	Persistent bool
	Bytes      int64  // of the image
	Memory     uint64 // of the machine
	Free       uint64 // on the state disk
}

// plan says where the image is to be.
type plan struct {
	Move bool
	// Trouble says that the image stays in memory against the configuration's will.
	Trouble bool
	Message string
}

const (
	// scarceMemory is below what the image's memory is worth having for containers.
	scarceMemory = 1 << 30
	// spareBytes stay free on the state disk beside the image.
	spareBytes = 64 << 20
)

const (
	inMemory = "the OS image is in memory"
	onDisk   = "the OS image is on the state disk, verified"
)

// decide chooses. The way back to memory is a restart: what is free enough to
// hold the image now need not be so in a minute.
func decide(where string, s situation) plan {
	switch {
	case s.Moved && where == config.OSImageMemory:
		return plan{Message: onDisk + "; in memory from the next start on"}
	case s.Moved:
		return plan{Message: onDisk}
	case where == config.OSImageMemory:
		return plan{Message: inMemory + ", as configured"}
	case !s.Persistent:
		return plan{Message: inMemory + ": there is no state disk", Trouble: where == config.OSImageDisk}
	case where != config.OSImageDisk && s.Memory >= scarceMemory:
		return plan{Message: inMemory}
	case s.Bytes == 0 || s.Bytes%verity.BlockBytes != 0:
		return plan{Message: fmt.Sprintf("%s: its %d bytes are no whole blocks", inMemory, s.Bytes), Trouble: true}
	case s.Free < uint64(s.Bytes)+spareBytes:
		return plan{Message: inMemory + ": the state disk has too little space for it", Trouble: where == config.OSImageDisk}
	}
	return plan{Move: true, Message: inMemory}
}
