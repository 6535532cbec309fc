// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package hardening

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/internal/linux/random"
)

// seedSize is the size of the kernel's pool.
const seedSize = sha256.Size

// A seed file is a mark and the seed. Only a seed that was made when the
// generator was ready is worth credit at the next boot.
const (
	markGood = 'G'
	markPoor = 'P'
)

// Seed gives the generator what the file holds and puts another seed in its
// place. It never waits for entropy. The old seed is overwritten on the disk
// before it is credited: a power cut in between must not let two boots begin
// with the same numbers. It is called once the state file system is mounted,
// and again (Save) when the machine stops.
func Seed(file string) error {
	old, good, err := readSeed(file)
	if err != nil {
		return err
	}
	if old != nil {
		// Without credit this can do no harm, and the new seed depends on it.
		if err := random.Mix(old, false); err != nil {
			return err
		}
	}
	if err := save(file, old); err != nil {
		return err
	}
	if old != nil && good {
		return random.Mix(old, true)
	}
	return nil
}

// Save writes a new seed.
func Save(file string) error {
	old, _, err := readSeed(file)
	if err != nil {
		return err
	}
	return save(file, old)
}

// readSeed returns nil for a file that does not exist or that is no seed.
func readSeed(file string) (seed []byte, good bool, err error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read the random seed: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, seedSize+2))
	if err != nil {
		return nil, false, fmt.Errorf("read the random seed: %w", err)
	}
	if len(b) != 1+seedSize || b[0] != markGood && b[0] != markPoor {
		return nil, false, nil
	}
	return b[1:], b[0] == markGood, nil
}

// save writes a hash of the old seed, the time and fresh bytes: it is as good as the best of them.
func save(file string, old []byte) error {
	fresh := make([]byte, seedSize)
	good, err := random.Now(fresh)
	if err != nil {
		return err
	}
	h := sha256.New()
	io.WriteString(h, "wherry random seed v1")
	binary.Write(h, binary.LittleEndian, time.Now().UnixNano())
	h.Write([]byte{byte(len(old))})
	h.Write(old)
	h.Write(fresh)
	mark := byte(markPoor)
	if good {
		mark = markGood
	}
	return atomicfile.Write(file, h.Sum([]byte{mark}), 0o600)
}
