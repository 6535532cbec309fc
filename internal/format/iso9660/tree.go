// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package iso9660

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// node is a file or directory.
type node struct {
	name     string // as Rock Ridge has it
	id       string // as ECMA-119 has it
	parent   *node  // the root's is the root
	children []*node
	isDir    bool
	block    uint32
	bytes    uint32
	number   uint16 // of a directory in the path table
}

const (
	maxName    = 128 // so that a record with all it says of a file fits into 255 bytes
	maxLevels  = 8
	maxEntries = 1000
	recordHead = 33
	px         = 36 // length of Rock Ridge's mode and owner
)

func newTree(files []File) (*node, error) {
	root := &node{id: "\x00", isDir: true}
	root.parent = root
	if len(files) > maxEntries {
		return nil, fmt.Errorf("%d files: at most %d", len(files), maxEntries)
	}
	for _, f := range files {
		if err := root.add(f); err != nil {
			return nil, fmt.Errorf("file %q: %w", f.Path, err)
		}
	}
	return root, root.finish()
}

func (n *node) add(f File) error {
	parts := strings.Split(f.Path, "/")
	if len(parts) > maxLevels {
		return fmt.Errorf("more than %d levels of directories", maxLevels)
	}
	for i, name := range parts {
		if err := checkName(name); err != nil {
			return err
		}
		last := i == len(parts)-1
		k := slices.IndexFunc(n.children, func(c *node) bool { return c.name == name })
		switch {
		case k >= 0 && (last || !n.children[k].isDir):
			return fmt.Errorf("%q is there already", name)
		case k < 0:
			k = len(n.children)
			n.children = append(n.children, &node{name: name, id: identifier(name, !last), parent: n, isDir: !last})
		}
		n = n.children[k]
	}
	n.block, n.bytes = f.Block, f.Bytes
	return nil
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxName {
		return fmt.Errorf("%.200q is not a name", name)
	}
	for _, c := range []byte(name) {
		if c <= 0x20 || c > 0x7e || c == '/' {
			return fmt.Errorf("%q has characters that are not taken", name)
		}
	}
	return nil
}

// identifier is the name in the characters of level 2: 31 of them with the version.
func identifier(name string, dir bool) string {
	plain := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
				return r
			}
			return '_'
		}, strings.ToUpper(s))
	}
	if dir {
		s := plain(name)
		return s[:min(len(s), 31)]
	}
	base, extension := name, ""
	if dot := strings.LastIndexByte(name, '.'); dot >= 0 {
		base, extension = name[:dot], name[dot+1:]
	}
	base, extension = plain(base), plain(extension)
	extension = extension[:min(len(extension), 8)]
	return base[:min(len(base), 20)] + "." + extension + ";1"
}

// finish orders the directories and measures them.
func (n *node) finish() error {
	// "A" comes before "A.B" and that before "AB", as the characters of names do.
	slices.SortFunc(n.children, func(a, b *node) int { return cmp.Compare(a.id, b.id) })
	for i, c := range n.children {
		if i > 0 && c.id == n.children[i-1].id {
			return fmt.Errorf("%q and %q are both %s to old readers", n.children[i-1].name, c.name, c.id)
		}
	}
	if !n.isDir {
		return nil
	}
	size := 0
	for _, length := range n.recordLengths() {
		if size%BlockBytes+length > BlockBytes {
			size += BlockBytes - size%BlockBytes
		}
		size += length
	}
	n.bytes = blocks(uint32(size)) * BlockBytes
	for _, c := range n.children {
		if err := c.finish(); err != nil {
			return err
		}
	}
	return nil
}

// byLevel returns the directories in the order of the path table: by level, then
// by their parent's number, then by name.
func (n *node) byLevel() []*node {
	out := []*node{n}
	for i := 0; i < len(out); i++ {
		out[i].number = uint16(i + 1)
		for _, c := range out[i].children {
			if c.isDir {
				out = append(out, c)
			}
		}
	}
	return out
}

