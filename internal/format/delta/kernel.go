// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package delta

// Linux has tables in which an entry says where something is, from the entry itself on, and
// one of all symbols, and one with the order of their names.

// first is where, from an offset of the old object on, the first entry of the rule's table begins.
func (r Rule) first(old int64) int64 {
	if late := (old - r.Offset) % r.Stride; late != 0 {
		return r.Stride - late
	}
	return 0
}

// correctRelative corrects distances from the place where they are.
func (p *Predictor) correctRelative(b []byte, old, to int64, r Rule) {
	for i := r.first(old); i+4 <= int64(len(b)); i += r.Stride {
		here, ok1 := addressOf(p.Old, old+i)
		there, ok2 := addressOf(p.New, to+i)
		if !ok1 || !ok2 {
			continue
		}
		if a, ok := p.moved(here + int64(int32(little.Uint32(b[i:])))); ok {
			little.PutUint32(b[i:], uint32(a-there))
		}
	}
}

func (p *Predictor) correctHalves(b []byte, old int64, r Rule) {
	for i := r.first(old); i+4 <= int64(len(b)); i += r.Stride {
		p.correctHalf(b[i:])
	}
}

// correctMissing corrects Linux's table of symbols: a negative entry is one less than the base
// less the symbol's address, others are no addresses.
func (p *Predictor) correctMissing(b []byte, old int64, r Rule) {
	r.Stride = 4
	for i := r.first(old); i+4 <= int64(len(b)); i += r.Stride {
		v := int64(int32(little.Uint32(b[i:])))
		if a, ok := p.moved(r.OldBases[0] - 1 - v); ok && v < 0 {
			little.PutUint32(b[i:], uint32(r.NewBases[0]-1-a))
		}
	}
}

// correctHalf corrects the lower half of an address, if it is one within the object.
func (p *Predictor) correctHalf(b []byte) bool {
	v := int64(int32(little.Uint32(b)))
	if v >= 0 {
		return false
	}
	a, ok := p.moved(v)
	if ok {
		little.PutUint32(b, uint32(a))
	}
	return ok
}

// correctRanks corrects numbers of entries of another table, which moved when there came to be
// more or fewer before them.
func (p *Predictor) correctRanks(b []byte, old int64, r Rule) {
	const bytes, entry = 3, 4
	r.Stride = bytes
	for i := r.first(old); i+bytes <= int64(len(b)); i += bytes {
		v := int64(b[i])<<16 | int64(b[i+1])<<8 | int64(b[i+2])
		a, ok := p.moved(r.OldBases[0] + entry*v)
		if v = (a - r.NewBases[0]) / entry; ok && v >= 0 {
			b[i], b[i+1], b[i+2] = byte(v>>16), byte(v>>8), byte(v)
		}
	}
}
