// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// What of libzstd is never called by this package, two thirds of it: empty
// functions in the place of the library's, so that the linker leaves those out (0.17 MB of
// each image, packed). They are weak: a library that is divided in another way brings its own
// back. They are hidden: a shared library never sees them.
//
// Level 22 has one strategy, btultra2, for contents of every size. Long distances are
// searched for with windows of 2^27 only; the functions that are asked for their
// needs all the same say none. Old formats are told by their magic, and
// this package lets only the current one in.

#include <stdlib.h>
#include <stddef.h>

#define NEVER(name) __attribute__((weak, visibility("hidden"))) void name(void) { abort(); }
#define NOTHING(name) __attribute__((weak, visibility("hidden"))) size_t name(void) { return 0; }

// Other levels than 22.
NEVER(ZSTD_compressBlock_fast)
NEVER(ZSTD_compressBlock_fast_dictMatchState)
NEVER(ZSTD_compressBlock_fast_extDict)
NEVER(ZSTD_fillHashTable)
NEVER(ZSTD_compressBlock_doubleFast)
NEVER(ZSTD_compressBlock_doubleFast_dictMatchState)
NEVER(ZSTD_compressBlock_doubleFast_extDict)
NEVER(ZSTD_fillDoubleHashTable)
NEVER(ZSTD_compressBlock_btlazy2)
NEVER(ZSTD_compressBlock_btlazy2_dictMatchState)
NEVER(ZSTD_compressBlock_btlazy2_extDict)
NEVER(ZSTD_compressBlock_greedy)
NEVER(ZSTD_compressBlock_greedy_dedicatedDictSearch)
NEVER(ZSTD_compressBlock_greedy_dedicatedDictSearch_row)
NEVER(ZSTD_compressBlock_greedy_dictMatchState)
NEVER(ZSTD_compressBlock_greedy_dictMatchState_row)
NEVER(ZSTD_compressBlock_greedy_extDict)
NEVER(ZSTD_compressBlock_greedy_extDict_row)
NEVER(ZSTD_compressBlock_greedy_row)
NEVER(ZSTD_compressBlock_lazy)
NEVER(ZSTD_compressBlock_lazy2)
NEVER(ZSTD_compressBlock_lazy2_dedicatedDictSearch)
NEVER(ZSTD_compressBlock_lazy2_dedicatedDictSearch_row)
NEVER(ZSTD_compressBlock_lazy2_dictMatchState)
NEVER(ZSTD_compressBlock_lazy2_dictMatchState_row)
NEVER(ZSTD_compressBlock_lazy2_extDict)
NEVER(ZSTD_compressBlock_lazy2_extDict_row)
NEVER(ZSTD_compressBlock_lazy2_row)
NEVER(ZSTD_compressBlock_lazy_dedicatedDictSearch)
NEVER(ZSTD_compressBlock_lazy_dedicatedDictSearch_row)
NEVER(ZSTD_compressBlock_lazy_dictMatchState)
NEVER(ZSTD_compressBlock_lazy_dictMatchState_row)
NEVER(ZSTD_compressBlock_lazy_extDict)
NEVER(ZSTD_compressBlock_lazy_extDict_row)
NEVER(ZSTD_compressBlock_lazy_row)
NEVER(ZSTD_dedicatedDictSearch_lazy_loadDictionary)
NEVER(ZSTD_insertAndFindFirstIndex)
NEVER(ZSTD_row_update)

// Long distances.
NEVER(ZSTD_ldm_adjustParameters)
NEVER(ZSTD_ldm_blockCompress)
NEVER(ZSTD_ldm_fillHashTable)
NEVER(ZSTD_ldm_generateSequences)
NOTHING(ZSTD_ldm_getMaxNbSeq)
NOTHING(ZSTD_ldm_getTableSize)
NOTHING(ZSTD_ldm_skipRawSeqStoreBytes)
NEVER(ZSTD_ldm_skipSequences)

// Blocks of a wished size.
NEVER(ZSTD_compressSuperBlock)

// Formats before 2016.
NEVER(ZBUFFv05_createDCtx)
NEVER(ZBUFFv05_decompressContinue)
NEVER(ZBUFFv05_decompressInitDictionary)
NEVER(ZBUFFv05_freeDCtx)
NEVER(ZSTDv05_createDCtx)
NEVER(ZSTDv05_decompress_usingDict)
NEVER(ZSTDv05_findFrameSizeInfoLegacy)
NEVER(ZSTDv05_freeDCtx)
NEVER(ZSTDv05_getFrameParams)
NEVER(ZBUFFv06_createDCtx)
NEVER(ZBUFFv06_decompressContinue)
NEVER(ZBUFFv06_decompressInitDictionary)
NEVER(ZBUFFv06_freeDCtx)
NEVER(ZSTDv06_createDCtx)
NEVER(ZSTDv06_decompress_usingDict)
NEVER(ZSTDv06_findFrameSizeInfoLegacy)
NEVER(ZSTDv06_freeDCtx)
NEVER(ZSTDv06_getFrameParams)
NEVER(ZBUFFv07_createDCtx)
NEVER(ZBUFFv07_decompressContinue)
NEVER(ZBUFFv07_decompressInitDictionary)
NEVER(ZBUFFv07_freeDCtx)
NEVER(ZSTDv07_createDCtx)
NEVER(ZSTDv07_decompress_usingDict)
NEVER(ZSTDv07_findFrameSizeInfoLegacy)
NEVER(ZSTDv07_freeDCtx)
NEVER(ZSTDv07_getFrameParams)
