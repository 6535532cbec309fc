// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package torndisk is a disk for virtual machines that loses what real disks lose
// when the power goes: what was written since the last flush.
//
// QEMU reaches it as an NBD server on a Unix socket (nbd.go). Its contents are a raw file,
// in which each write is at once; beside it, in memory, the disk keeps what was there before
// each write that no flush has made safe. Stop is the moment of the cut: nothing is
// answered any more. Once QEMU was ended, Tear makes the file what a disk would
// have after that: of each sector of 512 bytes any of the states that
// it had since the last flush. A sector itself is never torn, as disks promise.
//
// Instead of cutting the power of a machine that runs, what it asks of its disks can be written
// down once, and be cut afterwards at any place and as often as one likes (journal.go).
//
// The file is opened at the first connection, because QEMU's harness makes it
// right before. Whatever fails ends the connection, and is returned by Tear and Close.
package torndisk

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

const sector = 512

// maxUnsafe is how many sectors may wait for a flush: the cache of a real disk has an end too. What
// is more makes everything before it safe.
const maxUnsafe = 256 << 20 / sector

// Disk is one that is served.
type Disk struct {
	path, dir string
	listener  net.Listener
	serving   sync.WaitGroup

	mu      sync.Mutex
	file    store
	size    int64
	flash   bool     // each write is safe at once
	journal *Journal // of what is done
	conns   []net.Conn
	err     error
	dead    chan struct{} // closed while the power is off
	off     bool
	life    int   // how often the power came back
	writes  int64 // requests that changed something
	before  map[int64][]version
	pending int
	armed   *trap
}

// version is what a sector was before a write.
type version struct {
	write int64  // its number
	data  []byte // nil: zeros
}

// trap stops the disk at a write.
type trap struct {
	from, to int64 // the first write that counts reaches into these bytes
	left     int64
	started  bool
}

// Serve serves the raw file at path. The socket is in a folder of its own, as
// its name must be short.
func Serve(path string) (*Disk, error) {
	dir, err := os.MkdirTemp("", "torndisk-")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	d := &Disk{path: path, dir: dir, listener: l, dead: make(chan struct{}), before: map[int64][]version{}}
	d.serving.Go(d.accept)
	return d, nil
}

// ServeFlash is Serve for memory in which each write is safe at once, such as that of the firmware.
func ServeFlash(path string) (*Disk, error) {
	d, err := Serve(path)
	if err == nil {
		d.flash = true
	}
	return d, err
}

// Arguments make QEMU use the disk in place of the file of one of its drives.
func (d *Disk) Arguments(drive string) []string {
	return []string{"-set", "drive." + drive + ".file=nbd:unix:" + filepath.Join(d.dir, "s")}
}

// Writes is how many requests have changed something.
func (d *Disk) Writes() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writes
}

// StopAfter stops the disk at the n-th write from now on; the first that counts is
// one that reaches into the bytes from, to.
func (d *Disk) StopAfter(n, from, to int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed = &trap{from: from, to: to, left: n}
}

// StopAtWrite is StopAfter where the place does not matter.
func (d *Disk) StopAtWrite(n int64) { d.StopAfter(n, 0, math.MaxInt64) }

// Stop cuts the power now.
func (d *Disk) Stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopLocked()
}

func (d *Disk) stopLocked() {
	if !d.off {
		d.off = true
		close(d.dead)
	}
	d.armed = nil
}

// Stopped is closed when the power was cut.
func (d *Disk) Stopped() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

// Torn is what a cut did.
type Torn struct {
	How           string
	Unsafe, Older int // sectors that waited for a flush, and those of them that lost something
}

// ways choose among the states that a sector had: 0 is the one that is safe, the last the newest.
var ways = []struct {
	name   string
	choose func(random *rand.Rand, write int64, all []version) int
}{
	{"all of it lost", func(*rand.Rand, int64, []version) int { return 0 }},
	{"all of it kept", func(_ *rand.Rand, _ int64, all []version) int { return len(all) }},
	{"kept up to a moment", func(_ *rand.Rand, upTo int64, all []version) int {
		n := slices.IndexFunc(all, func(v version) bool { return v.write > upTo })
		if n < 0 {
			return len(all)
		}
		return n
	}},
	{"one write lost", func(_ *rand.Rand, which int64, all []version) int {
		if all[len(all)-1].write == which {
			return len(all) - 1
		}
		return len(all)
	}},
	{"one write kept", func(_ *rand.Rand, which int64, all []version) int {
		for i, v := range all {
			if v.write == which {
				return i + 1
			}
		}
		return 0
	}},
	{"kept at random", func(random *rand.Rand, _ int64, all []version) int { return random.IntN(len(all) + 1) }},
	{"kept at random", func(random *rand.Rand, _ int64, all []version) int { return random.IntN(len(all) + 1) }},
}

// Tear leaves in the file what the disk has after the cut, and gives the disk its power back. QEMU
// must have ended.
func (d *Disk) Tear(random *rand.Rand) (Torn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopLocked()
	for _, c := range d.conns {
		c.Close() // its QEMU is gone
	}
	d.conns = nil
	way := ways[random.IntN(len(ways))]
	torn := Torn{How: way.name, Unsafe: len(d.before)}
	sectors := make([]int64, 0, len(d.before))
	first := d.writes
	for n, all := range d.before {
		sectors = append(sectors, n)
		first = min(first, all[0].write)
	}
	slices.Sort(sectors) // the order of a map would make the seed worthless
	upTo := first - 1 + random.Int64N(d.writes-first+2)
	for _, n := range sectors {
		all := d.before[n]
		i := way.choose(random, upTo, all)
		if i == len(all) {
			continue
		}
		torn.Older++
		if err := d.put(n, all[i].data); err != nil {
			return torn, fmt.Errorf("tear sector %d: %w", n, err)
		}
	}
	d.safeLocked()
	d.off, d.dead = false, make(chan struct{})
	d.life++
	return torn, d.err
}

func (d *Disk) put(n int64, data []byte) error {
	if data == nil {
		data = make([]byte, sector)
	}
	_, err := d.file.WriteAt(data, n*sector)
	return err
}

// Close ends serving. The file stays as it is.
func (d *Disk) Close() error {
	err := d.listener.Close()
	d.mu.Lock()
	d.stopLocked()
	for _, c := range d.conns {
		c.Close() // serving ends by it
	}
	d.mu.Unlock()
	d.serving.Wait()
	if d.file != nil {
		err = errors.Join(err, d.file.Close())
	}
	return errors.Join(err, d.err, os.RemoveAll(d.dir))
}

// open opens the file when it is needed first, and tells which life of the disk it is.
func (d *Disk) open() (life int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.file != nil {
		return d.life, nil
	}
	f, err := os.OpenFile(d.path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	if d.journal != nil {
		err = d.journal.keep(d)
	}
	if err = errors.Join(err, d.sizeLocked(f)); err != nil {
		return 0, errors.Join(err, f.Close())
	}
	d.file = f
	return d.life, nil
}

func (d *Disk) sizeLocked(f *os.File) error {
	info, err := f.Stat()
	if err == nil {
		d.size = info.Size() / sector * sector
	}
	return err
}

// ReadAt reads what the disk has now.
func (d *Disk) ReadAt(p []byte, at int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.file.ReadAt(p, at)
}

// safeLocked forgets what was there before.
func (d *Disk) safeLocked() {
	clear(d.before)
	d.pending = 0
}

// Size is how many bytes it has.
func (d *Disk) Size() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.size
}
