// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package fat

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf16"
)

// node is a file or directory.
type node struct {
	name      string
	short     [11]byte
	parent    *node // nil: this is the root
	directory bool
	children  []*node
	data      []byte
	cluster   uint32
	size      int // of a directory: bytes of its entries
}

const (
	entryBytes     = 32
	unitsPerEntry  = 13
	maxName        = 255
	maxDirectory   = 65536 * entryBytes
	maxFile        = 1<<32 - 1
	attrVolume     = 0x08
	attrDirectory  = 0x10
	attrArchive    = 0x20
	attrLongName   = 0x0f
	lastLongEntry  = 0x40
	forbiddenChars = `"*/:<>?\|`
)

// newTree builds directories from paths, in order.
func newTree(files []File) (*node, error) {
	root := &node{directory: true}
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	for _, f := range files {
		if err := root.add(f); err != nil {
			return nil, fmt.Errorf("file %q: %w", f.Path, err)
		}
	}
	return root, root.finish()
}

func (n *node) add(f File) error {
	parts := strings.Split(f.Path, "/")
	for _, name := range parts[:len(parts)-1] {
		child, err := n.child(name)
		if err != nil {
			return err
		}
		if child == nil {
			child = &node{name: name, parent: n, directory: true}
			n.children = append(n.children, child)
		}
		if !child.directory {
			return fmt.Errorf("%q is a file already", name)
		}
		n = child
	}
	name := parts[len(parts)-1]
	if child, err := n.child(name); err != nil || child != nil {
		return cmp.Or(err, fmt.Errorf("%q is there already", name))
	}
	if int64(len(f.Data)) > maxFile {
		return fmt.Errorf("%d bytes are too many", len(f.Data))
	}
	n.children = append(n.children, &node{name: name, parent: n, data: f.Data, size: len(f.Data)})
	return nil
}

// child finds a name as firmware does: without regard to case.
func (n *node) child(name string) (*node, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	for _, c := range n.children {
		if strings.EqualFold(c.name, name) {
			return c, nil
		}
	}
	return nil, nil
}

func checkName(name string) error {
	if name == "" || len(name) > maxName || strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") || name[0] == ' ' {
		return fmt.Errorf("%q is not a name", name)
	}
	for _, c := range []byte(name) {
		if c < 0x20 || c > 0x7e || strings.IndexByte(forbiddenChars, c) >= 0 {
			return fmt.Errorf("%q has characters that FAT does not take", name)
		}
	}
	return nil
}

// finish gives short names and counts the entries.
func (n *node) finish() error {
	if !n.directory {
		return nil
	}
	n.size = 2 * entryBytes // . and .., or the volume's label
	taken := map[[11]byte]bool{}
	for _, c := range n.children {
		if short, ok := exactShort(c.name); ok {
			c.short, taken[short] = short, true
		}
	}
	for i, c := range n.children {
		if c.short == ([11]byte{}) {
			c.short = madeShort(c.name, taken)
			taken[c.short] = true
		}
		n.size += entryBytes * (1 + c.longEntries())
		if n.size > maxDirectory {
			return fmt.Errorf("directory %q has more than %d files", n.name, i)
		}
		if err := c.finish(); err != nil {
			return err
		}
	}
	return nil
}

// exactShort is the name as a short name, where it is one.
func exactShort(name string) (short [11]byte, ok bool) {
	base, extension, dot := strings.Cut(name, ".")
	if base == "" || len(base) > 8 || len(extension) > 3 || dot && extension == "" {
		return short, false
	}
	for _, c := range []byte(base + extension) {
		if !shortChar(c) {
			return short, false
		}
	}
	copy(short[:], fmt.Sprintf("%-8s%-3s", base, extension))
	return short, true
}

func shortChar(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'()-@^_`{}~", c) >= 0
}

// madeShort makes NAME~1.EXT of a longer name.
func madeShort(name string, taken map[[11]byte]bool) (short [11]byte) {
	base, extension := name, ""
	if dot := strings.LastIndexByte(name, '.'); dot > 0 {
		base, extension = name[:dot], name[dot+1:]
	}
	base, extension = shorten(base), shorten(extension)
	for i := 1; ; i++ {
		tail := fmt.Sprintf("~%d", i)
		head := base[:min(len(base), 8-len(tail))]
		copy(short[:], fmt.Sprintf("%-8s%-3s", head+tail, extension[:min(len(extension), 3)]))
		if !taken[short] {
			return short
		}
	}
}

