package web

import (
	"fmt"
	"time"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
)

// hostile is a name that would be more than a text, were it one.
const hostile = `<img src=x onerror=alert(1)>"'&amp;`

// began is when the migrations of these tests began.
var began = time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC)

func after(d time.Duration) time.Time { return began.Add(d) }

// some is a migration that has begun.
func some(phase state.Phase, entered ...state.Entered) status.Status {
	active, retained, limit := true, int64(3<<30), int64(100<<30)
	st := status.Status{
		Name: "shop", Phase: phase, Running: true, Runner: "bastion, pid 4711", Owner: new("old"), Phases: entered, Options: "--max-retained-wal 100GB",
		Source: status.SourceStatus{
			Version: "13.23", Database: "shop", SlotStatus: status.SlotStatus{Slot: "walferry_shop", SlotActive: &active, WALStatus: "extended", RetainedBytes: &retained},
			RetainedLimit: &limit,
		},
		Target: status.TargetStatus{Version: "18.4", Database: "shop"}, Switches: []state.Ran{}, Refused: []schema.Refused{},
	}
	st.WayBack.Mode, st.WayBack.State = "auto", state.BackOff
	return st
}

func copying() (status.Status, []status.Table) {
	st := some(state.Copying, state.Entered{Phase: state.New, At: began}, state.Entered{Phase: state.Prepared, At: after(2 * time.Second)}, state.Entered{Phase: state.Copying, At: after(5 * time.Second)})
	left := 5400.0
	st.Copy = state.CopyStatus{Tables: 5, TablesDone: 1, Rows: 123456789, Bytes: 30 << 30, BytesTotal: 120 << 30, ETASeconds: &left}
	st.Indexes = state.IndexStatus{Tables: 5, TablesDone: 1}
	full := 7200.0
	st.Source.RetainedLeft = &full
	return st, []status.Table{
		{Schema: "public", Name: "events", State: state.TableCopying, Rows: 9_000_000, Bytes: 20 << 30, BytesTotal: 80 << 30},
		{Schema: "public", Name: hostile, State: state.TableCopying, Rows: 10, Bytes: 1 << 20, BytesTotal: 2 << 20},
		{Schema: "public", Name: "items", State: state.TableIndexing, Rows: 5_000_000, Bytes: 9 << 30, BytesTotal: 9 << 30},
		{Schema: "public", Name: "orders", State: state.TableWaiting, BytesTotal: 30 << 30},
		{Schema: "public", Name: "kinds", State: state.TableDone, Rows: 12, Bytes: 8192, BytesTotal: 8192},
	}
}

func followed() status.Status {
	st := some(state.Following, state.Entered{Phase: state.New, At: began}, state.Entered{Phase: state.Copying, At: after(5 * time.Second)},
		state.Entered{Phase: state.Indexing, At: after(time.Hour)}, state.Entered{Phase: state.Following, At: after(80 * time.Minute)})
	lag, bytes := 0.21, int64(48213)
	st.Copy = state.CopyStatus{Tables: 5, TablesDone: 5, Rows: 1234567, Bytes: 120 << 30, BytesTotal: 120 << 30}
	st.Indexes = state.IndexStatus{Tables: 5, TablesDone: 5}
	st.Stream = status.StreamStatus{AppliedLSN: "1/2", SourceLSN: "1/3", LagBytes: &bytes, LagSeconds: &lag, Transactions: 7654321, Changes: 23456789}
	st.LastComparison = &status.LastComparison{At: after(2 * time.Hour), Compared: 5, Differ: []string{}}
	return st
}

// ran is a rehearsal, or a cutover.
func ran(dry bool, at time.Time, fence, drain, sequences, open int64, failed string) state.Ran {
	pause, expect := fence+drain+sequences+open, fence+drain+120
	r := state.Ran{Kind: "cutover", DryRun: dry, At: at, PauseMS: &pause, Error: failed, Steps: []state.RanStep{
		{Name: cutover.GateActions, Outcome: state.Done, MS: 20},
		{Name: "fence", Outcome: state.Done, MS: fence, Refused: true},
		{Name: "drain", Outcome: state.Done, MS: drain, Refused: true},
	}}
	if dry {
		r.ExpectMS = &expect
		return r
	}
	r.Steps = append(r.Steps, state.RanStep{Name: "sequences", MS: sequences, Refused: true, Outcome: state.Done}, state.RanStep{Name: "open", MS: open, Refused: true, Outcome: state.Done})
	return r
}

func rehearsed() (status.Status, []status.Table) {
	st := followed()
	st.Switches = []state.Ran{
		ran(true, after(2*time.Hour), 41, 33, 0, 0, ""), ran(true, after(3*time.Hour), 12, 1001, 0, 0, "waiting for pid 4711 (billing), in transaction for 70 s: un-fenced, everything is as before"),
	}
	return st, []status.Table{}
}

func switched() (status.Status, []status.Table) {
	st := followed()
	st.Phases = append(st.Phases, state.Entered{Phase: state.Fenced, At: after(4 * time.Hour)}, state.Entered{Phase: state.Drained, At: after(4*time.Hour + time.Second)},
		state.Entered{Phase: state.Switched, At: after(4*time.Hour + 2*time.Second)})
	st.Switches = []state.Ran{ran(true, after(2*time.Hour), 41, 33, 0, 0, ""), ran(false, after(4*time.Hour), 38, 30, 25, 51, "")}
	since, commit, lag, bytes, retained, unfenced := after(4*time.Hour), after(5*time.Hour), 0.4, int64(1234), int64(5<<20), ""
	st.Phase, st.Owner = state.Switched, new("new")
	st.WayBack = status.WayBack{
		Mode: "auto", State: state.BackFollowing, Since: &since, AppliedCommit: &commit, Unfenced: &unfenced,
		SlotStatus: status.SlotStatus{Slot: "walferry_shop_back", RetainedBytes: &retained},
		Stream:     status.StreamStatus{LagSeconds: &lag, LagBytes: &bytes, Transactions: 42, Changes: 99},
	}
	st.Source.Fence = &status.FenceStatus{Tables: 5, Closed: true, Sealed: true}
	return st, []status.Table{}
}

func groupsHanded() (status.Status, []status.Table) {
	st := followed()
	st.Owner, st.Groups = new("mixed"), []status.Group{{Tables: []string{"billing.invoice", hostile}, Since: after(4 * time.Hour)}}
	return st, []status.Table{}
}

func interrupted() (status.Status, []status.Table) {
	st := followed()
	st.Running, st.Runner, st.Error = false, "", "apply to the target: ERROR: disk full (SQLSTATE 53100)"
	lag := 7300.0
	st.Stream.LagSeconds, st.Source.Error, st.NewTables = &lag, "", []string{"public.new one"}
	return st, []status.Table{}
}

// many has as many tables as some databases have.
func many() (status.Status, []status.Table) {
	st, _ := copying()
	var tables []status.Table
	for i := range 5000 {
		t := status.Table{Schema: "tenants", Name: fmt.Sprintf("t%04d", i), State: state.TableWaiting, BytesTotal: int64(i) << 20}
		switch {
		case i < 3000:
			t.State, t.Bytes = state.TableDone, t.BytesTotal
		case i >= 4992:
			t.State, t.Bytes, t.Rows = state.TableCopying, t.BytesTotal/3, int64(i)
		}
		tables = append(tables, t)
	}
	st.Copy.Tables, st.Copy.TablesDone = 5000, 3000
	return st, tables
}
