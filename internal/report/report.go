// Package report is what became of a migration, on a page that can be kept when everything else of it is removed.
package report

import (
	"context"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/compare"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
	"github.com/walferry/walferry/internal/verify"
)

// Report is what is recorded of a migration.
type Report struct {
	Name   string      `json:"name"`
	Phase  state.Phase `json:"phase"`
	Owner  *string     `json:"owner"` // old or new: the server where applications belong; mixed; nil: a one-time copy was made
	Source Server      `json:"source"`
	Target Server      `json:"target"`

	Tables []Table `json:"tables"` // the largest first
	Rows   int64   `json:"rows"`   // that were copied
	Bytes  int64   `json:"bytes"`  // of the tables on the source when the copy began

	Transactions int64 `json:"transactions"` // that were applied
	Changes      int64 `json:"changes"`

	Phases   []state.Entered `json:"phases"`
	Switches []state.Ran     `json:"switches"` // the last cutovers, fallbacks and rehearsals, with their steps

	// Compared is when and where both sides were compared last; nil: nobody has compared.
	Compared *Compared `json:"compared"`
}

// Server is one of the two.
type Server struct {
	Version  string `json:"version"` // empty: it does not answer
	Database string `json:"database"`
}

// Table is what is recorded of one.
type Table struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	Rows   int64  `json:"rows"`  // that were copied
	Bytes  int64  `json:"bytes"` // on the source when the copy began
	Pieces int    `json:"pieces"`

	CopyMS    *int64 `json:"copy_ms"`    // from its first piece's beginning to its last one's end; nil: not known
	IndexMS   *int64 `json:"index_ms"`   // that its indexes took, all sessions together; nil: not known
	AnalyzeMS *int64 `json:"analyze_ms"` // that its statistics took; nil: not known

	Verified *string `json:"verified"` // equal, different, or not compared; nil: nobody has compared it
}

// Compared is a comparison of both sides.
type Compared struct {
	At          *time.Time `json:"at"`            // nil: as the target was opened
	Position    string     `json:"position"`      // of the source, as an LSN; empty: not at one position
	AsOfCutover bool       `json:"as_of_cutover"` // made of both sides as the target opened
	Tables      int        `json:"tables"`
	Differ      int        `json:"differ"`
}

// Read reads it from the target, with what a status has of both servers.
func Read(ctx context.Context, target session.Config, st status.Status) (r Report, err error) {
	r = Report{
		Name: st.Name, Phase: st.Phase, Owner: st.Owner,
		Source: Server{st.Source.Version, st.Source.Database}, Target: Server{st.Target.Version, st.Target.Database},
		Transactions: st.Stream.Transactions, Changes: st.Stream.Changes, Phases: st.Phases, Switches: st.Switches, Tables: []Table{},
	}
	tables, err := status.Tables(ctx, target, st.Name)
	if err != nil {
		return r, err
	}
	link, err := session.OpenLink(ctx, target, nil)
	if err != nil {
		return r, err
	}
	defer link.Close()
	proof, err := compare.Proof(ctx, state.At(link, st.Name))
	if err != nil {
		return r, err
	}
	verdict := verdicts(proof, st.LastComparison, len(tables))
	for _, t := range tables {
		r.Tables = append(r.Tables, Table{
			Schema: t.Schema, Name: t.Name, Rows: t.Rows, Bytes: t.BytesTotal, Pieces: t.Pieces,
			CopyMS: t.CopyMS, IndexMS: t.IndexMS, AnalyzeMS: t.AnalyzeMS, Verified: verdict(t.Key().String()),
		})
		r.Rows, r.Bytes = r.Rows+t.Rows, r.Bytes+t.BytesTotal
	}
	r.Compared = compared(proof, st.LastComparison)
	return r, nil
}

// What a comparison says of a table.
var equal, different, notCompared = "equal", "different", "not compared"

// verdicts returns what is known of a table by its name.
func verdicts(proof *verify.Verified, last *status.LastComparison, tables int) func(name string) *string {
	known := map[string]*string{}
	if proof != nil {
		for _, t := range proof.Tables {
			says := &different
			switch {
			case t.Equal:
				says = &equal
			case t.Error != "" || t.Gone != "":
				says = &notCompared
			}
			known[catalog.Name{Schema: t.Schema, Name: t.Name}.String()] = says
		}
		return func(name string) *string { return known[name] }
	}
	if last == nil {
		return func(string) *string { return nil }
	}
	for _, name := range last.Differ {
		known[name] = &different
	}
	return func(name string) *string {
		if says := known[name]; says != nil || last.Compared < tables { // which tables it has compared is not recorded
			return says
		}
		return &equal
	}
}

func compared(proof *verify.Verified, last *status.LastComparison) *Compared {
	switch {
	case proof != nil:
		c := &Compared{Position: proof.Position, AsOfCutover: proof.AsOfCutover, Tables: proof.Compared}
		for _, t := range proof.Tables {
			if !t.Equal && t.Error == "" && t.Gone == "" {
				c.Differ++
			}
		}
		return c
	case last != nil:
		return &Compared{At: &last.At, Position: last.Position, Tables: last.Compared, Differ: len(last.Differ)}
	}
	return nil
}
