package session

import (
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/pgtest"
)

// A relation that was a table when the catalog was read and is a view by the time it is read itself
// is refused, if the server can: its function does not run.
func TestTablesOnly(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			dsn := pgtest.Shared(t, major).Database(t)
			pgtest.Exec(t, dsn, `create table ran (a int); create table public.t (a int);
create function public.f() returns int language sql as 'insert into public.ran values (1) returning a'`)
			conn, err := Open(t.Context(), Config{DSN: dsn})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			if err := TablesOnly(t.Context(), conn.PgConn()); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.PgConn().Exec(t.Context(), `copy (select a from only public.t) to stdout; select count(*) from pg_stat_activity`).ReadAll(); err != nil {
				t.Errorf("a table, and a view of the system: %v", err)
			}
			pgtest.Exec(t, dsn, `drop table public.t; create view public.t as select public.f() as a`)
			_, err = conn.PgConn().Exec(t.Context(), `copy (select a from only public.t) to stdout`).ReadAll()
			refused := err != nil && strings.Contains(err.Error(), "view")
			ran := pgtest.Query(t, dsn, `select count(*) from ran`)[0][0]
			if want := major >= 12; refused != want || (ran == "0") != want {
				t.Errorf("a view in its place: got error %v and %s runs of its function, want refused %v", err, ran, want)
			}
		})
	}
}
