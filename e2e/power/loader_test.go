// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package power

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode/utf16"

	"wherry.example/wherry/internal/format/bootcount"
	"wherry.example/wherry/release"
)

// bootFiles reads the boot partition as the firmware does, which asks for no more than that the
// chain of a file leads to its end: another judge than the programs for people, who mend or refuse.
type bootFiles struct {
	at             io.ReaderAt
	cluster        int64
	data, table    int64
	root, clusters uint32
}

var little = binary.LittleEndian

func openBoot(at io.ReaderAt) (*bootFiles, error) {
	var b [512]byte
	if _, err := at.ReadAt(b[:], espFrom); err != nil {
		return nil, err
	}
	if b[510] != 0x55 || b[511] != 0xaa {
		return nil, errors.New("the boot partition has no boot sector")
	}
	f := &bootFiles{at: at, cluster: int64(b[13]) * 512, table: espFrom + int64(little.Uint16(b[14:]))*512, root: little.Uint32(b[44:])}
	f.data = f.table + int64(b[16])*int64(little.Uint32(b[36:]))*512
	if f.cluster == 0 || f.root < 2 {
		return nil, errors.New("the boot partition's boot sector is damaged")
	}
	f.clusters = uint32((espTo-f.data)/f.cluster) + 2
	return f, nil
}

// read reads the clusters of a chain, no more than limit bytes.
func (f *bootFiles) read(first uint32, limit int64) ([]byte, error) {
	var out []byte
	for c := first; c < 0x0ffffff8 && int64(len(out)) < limit; {
		if c < 2 || c >= f.clusters {
			return out, fmt.Errorf("a chain leads to %#x", c)
		}
		piece := make([]byte, f.cluster)
		if _, err := f.at.ReadAt(piece, f.data+int64(c-2)*f.cluster); err != nil {
			return out, err
		}
		out = append(out, piece...)
		var next [4]byte
		if _, err := f.at.ReadAt(next[:], f.table+4*int64(c)); err != nil {
			return out, err
		}
		c = little.Uint32(next[:]) & 0x0fffffff
	}
	return out, nil
}

// entry is a file or folder.
type entry struct {
	name  string
	first uint32
	bytes int64
}

const maxFolder = 1 << 20

func (f *bootFiles) list(first uint32) (out []entry, err error) {
	data, err := f.read(first, maxFolder)
	var long []uint16
	for ; len(data) >= 32 && data[0] != 0; data = data[32:] {
		e := data[:32]
		switch {
		case e[0] == 0xe5:
			long = nil
		case e[11] == 0x0f:
			var part []uint16
			for _, i := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
				part = append(part, little.Uint16(e[i:]))
			}
			long = append(part, long...)
		default:
			name := strings.TrimSpace(string(e[:8]))
			if ext := strings.TrimSpace(string(e[8:11])); ext != "" {
				name += "." + ext
			}
			if len(long) > 0 {
				name, _, _ = strings.Cut(string(utf16.Decode(long)), "\x00")
			}
			out = append(out, entry{name, uint32(little.Uint16(e[20:]))<<16 | uint32(little.Uint16(e[26:])), int64(little.Uint32(e[28:]))})
			long = nil
		}
	}
	return out, err
}

// in lists a folder by its names from the root on.
func (f *bootFiles) in(path ...string) ([]entry, error) {
	here, err := f.list(f.root)
	for _, name := range path {
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(here, func(e entry) bool { return strings.EqualFold(e.name, name) })
		if i < 0 {
			return nil, fmt.Errorf("there is no %s", name)
		}
		here, err = f.list(here[i].first)
	}
	return here, err
}

// starts is the release that comes up in the end: the loader takes the newest that has tries left, and one that does not
// load uses them up. It is an error if none would, or one that nobody has published.
func (g *rig) starts(at io.ReaderAt) (string, error) {
	f, err := openBoot(at)
	if err != nil {
		return "", err
	}
	if _, err := f.in("EFI", "systemd"); err != nil {
		return "", fmt.Errorf("the loader's folder: %w", err)
	}
	files, err := f.in("EFI", "Linux")
	if err != nil {
		return "", err
	}
	type candidate struct {
		entry
		version release.Version
		counted bool
	}
	var all []candidate
	for _, e := range files {
		if strings.HasSuffix(e.name, ".EFI") && e.bytes > 0 { // the loader would take it, and knows no version of it by its name
			return "", fmt.Errorf("%s has lost its long name", e.name)
		}
		n, ok := bootcount.Parse(e.name)
		if e.bytes == 0 {
			continue // the loader finds no program in it
		}
		v, err := release.ParseVersion(strings.TrimPrefix(n.Stem, "wherry_"))
		if ok && err == nil && !n.Bad() {
			all = append(all, candidate{e, v, n.Counted})
		}
	}
	slices.SortFunc(all, func(a, b candidate) int { return b.version.Compare(a.version) })
	var trouble error
	for _, c := range all {
		data, err := f.read(c.first, c.bytes)
		if err == nil && int64(len(data)) >= c.bytes && fmt.Sprintf("%x", sha256.Sum256(data[:c.bytes])) == g.published[c.version.String()] {
			return c.version.String(), nil
		}
		trouble = errors.Join(trouble, fmt.Errorf("%s is not whole: %d of %d bytes, %v", c.name, len(data), c.bytes, err))
		if !c.counted {
			return "", fmt.Errorf("the loader would never pass it over: %w", trouble)
		}
	}
	return "", fmt.Errorf("nothing could be started: %w", trouble)
}

// tears is how often a place is torn to be read.
const tears = 6

// readAll reads what a cut leaves of the boot partition at each place where something happens to it.
func (g *rig) readAll(seed uint64, s *scene) {
	g.t.Helper()
	count, came := 0, map[string]int{}
	for n, e := range s.events {
		// A flush is where the choice among what may be lost ends.
		if !isBoot(e) && !(e.Flush && n > 0 && isBoot(s.events[n-1])) {
			continue
		}
		for i := range tears {
			random := rand.New(rand.NewPCG(seed, uint64(n*tears+i)))
			d, torn, err := s.journal.Cut(onDisk, n+1, random)
			if err != nil {
				g.t.Fatal(err)
			}
			version, err := g.starts(d)
			if err == nil && version != s.from && version != s.to {
				err = fmt.Errorf("%s is neither %s nor %s", version, s.from, s.to)
			}
			if err != nil {
				g.t.Errorf("seed %d, event %d, %s (%d sectors): %v", seed, n+1, torn.How, i, err)
			}
			if err := d.Close(); err != nil {
				g.t.Error(err)
			}
			count++
			came[version]++
		}
	}
	g.t.Logf("%s: %d cuts read, and what would come up: %v", s.name, count, came)
}
