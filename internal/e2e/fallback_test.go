package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/state"
)

// asked asks for a switch, in either direction, that must succeed.
func (m *moving) asked(what func(context.Context, migration.Config, func(string)) (*migration.CutoverResult, error)) *migration.CutoverResult {
	m.t.Helper()
	c := m.Config
	c.Cut.MaxLag, c.Cut.Timeout = patience, patience
	result, err := what(context.Background(), c, nil)
	if err != nil {
		m.t.Fatalf("%v\n%s", err, m.describe())
	}
	return result
}

// refuses expects that writes are refused by the fence.
func refuses(t *testing.T, dsn, side string, want bool) {
	t.Helper()
	_, err := newLine(t, dsn).ask(`insert into t (v) values ('try') returning id`)
	if (err != nil) != want {
		t.Errorf("the %s refuses writes: %v, want %v", side, err, want)
	}
}

// A migration goes over, back, and over again, as often as one likes; what is written where the database is comes to the
// other server, and no key is drawn twice. At the end the way back is given up.
func TestFallBack(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{13, 17}, {15, 18}} {
		t.Run(fmt.Sprintf("%d-%d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, pair[0], pair[1])
			pgtest.Exec(t, source, `create table t (id serial primary key, v text); insert into t (v) select 'old' from generate_series(1, 100);
create table big (id int primary key, doc text); alter table big alter doc set storage external; insert into big values (1, repeat('x', 5000))`)
			m := newMoving(t, fmt.Sprint("fallback_", pair[0]), source, target)
			m.FallBack = migration.FallBackRequire
			r := m.start()
			r.waitFor(migration.Following)
			pgtest.Exec(t, source, `insert into t (v) select 'followed' from generate_series(1, 10)`)
			write := func(dsn, v string) {
				t.Helper()
				pgtest.Exec(t, dsn, `insert into t (v) select '`+v+`' from generate_series(1, 50); update t set v = v || '+' where id % 7 = 0; delete from t where id % 31 = 0;
update big set id = id + 1; begin; insert into t (v) values ('`+v+` too'); savepoint s; truncate big; rollback to s; commit`)
			}
			arrives := func(from, to string) {
				t.Helper()
				want := one[string](t, from, `select md5(string_agg(t::text, '|' order by id)) from t`)
				m.eventually("the rows of "+from, func() bool {
					return one[string](t, to, `select coalesce(md5(string_agg(t::text, '|' order by id)), '') from t`) == want
				})
				sameRows(t, from, to)
			}
			for round := range 2 {
				result := m.asked(migration.Cutover)
				if result.WayBack == nil || result.WayBack.From == nil {
					t.Fatalf("no way back: %+v", result)
				}
				r.waitFor(migration.Switched)
				refuses(t, source, "old server", true)
				write(target, fmt.Sprint("new ", round))
				arrives(target, source)
				if round == 1 {
					break
				}
				m.asked(migration.Fallback)
				r.waitFor(migration.Following)
				refuses(t, target, "new server", true)
				write(source, fmt.Sprint("back ", round))
				arrives(source, target)
			}
			refuses(t, target, "new server", false)
			wrong := one[string](t, target, `select coalesce(string_agg(s, '; '), '') from walferry.request, unnest(steps) s where kind = 'fallback' and s ~* '\m(source|target|cutover)\M'`)
			if wrong != "" {
				t.Errorf("the fallback calls servers what they are in a cutover: %s", wrong)
			}
			if _, err := migration.Finish(context.Background(), m.Config); err != nil {
				t.Fatal(err)
			}
			if outcome, err := r.end(); err != nil || outcome.Phase != migration.Finished {
				t.Fatalf("migrate ended with %+v, %v", outcome, err)
			}
			m.cleanup()
		})
	}
}

// back reads how the way back is.
func (m *moving) back() migration.WayBack {
	st, err := migration.ReadStatus(context.Background(), m.Config)
	if err != nil {
		return migration.WayBack{}
	}
	return st.WayBack
}

// What the old server cannot take interrupts the way back, and nobody else: the new server takes writes, who asks to go back is
// told why not, and it resumes on its own once that is repaired. Its budget of WAL on the new server gives it up.
func TestFallBack_Interrupted(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 13, 17)
	pgtest.Exec(t, source, `create type mood as enum ('ok'); create table t (id serial primary key, v text, m mood); insert into t (v, m) values ('old', 'ok')`)
	m := newMoving(t, "interrupted", source, target)
	m.FallBack, m.MaxRetainedWALTarget = migration.FallBackRequire, 32<<20
	r := m.start()
	r.waitFor(migration.Following)
	m.asked(migration.Cutover)
	r.waitFor(migration.Switched)
	pgtest.Exec(t, target, `alter type mood add value 'new'`)
	pgtest.Exec(t, target, `insert into t (v, m) values ('a', 'new'); insert into t (v, m) values ('b', 'ok')`)
	m.eventually("an interrupted way back", func() bool { return m.back().State == state.BackInterrupted })
	if reason := m.back().Reason; !strings.Contains(reason, `invalid input value for enum`) || !strings.Contains(reason, `"new"`) {
		t.Errorf("the reason is %q", reason)
	}
	if _, err := migration.Fallback(context.Background(), m.Config, nil); !refusedGate(err, "the way back is interrupted since") {
		t.Errorf("fallback: %v", err)
	}
	if err := migration.Abort(context.Background(), m.Config); !refusedGate(err, "the new server is the database now") {
		t.Errorf("abort: %v", err)
	}
	pgtest.Exec(t, target, `insert into t (v, m) values ('c', 'ok')`)
	pgtest.Exec(t, source, `alter type mood add value 'new'`)
	m.eventually("the rows that waited", func() bool {
		return one[string](t, source, `select coalesce(string_agg(v, ' ' order by id), '') from t`) == "old a b c"
	})
	m.eventually("a way back that follows", func() bool { return m.back().State == state.BackFollowing })
	sameRows(t, target, source)

	// Its budget.
	pgtest.Exec(t, target, `alter type mood add value 'newer'; create table load (x text); alter table load alter x set storage external`)
	pgtest.Exec(t, target, `insert into t (v, m) values ('d', 'newer')`)
	m.eventually("an interrupted way back", func() bool { return m.back().State == state.BackInterrupted })
	for range 12 { // WAL of others holds it up as well
		pgtest.Exec(t, target, `insert into load select repeat(md5(g::text), 100) from generate_series(1, 1000) g`)
	}
	m.eventually("a way back that is lost", func() bool { return m.back().State == state.BackLost })
	if got := one[int](t, target, `select count(*) from pg_replication_slots where database = current_database()`); got != 0 {
		t.Errorf("%d slots hold WAL back on the new server", got)
	}
	pgtest.Exec(t, target, `insert into t (v, m) values ('e', 'newer')`)
	if _, err := migration.Finish(context.Background(), m.Config); err != nil {
		t.Fatal(err)
	}
	if outcome, err := r.end(); err != nil || outcome.Phase != migration.Finished {
		t.Fatalf("migrate ended with %+v, %v", outcome, err)
	}
	pgtest.Exec(t, target, `drop table load`)
	m.cleanup()
}
