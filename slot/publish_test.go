package slot

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

// An application that builds an index in a transaction, and then wants a table that comes
// earlier in the list, is not made the victim of a deadlock: nothing of the publication is
// locked for long while another table is waited for. In the end all tables are in it.
func TestCreatePublication_InUse(t *testing.T) {
	for _, major := range []int{10, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			dsn := pgtest.Shared(t, major).Database(t)
			var tables []pgx.Identifier
			ddl := ""
			const n = 150
			for i := range n {
				tables = append(tables, pgx.Identifier{"public", fmt.Sprintf("t%03d", i)})
				ddl += fmt.Sprintf("create table t%03d (id int primary key);", i)
			}
			pgtest.Exec(t, dsn, ddl)
			connect := func() *pgx.Conn {
				conn, err := pgx.Connect(t.Context(), dsn)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close(context.Background()) })
				return conn
			}
			conn, app, look := connect(), connect(), connect()
			made := make(chan error, 1)
			run := func(conn *pgx.Conn, sql string) {
				t.Helper()
				if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
					t.Fatalf("%v\nin: %s", err, sql)
				}
			}
			waits := func(look *pgx.Conn) {
				t.Helper()
				for waits := false; !waits; {
					select {
					case err := <-made:
						t.Fatalf("it did not wait: %v", err)
					default:
					}
					if err := look.QueryRow(t.Context(), `select exists(select from pg_locks where not granted and pid = $1)`, conn.PgConn().PID()).Scan(&waits); err != nil {
						t.Fatal(err)
					}
				}
			}
			run(app, `begin; create index on t040 (id); create index on t149 (id)`)
			go func() {
				_, err := CreatePublication(context.Background(), conn, "p", tables, "")
				made <- err
			}()
			waits(look)
			run(app, `truncate t000, t041; drop table t039; commit`)
			if err := <-made; err == nil {
				t.Error("a table was dropped meanwhile, and nothing is said")
			}
			if got := pgtest.Query(t, dsn, `select count(*) from pg_publication`)[0][0]; got != "0" {
				t.Error("a part of the publication is left")
			}
			run(app, `create table t039 (id int primary key)`)
			run(app, `begin; create index on t100 (id)`)
			go func() {
				_, err := CreatePublication(context.Background(), conn, "p", tables, "")
				made <- err
			}()
			waits(look)
			run(app, `truncate t000; truncate t099; commit`)
			if err := <-made; err != nil {
				t.Error(err)
			}
			if got := pgtest.Query(t, dsn, `select count(*) from pg_publication_tables where pubname = 'p'`)[0][0]; got != fmt.Sprint(n) {
				t.Errorf("%s tables are published, want %d", got, n)
			}
		})
	}
}
