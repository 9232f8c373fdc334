package cutover

import (
	"errors"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/state"
)

// A run takes down the fence that an earlier one has left. One that stood still while another took the migration over, and raised its own,
// leaves that alone, wherever it wakes up.
func TestStanding_TakeDownLeft(t *testing.T) {
	m := newMove(t)
	conn := connect(t, m.From.DSN)
	fence, _, err := NewFence(t.Context(), conn, "x", m.Tables())
	if err != nil {
		t.Fatal(err)
	}
	raise := func(run string) {
		t.Helper()
		fence.Run = run
		err := fence.Prepare(t.Context(), conn)
		if err == nil {
			_, _, err = fence.Raise(t.Context(), conn, time.Hour)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	stands := Standing{Name: "x", DSN: m.From.DSN, Store: m.Store}
	const write = `insert into t (a) values ('x')`
	for _, run := range []string{"dead", m.Store.Run(), ""} { // the last is of an older version
		raise(run)
		if err := stands.TakeDownLeft(t.Context(), func() {}, func(string) {}); err != nil {
			t.Fatalf("of run %q: %v", run, err)
		}
		if refused(t, m.app, write) {
			t.Errorf("the fence of run %q is still up", run)
		}
	}

	for _, left := range []string{"", "dead"} { // what the run has seen before it stood still: none, or one that is up
		if left != "" {
			raise(left)
		}
		seen, err := Look(t.Context(), conn, "x")
		if err != nil {
			t.Fatal(err)
		}
		if err := Open(t.Context(), conn, "x", ""); err != nil {
			t.Fatal(err)
		}
		raise("another")
		if err := openSeen(t.Context(), conn, "x", seen); left != "" && !errors.Is(err, ErrOtherRun) {
			t.Errorf("after it has looked: %v, want %v", err, ErrOtherRun)
		}
		if !refused(t, m.app, write) {
			t.Error("it has opened another run's fence")
		}
		if err := Open(t.Context(), conn, "x", ""); err != nil {
			t.Fatal(err)
		}
	}
	raise("another")
	if err := state.At(m.To.Link, "x").Take(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := stands.TakeDownLeft(t.Context(), func() {}, func(string) {}); !errors.Is(err, state.ErrOvertaken) {
		t.Errorf("an overtaken run: %v, want %v", err, state.ErrOvertaken)
	}
	if !refused(t, m.app, write) {
		t.Error("an overtaken run has opened another's fence")
	}
}
