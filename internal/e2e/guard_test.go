package e2e

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// A transaction that stays open on the source makes the slot hold back WAL. With --max-retained-wal
// the migration is given up, and the source has nothing of it any more.
func TestMaxRetainedWAL(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Default()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, `create table t (id int primary key); create table noise (v text)`)
	m := newMoving(t, "retained", source, target)
	m.Exclude = []string{"public.noise"}
	m.MaxRetainedWAL = 60 << 20
	r := m.start()
	r.waitFor(migration.Following)
	// The guard looks at every heartbeat; its first look may have been before the slot was there.
	m.eventually("the limit in the status", func() bool {
		st, err := migration.ReadStatus(context.Background(), m.Config)
		return err == nil && st.Source.RetainedLimit != nil && *st.Source.RetainedLimit == m.MaxRetainedWAL
	})
	open := hold(t, source, `insert into t values (1)`)
	for range 4 {
		pgtest.Exec(t, source, `insert into noise select repeat(md5(i::text), 100) from generate_series(1, 100000) i`)
		pgtest.Exec(t, source, `select pg_switch_wal()`)
	}
	_, err := r.end()
	if err == nil || !strings.Contains(err.Error(), "GIVEN UP") {
		t.Errorf("migrate ended with %v, want that it was given up", err)
	}
	open.rollback()
	if st, err := migration.ReadStatus(t.Context(), m.Config); err != nil || st.Phase != migration.Aborted || !strings.Contains(st.Error, "GIVEN UP") {
		t.Errorf("status: %+v, %v; want phase aborted and why", st, err)
	}
	if n := one[int](t, source, `select count(*) from pg_replication_slots where database = current_database()`); n != 0 {
		t.Errorf("the source has %d slots", n)
	}
	m.cleanup()
}

// A table that the source gets while the migration runs is not followed: migrate ends, and
// says so; the same command goes on when it is gone, or when it is to stay behind.
func TestOnNewTable(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Default()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, `create table t (id int primary key); insert into t values (1)`)
	m := newMoving(t, "newtable", source, target)
	m.Cut.MaxLag, m.Cut.Timeout = patience, patience
	r := m.start()
	r.waitFor(migration.Following)
	pgtest.Exec(t, source, `create table fresh (id int primary key); insert into fresh values (1)`)
	_, err := r.end()
	if err == nil || !strings.Contains(err.Error(), "fresh") || !strings.Contains(hint(err), "--on-new-table") {
		t.Fatalf("migrate ended with %v, want that it names the table and --on-new-table", err)
	}

	m.OnNewTable = migration.IgnoreNewTables
	r = m.start()
	r.waitFor(migration.Following)
	pgtest.Exec(t, source, `insert into t values (2)`)
	m.caughtUp(r)
	m.eventually("the new table in the status", func() bool {
		st, err := migration.ReadStatus(context.Background(), m.Config)
		return err == nil && len(st.NewTables) == 1
	})
	m.cutover(r)
	if got := one[string](t, target, `select string_agg(id::text, ',' order by id) from t`); got != "1,2" {
		t.Errorf("t has %s, want 1,2", got)
	}
	if n := one[int](t, target, `select count(*) from pg_class where relname = 'fresh'`); n != 0 {
		t.Error("the target has the table that was to stay behind")
	}
	m.cleanup()
}

// A publication FOR ALL TABLES that somebody makes while the migration runs publishes walferry's tables, too: that is said, with
// whose it is and on which server.
func TestReaders_Later(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (id int primary key)`)
	var told logged
	m := newMoving(t, "readers", source, target)
	m.Logger, m.Heartbeat = slog.New(slog.NewTextHandler(&told, nil)), 100*time.Millisecond
	r := m.start()
	r.waitFor(migration.Following)
	for dsn, server := range map[string]string{source: "old", target: "new"} {
		pgtest.Exec(t, dsn, `create publication whole_`+server+` for all tables`)
		m.eventually("the warning of the "+server+" server", func() bool {
			return strings.Contains(told.String(), "whole_"+server+" (of postgres) on the "+server+" server") || r.over()
		})
		pgtest.Exec(t, dsn, `drop publication whole_`+server)
	}
	m.caughtUp(r)
	m.cutover(r)
	m.cleanup()
}

// The target cannot be reached for longer than it takes to notice that the lock is gone, and to
// try to take it again. migrate goes on when it is back.
func TestTargetAway(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Default()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, `create table t (id int primary key)`)
	p := pgtest.ProxyFor(t, target)
	m := newMoving(t, "away", source, target)
	through := *m
	through.Config.Target = p.Through(target)
	r := through.start()
	r.m = m // which asks the target directly
	r.waitFor(migration.Following)
	pgtest.Exec(t, source, `insert into t values (0)`)
	m.caughtUp(r)
	before := p.Refused()
	p.Set(pgtest.Network{Down: true})
	p.Reset()
	pgtest.Exec(t, source, `insert into t values (1)`)
	m.eventually("many attempts to reach the target", func() bool {
		lock := one[int](t, target, `select count(*) from pg_stat_activity where application_name like '% lock' and datname = current_database()`)
		return p.Refused() > before+300 && lock == 0 || r.over()
	})
	p.Set(pgtest.Network{})
	m.caughtUp(r)
	m.eventually("the lock, taken again", func() bool {
		st, err := migration.ReadStatus(t.Context(), m.Config)
		return err == nil && st.Running
	})
	sameRows(t, source, target)
	if err := migration.Abort(t.Context(), m.Config); err != nil {
		t.Error(err)
	}
}
