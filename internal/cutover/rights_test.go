package cutover

import (
	"testing"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
)

// The fence's function runs in the application's sessions, with whatever operators come first
// there: one that always says yes lets nobody through.
func TestFence_SearchPath(t *testing.T) {
	dsn, _ := pgtest.Pair(t, 15, 15)
	pgtest.Exec(t, dsn, `create schema walferry; create table t (id int primary key); create schema evil;
create function evil.yes(bigint, int) returns bool language sql as 'select true'; create function evil.yes(bigint, bigint) returns bool language sql as 'select true';
create function evil.yes(text, text) returns bool language sql as 'select true'; create function evil.yes(timestamptz, timestamptz) returns bool language sql as 'select true';
create operator evil.< (leftarg = bigint, rightarg = int, procedure = evil.yes); create operator evil.< (leftarg = bigint, rightarg = bigint, procedure = evil.yes);
create operator evil.= (leftarg = text, rightarg = text, procedure = evil.yes); create operator evil.>= (leftarg = timestamptz, rightarg = timestamptz, procedure = evil.yes)`)
	conn, app := connect(t, dsn), connect(t, dsn)
	tables, err := catalog.Tables(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	fence := Fence{Name: "x", Tables: tables}
	if err := fence.Prepare(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if _, _, err := fence.Raise(t.Context(), conn, time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := app.Exec(t.Context(), `set search_path = evil, pg_catalog, public; begin; select txid_current()`); err != nil {
		t.Fatal(err)
	}
	if !refused(t, app, `insert into public.t values (1)`) {
		t.Error("a write has passed the fence by an operator of the application's search_path")
	}
	if _, err := app.Exec(t.Context(), `rollback`); err != nil {
		t.Fatal(err)
	}
	drop(t, conn)
}
