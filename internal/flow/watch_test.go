package flow

import (
	"testing"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
)

const watchedSchema = `
create schema walferry;
create table log (a int unique, b text);
create table owner (id int primary key);
create table owned (id int references owner on delete cascade on update set null, b text);
create table root (k int, b text) partition by list (k);
create table leaf partition of root for values in (1);
create table parent (a int);
create table child () inherits (parent);
insert into log values (1, 'x'), (2, 'y');
insert into owner select generate_series(1, 3);
insert into owned select generate_series(1, 3);
insert into root values (1, 'x');
insert into child values (1);
do $$ begin create role walferry_app; exception when duplicate_object or unique_violation then end $$;
grant all on all tables in schema public to walferry_app;
`

// What the watch must note, and what not: false alarms cost a copy of the table, and a breach that
// is missed costs rows.
func TestWatch(t *testing.T) {
	for _, major := range []int{10, 18} {
		dsn, _ := pgtest.Pair(t, major, major)
		pgtest.Exec(t, dsn, watchedSchema)
		conn, app := connect(t, dsn), connect(t, dsn)
		all, err := catalog.Tables(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		oids := map[string]uint32{}
		watch := Watch{Name: "x"}
		for _, table := range all {
			if table.Kind == 'r' {
				oids[table.Name.Name] = table.OID
				watch.Tables = append(watch.Tables, table)
			}
		}
		set := func() {
			t.Helper()
			if err := watch.Set(t.Context(), conn); err != nil {
				t.Fatal(err)
			}
		}
		mark := func(table string) string {
			t.Helper()
			marks, err := Marks(t.Context(), conn, "x", []uint32{oids[table]})
			if err != nil {
				t.Fatal(err)
			}
			return marks[oids[table]]
		}
		set()
		for _, s := range []struct {
			table, sql string
			noted      bool
		}{
			{"log", `insert into log values (3, 'z')`, false},
			{"log", `insert into log values (4, 'z') on conflict (a) do update set b = 'conflict'`, false},
			{"log", `update log set b = 'nobody' where a = 99`, false},
			{"log", `delete from log where a = 99`, false},
			{"log", `truncate log; insert into log values (1, 'x'), (2, 'y')`, false},
			{"log", `insert into log values (1, 'z') on conflict (a) do update set b = 'conflict'`, true},
			{"log", `update log set b = 'updated' where a = 1`, true},
			{"log", `begin; delete from log where a = 2; rollback`, true},
			{"log", `begin; savepoint s; delete from log where a = 2; rollback to savepoint s; commit`, true},
			{"log", `set role walferry_app; update log set b = 'by others'; reset role`, true},
			{"log", `set session_replication_role = replica; update log set b = 'replica'; reset session_replication_role`, true},
			{"log", `begin; set constraints all deferred; with d as (delete from log where a = 2 returning *) insert into log select a + 100, b from d; commit`, true},
			{"owned", `delete from owner where id = 1`, true},
			{"owned", `update owner set id = 20 where id = 2`, true},
			{"leaf", `update root set b = 'through the root'`, true},
			{"child", `update parent set a = 2`, true},
			{"child", `delete from parent`, true},
			{"log", `alter table log disable trigger user; update log set b = 'unseen'; alter table log enable always trigger walferry_word_x`, true},
			{"log", `alter table log disable trigger user; alter table log enable always trigger walferry_word_x`, true},
			{"log", `alter table log rename column b to c; update log set c = 'renamed'; alter table log rename column c to b`, true},
		} {
			before := mark(s.table)
			pgtest.Exec(t, dsn, s.sql)
			if after := mark(s.table); before == "" || (before != after) != s.noted {
				t.Errorf("%d: %s: noted %v, want %v", major, s.sql, before != after, s.noted)
			}
		}
		// What is dropped is found missing, the application does not notice, and it is put back.
		for _, sql := range []string{
			`alter table log disable trigger walferry_word_x`,
			`alter table log enable trigger walferry_word_x`,
			`drop trigger walferry_word_x on log`,
			`do $$ begin execute 'drop sequence walferry.word_x_' || 'log'::regclass::oid; end $$`,
			`create or replace function walferry.word_x() returns trigger language plpgsql as 'begin return null; end'`,
		} {
			pgtest.Exec(t, dsn, sql)
			if _, err := app.Exec(t.Context(), `update log set b = 'the application'`); err != nil {
				t.Errorf("%d: after %s: %v", major, sql, err)
			}
			if got := mark("log"); got != "" {
				t.Errorf("%d: after %s the table counts as watched", major, sql)
			}
			set()
			if got := mark("log"); got == "" {
				t.Errorf("%d: after %s it is not watched again", major, sql)
			}
		}
		// Nobody can lend himself the function.
		if err := runAs(t, dsn, "walferry_app", `create temporary table mine (a int); create trigger mine after update on mine for each row execute procedure walferry.word_x()`); err == nil {
			t.Errorf("%d: another role may make a trigger of the function", major)
		}
		if err := Unwatch(t.Context(), conn, "x"); err != nil {
			t.Fatal(err)
		}
		left := pgtest.Query(t, dsn, `select tgname::text from pg_trigger where tgname ~ 'walferry' union all select relname::text from pg_class where relname ~ '^word'
 union all select proname::text from pg_proc where proname ~ '^word'`)
		if len(left) > 0 {
			t.Errorf("%d: left over: %v", major, left)
		}
		pgtest.Exec(t, dsn, `drop owned by walferry_app; drop role walferry_app`)
	}
}

func runAs(t *testing.T, dsn, role, sql string) error {
	t.Helper()
	conn := connect(t, dsn)
	if _, err := conn.Exec(t.Context(), `grant usage on schema walferry to `+role+`; set role `+role); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Exec(t.Context(), sql)
	return err
}
