// Package tally counts how often something is how large, for whoever looks now and then. Counting takes no lock.
package tally

import (
	"math"
	"slices"
	"sync/atomic"
)

// Histogram counts values by their size. It is for any number of goroutines.
type Histogram struct {
	bounds []float64
	counts []atomic.Int64 // one more than bounds
	sum    atomic.Uint64  // the bits of a float64
}

// New makes a Histogram with the given bounds, which must grow.
func New(bounds ...float64) *Histogram {
	return &Histogram{bounds: bounds, counts: make([]atomic.Int64, len(bounds)+1)}
}

// Observe counts a value.
func (h *Histogram) Observe(x float64) {
	at, _ := slices.BinarySearch(h.bounds, x)
	h.add(at, 1, x)
}

// add counts n values of one size, which have a sum.
func (h *Histogram) add(at int, n int64, sum float64) {
	h.counts[at].Add(n)
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+sum)) {
			return
		}
	}
}

// Batch counts many values at once, most of which are of one size. It is for one goroutine.
type Batch struct {
	h   *Histogram
	at  int
	n   int64
	sum float64
}

// Batch starts one. Nothing is counted before its end.
func (h *Histogram) Batch() Batch { return Batch{h: h} }

// Observe counts a value.
func (b *Batch) Observe(x float64) {
	if bounds := b.h.bounds; b.at < len(bounds) && x > bounds[b.at] || b.at > 0 && x <= bounds[b.at-1] {
		b.End()
		b.at, _ = slices.BinarySearch(bounds, x)
	}
	b.n, b.sum = b.n+1, b.sum+x
}

// End counts what was observed. The Batch can be used again.
func (b *Batch) End() {
	if b.n > 0 {
		b.h.add(b.at, b.n, b.sum)
	}
	b.n, b.sum = 0, 0
}

// Read returns what was counted so far.
func (h *Histogram) Read() Spread {
	s := Spread{Bounds: h.bounds, Counts: make([]int64, len(h.counts)), Sum: math.Float64frombits(h.sum.Load())}
	for i := range h.counts {
		s.Counts[i] = h.counts[i].Load()
	}
	return s
}

// Spread is what a Histogram has counted.
type Spread struct {
	Bounds []float64 `json:"bounds"` // each the largest value that the count at its place has; do not change them
	Counts []int64   `json:"counts"` // one more than Bounds: the last has what is larger than all of them
	Sum    float64   `json:"sum"`    // of all values
}

// Count returns how many values were counted.
func (s Spread) Count() (n int64) {
	for _, c := range s.Counts {
		n += c
	}
	return n
}
