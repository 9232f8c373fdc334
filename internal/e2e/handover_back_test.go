package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/state"
)

// wayBackIs waits until status shows the way back in a state.
func (m *moving) wayBackIs(want state.WayBackState, why string) {
	m.t.Helper()
	eventually(m.t, "the way back is "+string(want), func() (bool, string) {
		st, err := migration.ReadStatus(context.Background(), m.Config)
		return err == nil && st.WayBack.State == want && strings.Contains(st.WayBack.Reason, why) && st.Stream.LagSeconds != nil, m.describe()
	})
}

// A value that the old server cannot take interrupts what flows back to it, and nothing else: both servers are written to, and another group is not handed over
// until that is repaired. Where it holds back too much WAL it is given up: then only the rest can follow the group.
func TestHandOver_Interrupted(t *testing.T) {
	t.Parallel()
	old, young := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, old, threeServices+`create type billing.mood as enum ('glad'); alter table billing.invoice add mood billing.mood`)
	m := newMoving(t, "handover_interrupted", old, young)
	m.MaxRetainedWALTarget = 64 << 20
	r := m.start()
	r.waitFor(migration.Following)
	m.handed(migration.Cutover, "billing.*")
	m.wayBackIs(state.BackFollowing, "")
	pgtest.Exec(t, young, `alter type billing.mood add value 'sad'`)
	pgtest.Exec(t, young, `insert into billing.invoice (v, mood) values ('sad', 'sad')`)
	m.wayBackIs(state.BackInterrupted, "invalid input value for enum")
	pgtest.Exec(t, old, `insert into orders.invoice (v) values ('meanwhile')`)
	pgtest.Exec(t, young, `insert into billing.invoice (v) values ('meanwhile')`)
	if _, err := m.askedFor(migration.Cutover, []string{"orders.*"}); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "the flow back does not follow") {
		t.Errorf("another group while the way back is interrupted: %v", err)
	}
	if _, err := m.askedFor(migration.Fallback, []string{"billing.*"}); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "the flow back does not follow") {
		t.Errorf("a fallback while the way back is interrupted: %v", err)
	}
	m.owned("new old old", "mixed")
	pgtest.Exec(t, old, `alter type billing.mood add value 'sad'`)
	m.wayBackIs(state.BackFollowing, "")
	m.handed(migration.Fallback, "billing.*")
	if n := one[int](t, old, `select count(*) from billing.invoice where v in ('sad', 'meanwhile')`); n != 2 {
		t.Errorf("%d of 2 rows came back", n)
	}

	m.handed(migration.Cutover, "billing.*")
	pgtest.Exec(t, young, `alter type billing.mood add value 'mad'`)
	pgtest.Exec(t, young, `insert into billing.invoice (v, mood) values ('mad', 'mad')`)
	m.wayBackIs(state.BackInterrupted, "invalid input value for enum")
	pgtest.Exec(t, young, `create table ballast as select repeat(md5(i::text), 30) from generate_series(1, 80000) i; drop table ballast`)
	m.wayBackIs(state.BackLost, "--max-retained-wal-target")
	eventually(t, "the slot is gone", func() (bool, string) {
		return one[int](t, young, `select count(*) from pg_replication_slots where slot_name = $1`, "walferry_"+m.Name+"_back") == 0, ""
	})
	pgtest.Exec(t, old, `insert into orders.invoice (v) values ('after')`)
	pgtest.Exec(t, young, `insert into billing.invoice (v) values ('after')`)
	m.asked(migration.Cutover)
	r.waitFor(migration.Switched)
	if n := one[int](t, young, `select (select count(*) from orders.invoice where v in ('meanwhile', 'after')) + (select count(*) from billing.invoice)`); n != 6 {
		t.Errorf("%d of 6 rows are on the new server", n)
	}
	if _, err := migration.Finish(context.Background(), m.Config); err != nil {
		t.Fatal(err)
	}
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.cleanup()
}

// A group is rehearsed alone, in either direction: whose it is does not change. Hooks hear of what was handed over, and of nothing else of these switches.
func TestHandOver_Rehearsed(t *testing.T) {
	t.Parallel()
	old, young := pgtest.Pair(t, 13, 18)
	pgtest.Exec(t, old, threeServices)
	m := newMoving(t, "handover_rehearsed", old, young)
	m.MaxRetainedWALTarget = 1 << 40
	heard := filepath.Join(t.TempDir(), "heard")
	hook := filepath.Join(t.TempDir(), "hook")
	script := fmt.Sprintf("#!/bin/sh\n[ $WALFERRY_EVENT = phase ] || [ $WALFERRY_DRY_RUN = true ] || { echo $WALFERRY_EVENT $WALFERRY_SWITCH $WALFERRY_SOURCE_PORT; cat; echo; } >> %s\n", heard)
	if err := os.WriteFile(hook, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	m.Clients.Hooks = []string{hook}
	r := m.start()
	r.waitFor(migration.Following)
	rehearse := func(what func(context.Context, migration.Config, func(string)) (*migration.CutoverResult, error), owners, owner string) {
		t.Helper()
		c := m.Config
		c.Cut.MaxLag, c.Cut.Timeout, c.Cut.Tables, c.Cut.DryRun = patience, patience, []string{"billing.*"}, true
		result, err := what(context.Background(), c, func(step string) { t.Log(step) })
		if err != nil || !result.DryRun || result.FencedAt == nil || result.ExpectMS == nil || result.FinishedAt != nil {
			t.Errorf("the rehearsal: %+v, %v", result, err)
		}
		m.owned(owners, owner)
	}
	writes := func(dsn string, n int) {
		t.Helper()
		pgtest.Exec(t, dsn, fmt.Sprintf(`insert into billing.invoice (v) values ('%d')`, n))
	}
	writes(old, 1)
	rehearse(migration.Cutover, "old old old", "old")
	writes(old, 2)
	m.handed(migration.Cutover, "billing.*")
	writes(young, 3)
	rehearse(migration.Fallback, "new old old", "mixed")
	writes(young, 4)
	m.handed(migration.Fallback, "billing.*")
	writes(old, 5)
	eventually(t, "what the hook has heard", func() (bool, string) {
		text, err := os.ReadFile(heard)
		said := string(text)
		return strings.Count(said, "handed cutover ") == 1 && strings.Count(said, "handed fallback ") == 1 && strings.Count(said, `"tables":["billing.invoice",`) == 2, fmt.Sprint(said, err)
	})
	if text, _ := os.ReadFile(heard); strings.Contains(string(text), "hold") || strings.Contains(string(text), "redirect") {
		t.Errorf("the hook has heard:\n%s", text)
	}
	m.caughtUp(r)
	m.verified()
	if _, err := m.askedFor(migration.Fallback, nil); err == nil {
		t.Error("a fallback where nothing was handed over")
	}
	if _, err := migration.Cleanup(context.Background(), m.Config); !fail.Is(err, fail.Gate) {
		t.Errorf("cleanup of a migration that follows: %v", err)
	}
	if err := migration.Abort(context.Background(), m.Config); err != nil {
		t.Error(err)
	}
	if _, err := r.end(); err == nil {
		t.Error("the run goes on")
	}
	m.cleanup() // of the fence, too, that the groups have left on the new server
	writes(young, 6)
}
