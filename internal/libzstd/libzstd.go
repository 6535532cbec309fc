// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package libzstd packs and unpacks zstd frames with the C library that made
// the blocks of the root image, so that equal contents give equal bytes again
// (docs/decisions/0015). No other compressor does that, and not every version of this one:
// Name tells which it is, and the test holds what it makes of fixed contents.
//
// It needs cgo and Debian's libzstd-dev, which are there for wherry-shim only. Frames are not
// trusted: Unpack writes no more than it was told, and Pack refuses parameters that
// would take more than maxMemory.
package libzstd

/*
#cgo LDFLAGS: -lzstd
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

static size_t wherry_memory(int level, int windowLog, int chainLog, int hashLog, size_t n) {
	ZSTD_compressionParameters c = ZSTD_getCParams(level, n ? n : 1, 0); // 0 would be: not known
	if (windowLog) c.windowLog = windowLog;
	if (chainLog) c.chainLog = chainLog;
	if (hashLog) c.hashLog = hashLog;
	return ZSTD_estimateCCtxSize_usingCParams(c);
}

// An error is a large number, as everywhere in zstd.
static size_t wherry_pack(void *dst, size_t room, const void *src, size_t n, int level, int windowLog, int chainLog, int hashLog) {
	ZSTD_CCtx *c = ZSTD_createCCtx();
	size_t out;
	if (c == NULL) return (size_t)-1;
	if (windowLog || chainLog || hashLog) {
		ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, level);
		ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, windowLog);
		ZSTD_CCtx_setParameter(c, ZSTD_c_chainLog, chainLog);
		ZSTD_CCtx_setParameter(c, ZSTD_c_hashLog, hashLog);
		out = ZSTD_compress2(c, dst, room, src, n);
	} else {
		out = ZSTD_compressCCtx(c, dst, room, src, n, level);
	}
	ZSTD_freeCCtx(c);
	return out;
}
*/
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"

	"wherry.example/wherry/internal/format/delta"
)

// maxMemory is what packing one frame may take.
const maxMemory = 48 << 20

// Codec is the library as a delta.Codec.
type Codec struct{}

// Name is zstd-VERSION.
func (Codec) Name() string { return "zstd-" + C.GoString(C.ZSTD_versionString()) }

func pointer(b []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(b)) }

// level is the only one whose code is linked in, see unused.c.
const level = 22

// magic begins a frame.
const magic = "\x28\xb5\x2f\xfd"

// Pack returns content as a frame. With all logarithms zero it does what
// mksquashfs does at that level.
func (Codec) Pack(p delta.Parameters, content []byte) ([]byte, error) {
	if p.Level != level {
		return nil, fmt.Errorf("pack a frame at level %d: there is only %d", p.Level, level)
	}
	window, chain, hash := C.int(p.WindowLog), C.int(p.ChainLog), C.int(p.HashLog)
	size := C.size_t(len(content))
	if need := C.wherry_memory(level, window, chain, hash, size); need > maxMemory {
		return nil, fmt.Errorf("pack a frame of %d bytes with %+v: it would take %d MB of memory", len(content), p, need>>20)
	}
	out := make([]byte, C.ZSTD_compressBound(size))
	n := C.wherry_pack(pointer(out), C.size_t(len(out)), pointer(content), size, level, window, chain, hash)
	if C.ZSTD_isError(n) != 0 {
		return nil, fmt.Errorf("pack a frame: %s", C.GoString(C.ZSTD_getErrorName(n)))
	}
	return out[:n], nil
}

// Unpack returns the content of one frame, of that size.
func (Codec) Unpack(frame []byte, size int64) ([]byte, error) {
	if !bytes.HasPrefix(frame, []byte(magic)) || C.ZSTD_findFrameCompressedSize(pointer(frame), C.size_t(len(frame))) != C.size_t(len(frame)) {
		return nil, errors.New("unpack a frame: it is none, or not only one")
	}
	out := make([]byte, size)
	n := C.ZSTD_decompress(pointer(out), C.size_t(size), pointer(frame), C.size_t(len(frame)))
	if C.ZSTD_isError(n) != 0 {
		return nil, fmt.Errorf("unpack a frame: %s", C.GoString(C.ZSTD_getErrorName(n)))
	}
	return out[:n], nil
}
