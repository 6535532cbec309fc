// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package fat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
)

// Volume is where a file system lies.
type Volume interface {
	io.ReaderAt
	io.WriterAt
}

// ErrDamaged says that a file's clusters do not lead to its end, or belong to two.
var ErrDamaged = errors.New("the FAT file system is damaged")

const (
	freeCluster  = 0
	badCluster   = 0x0ffffff7
	clusterMask  = 0x0fffffff
	maxEntries   = 1 << 16 // of all directories
	directoryBit = 0x10
	labelBit     = 0x08
	longNameBits = 0x0f
	countUnknown = math.MaxUint32
	stateByte    = 65 // of the boot sector
	stateInUse   = 1
)

// Reclaim gives back the clusters that are taken and belong to no file: what a
// power cut leaves of a file whose directory entry was not written any more.
// It returns how many bytes that are. What the cut kept from the table's second copy is written: all who
// read go by the first. The mark of that cut goes too, which Linux leaves there for ever, with the
// count of what is free, which it believes. Of a volume with any other damage
// nothing is touched. Nobody else may have the volume open; whatever part of
// the writes a power cut leaves out, files are not concerned.
func Reclaim(v Volume) (int64, error) {
	t, err := readTable(v)
	if err != nil {
		return 0, err
	}
	if err := t.follow(); err != nil {
		return 0, err
	}
	freed, err := t.release()
	if err == nil {
		err = t.mirror()
	}
	if err == nil && t.inUse {
		err = t.unmark()
	}
	return freed, err
}

// table is the FAT of a volume that exists.
type table struct {
	volume       Volume
	start, bytes int64 // of the first copy
	data         int64 // offset of cluster 2
	cluster      int64 // its bytes
	root, end    uint32
	raw          []byte
	used         []bool // by a file or directory
	entries      int
	inUse        bool // when the power went
}

func readTable(v Volume) (*table, error) {
	var boot [sectorBytes]byte
	if _, err := v.ReadAt(boot[:], 0); err != nil {
		return nil, fmt.Errorf("read the FAT file system: %w", err)
	}
	fats := int64(little.Uint32(boot[36:])) * sectorBytes
	sectors := int64(little.Uint32(boot[32:]))
	t := &table{
		volume: v, start: int64(little.Uint16(boot[14:])) * sectorBytes, bytes: fats,
		cluster: int64(boot[13]) * sectorBytes, root: little.Uint32(boot[44:]),
		inUse: boot[stateByte]&stateInUse != 0,
	}
	t.data = t.start + fatCopies*fats
	ours := little.Uint16(boot[11:]) == sectorBytes && boot[16] == fatCopies && little.Uint16(boot[17:]) == 0 && little.Uint16(boot[22:]) == 0
	if !ours || t.cluster == 0 || t.start == 0 || fats == 0 || fats > 4*(maxClusters+2) || t.data >= sectors*sectorBytes {
		return nil, errors.New("read the FAT file system: it is not of the kind that Wherry makes")
	}
	clusters := (sectors*sectorBytes - t.data) / t.cluster
	t.end = uint32(min(clusters+2, fats/4))
	t.raw, t.used = make([]byte, fats), make([]bool, t.end)
	if _, err := v.ReadAt(t.raw, t.start); err != nil {
		return nil, fmt.Errorf("read the FAT: %w", err)
	}
	return t, nil
}

func (t *table) next(cluster uint32) uint32 { return little.Uint32(t.raw[4*cluster:]) & clusterMask }

// take marks a chain as used, and returns it.
func (t *table) take(cluster uint32) ([]uint32, error) {
	var chain []uint32
	for {
		if cluster < 2 || cluster >= t.end || t.used[cluster] || t.next(cluster) == freeCluster || t.next(cluster) == badCluster {
			return nil, ErrDamaged
		}
		t.used[cluster] = true
		chain = append(chain, cluster)
		if cluster = t.next(cluster); cluster > badCluster {
			return chain, nil
		}
	}
}

