package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// standby is a streaming standby of a server, which is restarted for it.
func standby(t *testing.T, of *pgtest.Server) *pgtest.Server {
	t.Helper()
	s := pgtest.New(t, pgtest.Options{Major: of.Major, Settings: map[string]string{
		"primary_conninfo": fmt.Sprintf("host=127.0.0.1 port=%d user=%s", of.Port, of.User),
	}})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Stop(t.Context(), "immediate"))
	must(of.Stop(t.Context(), "fast"))
	if out, err := exec.Command("sh", "-c", `rm -rf "$2" && cp -a "$1" "$2"`, "copy", of.DataDir, s.DataDir).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", filepath.Base(of.DataDir), err, out)
	}
	must(s.WriteFile("standby.signal", nil))
	must(of.Start(t.Context()))
	must(s.Start(t.Context()))
	return s
}

// promote makes a standby the server that a proxy leads to, in place of one that is gone.
func promote(t *testing.T, s *pgtest.Server, p *pgtest.Proxy, dsn string) {
	t.Helper()
	if !one[bool](t, dsn, `select pg_promote()`) {
		t.Fatal("the standby was not promoted")
	}
	if err := p.Redirect(dsn); err != nil {
		t.Fatal(err)
	}
}

// at is the same database on another server.
func at(s *pgtest.Server, dsn string) string { return s.URL(filepath.Base(dsn)) }

// The target fails over. To a standby that has everything: migrate goes on. To one that has less than
// the slot was told is durable: the source has no WAL any more of what is missing, migrate ends,
// and no later run goes on either.
func TestTargetFailsOver(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Default()
	source, _ := pgtest.Pair(t, from, to)
	primary := pgtest.New(t, pgtest.Options{Major: to})
	target := primary.Database(t)
	late, current := standby(t, primary), standby(t, primary)
	pgtest.Exec(t, source, `create table t (id int primary key)`)
	p := pgtest.ProxyFor(t, target)
	m := newMoving(t, "failover", source, p.Through(target))
	r := m.start()
	r.waitFor(migration.Following)
	rows := func(s *pgtest.Server, n int) {
		t.Helper()
		m.eventually(fmt.Sprintf("%d rows on a standby", n), func() bool {
			return one[int](t, at(s, target), `select count(*) from pg_class where relname = 't'`) == 1 && one[int](t, at(s, target), `select count(*) from t`) == n
		})
	}
	pgtest.Exec(t, source, `insert into t values (1)`)
	m.caughtUp(r)
	rows(late, 1)
	if err := late.Stop(t.Context(), "fast"); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, source, `insert into t values (2)`)
	m.caughtUp(r)
	rows(current, 2)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	promote(t, current, p, at(current, target))
	pgtest.Exec(t, source, `insert into t values (3)`)
	m.caughtUp(r)
	sameRows(t, source, at(current, target))
	position := one[string](t, source, `select pg_current_wal_insert_lsn()::text`)
	m.eventually("a slot that has confirmed it", func() bool {
		return one[bool](t, source, `select confirmed_flush_lsn >= $1::text::pg_lsn from pg_replication_slots where slot_name = 'walferry_' || $2`, position, m.Name)
	})

	if err := errors.Join(current.Kill(), late.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	promote(t, late, p, at(late, target))
	pgtest.Exec(t, source, `insert into t values (4)`)
	for i, want := range []string{"progress of stream", "is ahead"} {
		if i > 0 {
			r = m.start()
		}
		if _, err := r.end(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(hint(err), "walferry abort") {
			t.Errorf("run %d on a target that has lost rows ended with %v, hint: %s; want %q and to start over", i+1, err, hint(err), want)
		}
	}
	if got := one[string](t, at(late, target), `select string_agg(id::text, ',' order by id) from t`); got != "1" {
		t.Errorf("the target has the rows %s, want 1 as before", got)
	}
	if err := migration.Abort(t.Context(), m.Config); err != nil {
		t.Error(err)
	}
}

// The source fails over to its standby, which has no such slot: there is a gap, however small.
func TestSourceFailsOver(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Default()
	_, target := pgtest.Pair(t, from, to)
	primary := pgtest.New(t, pgtest.Options{Major: from})
	source := primary.Database(t)
	next := standby(t, primary)
	pgtest.Exec(t, source, `create table t (id int primary key)`)
	p := pgtest.ProxyFor(t, source)
	m := newMoving(t, "failover_source", p.Through(source), target)
	r := m.start()
	r.waitFor(migration.Following)
	pgtest.Exec(t, source, `insert into t values (1)`)
	m.caughtUp(r)
	m.eventually("the row on the standby", func() bool {
		return one[bool](t, at(next, source), `select count(*) = 1 from t`)
	})
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	promote(t, next, p, at(next, source))
	pgtest.Exec(t, at(next, source), `insert into t values (2)`)
	for i := range 2 {
		if i > 0 {
			r = m.start()
		}
		if _, err := r.end(); err == nil || !strings.Contains(err.Error(), "slot") || !strings.Contains(hint(err), "walferry abort") {
			t.Errorf("run %d on a promoted standby ended with %v, hint: %s; want that the slot is missing, and to start over", i+1, err, hint(err))
		}
	}
	if n := one[int](t, at(next, source), `select count(*) from pg_replication_slots`); n != 0 {
		t.Errorf("the new primary has %d slots, want none", n)
	}
	if got := one[int](t, target, `select count(*) from t`); got != 1 {
		t.Errorf("the target has %d rows, want 1", got)
	}
}
