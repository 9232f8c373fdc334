package e2e

import (
	"testing"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// Whoever resumes at night, on another host, has neither the command line nor the file that the
// migration was begun with: without any option it goes on as it was begun.
func TestResume_AsBegun(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Default()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, `create table t (id int primary key); insert into t values (1)`)
	bare := newMoving(t, "begun", source, target)
	begun := *bare
	begun.Until, begun.OnNewTable, begun.MaxRetainedWAL = migration.UntilCaughtUp, migration.IgnoreNewTables, 5<<30
	begun.Prove, begun.Auto = migration.On, migration.On
	begun.Cut.MaxLag, begun.Cut.Timeout = patience, patience
	if outcome, err := begun.start().end(); err != nil || outcome.Phase != migration.Following || outcome.Until != migration.UntilCaughtUp {
		t.Fatalf("migrate: %+v, %v; want it to have caught up", outcome, err)
	}
	const kept = "--cutover auto --on-new-table ignore --verify --max-retained-wal 5GB --timeout 3m0s --max-lag 3m0s"
	if got := status(t, bare.Config).Options; got != kept {
		t.Errorf("status has the options %s\nwant %s", got, kept)
	}

	// What is given anew is so from now on.
	changed := *bare
	changed.Auto, changed.MaxRetainedWAL = migration.Off, migration.NoLimit
	r := changed.start()
	r.waitFor(migration.Following)
	pgtest.Exec(t, source, `create table fresh (id int primary key); insert into t values (2)`)
	changed.caughtUp(r)
	changed.eventually("the new table in the status", func() bool { return len(status(t, bare.Config).NewTables) == 1 })
	r.cancel()
	if outcome, err := r.end(); err != nil || !outcome.Stopped {
		t.Fatalf("migrate: %+v, %v; want it stopped", outcome, err)
	}
	const now = "--on-new-table ignore --verify --timeout 3m0s --max-lag 3m0s"
	if got := status(t, bare.Config).Options; got != now {
		t.Errorf("status has the options %s\nwant %s", got, now)
	}

	changed.Auto = migration.On
	r = changed.start()
	if outcome, err := r.end(); err != nil || outcome.Cutover == nil || outcome.Cutover.Comparison == nil || !*outcome.Cutover.Equal {
		t.Fatalf("migrate: %+v, %v; want that it has cut over by itself, and compared", outcome, err)
	}
	bare.cleanup()
}

// A record that an older version has made has no such options: what is not given is as if the
// migration began now.
func TestResume_OlderRecord(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Default()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, `create table t (id int primary key); create table out (id int primary key); insert into t values (1)`)
	m := newMoving(t, "older", source, target)
	begun := *m
	begun.Exclude, begun.Until = []string{"public.out"}, migration.UntilCaughtUp
	if outcome, err := begun.start().end(); err != nil {
		t.Fatalf("migrate: %+v, %v", outcome, err)
	}
	pgtest.Exec(t, target, `update walferry.migration set options = jsonb_build_object('exclude', options -> 'exclude', 'schema', options -> 'schema') where name = '`+m.Name+`'`)
	r := m.start()
	r.waitFor(migration.Following)
	if got, want := status(t, m.Config).Options, "--exclude public.out"; got != want {
		t.Errorf("status has the options %s\nwant %s", got, want)
	}
	m.caughtUp(r)
	m.cutover(r)
	m.cleanup()
}
