package state

import (
	"slices"
	"time"
)

// Entered is a phase that a run has entered, and when, by the runner's clock.
type Entered struct {
	Phase Phase     `json:"phase"`
	At    time.Time `json:"entered_at"`
}

// mostEntered is how many phases are kept: a cutover that is undone again and again enters two each time.
const mostEntered = 40

// Enter returns the phases with one more, which is left out if it is that of the last.
func Enter(phases []Entered, phase Phase, at time.Time) []Entered {
	if n := len(phases); n > 0 && phases[n-1].Phase == phase {
		return phases
	}
	phases = append(slices.Clone(phases), Entered{phase, at.UTC().Truncate(time.Millisecond)}) // others may be reading
	if over := len(phases) - mostEntered; over > 0 {
		phases = slices.Delete(phases, 1, 1+over) // the first says since when it runs
	}
	return phases
}

// Ran is a switch, or its rehearsal, that has ended.
type Ran struct {
	Kind     string    `json:"kind"` // cutover or fallback
	DryRun   bool      `json:"dry_run"`
	At       time.Time `json:"at"`        // when it ended, by the runner's clock
	PauseMS  *int64    `json:"pause_ms"`  // for which writes were refused; nil: they were not
	ExpectMS *int64    `json:"expect_ms"` // by a rehearsal: what the pause of the switch will be; nil: it says nothing
	Error    string    `json:"error"`     // why it was not done; empty: it was
	Steps    []RanStep `json:"steps"`
}

// RanStep is a step of it.
type RanStep struct {
	Name    string  `json:"name"`
	Outcome Outcome `json:"outcome"`
	MS      int64   `json:"ms"`
	Refused bool    `json:"refused"` // writes were refused meanwhile
}

// mostRan is how many of them are kept.
const mostRan = 6

// KeepRan returns them with one more: the last ones.
func KeepRan(ran []Ran, r Ran) []Ran {
	ran = append(slices.Clone(ran), r)
	return ran[max(0, len(ran)-mostRan):]
}

// TableNow is a table that a running migrate works on.
type TableNow struct {
	Schema string     `json:"schema"`
	Name   string     `json:"name"`
	State  TableState `json:"state"` // copying or indexing
	Rows   int64      `json:"rows,omitempty"`
	Bytes  int64      `json:"bytes,omitempty"` // of its size on the source, as far as it is copied
}

// TableState is how far a table is.
type TableState string

// The states.
const (
	TableWaiting  TableState = "waiting"
	TableCopying  TableState = "copying"
	TableIndexing TableState = "indexing" // its rows are there; its indexes are being built, or wait for that
	TableDone     TableState = "done"
)
