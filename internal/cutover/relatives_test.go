package cutover

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
)

// raised puts a fence round some tables and closes it.
func raised(t *testing.T, dsn string, fed bool, names ...string) Fence {
	t.Helper()
	conn := connect(t, dsn)
	all, err := catalog.Tables(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	tables := slices.DeleteFunc(all, func(c catalog.Table) bool { return !slices.Contains(names, c.Name.Name) })
	fence, _, err := NewFence(t.Context(), conn, "x", tables)
	if err != nil {
		t.Fatal(err)
	}
	for i := range tables {
		if fed && tables[i].Kind == 'r' {
			fence.Fed = append(fence.Fed, tables[i].OID)
		}
	}
	if err := fence.Prepare(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	return fence
}

// Rows of a table are changed by statements on what is above it: by inheritance, more than one step
// away, or as the partitioned table that is not migrated itself. The fence stands there, too.
func TestFence_Parents(t *testing.T) {
	for _, major := range []int{10, 18} {
		dsn, _ := pgtest.Pair(t, major, major)
		pgtest.Exec(t, dsn, `create schema walferry;
create table top (id int, v text); create table middle () inherits (top); create table child () inherits (middle); insert into child values (1, 'a');
create table root (id int, v text) partition by list (id); create table leaf partition of root for values in (1); create table other partition of root for values in (2);
insert into leaf values (1, 'a'); create view above as select * from top;
create rule instead as on insert to above do instead update top set v = new.v`)
		fence := raised(t, dsn, false, "child", "leaf")
		if len(fence.Parents) != 3 {
			t.Errorf("%d: the parents are %v, want top, middle and root", major, fence.Parents)
		}
		writes := []string{
			`update top set v = 'b'`, `delete from middle`, `truncate top`, `update above set v = 'b'`, `insert into above values (1, 'b')`,
			`insert into root values (1, 'b')`, `update root set v = 'b'`, `truncate root`, `copy root from program 'echo 1'`,
		}
		if major >= 15 {
			writes = append(writes, `merge into root using (select 1 i) s on id = i when matched then update set v = 'b'`,
				`merge into top using (select 1 i) s on id = i when matched then delete`)
		}
		app := connect(t, dsn)
		for _, sql := range writes[:2] {
			if refused(t, app, `begin; `+sql+`; rollback`) {
				t.Errorf("%d: refused before the fence was raised: %s", major, sql)
			}
		}
		if _, _, err := fence.Raise(t.Context(), connect(t, dsn), time.Hour); err != nil {
			t.Fatal(err)
		}
		for _, sql := range writes {
			if !refused(t, app, sql) {
				t.Errorf("%d: passed the fence: %s", major, sql)
			}
		}
		if got := pgtest.Query(t, dsn, `select (select string_agg(v, ',') from top) || ' ' || (select string_agg(v, ',') from root)`)[0][0]; got != "a a" {
			t.Errorf("%d: the rows are %s", major, got)
		}
		// What becomes a parent inside the fence is noticed before the seal.
		conn := connect(t, dsn)
		if err := fence.Unchanged(t.Context(), conn); err != nil {
			t.Errorf("%d: %v", major, err)
		}
		pgtest.Exec(t, dsn, `create table late (id int, v text); alter table child inherit late`)
		if err := fence.Unchanged(t.Context(), conn); err == nil || !strings.Contains(err.Error(), "late") {
			t.Errorf("%d: a new parent: %v", major, err)
		}
		drop(t, conn)
	}
}

// The fence for rows stops what is no statement, and while it is open every row is written:
// before it is closed, after its deadline, and after somebody has un-fenced by hand.
func TestFence_Rows(t *testing.T) {
	for _, major := range []int{10, 18} {
		dsn, _ := pgtest.Pair(t, major, major)
		pgtest.Exec(t, dsn, `create schema walferry; create table t (id int primary key, v text); insert into t values (1, 'a'), (2, 'b')`)
		fence := raised(t, dsn, true, "t")
		conn, app := connect(t, dsn), connect(t, dsn)
		n := 10
		written := func(when string) {
			t.Helper()
			n++
			_, err := app.PgConn().Exec(t.Context(), `delete from t where id > 10; insert into t values (11, 'x'); update t set v = 'y' where id = 11; delete from t where id = 11;
insert into t values (12, 'x'); update t set v = 'y' where id = 12`).ReadAll()
			if got := pgtest.Query(t, dsn, `select string_agg(id || v, ' ' order by id) from t`)[0][0]; err != nil || got != "1a 2b 12y" {
				t.Errorf("%d, %s: the rows are %s, %v", major, when, got, err)
			}
		}
		written("put up")
		if _, _, err := fence.Raise(t.Context(), conn, 50*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		for refused(t, app, `update t set v = v`) {
			time.Sleep(5 * time.Millisecond)
		}
		written("deadline passed")
		if _, _, err := fence.Raise(t.Context(), conn, time.Hour); err != nil {
			t.Fatal(err)
		}
		// As an apply worker sees it: without the trigger for statements.
		pgtest.Exec(t, dsn, `alter table t disable trigger walferry_fence`)
		for _, sql := range []string{`insert into t values (20)`, `update t set v = 'z' where id = 1`, `delete from t where id = 1`, `set session_replication_role = replica; delete from t`} {
			fresh := connect(t, dsn)
			_, err := fresh.PgConn().Exec(t.Context(), sql).ReadAll()
			var server *pgconn.PgError
			if !errors.As(err, &server) || server.Code != SQLState {
				t.Errorf("%d: passed the fence: %s: %v", major, sql, err)
			}
		}
		if err := fence.Seal(t.Context(), conn); err == nil {
			t.Errorf("%d: sealed without a trigger that is enabled", major)
		}
		pgtest.Exec(t, dsn, `alter table t enable always trigger walferry_fence; alter table t disable trigger walferry_fence_row`)
		if err := fence.Seal(t.Context(), conn); err == nil {
			t.Errorf("%d: sealed without a trigger for rows that is enabled", major)
		}
		pgtest.Exec(t, dsn, `alter table t enable always trigger walferry_fence_row`)
		open, rest, _ := strings.Cut(UnfenceSQL("x"), ";\n--")
		pgtest.Exec(t, dsn, open)
		written("un-fenced by hand")
		pgtest.Exec(t, dsn, "--"+rest)
		if left, err := triggers(t.Context(), conn, "x"); err != nil || len(left) > 0 {
			t.Errorf("%d: after the SQL that un-fences there are %v, %v", major, left, err)
		}
		written("taken down")
	}
}

// A reader with a long transaction keeps a trigger of the open fence from being dropped: nobody
// waits behind the attempts, the reader is named, and another attempt succeeds.
func TestRemove_LongReader(t *testing.T) {
	dsn, _ := pgtest.Pair(t, 10, 10)
	pgtest.Exec(t, dsn, `create schema walferry; create table t (id int primary key); create table u (id int primary key)`)
	fence := raised(t, dsn, false, "t", "u")
	conn, reader, app := connect(t, dsn), connect(t, dsn), connect(t, dsn)
	if _, _, err := fence.Raise(t.Context(), conn, time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Exec(t.Context(), `set application_name = 'reports'; begin; select from t`); err != nil {
		t.Fatal(err)
	}
	if err := Open(t.Context(), conn, "x", ""); err != nil {
		t.Fatal(err)
	}
	if refused(t, app, `insert into t values (1)`) {
		t.Error("refused, though the fence is open")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	left, err := Remove(ended, conn, "x")
	if err != nil || len(left) != 1 || left[0].Table != `"public"."t"` || !strings.Contains(left[0].Why, `"reports"`) {
		t.Errorf("left: %v, %v; want t, and whose transaction it is", left, err)
	}
	if refused(t, app, `insert into t values (2)`) {
		t.Error("refused by a trigger that is left")
	}
	if _, err := reader.Exec(t.Context(), `commit`); err != nil {
		t.Fatal(err)
	}
	drop(t, conn)
}

// What an earlier fence has left, and an application has switched off and on with all triggers of
// its table, is a trigger of the next fence.
func TestPrepare_TriggerSwitched(t *testing.T) {
	dsn, _ := pgtest.Pair(t, 15, 15)
	pgtest.Exec(t, dsn, `create schema walferry; create table t (id int primary key); create table u (id int primary key)`)
	fence := raised(t, dsn, false, "t", "u")
	conn, app := connect(t, dsn), connect(t, dsn)
	pgtest.Exec(t, dsn, `alter table t disable trigger all; alter table t enable trigger all; alter table u disable trigger user`)
	if err := fence.Prepare(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if _, _, err := fence.Raise(t.Context(), conn, time.Hour); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{`insert into t values (1)`, `set session_replication_role = replica; insert into u values (1)`} {
		if !refused(t, app, sql) {
			t.Errorf("%s is not refused", sql)
		}
	}
	drop(t, conn)
}
