package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/state"
)

// What is altered on the new server, or only there allowed, keeps the way back from the old one: each time it is interrupted, and says by what; the
// new server goes on; and once that is repaired on the old one everything that waited comes.
func TestFallBack_Unfit(t *testing.T) {
	t.Parallel()
	old, young := pgtest.Pair(t, 13, 17)
	roles := plainRole(t, old, young)
	pgtest.Exec(t, roles[0], `create table t (id int primary key, short varchar(3), must int not null default 0, u int constraint u unique, c int constraint positive check (c > 0));
create table parent (id int primary key); create table outside (id int primary key, p int constraint from_outside references parent);
insert into parent values (1), (2); insert into outside values (1, 1); analyze`)
	m := newMoving(t, "unfit", roles[0], roles[1])
	m.FallBack, m.Exclude = migration.FallBackRequire, []string{"public.outside"}
	r := m.start()
	r.waitFor(migration.Following)
	m.asked(migration.Cutover)
	r.waitFor(migration.Switched)
	for i, c := range []struct {
		name, young, want, old string
	}{
		{"varchar is wider", `alter table t alter short type varchar(9); insert into t (id, short) values (%d, 'longer')`, "the type of columns: short", `alter table t alter short type varchar(9)`},
		{"a column more", `alter table t add extra text; insert into t (id, extra) values (%d, 'x')`, "lacks columns: extra", `alter table t add extra text`},
		{"a column less", `alter table t drop must; insert into t (id) values (%d)`, "must", `alter table t drop must`},
		{"no check any more", `alter table t drop constraint positive; insert into t (id, c) values (%d, -1)`, "23514", `alter table t drop constraint positive`},
		{"not unique any more", `alter table t drop constraint u; insert into t (id, u) values (%[1]d, 1), (%[1]d + 100, 1)`, "23505", `alter table t drop constraint u`},
		{"a column of another name", `alter table t rename c to d; insert into t (id, d) values (%d, 7)`, "c", `alter table t rename c to d`},
		{"a row that a table which is not migrated refers to is gone", `delete from parent where id = 1; insert into t (id) values (%d)`, "from_outside", `delete from outside`},
	} {
		pgtest.Exec(t, roles[1], fmt.Sprintf(c.young, i+1))
		m.eventually("an interrupted way back: "+c.name, func() bool { return m.back().State == state.BackInterrupted })
		if reason := m.back().Reason; !strings.Contains(reason, c.want) {
			t.Errorf("%s: the reason is %q, want %s in it", c.name, reason, c.want)
		}
		pgtest.Exec(t, young, fmt.Sprintf(`insert into t (id) values (%d)`, 1000+i)) // nobody else is affected
		pgtest.Exec(t, old, c.old)
		m.eventually("a way back that follows again: "+c.name, func() bool {
			return m.back().State == state.BackFollowing && one[int](t, old, `select count(*) from t`) == one[int](t, young, `select count(*) from t`)
		})
	}
	if got := one[int](t, old, `select count(*) from parent`); got != 1 {
		t.Errorf("the old server has %d parents, want 1", got)
	}
	// No repair: a value that the old version does not have.
	pgtest.Exec(t, roles[1], `alter table t add f numeric`)
	pgtest.Exec(t, old, `alter table t add f numeric`)
	pgtest.Exec(t, roles[1], `insert into t (id, f) values (5000, 'infinity')`)
	m.eventually("an interrupted way back", func() bool { return m.back().State == state.BackInterrupted })
	if reason := m.back().Reason; !strings.Contains(reason, "22P02") {
		t.Errorf("numeric infinity: the reason is %q", reason)
	}
	finished(t, m, r)
}

// The old server is a reader's, too, whose transaction keeps triggers and keys from being put aside: the way back says so, and begins when that has
// ended. The new server does not wait.
func TestFallBack_Reader(t *testing.T) {
	t.Parallel()
	old, young := pgtest.Pair(t, 15, 18)
	roles := plainRole(t, old, young)
	pgtest.Exec(t, roles[0], `create table t (id serial primary key, v text); create table u (id int primary key references t); analyze`)
	m := newMoving(t, "reader", roles[0], roles[1])
	m.FallBack = migration.FallBackRequire
	r := m.start()
	r.waitFor(migration.Following)
	reader := hold(t, old, `select count(*) from u`)
	m.asked(migration.Cutover)
	r.waitFor(migration.Switched)
	refuses(t, young, "new server", false)
	m.eventually("an interrupted way back", func() bool { return m.back().State == state.BackInterrupted })
	if reason := m.back().Reason; !strings.Contains(reason, `"u_id_fkey"`) || !strings.Contains(reason, "held by pid") {
		t.Errorf("the reason is %q", reason)
	}
	reader.rollback()
	m.eventually("the row of the new server", func() bool { return one[int](t, old, `select count(*) from t`) == 1 })
	finished(t, m, r)
}
