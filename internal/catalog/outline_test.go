package catalog

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

// The mark changes with anything that identifies a table, even if names have been restored, and
// stays the same under ordinary work.
func TestMark(t *testing.T) {
	for _, major := range []int{10, 13, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			dsn := pgtest.Shared(t, major).Database(t)
			pgtest.Exec(t, dsn, `
create table a (id int primary key, v text, w text); create table b (id int primary key); create publication p for table a, b;
create table top (id int) partition by range (id); create table low partition of top for values from (0) to (10); create table base (id int); create table kid () inherits (base)`)
			conn, err := pgx.Connect(t.Context(), dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			mark := func() string {
				t.Helper()
				m, err := Mark(t.Context(), conn, major)
				if err != nil {
					t.Fatal(err)
				}
				return m
			}
			last := mark()
			for _, sql := range []string{
				`drop table b; create table b (id int primary key)`, `alter table a rename to c; alter table b rename to a; alter table c rename to b`,
				`alter table b rename v to x; alter table b rename w to v; alter table b rename x to w`, `alter table b drop column v; alter table b add column v text`,
				`alter table top detach partition low`, `alter table top attach partition low for values from (0) to (10)`,
				`alter table top detach partition low; alter table top attach partition low for values from (0) to (11)`, `alter table kid no inherit base`,
				`create table low2 partition of top for values from (20) to (30)`, `create foreign data wrapper far; create server far foreign data wrapper far; create foreign table away (id int) server far`,
				`alter publication p add table kid`, `alter publication p drop table kid; alter publication p add table kid`,
				`alter publication p set (publish = 'insert'); alter publication p set (publish = 'insert, update, delete')`,
				`create schema s`, `alter table a set schema s`, `drop publication p`,
			} {
				pgtest.Exec(t, dsn, sql)
				if now := mark(); now == last {
					t.Errorf("the mark is the same after %q", sql)
				} else {
					last = now
				}
			}
			for _, sql := range []string{
				`insert into kid values (1); update kid set id = 2; delete from kid`, `create temp table temporary_ (a int); insert into temporary_ values (1)`, `analyze`, `vacuum`, `vacuum full kid`,
				`create function f() returns trigger language plpgsql as 'begin return null; end'; create trigger t before insert on kid execute procedure f(); alter table kid enable always trigger t`,
				`create index on kid (id)`, `comment on table kid is 'kid'`, `create view v as select 1`,
			} {
				pgtest.Exec(t, dsn, sql)
				if now := mark(); now != last {
					t.Errorf("the mark is another one after %q", sql)
				}
			}
		})
	}
}
