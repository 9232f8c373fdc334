package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// DDL on the source that no change follows is not seen in the stream. The cutover
// sees it: it refuses before anything is fenced, says what is different, and goes
// through once both sides are alike again.
func TestCutover_RefusesDrift(t *testing.T) {
	from, to := pgtest.Default()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, `create type inner_pair as (x int); create type pair as (p inner_pair, q text); create table t (id int primary key, a int, b text); create table composed (id int primary key, c pair[]); insert into t values (1, 1, 'b')`)
	m := newMoving(t, "drift", source, target)
	m.Cut.MaxLag, m.Cut.Timeout = patience, patience
	m.Heartbeat = 30 * time.Second // migrate ends when it sees a new table, after some heartbeats: here the cutover comes first
	r := m.start()
	r.waitFor(migration.Following)
	for _, drift := range []struct{ ddl, undo, names string }{
		{`alter table t add column fresh int default 7`, `alter table t drop column fresh`, "fresh"},
		{`alter table t rename column b to c`, `alter table t rename column c to b`, `"b"`},
		{`alter table t alter column a type bigint`, `alter table t alter column a type int`, "bigint"},
		{`create table more (id int primary key)`, `drop table more`, "more"},
		{`create sequence counter`, `drop sequence counter`, "counter"},
		{`alter type pair add attribute z int`, `alter type pair drop attribute z`, "z integer"},
		{`alter type inner_pair rename attribute x to y`, `alter type inner_pair rename attribute y to x`, "inner_pair"},
		{`alter table t rename to u`, `alter table u rename to t`, `"public"."t" is called "public"."u"`},
	} {
		pgtest.Exec(t, source, drift.ddl)
		_, err := migration.Cutover(context.Background(), m.Config, nil)
		gate := fail.Find(err, fail.Gate)
		if gate == nil || !strings.Contains(gate.Problem, drift.names) {
			t.Errorf("cutover after %q: %v, want a gate that names %s", drift.ddl, err, drift.names)
		}
		if n := one[int](t, source, `select count(*) from pg_trigger where tgname = 'walferry_fence'`); n != 0 {
			t.Errorf("after %q the source has %d triggers of a fence", drift.ddl, n)
		}
		pgtest.Exec(t, source, drift.undo)
	}
	m.cutover(r)
	sameRows(t, source, target)
	m.cleanup()
}

// What stops the applier says the DDL for the target, and whether the source has written its rows
// anew with values that nobody can know: a volatile default does that, a constant one does not.
func TestDriftSaysTheDDL(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Default()
	for name, test := range map[string]struct {
		ddl, hint string
		rewritten bool
	}{
		"null":     {`alter table t add column extra numeric(10,2)`, `alter table "public"."t" add column "extra" numeric(10,2);`, false},
		"constant": {`alter table t add column extra text not null default 'it''s'`, `alter table "public"."t" add column "extra" text default 'it''s'::text not null;`, false},
		"volatile": {`alter table t add column extra float8 default random()`, `alter table "public"."t" add column "extra" double precision default random();`, true},
		"dropped":  {`alter table t drop column b`, `alter table "public"."t" drop column "b";`, false},
		"retyped":  {`alter table t alter column a type int8`, `alter table "public"."t" alter column "a" type bigint;`, false},
		"renamed":  {`alter table t rename column b to c`, `alter table "public"."t" rename column "b" to "c";`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, from, to)
			pgtest.Exec(t, source, `create table t (id int primary key, a int, b text); insert into t values (1, 1, 'b')`)
			m := newMoving(t, "ddl_"+name, source, target)
			r := m.start()
			r.waitFor(migration.Following)
			pgtest.Exec(t, source, test.ddl)
			pgtest.Exec(t, source, `update t set a = 2`)
			_, err := r.end()
			var hint interface{ Hint() string }
			if !errors.As(err, &hint) || !strings.Contains(hint.Hint(), test.hint) || strings.Contains(hint.Hint(), "written the rows") != test.rewritten {
				t.Fatalf("migrate ended with %v, hint %q; want %q, and rows written anew: %v", err, hint.Hint(), test.hint, test.rewritten)
			}
			// What it says is what mends it.
			ddl, _, _ := strings.Cut(test.hint, ";")
			pgtest.Exec(t, target, ddl)
			r = m.start()
			m.caughtUp(r)
			if got := one[int](t, target, `select a::int from t`); got != 2 {
				t.Errorf("a is %d, want 2", got)
			}
			if err := migration.Abort(t.Context(), m.Config); err != nil {
				t.Error(err)
			}
		})
	}
}
