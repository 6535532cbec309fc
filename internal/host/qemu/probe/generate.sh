#!/bin/sh
# Copyright The Wherry Authors
# SPDX-License-Identifier: Apache-2.0
# Assembles probe.s to probe.bin.
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp)
trap 'rm -f "$tmp"' EXIT
as -o "$tmp" probe.s
ld -m elf_x86_64 -e 0 -Ttext 0 --oformat binary -o probe.bin "$tmp"
chmod 644 probe.bin
