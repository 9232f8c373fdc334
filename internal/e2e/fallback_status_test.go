package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/state"
)

// looked reads the status, and checks the order of the positions of the way back.
func (m *moving) looked() migration.Status {
	m.t.Helper()
	st, err := migration.ReadStatus(context.Background(), m.Config)
	if err != nil {
		m.t.Fatal(err)
	}
	last, s := pglogrepl.LSN(0), st.WayBack.Stream
	for _, text := range []string{s.AckedLSN, s.AppliedLSN, s.ReceivedLSN, s.SourceLSN} {
		if text == "" {
			continue // not known
		}
		at, err := pglogrepl.ParseLSN(text)
		if err != nil || at < last {
			m.t.Errorf("the positions of the way back are %+v, %v", s, err)
		}
		last = at
	}
	return st
}

// until waits for a status.
func (m *moving) until(what string, holds func(st migration.Status) bool) (st migration.Status) {
	m.t.Helper()
	m.eventually(what, func() bool {
		st = m.looked()
		return holds(st)
	})
	return st
}

// follows waits for a way back that follows, with nothing to say against it.
func (m *moving) follows() {
	m.t.Helper()
	st := m.until("a way back that follows", func(st migration.Status) bool {
		w := st.WayBack
		return w.Since != nil && st.Running && w.State == state.BackFollowing && w.Active() && w.Stream.LagBytes != nil && w.Stream.LagSeconds != nil && w.RetainedLimit != nil
	})
	w := st.WayBack
	if *st.Owner != "new" || w.Reason+w.Do+*w.Unfenced != "" || len(w.Unidentified) > 0 || w.WALStatus != "reserved" || *w.RetainedLimit != 64<<20 ||
		st.Source.Fence == nil || !st.Source.Fence.Sealed || st.Target.Fence != nil || st.Stream.LagSeconds != nil {
		m.t.Errorf("it follows: %+v", st)
	}
}

// Whoever looks, from anywhere, sees how the way back is in each of its states, and why, also when no migrate runs, and with either
// server down.
func TestFallBack_Status(t *testing.T) {
	t.Parallel()
	old, young := pgtest.New(t, pgtest.Options{Major: 13}), pgtest.New(t, pgtest.Options{Major: 17})
	source, target := old.Database(t), young.Database(t)
	pgtest.Exec(t, source, `create table t (id serial primary key, v text not null); insert into t (v) values ('old')`)
	m := newMoving(t, "fallback_status", source, target)
	m.FallBack, m.MaxRetainedWALTarget = migration.FallBackAuto, 64<<20
	r := m.start()
	r.waitFor(migration.Following)
	if st := m.looked(); *st.Owner != "old" || st.WayBack.Mode != "auto" || st.WayBack.State != state.BackOff || st.WayBack.Reason != "" {
		t.Errorf("before the cutover: %+v", st)
	}
	m.asked(migration.Cutover)
	r.waitFor(migration.Switched)
	m.follows()

	// A key is dropped, and the SQL that status gives is run.
	pgtest.Exec(t, target, `alter table t drop constraint t_pkey`)
	bare := m.looked().WayBack.Unidentified
	if len(bare) != 1 || bare[0].Table != "public.t" {
		t.Fatalf("without a replica identity: %+v", bare)
	}
	pgtest.Exec(t, target, bare[0].SQL)
	pgtest.Exec(t, target, `update t set v = 'changed'`)
	m.eventually("the change", func() bool { return one[string](t, source, `select string_agg(v, ' ') from t`) == "changed" })
	m.follows()

	// What the old server cannot take: it stays known while no migrate runs, and is tried again by the next one.
	pgtest.Exec(t, target, `alter table t drop column v; insert into t default values`)
	interrupted := func(st migration.Status) bool { return st.WayBack.State == state.BackInterrupted }
	was := m.until("an interrupted way back", interrupted).WayBack
	if !strings.Contains(was.Reason, "the new server has dropped or renamed columns that the old server still has: v") || !strings.Contains(was.Do, "make the same ALTER TABLE on the old server") {
		t.Errorf("the reason is %q, what to do %q", was.Reason, was.Do)
	}
	r.cancel()
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	if st := m.looked(); st.Running || st.WayBack.State != was.State || st.WayBack.Reason != was.Reason || !st.WayBack.Since.Equal(*was.Since) || *st.WayBack.Stream.LagBytes == 0 || *st.WayBack.Stream.LagSeconds <= 0 {
		t.Errorf("without a migrate it is %+v, was %+v", st, was)
	}
	r = m.start()
	m.until("a migrate", func(st migration.Status) bool { return st.Running })
	if w := m.looked().WayBack; w.State != was.State || !w.Since.Equal(*was.Since) {
		t.Errorf("with the next migrate it is %+v, was %+v", w, was)
	}
	pgtest.Exec(t, source, `alter table t drop column v`)
	m.follows()
	m.eventually("the row that waited", func() bool { return one[int](t, source, `select count(*) from t`) == 2 })

	// Either server is down.
	if err := old.Stop(t.Context(), "fast"); err != nil {
		t.Fatal(err)
	}
	st := m.until("an interrupted way back", interrupted)
	if w := st.WayBack; !strings.HasPrefix(w.Reason, "the old server does not answer: ") || st.Source.Error == "" || *st.Owner != "new" || w.Stream.LagBytes != nil || w.Unfenced != nil || w.RetainedBytes == nil {
		t.Errorf("without the old server: %+v", st)
	}
	if err := old.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.follows()
	if err := young.Stop(t.Context(), "fast"); err != nil {
		t.Fatal(err)
	}
	st = m.looked()
	if w := st.WayBack; st.Phase != migration.Switched || *st.Owner != "new" || st.Target.Error == "" || w.Stream.AppliedLSN == "" || w.AppliedCommit == nil || w.Stream.LagBytes != nil || w.Stream.LagSeconds != nil || *w.Unfenced != "" {
		t.Errorf("without the new server: %+v", st)
	}
	if err := young.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.follows()
	m.lostBy(r)
}

