package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// DDL on the source that no change follows is not seen in the stream. The cutover
// sees it: it refuses before anything is fenced, says what is different, and goes
// through once both sides are alike again.
func TestCutover_RefusesDrift(t *testing.T) {
	from, to := pgtest.Default()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, `create table t (id int primary key, a int, b text); insert into t values (1, 1, 'b')`)
	m := newMoving(t, "drift", source, target)
	m.Cut.MaxLag, m.Cut.Timeout = patience, patience
	r := m.start()
	r.waitFor(migration.Following)
	for _, drift := range []struct{ ddl, undo, names string }{
		{`alter table t add column fresh int default 7`, `alter table t drop column fresh`, "fresh"},
		{`alter table t drop column b`, `alter table t add column b text; update t set b = 'b'`, `"b"`},
		{`alter table t alter column a type bigint`, `alter table t alter column a type int`, "bigint"},
		{`create table more (id int primary key)`, `drop table more`, "more"},
		{`alter table t rename to u`, `alter table u rename to t`, "gone: "},
	} {
		pgtest.Exec(t, source, drift.ddl)
		_, err := migration.Cutover(context.Background(), m.Config, nil)
		var gate *migration.GateError
		if !errors.As(err, &gate) || !strings.Contains(gate.Problem, drift.names) {
			t.Errorf("cutover after %q: %v, want a GateError that names %s", drift.ddl, err, drift.names)
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