func shorten(part string) string {
	return strings.Map(func(r rune) rune {
		switch c := strings.ToUpper(string(r))[0]; {
		case c == '.' || c == ' ':
			return -1
		case shortChar(c):
			return rune(c)
		}
		return '_'
	}, part)
}

// longEntries is how many entries the long name takes; none when the short one says it all.
func (n *node) longEntries() int {
	if short, ok := exactShort(n.name); ok && short == n.short {
		return 0
	}
	return (len(n.name) + unitsPerEntry - 1) / unitsPerEntry
}

// place allocates clusters: a directory before what is in it.
func (v *volume) place(n *node) (err error) {
	if n.cluster, err = v.allocate(n.size); err != nil {
		return err
	}
	for _, c := range n.children {
		if err := v.place(c); err != nil {
			return err
		}
	}
	return nil
}

// offsets notes where the files below a directory lie.
func (v *volume) offsets(n *node, dir string, into map[string]int64) {
	for _, c := range n.children {
		switch name := dir + c.name; {
		case c.directory:
			v.offsets(c, name+"/", into)
		case c.size > 0:
			into[name] = v.offset(c.cluster)
		}
	}
}

func (v *volume) writeTree(n *node) error {
	data := n.data
	if n.directory {
		data = v.entries(n)
	}
	if len(data) > 0 {
		if _, err := v.w.WriteAt(data, v.offset(n.cluster)); err != nil {
			return err
		}
	}
	for _, c := range n.children {
		if err := v.writeTree(c); err != nil {
			return err
		}
	}
	return nil
}

// entries is the contents of a directory.
func (v *volume) entries(n *node) []byte {
	out := make([]byte, 0, n.size)
	if n.parent == nil {
		out = append(out, v.entry([11]byte([]byte(padded(v.Label))), attrVolume, 0, 0)...)
	} else {
		up := n.parent.cluster
		if n.parent.parent == nil {
			up = 0 // the root is called so, wherever it lies
		}
		out = append(out, v.entry([11]byte([]byte(padded("."))), attrDirectory, n.cluster, 0)...)
		out = append(out, v.entry([11]byte([]byte(padded(".."))), attrDirectory, up, 0)...)
	}
	for _, c := range n.children {
		out = append(out, c.longName()...)
		if c.directory {
			out = append(out, v.entry(c.short, attrDirectory, c.cluster, 0)...)
		} else {
			out = append(out, v.entry(c.short, attrArchive, c.cluster, c.size)...)
		}
	}
	return out
}

func (v *volume) entry(short [11]byte, attributes byte, cluster uint32, size int) []byte {
	e := make([]byte, entryBytes)
	date, clock := dosTime(v.Time)
	copy(e, short[:])
	e[11] = attributes
	for _, at := range []int{14, 22} { // created, written
		little.PutUint16(e[at:], clock)
		little.PutUint16(e[at+2:], date)
	}
	little.PutUint16(e[18:], date) // read
	little.PutUint16(e[20:], uint16(cluster>>16))
	little.PutUint16(e[26:], uint16(cluster))
	little.PutUint32(e[28:], uint32(size))
	return e
}

func dosTime(t time.Time) (date, clock uint16) {
	t = t.UTC()
	return uint16(t.Year()-1980)<<9 | uint16(t.Month())<<5 | uint16(t.Day()),
		uint16(t.Hour())<<11 | uint16(t.Minute())<<5 | uint16(t.Second()/2)
}

// longName is the entries of the long name, its end first.
func (n *node) longName() []byte {
	count := n.longEntries()
	units := utf16.Encode([]rune(n.name))
	if len(units) < count*unitsPerEntry {
		units = append(units, 0)
	}
	for len(units) < count*unitsPerEntry {
		units = append(units, 0xffff)
	}
	var sum byte
	for _, c := range n.short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	var out []byte
	for i := count; i > 0; i-- {
		e := make([]byte, entryBytes)
		e[0] = byte(i)
		if i == count {
			e[0] |= lastLongEntry
		}
		e[11], e[13] = attrLongName, sum
		for k, unit := range units[(i-1)*unitsPerEntry : i*unitsPerEntry] {
			little.PutUint16(e[longUnitAt(k):], unit)
		}
		out = append(out, e...)
	}
	return out
}

// longUnitAt is where the k-th character of a long-name entry lies.
func longUnitAt(k int) int {
	switch {
	case k < 5:
		return 1 + 2*k
	case k < 11:
		return 14 + 2*(k-5)
	}
	return 28 + 2*(k-11)
}