func pathTableBytes(dirs []*node) uint32 { return uint32(len(pathTable(dirs, little))) }

func pathTable(dirs []*node, order binary.AppendByteOrder) []byte {
	var out []byte
	for _, d := range dirs {
		out = append(out, byte(len(d.id)), 0)
		out = order.AppendUint32(out, d.block)
		out = order.AppendUint16(out, d.parent.number)
		out = append(out, d.id...)
		if len(d.id)%2 == 1 {
			out = append(out, 0)
		}
	}
	return out
}

// directory writes the records of a directory into its blocks.
func (v Volume) directory(b []byte, d *node, continued uint32) {
	at := 0
	add := func(record []byte) {
		if at%BlockBytes+len(record) > BlockBytes {
			at += BlockBytes - at%BlockBytes
		}
		at += copy(b[at:], record)
	}
	extra := d.mode()
	if d.parent == d {
		extra = rootExtra(extra, continued)
	}
	add(v.record("\x00", d.block, d.bytes, true, extra))
	add(v.record("\x01", d.parent.block, d.parent.bytes, true, d.parent.mode()))
	for _, c := range d.children {
		add(v.record(c.id, c.block, c.bytes, c.isDir, append(c.mode(), c.alternate()...)))
	}
}

// recordLengths are the lengths of what directory writes.
func (n *node) recordLengths() []int {
	var v Volume
	extra := n.mode()
	if n.parent == n {
		extra = rootExtra(extra, 0)
	}
	out := []int{len(v.record("\x00", 0, 0, true, extra)), len(v.record("\x01", 0, 0, true, n.mode()))}
	for _, c := range n.children {
		out = append(out, len(v.record(c.id, 0, 0, c.isDir, append(c.mode(), c.alternate()...))))
	}
	return out
}

// record is an entry of a directory. What is extra is Rock Ridge's.
func (v Volume) record(id string, block, bytes uint32, isDir bool, extra []byte) []byte {
	head := recordHead + len(id)
	head += head % 2
	n := head + len(extra)
	n += n % 2
	b := make([]byte, n)
	b[0] = byte(n)
	both32(b[2:], block)
	both32(b[10:], bytes)
	t := v.Time.UTC()
	copy(b[18:], []byte{byte(t.Year() - 1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0})
	if isDir {
		b[25] = 2
	}
	both16(b[28:], 1)
	b[32] = byte(len(id))
	copy(b[33:], id)
	copy(b[head:], extra)
	return b
}

// mode says that everybody may read and nobody may write.
func (n *node) mode() []byte {
	mode, links := uint32(0o100444), uint32(1)
	if n.isDir {
		mode, links = 0o040555, 2
		for _, c := range n.children {
			if c.isDir {
				links++
			}
		}
	}
	b := make([]byte, px)
	copy(b, []byte{'P', 'X', px, 1})
	both32(b[4:], mode)
	both32(b[12:], links)
	return b
}

// alternate is the name as it is.
func (n *node) alternate() []byte {
	return append([]byte{'N', 'M', byte(5 + len(n.name)), 1, 0}, n.name...)
}

// rootExtra adds to the root's own entry that Rock Ridge is spoken here, and
// where the rest of that is written.
func rootExtra(mode []byte, continued uint32) []byte {
	out := append([]byte{'S', 'P', 7, 1, 0xbe, 0xef, 0}, mode...)
	ce := make([]byte, 28)
	copy(ce, []byte{'C', 'E', 28, 1})
	both32(ce[4:], continued)
	both32(ce[20:], uint32(len(rockRidge())))
	return append(out, ce...)
}

// rockRidge is the extension's name for itself, as readers compare it.
func rockRidge() []byte {
	const id = "RRIP_1991A"
	return append([]byte{'E', 'R', byte(8 + len(id)), 1, byte(len(id)), 0, 0, 1}, id...)
}