// follow takes the chains of all directories and files.
func (t *table) follow() error {
	for waiting := []uint32{t.root}; len(waiting) > 0; {
		chain, err := t.take(waiting[0])
		if err != nil {
			return err
		}
		found, err := t.directory(chain)
		if err != nil {
			return err
		}
		waiting = append(waiting[1:], found...)
	}
	return nil
}

// directory takes the chains of its files, and returns the directories in it.
func (t *table) directory(chain []uint32) (found []uint32, err error) {
	data := make([]byte, t.cluster)
	for _, c := range chain {
		if _, err := t.volume.ReadAt(data, t.data+int64(c-2)*t.cluster); err != nil {
			return nil, fmt.Errorf("read a directory: %w", err)
		}
		for i := 0; i < len(data); i += entryBytes {
			e := data[i : i+entryBytes]
			if e[0] == 0 {
				return found, nil // its end
			}
			if t.entries++; t.entries > maxEntries {
				return nil, ErrDamaged
			}
			first := uint32(little.Uint16(e[20:]))<<16 | uint32(little.Uint16(e[26:]))
			itself := e[0] == '.' && e[11]&directoryBit != 0 // or the one above
			if e[0] == 0xe5 || itself || e[11]&longNameBits == longNameBits || e[11]&labelBit != 0 || first == 0 {
				continue
			}
			if e[11]&directoryBit != 0 {
				found = append(found, first)
			} else if _, err := t.take(first); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// release frees what nobody has taken, in both copies.
func (t *table) release() (int64, error) {
	changed := map[int64]bool{} // sectors of the FAT
	var freed int64
	for c := uint32(2); c < t.end; c++ {
		if n := t.next(c); t.used[c] || n == freeCluster || n == badCluster {
			continue
		}
		little.PutUint32(t.raw[4*c:], little.Uint32(t.raw[4*c:])&^uint32(clusterMask))
		changed[int64(c)*4/sectorBytes] = true
		freed += t.cluster
	}
	for s := range changed {
		at := s * sectorBytes
		for copy := range int64(fatCopies) {
			if _, err := t.volume.WriteAt(t.raw[at:at+sectorBytes], t.start+copy*t.bytes+at); err != nil {
				return freed, fmt.Errorf("write the FAT: %w", err)
			}
		}
	}
	if freed > 0 {
		return freed, t.forgetCount()
	}
	return 0, nil
}

// mirror makes the second copy what the first one is.
func (t *table) mirror() error {
	var second [64 * sectorBytes]byte
	for at := int64(0); at < t.bytes; at += int64(len(second)) {
		first := t.raw[at:min(at+int64(len(second)), t.bytes)]
		if _, err := t.volume.ReadAt(second[:len(first)], t.start+t.bytes+at); err != nil {
			return fmt.Errorf("read the FAT's second copy: %w", err)
		}
		if bytes.Equal(first, second[:len(first)]) {
			continue
		}
		if _, err := t.volume.WriteAt(first, t.start+t.bytes+at); err != nil {
			return fmt.Errorf("write the FAT's second copy: %w", err)
		}
	}
	return nil
}

// forgetCount has whoever mounts it count what is free.
func (t *table) forgetCount() error {
	var info [sectorBytes]byte
	if _, err := t.volume.ReadAt(info[:], infoSector*sectorBytes); err != nil {
		return fmt.Errorf("read the FAT file system's summary: %w", err)
	}
	if little.Uint32(info[484:]) != 0x61417272 {
		return nil // there is none
	}
	little.PutUint32(info[488:], countUnknown)
	if _, err := t.volume.WriteAt(info[:], infoSector*sectorBytes); err != nil {
		return fmt.Errorf("write the FAT file system's summary: %w", err)
	}
	return nil
}

// unmark says that the volume was put in order.
func (t *table) unmark() error {
	if err := t.forgetCount(); err != nil {
		return err
	}
	var boot [sectorBytes]byte
	if _, err := t.volume.ReadAt(boot[:], 0); err != nil {
		return fmt.Errorf("read the FAT file system: %w", err)
	}
	boot[stateByte] &^= stateInUse
	if _, err := t.volume.WriteAt(boot[:], 0); err != nil {
		return fmt.Errorf("write that the FAT file system is in order: %w", err)
	}
	return nil
}
