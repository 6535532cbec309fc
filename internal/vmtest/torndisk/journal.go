// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package torndisk

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Journal is what a machine asked of its disks, in the order in which they did it. As nothing but its disks outlives
// a machine whose power goes, all its power cuts can be had out of one journal: Cut serves
// what a disk has when the power goes after any number of events.
type Journal struct {
	dir   string
	disks []*Disk

	mu     sync.Mutex
	began  time.Time
	spool  *os.File // what was written
	end    int64
	err    error
	events []Event
}

// Event is a write or a flush.
type Event struct {
	Disk          int // its place among those that are recorded
	Flush         bool
	Offset, Bytes int64 // of a write
	At            time.Duration
	safe          bool
	data          int64 // where it is in the spool
}

// Record begins to write down what is asked of the disks. It keeps in dir what they have now, or, of
// one that was not used yet, when it is used first. The machine must not run: what it wrote before counts as safe.
func Record(dir string, disks ...*Disk) (*Journal, error) {
	spool, err := os.Create(filepath.Join(dir, "spool"))
	if err != nil {
		return nil, err
	}
	j := &Journal{dir: dir, disks: disks, spool: spool, began: time.Now()}
	for _, d := range disks {
		if err := d.record(j); err != nil {
			return nil, errors.Join(err, j.Close())
		}
	}
	return j, nil
}

// record begins with one disk.
func (d *Disk) record(j *Journal) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.journal = j
	if d.file == nil {
		return nil
	}
	d.safeLocked()
	return j.keep(d)
}

func (j *Journal) base(n int) string { return filepath.Join(j.dir, fmt.Sprintf("disk%d", n)) }

// keep copies what the disk has.
func (j *Journal) keep(d *Disk) error {
	out, err := exec.Command("cp", "--sparse=always", "--reflink=auto", d.path, j.base(slices.Index(j.disks, d))).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy %s: %w: %s", d.path, err, out)
	}
	return nil
}

// note writes an event down.
func (j *Journal) note(d *Disk, e Event, data []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.Disk, e.At, e.data, e.Bytes = slices.Index(j.disks, d), time.Since(j.began), j.end, int64(len(data))
	if _, err := j.spool.WriteAt(data, j.end); err != nil {
		j.err = errors.Join(j.err, err)
	}
	j.end += e.Bytes
	j.events = append(j.events, e)
}

// Len is how many events there are so far.
func (j *Journal) Len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.events)
}

// End ends recording, and returns all events.
func (j *Journal) End() ([]Event, error) {
	for _, d := range j.disks {
		d.mu.Lock()
		d.journal = nil
		d.mu.Unlock()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.events, j.err
}

// Cut serves what one of the disks has after the power went with the first n events done. What
// the disk had not been told to flush by then is torn. Nothing of the journal is changed by what is done to
// the disk that it returns.
func (j *Journal) Cut(disk, n int, random *rand.Rand) (*Disk, Torn, error) {
	o, err := openOverlay(j.base(disk))
	if err != nil {
		return nil, Torn{}, err
	}
	d, err := Serve(j.disks[disk].path)
	if err != nil {
		return nil, Torn{}, errors.Join(err, o.Close())
	}
	d.mu.Lock()
	d.file, d.flash = o, j.disks[disk].flash
	err = d.sizeLocked(o.base)
	d.mu.Unlock()
	if err == nil {
		err = j.replay(d, disk, n)
	}
	torn, errTear := d.Tear(random)
	if err = errors.Join(err, errTear); err != nil {
		return nil, torn, errors.Join(err, d.Close())
	}
	return d, torn, nil
}

// replay does to d what was done to the disk.
func (j *Journal) replay(d *Disk, disk, n int) error {
	j.mu.Lock()
	events := j.events[:n]
	j.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range events {
		switch {
		case e.Disk != disk:
		case e.Flush:
			d.safeLocked()
		default:
			data := make([]byte, e.Bytes)
			if _, err := j.spool.ReadAt(data, e.data); err != nil && err != io.EOF {
				return err
			}
			if err := d.write(e.Offset, data, e.safe); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close removes what was kept, and what was cut must be closed before.
func (j *Journal) Close() error {
	errs := []error{j.spool.Close(), os.Remove(j.spool.Name())}
	for n := range j.disks {
		if err := os.Remove(j.base(n)); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
