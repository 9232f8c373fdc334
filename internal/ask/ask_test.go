package ask

import (
	"testing"

	"github.com/walferry/walferry/internal/state"
)

// Asking for a cutover too early tells how far the migration is, even before anything of that is
// known.
func TestFarness(t *testing.T) {
	var r state.Record
	r.Phase, r.Alive = state.Copying, true
	if got, want := farness(&r), "it begins to copy"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	r.Live.Copy.Tables, r.Live.Copy.TablesDone, r.Live.Copy.Bytes, r.Live.Copy.BytesTotal = 4, 1, 5<<20, 7<<20
	r.Alive = false
	if got, want := farness(&r), "it copies: 1 of 4 tables, 5 of 7 MB, and no migrate is running"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
