// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package differ

import (
	"bytes"

	"wherry.example/wherry/internal/format/delta"
)

// align finds which old bytes become which new ones, as Percival's bsdiff does
// it: from each longest match both ways, as long as at least half of the
// bytes agree.
func align(old, data []byte) []delta.Control {
	m := &matcher{old: old, data: data, sa: suffixes(old)}
	m.run()
	return m.controls
}

type matcher struct {
	old, data []byte
	sa        []int32
	controls  []delta.Control

	lastData, lastOld, lastOffset int // where the run that grows now begins
}

func (m *matcher) run() {
	scan, length, at := 0, 0, 0
	for scan < len(m.data) {
		agreed := 0 // bytes that the last run, if it went on, would have right
		scan += length
		for behind := scan; scan < len(m.data); scan++ {
			at, length = m.longest(scan)
			for ; behind < scan+length; behind++ {
				if m.agrees(behind) {
					agreed++
				}
			}
			if length == agreed && length != 0 || length > agreed+8 {
				break
			}
			if m.agrees(scan) {
				agreed--
			}
		}
		if length != agreed || scan == len(m.data) {
			m.close(scan, at)
		}
	}
}

// agrees tells whether the byte is what the last run, going on, would give.
func (m *matcher) agrees(at int) bool {
	o := at + m.lastOffset
	return o >= 0 && o < len(m.old) && m.old[o] == m.data[at]
}

// longest finds the longest match of what follows in the old bytes.
func (m *matcher) longest(scan int) (at, length int) {
	want := m.data[scan:]
	low, high := 0, len(m.sa)
	for low < high {
		mid := (low + high) / 2
		if bytes.Compare(m.old[m.sa[mid]:], want[:min(len(want), len(m.old)-int(m.sa[mid]))]) < 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	for _, i := range []int{low - 1, low} {
		if i < 0 || i >= len(m.sa) {
			continue
		}
		if n := prefix(m.old[m.sa[i]:], want); n > length {
			at, length = int(m.sa[i]), n
		}
	}
	return at, length
}

func prefix(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// close ends the run before scan and begins the one that has matched there.
func (m *matcher) close(scan, at int) {
	forward := best(min(scan-m.lastData, len(m.old)-m.lastOld), func(i int) bool { return m.old[m.lastOld+i] == m.data[m.lastData+i] })
	backward := 0
	if scan < len(m.data) {
		backward = best(min(scan-m.lastData, at), func(i int) bool { return m.old[at-1-i] == m.data[scan-1-i] })
	}
	if over := m.lastData + forward - (scan - backward); over > 0 {
		forward, backward = m.divide(scan, at, forward, backward, over)
	}
	extra := scan - backward - (m.lastData + forward)
	m.controls = append(m.controls, delta.Control{Copy: int64(forward), Extra: int64(extra), Seek: int64(at - backward - (m.lastOld + forward))})
	m.lastData, m.lastOld, m.lastOffset = scan-backward, at-backward, at-scan
}

// best is the length up to which most agrees: two points for each byte that
// does, less one for each byte.
func best(limit int, agrees func(int) bool) int {
	score, top, length := 0, 0, 0
	for i := range limit {
		if agrees(i) {
			score++
		}
		if 2*score-(i+1) > 2*top-length {
			top, length = score, i+1
		}
	}
	return length
}

// divide shares bytes that both runs reach between them.
func (m *matcher) divide(scan, at, forward, backward, over int) (int, int) {
	score, top, cut := 0, 0, 0
	for i := range over {
		if m.data[m.lastData+forward-over+i] == m.old[m.lastOld+forward-over+i] {
			score++
		}
		if m.data[scan-backward+i] == m.old[at-backward+i] {
			score--
		}
		if score > top {
			top, cut = score, i+1
		}
	}
	return forward + cut - over, backward - cut
}
