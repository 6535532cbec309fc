# Copyright The Wherry Authors
# SPDX-License-Identifier: Apache-2.0
#
# The guest of the accelerator probe: a firmware that enters long mode with
# paging, copies code into memory, runs BMI2 instructions there where the
# processor has them, and then tells QEMU's debug-exit device to end QEMU.
# An accelerator that only pretends gets stuck on the way: real mode alone
# works even there. It is assembled to probe.bin by `go generate`, and mapped at
# 0xf0000 with a jump to its start at the reset vector.
.code16
.org 0
start16:
  cli
  lgdtl %cs:gdtptr-start16
  movl %cr0, %eax
  orb $1, %al
  movl %eax, %cr0
  ljmpl $8, $(0xf0000 + start32 - start16)
.code32
start32:
  movw $16, %ax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %ss
  movl $0x9000, %esp
  cld
  movl $0x1000, %edi
  xorl %eax, %eax
  movl $0xc00, %ecx
  rep stosl
  movl $0x2003, 0x1000
  movl $0x3003, 0x2000
  movl $0x83, 0x3000
  movl %cr4, %eax
  orl $0x20, %eax
  movl %eax, %cr4
  movl $0x1000, %eax
  movl %eax, %cr3
  movl $0xc0000080, %ecx
  rdmsr
  orl $0x100, %eax
  wrmsr
  movl %cr0, %eax
  orl $0x80000000, %eax
  movl %eax, %cr0
  ljmpl $24, $(0xf0000 + start64 - start16)
.code64
start64:
  movl $(0xf0000 + body - start16), %esi
  movl $0x8000, %edi
  movl $(bodyend - body), %ecx
  rep movsb
  movl $0x8000, %eax
  jmp *%rax
body:
  xorl %eax, %eax
  cpuid
  cmpl $7, %eax
  jb 2f
  movl $7, %eax
  xorl %ecx, %ecx
  cpuid
  btl $8, %ebx
  jnc 2f
  movl $100000, %esi
  movl $3, %ecx
1:shlxq %rcx, %rsi, %rdx
  movq %rdx, 0x9000
  decl %esi
  jnz 1b
2:movw $0xf4, %dx
  movb $0x2a, %al
  outb %al, %dx
3:hlt
  jmp 3b
bodyend:
.balign 8
gdt:
  .quad 0
  .quad 0x00cf9a000000ffff
  .quad 0x00cf92000000ffff
  .quad 0x00af9a000000ffff
gdtptr:
  .word 31
  .long 0xf0000 + gdt - start16
.balign 16
.code16

