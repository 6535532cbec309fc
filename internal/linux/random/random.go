// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package random feeds the kernel's random number generator and asks whether
// it is ready.
package random

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rndAddEntropy is RNDADDENTROPY: _IOW('R', 3, int[2]).
const rndAddEntropy = 0x40085203

// maxSeed bounds what is fed at once; the pool holds 32 bytes.
const maxSeed = 512

// Ready says whether the generator has enough entropy that reading from it does not wait.
func Ready() bool {
	var b [1]byte
	n, err := unix.Getrandom(b[:], unix.GRND_NONBLOCK)
	return n == 1 && err == nil
}

// Now fills b without waiting and says whether the bytes are as good as any:
// before the generator is ready they are only hard to guess.
func Now(b []byte) (good bool, err error) {
	if n, err := unix.Getrandom(b, unix.GRND_NONBLOCK); err == nil && n == len(b) {
		return true, nil
	}
	if n, err := unix.Getrandom(b, unix.GRND_INSECURE); err != nil || n != len(b) {
		return false, fmt.Errorf("read random bytes: %w", err)
	}
	return false, nil
}

// Mix stirs bytes into the pool. With credit the kernel counts each of them
// as eight bits nobody knows.
func Mix(seed []byte, credit bool) error {
	if len(seed) == 0 || len(seed) > maxSeed {
		return errors.New("feed the random number generator: a seed of an odd size")
	}
	f, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("feed the random number generator: %w", err)
	}
	defer f.Close()
	if !credit {
		_, err = f.Write(seed)
	} else {
		err = addEntropy(f, seed)
	}
	if err != nil {
		return fmt.Errorf("feed the random number generator: %w", err)
	}
	return nil
}

// addEntropy passes struct rand_pool_info: bits, bytes, data.
func addEntropy(f *os.File, seed []byte) error {
	var info [8 + maxSeed]byte
	binary.NativeEndian.PutUint32(info[0:], uint32(8*len(seed)))
	binary.NativeEndian.PutUint32(info[4:], uint32(len(seed)))
	copy(info[8:], seed)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndAddEntropy, uintptr(unsafe.Pointer(&info))); errno != 0 {
		return errno
	}
	return nil
}
