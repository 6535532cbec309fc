// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// entry is where the kernel begins. Go code looks for its goroutine at 8 below
// FS, and there for the end of its stack: it gets one that says that the stack
// never ends. The kernel ends the process when it does, at 8 MB.
TEXT ·entry(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	ANDQ $~15, SP
	LEAQ ·goroutine(SB), AX
	MOVQ AX, ·local(SB)
	MOVQ $158, AX     // arch_prctl
	MOVQ $0x1002, DI  // ARCH_SET_FS
	LEAQ ·local+8(SB), SI
	SYSCALL
	CALL ·start(SB)
	INT  $3

// func call(number, a, b, c, d, e uintptr) uintptr
TEXT ·call(SB), NOSPLIT, $0-56
	MOVQ number+0(FP), AX
	MOVQ a+8(FP), DI
	MOVQ b+16(FP), SI
	MOVQ c+24(FP), DX
	MOVQ d+32(FP), R10
	MOVQ e+40(FP), R8
	SYSCALL
	MOVQ AX, ret+48(FP)
	RET

GLOBL ·goroutine(SB), NOPTR, $1024
GLOBL ·local(SB), NOPTR, $16