// lostBy un-fences the old server by hand, and takes the way back its slot, which status sees before any migrate does. The way
// back is given up then.
func (m *moving) lostBy(r *run) {
	t := m.t
	t.Helper()
	function := fmt.Sprintf(`walferry."fence_%s"`, m.Name)
	for _, c := range []struct{ sql, how string }{
		{`create or replace function ` + function + `() returns trigger language plpgsql as $$ begin return null; end $$`, "its fence is open"},
		{`drop function ` + function + `() cascade`, "its fence is gone"},
	} {
		pgtest.Exec(t, m.Source, c.sql)
		if how := m.looked().WayBack.Unfenced; how == nil || *how != c.how {
			t.Errorf("after %s: %v, want %q", c.sql, how, c.how)
		}
	}
	r.cancel()
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	const free = `select count(*) from pg_replication_slots where active`
	m.eventually("a slot that nobody reads", func() bool { return one[int](t, m.Target, free) == 0 })
	pgtest.Exec(t, m.Target, `select pg_drop_replication_slot('walferry_`+m.Name+`_back')`)
	lost := func(st migration.Status) bool {
		return st.WayBack.State == state.BackLost && st.WayBack.Stream.LagSeconds == nil && strings.Contains(st.WayBack.Reason, "walferry_"+m.Name+"_back")
	}
	if st := m.looked(); !lost(st) || st.Running || st.WayBack.Since != nil {
		t.Errorf("without its slot: %+v", st)
	}
	r = m.start()
	m.until("a way back that is lost", func(st migration.Status) bool { return lost(st) && st.Running && st.WayBack.Since != nil })
	if _, err := migration.Fallback(context.Background(), m.Config, nil); !refusedGate(err, "the way back is lost since") {
		t.Errorf("fallback: %v", err)
	}
	if _, err := migration.Finish(context.Background(), m.Config); err != nil {
		t.Fatal(err)
	}
	if outcome, err := r.end(); err != nil || outcome.Phase != migration.Finished {
		t.Fatalf("migrate ended with %+v, %v", outcome, err)
	}
	if st := m.looked(); *st.Owner != "new" || st.WayBack.State != state.BackOff || st.WayBack.Reason != "it was given up" {
		t.Errorf("when it was given up: %+v", st)
	}
	m.cleanup()
}
