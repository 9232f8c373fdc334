package e2e

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// own starts a server for this test alone, with a database.
func ownServer(t *testing.T, major int, settings map[string]string) string {
	t.Helper()
	return pgtest.New(t, pgtest.Options{Major: major, Settings: settings}).Database(t)
}

// asRole makes a role that has everything in a database but superuser, and connects as it.
func asRole(t *testing.T, dsn, role string) string {
	t.Helper()
	pgtest.Exec(t, dsn, `create role `+role+` login replication; grant set on parameter session_replication_role to `+role+`; grant pg_read_all_stats to `+role+`; alter schema public owner to `+role)
	pgtest.Exec(t, dsn, `do $$ begin execute format('alter database %I owner to `+role+`', current_database()); end $$`)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	return u.String()
}

// What the way back needs of the new server is lost while the migration follows, or was never there. Where a way back is required the switch
// is refused, with what to do, and everything is as before; otherwise it goes on without, and says so.
func TestFallBack_Gates(t *testing.T) {
	t.Parallel()
	for _, g := range []struct {
		name     string
		settings map[string]string
		spoil    func(t *testing.T, young string) (repair func())
		want     string
	}{
		{"wal_level is replica", map[string]string{"wal_level": "replica"}, func(*testing.T, string) func() { return nil }, "wal_level"},
		{"no slot is free", map[string]string{"max_replication_slots": "1"}, func(t *testing.T, young string) func() {
			pgtest.Exec(t, young, `select pg_create_physical_replication_slot('others')`)
			return func() { pgtest.Exec(t, young, `select pg_drop_replication_slot('others')`) }
		}, "slot"},
		{"the role has no REPLICATION", nil, func(t *testing.T, young string) func() {
			pgtest.Exec(t, young, `alter role gated noreplication`)
			return func() { pgtest.Exec(t, young, `alter role gated replication`) }
		}, "may not replicate"},
	} {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			old := pgtest.Shared(t, 15).Database(t)
			young := ownServer(t, 17, g.settings)
			pgtest.Exec(t, old, `create table t (id serial primary key, v text); insert into t (v) values ('old')`)
			m := newMoving(t, "gates", old, asRole(t, young, "gated"))
			m.FallBack = migration.FallBackAuto
			r := m.start()
			r.waitFor(migration.Following)
			repair := g.spoil(t, young)
			r.cancel()
			if _, err := r.end(); err != nil {
				t.Fatal(err)
			}
			m.FallBack = migration.FallBackRequire
			r = m.start()
			r.waitFor(migration.Following)
			c := m.Config
			c.Cut.MaxLag, c.Cut.Timeout = patience, patience
			_, err := migration.Cutover(context.Background(), c, nil)
			if !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), g.want) || fail.Hint(err) == "" {
				t.Fatalf("cutover: %v (hint %q); want a gate: %s", err, fail.Hint(err), g.want)
			}
			refuses(t, old, "old server", false)
			if got := one[string](t, young, `select (select count(*) from pg_publication) || ' publications, ' || (select count(*) from pg_replication_slots where slot_name like 'walferry%') || ' slots'`); got != "0 publications, 0 slots" {
				t.Errorf("left on the new server: %s", got)
			}
			if repair != nil {
				repair()
				m.asked(migration.Cutover)
				r.waitFor(migration.Switched)
				pgtest.Exec(t, young, `insert into t (v) values ('new')`)
				m.eventually("the row of the new server", func() bool { return one[int](t, old, `select count(*) from t where v = 'new'`) == 1 })
				finished(t, m, r)
				return
			}
			r.cancel()
			if _, err := r.end(); err != nil {
				t.Fatal(err)
			}
			m.FallBack = migration.FallBackAuto
			r = m.start()
			r.waitFor(migration.Following)
			result := m.asked(migration.Cutover)
			if result.WayBack == nil || result.WayBack.From != nil || !strings.Contains(result.WayBack.None, g.want) {
				t.Errorf("the way back is %+v, want none, because of %s", result.WayBack, g.want)
			}
			if outcome, err := r.end(); err != nil || outcome.Phase != migration.Finished {
				t.Fatalf("migrate ended with %+v, %v", outcome, err)
			}
			m.cleanup()
		})
	}
}

// finished gives the way back up, and expects that nothing is left of the migration.
func finished(t *testing.T, m *moving, r *run) {
	t.Helper()
	if _, err := migration.Finish(context.Background(), m.Config); err != nil {
		t.Fatal(err)
	}
	if outcome, err := r.end(); err != nil || outcome.Phase != migration.Finished {
		t.Fatalf("migrate ended with %+v, %v", outcome, err)
	}
	m.cleanup()
}

