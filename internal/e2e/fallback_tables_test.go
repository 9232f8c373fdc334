package e2e

import (
	"context"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/state"
)

// refusedFallback asks for a fallback that must be refused, and returns why.
func (m *moving) refusedFallback() string {
	m.t.Helper()
	c := m.Config
	c.Cut.MaxLag, c.Cut.Timeout = patience, patience
	result, err := migration.Fallback(context.Background(), c, nil)
	if !fail.Is(err, fail.Gate) {
		m.t.Fatalf("fallback: %+v, %v; want that a gate refuses it", result, err)
	}
	return err.Error() + "; " + fail.Hint(err)
}

// A table that the new server gets while it is the database does not come to the old one. That is told, and a fallback, which would leave it
// behind, is refused; what was there before, and is not the migration's, is nobody's concern.
func TestFallBack_NewTable(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 13, 17)
	pgtest.Exec(t, target, `create schema other; create table other.before (id int)`)
	pgtest.Exec(t, source, `create table t (id serial primary key, v text); insert into t (v) values ('old'); create table left_out (id int primary key)`)
	m := newMoving(t, "new_table", source, target)
	m.FallBack, m.Exclude = migration.FallBackRequire, []string{"public.left_out"}
	r := m.start()
	r.waitFor(migration.Following)
	m.asked(migration.Cutover)
	r.waitFor(migration.Switched)
	pgtest.Exec(t, target, `create table later (id int primary key); insert into later values (1); insert into t (v) values ('new')`)
	m.eventually("the new table in status", func() bool {
		st, err := migration.ReadStatus(context.Background(), m.Config)
		return err == nil && len(st.NewTables) == 1 && strings.Contains(st.NewTables[0], "later") && m.back().State == state.BackFollowing
	})
	if why := m.refusedFallback(); !strings.Contains(why, "later") || strings.Contains(why, "before") || strings.Contains(why, "source") || strings.Contains(why, "abort") {
		t.Errorf("a fallback is refused with %q", why)
	}
	refuses(t, target, "new server", false)
	pgtest.Exec(t, target, `drop table later`)
	m.asked(migration.Fallback)
	r.waitFor(migration.Following)
	if n := one[int](t, source, `select count(*) from t`); n != 3 { // one is of the look whether it refuses
		t.Errorf("the old server has %d rows, want 3", n)
	}
}

// A table of the new server that was dropped and made again under the same name is another one: what was written to it does not come to the
// old server, so that the way back is lost. The new server is not affected, and does not keep WAL for it.
func TestFallBack_Replaced(t *testing.T) {
	t.Parallel()
	m, r := newFallBack(t, "replaced", 13, 17, migration.FallBackRequire)
	m.asked(migration.Cutover)
	r.waitFor(migration.Switched)
	pgtest.Exec(t, m.Target, `drop table trunc; create table trunc (id int primary key); insert into trunc values (1)`)
	if why := m.refusedFallback(); !strings.Contains(why, "trunc") || strings.Contains(why, "source") || strings.Contains(why, "walferry abort") {
		t.Errorf("a fallback is refused with %q", why)
	}
	m.eventually("that the way back is lost", func() bool { return m.back().State == state.BackLost })
	if why := m.back().Reason; !strings.Contains(why, `trunc" was dropped on the new server and made again`) {
		t.Errorf("the way back is lost because %q", why)
	}
	m.eventually("no slot on the new server", func() bool {
		return one[int](t, m.Target, `select count(*) from pg_replication_slots where database = current_database()`) == 0
	})
	refuses(t, m.Target, "new server", false)
	refuses(t, m.Source, "old server", true)
	if _, err := migration.Finish(context.Background(), m.Config); err != nil {
		t.Fatal(err)
	}
	if outcome, err := r.end(); err != nil || outcome.Phase != migration.Finished {
		t.Fatalf("migrate ended with %+v, %v", outcome, err)
	}
	m.cleanup()
}
