package tally

import (
	"slices"
	"sync"
	"testing"
)

func TestHistogram(t *testing.T) {
	h := New(1, 10)
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			b := h.Batch()
			for _, x := range []float64{0, 1, 1.5, 10, 11} {
				h.Observe(x)
				b.Observe(x)
			}
			b.End()
		})
	}
	group.Wait()
	got := h.Read()
	if want := []int64{400, 400, 200}; !slices.Equal(got.Counts, want) || got.Sum != 4700 || got.Count() != 1000 {
		t.Errorf("got %v, want %v and a sum of 4700", got, want)
	}
}