// The slot of the way back would wait for whatever has written on the new server. Somebody's prepared transaction is a gate, which names
// it; our own applier's, a large one in pieces, is waited for. Nobody is refused meanwhile.
func TestFallBack_BlockedBy(t *testing.T) {
	t.Parallel()
	t.Run("a prepared transaction", func(t *testing.T) {
		t.Parallel()
		old := pgtest.Shared(t, 13).Database(t)
		young := ownServer(t, 17, nil)
		pgtest.Exec(t, old, twoWays)
		m := newMoving(t, "prepared", old, young)
		m.FallBack, m.InsertOnly = migration.FallBackRequire, []string{"public.journal"}
		r := m.start()
		r.waitFor(migration.Following)
		pgtest.Exec(t, young, `create table others (id int); begin; insert into others values (1); prepare transaction 'somebody''s'`)
		c := m.Config
		c.Cut.MaxLag, c.Cut.Timeout = patience, patience
		if _, err := migration.Cutover(context.Background(), c, nil); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "somebody's: prepared by postgres") {
			t.Errorf("cutover: %v; want a gate that names the prepared transaction", err)
		}
		refuses(t, old, "old server", false)
		pgtest.Exec(t, young, `rollback prepared 'somebody''s'`)
		m.asked(migration.Cutover)
		r.waitFor(migration.Switched)
		finished(t, m, r)
	})
	t.Run("a large transaction of our own", func(t *testing.T) {
		t.Parallel()
		m, r := newFallBack(t, "large", 15, 18, migration.FallBackRequire)
		row := hold(t, m.Target, `insert into t (id, v) values (3000000, 'in the way')`) // the applier waits for it in the middle of its transaction
		const rows = 60_000
		pgtest.Exec(t, m.Source, fmt.Sprintf(`begin; insert into t (v) select 'large ' || repeat('x', 100) || i from generate_series(1, %d) i; insert into t (id, v) values (3000000, 'ours'); commit`, rows))
		m.eventually("an applier in the middle of it", func() bool {
			return one[bool](t, m.Target, `select exists(select from pg_stat_activity where application_name ~ '^walferry `+m.Name+`.* apply$' and wait_event_type = 'Lock')`)
		})
		done := make(chan error)
		go func() {
			c := m.Config
			c.Cut.MaxLag, c.Cut.Timeout = patience, patience
			_, err := migration.Cutover(context.Background(), c, nil)
			done <- err
		}()
		m.eventually("a cutover that waits", func() bool {
			return one[bool](t, m.Target, `select exists(select from walferry.request where kind = 'cutover' and taken_at is not null and answered_at is null)`)
		})
		refuses(t, m.Source, "old server", false)
		row.rollback()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		r.waitFor(migration.Switched)
		if got, want := one[int](t, m.Target, `select count(*) from t where v like 'large%'`), rows; got != want {
			t.Errorf("the new server has %d rows of it, want %d", got, want)
		}
		// And one on the new server, which comes back.
		pgtest.Exec(t, m.Target, fmt.Sprintf(`begin; update t set v = v || '+' where v like 'large%%'; savepoint s; delete from t; rollback to s; truncate trunc; insert into trunc select generate_series(1, %d); commit`, rows))
		m.eventually("the rows of it on the old server", func() bool {
			return one[int](t, m.Source, `select count(*) from trunc`) == rows && one[int](t, m.Source, `select count(*) from t where v like 'large%+'`) == rows
		})
		finished(t, m, r)
	})
}

// A table that is only inserted into is updated nevertheless: on the old server, before the cutover that has a way back, and on the new one,
// before the fallback. Each time it is copied again before the fence, through the fence that stands on the server that it is copied
// to, and nothing of that comes back to where it came from.
func TestFallBack_CopiedAgain(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{10, 18}, {15, 18}} {
		plain := pair[0] == 10
		t.Run(fmt.Sprintf("%d-%d, plain roles %t", pair[0], pair[1], plain), func(t *testing.T) {
			t.Parallel()
			old, young := pgtest.Pair(t, pair[0], pair[1])
			roles := []string{old, young}
			if plain {
				roles = plainRole(t, old, young)
			}
			pgtest.Exec(t, roles[0], `create table t (id serial primary key, v text); create table journal (v text not null); insert into t (v) values ('old');
insert into journal select 'old ' || i from generate_series(1, 20) i; analyze`)
			m := newMoving(t, fmt.Sprintf("again_%d", pair[0]), roles[0], roles[1])
			m.FallBack, m.InsertOnly = migration.FallBackRequire, []string{"public.journal"}
			r := m.start()
			r.waitFor(migration.Following)
			over := func(what string, from, to string, result *migration.CutoverResult) {
				t.Helper()
				if fmt.Sprint(result.Recopied) != `["public"."journal"]` {
					t.Errorf("%s: copied again: %v", what, result.Recopied)
				}
				const rows = `select string_agg(v, ',' order by v) from journal`
				want := one[string](t, from, rows)
				pgtest.Exec(t, to, `insert into journal values ('`+what+`')`)
				m.eventually("the row of after "+what, func() bool { return one[bool](t, from, `select exists(select from journal where v = '`+what+`')`) })
				for _, dsn := range []string{from, to} {
					if got := one[string](t, dsn, `select string_agg(v, ',' order by v) from journal where v <> '`+what+`'`); got != want {
						t.Errorf("%s: %s has %s, want %s", what, dsn, got, want)
					}
				}
			}
			pgtest.Exec(t, roles[0], `update journal set v = v || '!' where v like '%7'; delete from journal where v = 'old 2'`)
			over("the cutover", old, young, m.asked(migration.Cutover))
			r.waitFor(migration.Switched)
			pgtest.Exec(t, roles[1], `update journal set v = v || '?' where v like '%8'; delete from journal where v = 'old 3'`)
			over("the fallback", young, old, m.asked(migration.Fallback))
			r.waitFor(migration.Following)
			if err := migration.Abort(context.Background(), m.Config); err != nil {
				t.Fatal(err)
			}
			r.end() //nolint:errcheck // that it was aborted
			m.cleanup()
		})
	}
}
