// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

// Kinds of inodes, and the bytes of each before its list.
const (
	basicDirectory = 1
	basicFile      = 2
	largeDirectory = 8
	largeFile      = 9

	basicDirectoryBytes = 32
	basicFileBytes      = 32
	largeDirectoryBytes = 40
	largeFileBytes      = 56
)

// inode returns the bytes of an inode and its kind.
func (i *Image) inode(block int64, offset int) ([]byte, int, error) {
	b, err := i.inodes.at(block, offset)
	if err != nil || len(b) < 16 {
		return nil, 0, ErrImage
	}
	kind := int(little.Uint16(b))
	need := map[int]int{basicDirectory: basicDirectoryBytes, basicFile: basicFileBytes, largeDirectory: largeDirectoryBytes, largeFile: largeFileBytes}[kind]
	if len(b) < need {
		return nil, 0, ErrImage
	}
	return b, kind, nil
}

// directory reads what is below a directory.
func (i *Image) directory(path string, block int64, offset, depth int) error {
	b, kind, err := i.inode(block, offset)
	if err != nil || depth > maxDepth {
		return ErrImage
	}
	var start int64
	var size, at int
	switch kind {
	case basicDirectory:
		start, size, at = int64(little.Uint32(b[16:])), int(little.Uint16(b[24:])), int(little.Uint16(b[26:]))
	case largeDirectory:
		start, size, at = int64(little.Uint32(b[24:])), int(little.Uint32(b[20:])), int(little.Uint16(b[34:]))
	default:
		return ErrImage
	}
	size -= 3 // the listing counts two entries that are not there
	if size <= 0 {
		return nil
	}
	list, err := i.dirs.at(start, at)
	if err != nil || size > len(list) {
		return ErrImage
	}
	return i.listing(path, list[:size], depth)
}

func (i *Image) listing(path string, b []byte, depth int) error {
	for len(b) > 0 {
		if len(b) < 12 {
			return ErrImage
		}
		count, block := int(little.Uint32(b))+1, int64(little.Uint32(b[4:]))
		b = b[12:]
		for range count {
			if len(b) < 8 || len(b) < 9+int(little.Uint16(b[6:])) {
				return ErrImage
			}
			end := 9 + int(little.Uint16(b[6:]))
			if err := i.entry(path+string(b[8:end]), int(little.Uint16(b[4:])), block, int(little.Uint16(b)), depth); err != nil {
				return err
			}
			b = b[end:]
		}
	}
	return nil
}

func (i *Image) entry(path string, kind int, block int64, offset, depth int) error {
	switch kind {
	case basicDirectory:
		return i.directory(path+"/", block, offset, depth+1)
	case basicFile:
		return i.file(path, block, offset)
	}
	return nil
}

// file finds the blocks of a file. Files with holes are left out: there are none
// in images that come out of a tar archive.
func (i *Image) file(path string, block int64, offset int) error {
	b, kind, err := i.inode(block, offset)
	if err != nil || len(i.Files) >= maxFiles {
		return ErrImage
	}
	var start, size int64
	var fragment, fragmentAt uint32
	switch kind {
	case basicFile:
		start, size = int64(little.Uint32(b[16:])), int64(little.Uint32(b[28:]))
		fragment, fragmentAt, b = little.Uint32(b[20:]), little.Uint32(b[24:]), b[basicFileBytes:]
	case largeFile:
		start, size = int64(little.Uint64(b[16:])&(1<<40-1)), int64(little.Uint64(b[24:])&(1<<40-1))
		fragment, fragmentAt, b = little.Uint32(b[44:]), little.Uint32(b[48:]), b[largeFileBytes:]
	default:
		return ErrImage
	}
	f := File{Path: path}
	whole := size / i.blockSize
	if fragment == none && size%i.blockSize != 0 {
		whole++
	}
	if whole > int64(len(b)/4) {
		return ErrImage
	}
	for k := range whole {
		stored := little.Uint32(b[4*k:])
		bytes := int64(stored &^ (1 << 24))
		if bytes == 0 {
			return nil
		}
		n, err := i.block(start, bytes, stored&(1<<24) == 0, i.blockSize)
		if err != nil {
			return err
		}
		if want := min(i.blockSize, size-k*i.blockSize); int64(len(i.Blocks[n].Content)) != want {
			return ErrImage
		}
		f.Extents = append(f.Extents, Extent{n, 0, len(i.Blocks[n].Content)})
		start += bytes
	}
	if tail := int(size % i.blockSize); fragment != none && tail > 0 {
		if int64(fragment) >= int64(len(i.fragments)) || int(fragmentAt) > len(i.Blocks[i.fragments[fragment]].Content)-tail {
			return ErrImage
		}
		f.Extents = append(f.Extents, Extent{i.fragments[fragment], int(fragmentAt), tail})
	}
	if len(f.Extents) > 0 {
		i.Files = append(i.Files, f)
	}
	return nil
}

// Content returns the content of a file.
func (i *Image) Content(f File) []byte {
	var out []byte
	for _, e := range f.Extents {
		out = append(out, i.Blocks[e.Block].Content[e.Offset:e.Offset+e.Bytes]...)
	}
	return out
}
