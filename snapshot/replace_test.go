package snapshot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

// replacing opens both sides' transactions for the table t.
func replacing(t *testing.T, source, target, role string) (*Replacement, *pgx.Conn, error) {
	t.Helper()
	var conns [2]*pgx.Conn
	for i, side := range []struct{ dsn, begin string }{
		{source, `begin isolation level repeatable read read only`},
		{target, role + `; begin isolation level repeatable read`},
	} {
		conn, err := pgx.Connect(t.Context(), side.dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.Background()) })
		if _, err := conn.PgConn().Exec(t.Context(), side.begin).ReadAll(); err != nil {
			t.Fatal(err)
		}
		conns[i] = conn
	}
	r, err := NewReplacement(t.Context(), conns[0], conns[1], Table{Schema: "public", Name: "t"})
	return r, conns[1], err
}

// The rows that were there go, those that are inserted after the transactions were opened stay, on
// the source as on the target; columns are found by name, an identity column is given its values; a
// check that old rows violate is back afterwards; and nothing of it is visible before the commit.
func TestReplacement(t *testing.T) {
	for _, pair := range [][2]int{{10, 18}, {15, 15}} {
		source, target := pgtest.Pair(t, pair[0], pair[1])
		pgtest.Exec(t, source, `create table t (a int generated always as identity, b text); insert into t (b) values ('one'), ('two'), ('three'); delete from t where a = 2`)
		pgtest.Exec(t, target, `create table t (b text, a int generated always as identity, more int default 7); insert into t (b) values ('old'), ('older');
alter table t add constraint long check (b like '%e%e%') not valid`)
		r, conn, err := replacing(t, source, target, `set session_replication_role = replica`)
		if err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, source, `insert into t (b) values ('too late')`)
		if rows, err := r.Run(t.Context()); err != nil || rows != 2 || r.Rows() < 2 {
			t.Fatalf("%v: %d rows, %v", pair, rows, err)
		}
		if _, err := conn.Exec(t.Context(), `commit`); err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(pgtest.Query(t, target, `select a, b, more from t order by a`), pgtest.Query(t, target, `select convalidated from pg_constraint where conname = 'long'`))
		if want := "[[1 one 7] [3 three 7]] [[f]]"; got != want {
			t.Errorf("%v: target has %s, want %s", pair, got, want)
		}
	}
}

// What the target has inserted meanwhile stays; a Replacement that is not committed leaves the rows
// that were there.
func TestReplacement_Beside(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (a int); insert into t values (1), (2)`)
	pgtest.Exec(t, target, `create table t (a int); insert into t values (10)`)
	for _, end := range []string{"rollback", "commit"} {
		r, conn, err := replacing(t, source, target, `set session_replication_role = replica`)
		if err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, target, `insert into t values (99)`)
		if _, err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), end); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"rollback": "[[10] [99]]", "commit": "[[1] [2] [99]]"}[end]
		if got := fmt.Sprint(pgtest.Query(t, target, `select a from t order by a`)); got != want {
			t.Errorf("after %s: %s, want %s", end, got, want)
		}
	}
}

// A role that may not set session_replication_role does not delete rows that the target's foreign
// keys or rules would make something else of: it says which, and nothing has happened.
func TestReplacement_Acting(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (a int primary key); insert into t values (1)`)
	for _, acting := range []struct{ what, sql string }{
		{"foreign key", `create table refers (a int references t on delete cascade); insert into refers values (5)`},
		{"rule", `create rule kept as on delete to t do instead nothing`},
	} {
		pgtest.Exec(t, target, `drop table if exists t, refers cascade; create table t (a int primary key); insert into t values (5);`+acting.sql)
		_, _, err := replacing(t, source, target, `set application_name = plain`)
		var refused *ReplaceError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), acting.what) || refused.Hint() == "" {
			t.Errorf("%s: %v, want a ReplaceError that names it", acting.what, err)
		}
		r, conn, err := replacing(t, source, target, `set session_replication_role = replica`)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), `commit`); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(pgtest.Query(t, target, `select a from t`)); got != "[[1]]" {
			t.Errorf("%s: a role that may: %s", acting.what, got)
		}
		if acting.what == "foreign key" {
			if got := fmt.Sprint(pgtest.Query(t, target, `select a from refers`)); got != "[[5]]" {
				t.Errorf("the table that refers to it: %s", got)
			}
		}
	}
}
