// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import "unsafe"

// The kernel's calls and numbers, from its headers: package syscall is part of the runtime.
const (
	sysRead        = 0
	sysWrite       = 1
	sysOpen        = 2
	sysClose       = 3
	sysIoctl       = 16
	sysPause       = 34
	sysNanosleep   = 35
	sysGetpid      = 39
	sysExecve      = 59
	sysChdir       = 80
	sysRmdir       = 84
	sysUnlink      = 87
	sysChroot      = 161
	sysMount       = 165
	sysReboot      = 169
	sysExitGroup   = 231
	sysFinitModule = 313
)

const (
	readOnly  = 0
	writeOnly = 1
	readWrite = 2
	closeExec = 0x80000

	mountReadOnly = 1
	mountNoSuid   = 2
	mountNoDev    = 4
	mountNoExec   = 8
	mountMove     = 0x2000

	loopConfigure = 0x4c0a
	loopGetFree   = 0x4c82
	loopReadOnly  = 1
	loopAutoClear = 4

	rebootMagic1  = 0xfee1dead
	rebootMagic2  = 672274793
	rebootRestart = 0x01234567
	rebootOff     = 0x4321fedc
)

const (
	errPerm        = 1
	errBusy        = 16
	errExist       = 17
	errKeyRejected = 129
)

// entry is where the kernel begins, when the program is linked so (build.yaml).
func entry()

// call is a system call; errno tells a failure from its result.
//
//go:noescape
func call(number, a, b, c, d, e uintptr) uintptr

// errno is why a call failed, or zero.
func errno(result uintptr) uintptr {
	if n := -result; n < 4096 {
		return n
	}
	return 0
}

// The kernel wants zero-ended strings: they are made here, up to four for one call.
var operands [4]line

func first(s string) uintptr  { return operands[0].become(s) }
func second(s string) uintptr { return operands[1].become(s) }
func third(s string) uintptr  { return operands[2].become(s) }
func fourth(s string) uintptr { return operands[3].become(s) }

func (l *line) become(s string) uintptr {
	l.empty()
	l.add(s)
	return l.zeroEnded()
}

// zeroEnded is the text's address.
func (l *line) zeroEnded() uintptr {
	l.byte(0)
	return uintptr(unsafe.Pointer(&l.text))
}

func open(path uintptr, mode uintptr) uintptr { return call(sysOpen, path, mode|closeExec, 0, 0, 0) }
func shut(file uintptr)                       { call(sysClose, file, 0, 0, 0, 0) }

// file is what read has read: the command line is the longest, and the kernel takes 2 KB of it.
var file struct {
	n    uint
	text [16 << 10]byte
}

// read reads a file, as far as there is room.
func read(path string) uintptr {
	file.n = 0
	fd := open(first(path), readOnly)
	if errno(fd) != 0 {
		return fd
	}
	n := uintptr(1)
	for n != 0 && errno(n) == 0 && file.n < uint(len(file.text)) {
		n = call(sysRead, fd, uintptr(unsafe.Pointer(&file.text))+uintptr(file.n), uintptr(len(file.text))-uintptr(file.n), 0, 0)
		if errno(n) == 0 {
			file.n += uint(n)
		}
	}
	shut(fd)
	return n
}

// content is what was read last.
func content() []byte {
	if file.n > uint(len(file.text)) {
		return nil
	}
	return file.text[:file.n]
}

// write writes to a file that is there.
func write(path, text string) uintptr {
	fd := open(first(path), writeOnly)
	if errno(fd) != 0 {
		return fd
	}
	n := call(sysWrite, fd, second(text), uintptr(len(text)), 0, 0)
	shut(fd)
	return n
}

// loopConfig is struct loop_config of linux/loop.h.
type loopConfig struct {
	file      uint32
	blockSize uint32
	_         [5]uint64 // device, inode, rdevice, offset, size limit
	_         [3]uint32 // number, encryption
	flags     uint32
	_         [64 + 64 + 32]byte // names, key
	_         [2]uint64
	_         [8]uint64
}

// configuration is for the one loop device.
var configuration = loopConfig{flags: loopReadOnly | loopAutoClear}

func configure(device, backing uintptr) uintptr {
	configuration.file = uint32(backing)
	return call(sysIoctl, device, loopConfigure, uintptr(unsafe.Pointer(&configuration)), 0, 0)
}

var argv, envp [3]uintptr

// execute becomes another program. What is on the kernel's command line does not get into its environment.
func execute(program string) uintptr {
	argv[0] = first(program)
	envp[0], envp[1] = second("HOME=/"), third("TERM=linux")
	return call(sysExecve, argv[0], uintptr(unsafe.Pointer(&argv)), uintptr(unsafe.Pointer(&envp)), 0, 0)
}

var delay [2]uint64

func sleep(seconds uint64) {
	delay[0] = seconds
	call(sysNanosleep, uintptr(unsafe.Pointer(&delay)), 0, 0, 0, 0)
}
