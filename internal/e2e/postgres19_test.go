package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// PostgreSQL 19 decodes with wal_level = replica, takes no texts with a backslash for an escape, and
// writes positions in another form: a migration to it, and from it, goes its whole way.
func TestPostgres19(t *testing.T) {
	t.Parallel()
	for _, from := range []int{13, 18, 19} {
		t.Run(fmt.Sprintf("%d-19", from), func(t *testing.T) {
			t.Parallel()
			level := "logical"
			if from == 19 {
				level = "replica"
			}
			server := pgtest.New(t, pgtest.Options{Major: from, Settings: map[string]string{"wal_level": level}})
			source, target := server.Database(t), pgtest.Shared(t, 19).Database(t)
			if from < 19 { // which makes pg_dump write texts that 19 does not read
				pgtest.Exec(t, source, fmt.Sprintf(`alter database %s set standard_conforming_strings = off`, one[string](t, source, `select current_database()`)))
			}
			pgtest.Exec(t, source, `
create table t (id int generated always as identity primary key, at pg_lsn, path text default E'a\\b' check (path <> E'\\'));
comment on table t is E'it''s a \\ table';
insert into t (at) values ('0/1'), ('FF/FFFFFFFF'), (null)`)
			m := newMoving(t, "nineteen", source, target)
			r := m.start()
			r.waitFor(migration.Following)
			pgtest.Exec(t, source, `insert into t (at, path) values ('16/B374D848', E'C:\\x'); update t set at = '1/0' where id = 1; delete from t where id = 3`)
			m.caughtUp(r)
			m.verified()
			st, err := migration.ReadStatus(context.Background(), m.Config)
			if err != nil {
				t.Fatal(err)
			}
			for _, lsn := range []string{st.Stream.AppliedLSN, st.Stream.AckedLSN, st.Stream.SourceLSN} {
				if _, low, _ := strings.Cut(lsn, "/"); low == "" || low[0] == '0' && low != "0" {
					t.Errorf("status writes the position %q, want it without zeros before", lsn)
				}
			}
			m.cutover(r)
			const rows = `select string_agg(concat(id, ' ', at - '0/0', ' ', path), '; ' order by id) from t`
			if got, want := one[string](t, target, rows), one[string](t, source, rows); got != want {
				t.Errorf("the target has %s, the source %s", got, want)
			}
			if got := one[string](t, target, `insert into t (at) values (null) returning id || path`); got != `5a\b` {
				t.Errorf("the target's next row is %s, want 5a\\b", got)
			}
			m.cleanup()
		})
	}
}
