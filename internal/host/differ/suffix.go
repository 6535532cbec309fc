// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package differ

// suffixes returns the places in text in the order of the suffixes that begin
// there, by induced sorting (SA-IS, Nong, Zhang and Chan 2009): linear in time, and some 9 bytes
// of memory for each byte of text.
func suffixes(text []byte) []int32 {
	return induce(text, 256)
}

type symbol interface{ ~uint8 | ~int32 }

// sorter is one level of the recursion. Symbols are below size. A suffix is
// small if it sorts before the one that follows it.
type sorter[S symbol] struct {
	text  []S
	size  int
	small []uint64 // bits
	sa    []int32
	ends  []int32 // scratch: where each symbol's bucket begins or ends
	count []int32
}

func induce[S symbol](text []S, size int) []int32 {
	n := len(text)
	s := &sorter[S]{text: text, size: size, small: make([]uint64, n/64+1), sa: make([]int32, n), ends: make([]int32, size), count: make([]int32, size)}
	if n == 0 {
		return s.sa
	}
	for i := n - 2; i >= 0; i-- {
		if text[i] < text[i+1] || text[i] == text[i+1] && s.isSmall(i+1) {
			s.small[i/64] |= 1 << (i % 64)
		}
	}
	for _, c := range text {
		s.count[c]++
	}
	var places []int32 // of the leftmost small suffixes
	for i := 1; i < n; i++ {
		if s.leftmost(i) {
			places = append(places, int32(i))
		}
	}
	s.spread(places)
	if len(places) > 1 {
		s.spread(s.order(places))
	}
	return s.sa
}

func (s *sorter[S]) isSmall(i int) bool { return s.small[i/64]>>(i%64)&1 == 1 }

func (s *sorter[S]) leftmost(i int) bool { return i > 0 && s.isSmall(i) && !s.isSmall(i-1) }

func (s *sorter[S]) bucketEnds() {
	var sum int32
	for c, n := range s.count {
		sum += n
		s.ends[c] = sum
	}
}

func (s *sorter[S]) bucketStarts() {
	var sum int32
	for c, n := range s.count {
		s.ends[c] = sum
		sum += n
	}
}

// spread sorts all suffixes from the leftmost small ones, in the order given.
func (s *sorter[S]) spread(leftmost []int32) {
	n := len(s.text)
	for i := range s.sa {
		s.sa[i] = -1
	}
	s.bucketEnds()
	for k := len(leftmost) - 1; k >= 0; k-- {
		c := s.text[leftmost[k]]
		s.ends[c]--
		s.sa[s.ends[c]] = leftmost[k]
	}
	s.bucketStarts()
	put := func(j int32) {
		c := s.text[j]
		s.sa[s.ends[c]] = j
		s.ends[c]++
	}
	put(int32(n - 1)) // the last suffix is large: nothing follows it
	for i := range n {
		if j := s.sa[i] - 1; j >= 0 && !s.isSmall(int(j)) {
			put(j)
		}
	}
	s.bucketEnds()
	for i := n - 1; i >= 0; i-- {
		if j := s.sa[i] - 1; j >= 0 && s.isSmall(int(j)) {
			c := s.text[j]
			s.ends[c]--
			s.sa[s.ends[c]] = j
		}
	}
}

// order sorts the leftmost small suffixes: those that begin with equal pieces by a
// sort of the text of these pieces.
func (s *sorter[S]) order(places []int32) []int32 {
	names := make([]int32, len(s.text)/2+1) // leftmost ones are never neighbours
	name, last := int32(-1), int32(-1)
	for _, j := range s.sa {
		if !s.leftmost(int(j)) {
			continue
		}
		if last < 0 || !s.samePiece(int(last), int(j)) {
			name++
		}
		names[j/2], last = name, j
	}
	short := make([]int32, len(places))
	for k, j := range places {
		short[k] = names[j/2]
	}
	sorted := make([]int32, len(places))
	for k, at := range induce(short, int(name)+1) {
		sorted[k] = places[at]
	}
	return sorted
}

// samePiece compares the pieces from two leftmost places to the next ones.
func (s *sorter[S]) samePiece(a, b int) bool {
	for k := 0; ; k++ {
		if a+k >= len(s.text) || b+k >= len(s.text) || s.text[a+k] != s.text[b+k] {
			return false
		}
		if k > 0 {
			if x, y := s.leftmost(a+k), s.leftmost(b+k); x || y {
				return x && y
			}
		}
	}
}
