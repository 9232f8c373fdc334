package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/status.txt anew")

// What status says of the way back in each of its states, and of what must not stay as it is, to somebody on call at night.
func TestStatusText(t *testing.T) {
	at := time.Date(2026, 12, 1, 3, 12, 44, 0, time.UTC)
	yes, no, owner, fine := true, false, "new", ""
	number := func(n int64) *int64 { return &n }
	seconds := func(s float64) *float64 { return &s }
	switched := func(change func(*migration.Status)) migration.Status {
		sealed := &status.FenceStatus{Tables: 5, Closed: true, Sealed: true}
		st := migration.Status{
			Name: "default", Phase: migration.Switched, Owner: &owner, Running: true, Runner: "bastion, pid 7",
			Source: status.SourceStatus{Version: "13.23", Database: "app", SlotStatus: status.SlotStatus{Slot: "walferry_default", WALStatus: "missing", SlotActive: &no, RetainedBytes: number(0)}, Fence: sealed},
			Target: status.TargetStatus{Version: "17.10", Database: "app"},
			Copy:   state.CopyStatus{Tables: 5, TablesDone: 5},
			WayBack: migration.WayBack{
				Mode: "auto", State: state.BackFollowing, Since: &at,
				SlotStatus:    status.SlotStatus{Slot: "walferry_default_back", SlotActive: &yes, WALStatus: "reserved", RetainedBytes: number(3 << 30)},
				RetainedLimit: number(50 << 30), RetainedLeft: seconds(9 * 3600),
				Stream:        status.StreamStatus{ReceivedLSN: "0/5", AppliedLSN: "0/4", AckedLSN: "0/3", SourceLSN: "0/6", LagBytes: number(2), LagSeconds: seconds(0.12), Transactions: 7, Changes: 9},
				AppliedCommit: &at, Unfenced: &fine,
			},
		}
		if change != nil {
			change(&st)
		}
		return st
	}
	plain := func(phase migration.Phase, w migration.WayBack) migration.Status {
		w.Mode = cmp.Or(w.Mode, "auto")
		return migration.Status{Name: "default", Phase: phase, Running: true, Runner: "bastion, pid 7", Source: status.SourceStatus{Version: "13.23", Database: "app"}, Target: status.TargetStatus{Version: "17.10", Database: "app"}, WayBack: w}
	}
	interrupted := func(st *migration.Status) {
		st.WayBack.State, st.WayBack.Reason = state.BackInterrupted, `apply INSERT into public.t: ERROR: invalid input value for enum public.mood: "sad" (SQLSTATE 22P02)`
		st.WayBack.Do = "the old server's type lacks a label: add it; it is tried again every minute"
		st.WayBack.Stream.LagSeconds, st.WayBack.Stream.LagBytes = seconds(192), number(5<<20)
	}
	away := func(st *migration.Status) {
		st.Source.Error, st.Source.Fence = "connect to old.example.com:5432/app: connection refused", nil
		st.WayBack.Stream, st.WayBack.AppliedCommit, st.WayBack.Unfenced = status.StreamStatus{}, nil, nil
	}
	grouped := func(change func(*migration.Status)) migration.Status {
		return switched(func(st *migration.Status) {
			mixed, rate := "mixed", 14.6
			st.Phase, st.Owner, st.WayBack.Mode, st.WayBack.Unfenced = migration.Following, &mixed, "off", nil
			st.Groups = []status.Group{{Tables: []string{"billing.invoice", "billing.line"}, Since: at}}
			st.Source.SlotStatus, st.Source.Fence = status.SlotStatus{Slot: "walferry_default", WALStatus: "reserved", SlotActive: &yes, RetainedBytes: number(1 << 20)}, nil
			st.Target.Fence = &status.FenceStatus{Tables: 3, Closed: true, Sealed: true}
			st.Stream = status.StreamStatus{AppliedLSN: "0/A", SourceLSN: "0/B", LagBytes: number(1), LagSeconds: seconds(0.2), Transactions: 5, Changes: 6}
			st.Writes = state.WritesOn{
				Old: &state.Writes{Seconds: 300},
				New: &state.Writes{
					Seconds: 300, Commits: 4060, Rate: 812, Caught: 14, More: 3,
					Tables: []state.TableWrites{{Table: "billing.line", Rate: 800}, {Table: "billing.invoice", Rate: 3.4}},
					Writers: []state.Writer{
						{Role: "shop", Application: "web", Sessions: 12, Caught: 12, Rate: seconds(797.4), Tables: []string{"billing.invoice", "billing.line"}, Last: &at},
						{Role: "jobs", Sessions: 1, Caught: 2, Rate: &rate, Tables: []string{"billing.line"}, Last: &at},
						{Role: "ops", Application: "psql", Sessions: 2, Tables: []string{}},
					},
				},
			}
			if change != nil {
				change(st)
			}
		})
	}
	var got strings.Builder
	for _, c := range []struct {
		name string
		st   migration.Status
	}{
		{"off, and nobody wants one", plain(migration.Following, migration.WayBack{Mode: "off", State: state.BackOff})},
		{"off before the cutover", plain(migration.Following, migration.WayBack{State: state.BackOff})},
		{"armed", plain(migration.Fenced, migration.WayBack{State: state.BackArmed, Since: &at, SlotStatus: status.SlotStatus{Slot: "walferry_default_back", SlotActive: &yes, RetainedBytes: number(100)}})},
		{"none", plain(migration.Finished, migration.WayBack{State: state.BackOff, Reason: "wal_level is replica on the server that the changes are to come from"})},
		{"following", switched(nil)},
		{"nobody runs", switched(func(st *migration.Status) {
			st.Running, st.WayBack.SlotActive, st.WayBack.RetainedLeft, st.WayBack.Stream.LagSeconds = false, &no, nil, seconds(4000)
		})},
		{"nothing limits it", switched(func(st *migration.Status) { st.WayBack.RetainedLimit, st.WayBack.RetainedLeft = nil, nil })},
		{"interrupted", switched(interrupted)},
		{"interrupted, and nobody runs", switched(func(st *migration.Status) { interrupted(st); st.Running = false })},
		{"the old server is away", switched(func(st *migration.Status) {
			away(st)
			st.WayBack.State, st.WayBack.Reason, st.WayBack.Stream.LagSeconds = state.BackInterrupted, "the old server does not answer: connection refused", seconds(61)
		})},
		{"the new server is away", switched(func(st *migration.Status) {
			st.Running, st.Target = false, status.TargetStatus{Error: "connect to new.example.com:5432/app: connection refused"}
			st.WayBack.State, st.WayBack.Reason, st.WayBack.SlotStatus = state.BackInterrupted, "the new server does not answer", status.SlotStatus{}
		})},
		{"lost", switched(func(st *migration.Status) {
			st.WayBack.State, st.WayBack.Reason = state.BackLost, "the way back held back 51200 MB of WAL on the new server, more than the 51200 MB of --max-retained-wal-target: it was given up"
			st.WayBack.WALStatus, st.WayBack.RetainedBytes, st.WayBack.RetainedLeft = "missing", number(0), nil
		})},
		{"lost, and the old server is away", switched(func(st *migration.Status) {
			away(st)
			st.WayBack.State, st.WayBack.Reason, st.WayBack.Since, st.WayBack.WALStatus = state.BackLost, "its slot walferry_default_back is gone from the new server", nil, "missing"
		})},
		{"the fence is open, and a key is gone", switched(func(st *migration.Status) {
			open := "its fence is open"
			st.WayBack.Unfenced, st.Source.Fence = &open, &status.FenceStatus{Tables: 5}
			st.WayBack.Unidentified = []status.Unidentified{{Table: "public.t", SQL: `alter table "public"."t" replica identity full`}}
		})},
		{"groups", grouped(nil)},
		{"groups, interrupted", grouped(interrupted)},
		{"groups, lost", grouped(func(st *migration.Status) {
			st.WayBack.State, st.WayBack.Reason = state.BackLost, "the way back held back 51200 MB of WAL on the new server, more than the 51200 MB of --max-retained-wal-target: it was given up"
			st.WayBack.WALStatus, st.WayBack.RetainedBytes, st.WayBack.RetainedLeft = "missing", number(0), nil
		})},
		{"died within a fallback", switched(func(st *migration.Status) {
			st.Running, st.Target.Fence = false, &status.FenceStatus{Tables: 5, Closed: true, Sealed: true}
		})},
	} {
		fmt.Fprintf(&got, "== %s\n%s", c.name, statusText(c.st))
		if err := partly(c.st); err != nil {
			fmt.Fprintf(&got, "walferry: %v\n", err)
		}
		got.WriteString("\n")
	}
	const file = "testdata/status.txt"
	if *rewrite {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}
