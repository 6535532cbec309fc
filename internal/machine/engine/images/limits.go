// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// Limits bounds what a registry or an archive can make the machine do.
type Limits struct {
	ManifestBytes int64 // of one manifest, index or configuration
	IndexDepth    int   // index within index
	Layers        int
	UnpackedBytes int64 // of one image
	// A layer that unpacks to more than BombFloor may not be more than
	// BombRatio times its compressed size.
	BombFloor int64
	BombRatio int64
	Entries   int   // of one layer
	NameBytes int64 // names and attributes of one layer's entries: they are kept in memory
	// Reserve is left free on the state file system: without it neither
	// containers nor the removal of images would work. Zero: a twentieth, within bounds.
	Reserve int64
}

var DefaultLimits = Limits{
	ManifestBytes: 4 << 20,
	IndexDepth:    3,
	Layers:        512,
	UnpackedBytes: 64 << 30,
	BombFloor:     512 << 20,
	BombRatio:     200,
	Entries:       500_000,
	NameBytes:     64 << 20,
}

// diskSpace is what a file system has left.
type diskSpace struct{ free, total, inodes int64 }

func spaceAt(dir string) (diskSpace, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return diskSpace{}, fmt.Errorf("look at free space of %s: %w", dir, err)
	}
	inodes := int64(st.Ffree)
	if st.Files == 0 { // file systems that make inodes as they go say zero
		inodes = 1 << 62
	}
	return diskSpace{free: int64(st.Bavail) * st.Bsize, total: int64(st.Blocks) * st.Bsize, inodes: inodes}, nil
}

func (l Limits) reserve(s diskSpace) int64 {
	if l.Reserve > 0 {
		return l.Reserve
	}
	return min(max(s.total/20, 8<<20), 1<<30)
}

func diskFull(need, free, reserve int64) error {
	size := func(n int64) string { return units.HumanSize(float64(n)) }
	return fmt.Errorf("%w: %s more does not fit into %s, of which %s are reserved; remove images, containers or volumes",
		ErrDiskFull, size(max(need, 1)), size(free), size(reserve))
}

// asDiskFull gives the kernel's word for it the same shape.
func asDiskFull(err error) error {
	if errors.Is(err, ErrDiskFull) || !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	return fmt.Errorf("%w; remove images, containers or volumes: %w", ErrDiskFull, err)
}

// room answers whether that many bytes more fit on the state disk.
func (k *Keeper) room(need int64) error {
	s, err := spaceAt(k.Root)
	if err != nil {
		return err
	}
	if reserve := k.Limits.reserve(s); need > s.free-reserve || s.free < reserve {
		return diskFull(need, s.free, reserve)
	}
	if s.inodes < 1024 {
		return fmt.Errorf("%w: no inodes left; remove images, containers or volumes", ErrDiskFull)
	}
	return nil
}

// unpackBudget is what one image may still unpack.
type unpackBudget struct {
	limits Limits
	room   func(need int64) error
	total  int64 // unpacked of the whole image
}

// layerMeter stops one layer that unpacks to too much. It counts what entries
// claim (sparse files claim more than they carry) and what the stream carries
// (padding belongs to no entry), each by itself.
type layerMeter struct {
	budget     *unpackBudget
	compressed int64
	claimed    int64
	carried    int64
	entries    int
	names      int64
	sinceLook  int64
}

func (b *unpackBudget) layer(compressed int64) *layerMeter {
	return &layerMeter{budget: b, compressed: compressed}
}

// done adds a finished layer to its image.
func (m *layerMeter) done() { m.budget.total += max(m.claimed, m.carried) }

func (m *layerMeter) check(bytes int64) error {
	l := m.budget.limits
	if bytes > l.BombFloor && bytes/l.BombRatio > m.compressed {
		return fmt.Errorf("layer unpacks to more than %d times its size (%s so far): refused as a decompression bomb",
			l.BombRatio, units.HumanSize(float64(bytes)))
	}
	if bytes < 0 || m.budget.total+bytes > l.UnpackedBytes {
		return fmt.Errorf("image unpacks to more than %s", units.HumanSize(float64(l.UnpackedBytes)))
	}
	return nil
}

const (
	// entryCost is what the smallest file takes on disk, roughly.
	entryCost = 512
	// lookEvery is how many bytes go to disk between two looks at its free space.
	lookEvery = 16 << 20
)

// entry accounts for one entry of the layer before it is written.
func (m *layerMeter) entry(h *tar.Header) error {
	l := m.budget.limits
	if h.Size < 0 {
		return fmt.Errorf("entry %.100q has a negative size", h.Name)
	}
	if m.entries++; m.entries > l.Entries {
		return fmt.Errorf("layer has more than %d entries", l.Entries)
	}
	m.names += int64(len(h.Name) + len(h.Linkname))
	for k, v := range h.PAXRecords {
		m.names += int64(len(k) + len(v))
	}
	if m.names > l.NameBytes {
		return fmt.Errorf("names and attributes in the layer exceed %s", units.HumanSize(float64(l.NameBytes)))
	}
	m.claimed += h.Size + entryCost
	if err := m.check(m.claimed); err != nil {
		return err
	}
	m.sinceLook += h.Size + entryCost
	if m.sinceLook < lookEvery {
		return nil
	}
	m.sinceLook = 0
	return m.budget.room(h.Size)
}

// reader meters the uncompressed stream.
func (m *layerMeter) reader(r io.Reader) io.Reader { return &meteredReader{r, m} }

type meteredReader struct {
	io.Reader
	m *layerMeter
}

func (r *meteredReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.m.carried += int64(n)
	if e := r.m.check(r.m.carried); e != nil {
		return 0, e
	}
	return n, err
}
