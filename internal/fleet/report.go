package fleet

import (
	"time"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/state"
)

// Moved is what a fleet has moved.
type Moved struct {
	Databases []MovedOne `json:"databases"`
	Finished  int        `json:"finished"`
	Rows      int64      `json:"rows"`  // copied, of all
	Bytes     int64      `json:"bytes"` // of them
}

// MovedOne is what was moved of one database, and how long it took.
type MovedOne struct {
	Name         string      `json:"name"` // of the migration
	Source       string      `json:"source_database"`
	Target       string      `json:"target_database"`
	Wave         int         `json:"wave"`
	Phase        state.Phase `json:"phase"` // empty: it has not begun
	BeganAt      *time.Time  `json:"began_at"`
	CopySeconds  *float64    `json:"copy_seconds"` // from the first phase to following; nil: not there yet
	SwitchedAt   *time.Time  `json:"switched_at"`
	Rows         int64       `json:"rows"` // copied
	Bytes        int64       `json:"bytes"`
	Transactions int64       `json:"transactions"` // followed
	PauseMS      *int64      `json:"pause_ms"`     // for which writes were refused; nil: it was not switched
	Equal        *bool       `json:"equal"`        // both sides, by the last comparison; nil: nobody has compared
	Error        string      `json:"error"`
}

// Moved returns what was moved.
func (st *Status) Moved() *Moved {
	m := &Moved{Databases: []MovedOne{}}
	for _, d := range st.Databases {
		one := MovedOne{
			Name: d.Name, Source: d.Source, Target: d.Target, Wave: d.Wave, Phase: d.Phase, Rows: d.Copy.Rows, Bytes: d.Copy.Bytes,
			Transactions: d.Transactions, PauseMS: d.PauseMS, Equal: d.Equal, Error: d.Error,
		}
		for _, e := range d.Phases {
			switch {
			case one.BeganAt == nil:
				one.BeganAt = &e.At
			case e.Phase == migration.Following && one.CopySeconds == nil:
				seconds := e.At.Sub(*one.BeganAt).Seconds()
				one.CopySeconds = &seconds
			case done(e.Phase):
				one.SwitchedAt = &e.At
			}
		}
		if !done(d.Phase) {
			one.SwitchedAt = nil // it went back
		}
		if d.Phase == migration.Finished {
			m.Finished++
		}
		m.Rows, m.Bytes = m.Rows+one.Rows, m.Bytes+one.Bytes
		m.Databases = append(m.Databases, one)
	}
	return m
}
