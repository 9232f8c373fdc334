package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// keyed are tables whose keys are drawn in every way, and their sequences.
const keyed = `create table t (id serial primary key, v text); create table ident (id int generated always as identity (cache 50) primary key, v text);
create table big (id bigserial primary key, v text); alter sequence big_id_seq increment 3 cache 50; create table small (id smallserial primary key, v text);
create table down (id bigint primary key, v text); create sequence counts increment -1; alter table down alter id set default nextval('counts')`

var keyedSequences = []string{"t_id_seq", "ident_id_seq", "big_id_seq", "small_id_seq", "counts"}

// positions returns where the sequences of keyed stand.
func positions(t *testing.T, dsn string) string {
	t.Helper()
	var parts []string
	for _, s := range keyedSequences {
		parts = append(parts, s+" "+one[string](t, dsn, `select last_value || ' ' || is_called from `+s))
	}
	return strings.Join(parts, ", ")
}

// With walferry dead and writers on the new server that draw keys as fast as they can, the old server is opened by hand: it draws none of
// the keys that were drawn on the new one.
func TestFallBack_EmergencySequences(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{13, 17}, {10, 18}} {
		t.Run(fmt.Sprintf("%d-%d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			old, young := pgtest.Pair(t, pair[0], pair[1])
			pgtest.Exec(t, old, keyed+`; insert into t (v) select 'old' from generate_series(1, 100)`)
			m := newMoving(t, fmt.Sprint("emergency_", pair[0]), old, young)
			m.FallBack = migration.FallBackRequire
			r := m.start()
			r.waitFor(migration.Following)
			r.cancel()
			if _, err := r.end(); err != nil {
				t.Fatal(err)
			}
			k := m.keep(m.Config, 5)
			k.ask(migration.Switched)

			writing, stop := context.WithCancel(context.Background())
			defer stop()
			var writers sync.WaitGroup
			for range 3 {
				conn, err := pgx.Connect(t.Context(), young)
				if err != nil {
					t.Fatal(err)
				}
				writers.Go(func() {
					defer conn.Close(context.Background())
					for n := 0; writing.Err() == nil; n++ {
						sql := `insert into t (v) select 'new' from generate_series(1, 20); insert into ident (v) select 'new' from generate_series(1, 20);
insert into big (v) select 'new' from generate_series(1, 20); insert into down (v) select 'new' from generate_series(1, 20)`
						if n < 100 {
							sql += `; insert into small (v) values ('new')`
						}
						if _, err := conn.Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
							t.Errorf("a writer on the new server: %v", err)
							return
						}
					}
				})
			}
			m.eventually("writes", func() bool { return one[int](t, young, `select count(*) from t where v = 'new'`) > 2000 })
			k.end() // SIGKILL
			dead := one[int](t, young, `select count(*) from t`)
			m.eventually("writes after walferry is dead", func() bool { return one[int](t, young, `select count(*) from t`) > dead+2000 })
			stop()
			writers.Wait()

			opened, _, _ := strings.Cut(cutover.UnfenceSQL(m.Name), ";\n--") // which is enough
			pgtest.Exec(t, old, opened)
			for _, table := range []string{"t", "ident", "big", "down", "small"} {
				n := 10_000
				if table == "small" {
					n = 1000
				}
				pgtest.Exec(t, old, fmt.Sprintf(`insert into %s (v) select 'emergency' from generate_series(1, %d)`, table, n))
				keys := one[[]int64](t, old, fmt.Sprintf(`select array_agg(id::int8) from %s where v = 'emergency'`, table))
				conn, err := pgx.Connect(t.Context(), young)
				if err != nil {
					t.Fatal(err)
				}
				var twice, drawn int
				err = conn.QueryRow(t.Context(), fmt.Sprintf(`select count(*) filter (where id = any($1::int8[])), count(*) from %s where v = 'new'`, table), keys).Scan(&twice, &drawn)
				conn.Close(t.Context())
				if err != nil || twice > 0 || len(keys) != n || drawn == 0 {
					t.Errorf("%s: %d keys were drawn on both servers, of %d on the old and %d on the new one (%v)", table, twice, len(keys), drawn, err)
				}
			}
		})
	}
}

// While the old server follows its sequences are ahead; after a fallback, and after the next cutover, each is where that of the
// other server is.
func TestFallBack_Sequences(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{13, 17}, {10, 18}} {
		t.Run(fmt.Sprintf("%d-%d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			old, young := pgtest.Pair(t, pair[0], pair[1])
			pgtest.Exec(t, old, keyed+`; insert into t (v) select 'old' from generate_series(1, 100)`)
			m := newMoving(t, fmt.Sprint("sequences_", pair[0]), old, young)
			m.FallBack, m.Heartbeat = migration.FallBackRequire, 200*time.Millisecond
			r := m.start()
			r.waitFor(migration.Following)
			for round := range 2 {
				before := positions(t, old)
				m.asked(migration.Cutover)
				if got := positions(t, young); got != before {
					t.Errorf("round %d: on the new server %s, want %s", round, got, before)
				}
				if got := positions(t, old); got == before {
					t.Errorf("round %d: none of the old server's is ahead: %s", round, got)
				}
				r.waitFor(migration.Switched)
				pgtest.Exec(t, young, `select setval('t_id_seq', 2000000 * `+fmt.Sprint(round+1)+`); insert into small (v) select 'new' from generate_series(1, 100);
insert into t (v) select 'new' from generate_series(1, 100); insert into down (v) values ('new')`)
				m.eventually("a sequence that was moved", func() bool {
					return one[int64](t, old, `select last_value from t_id_seq`) > int64(2500000+2000000*round)
				})
				before = positions(t, young)
				m.asked(migration.Fallback)
				if got := positions(t, old); got != before {
					t.Errorf("round %d: on the old server %s, want %s", round, got, before)
				}
				if got := positions(t, young); got == before {
					t.Errorf("round %d: none of the new server's is ahead: %s", round, got)
				}
				r.waitFor(migration.Following)
			}
			if st, err := migration.ReadStatus(context.Background(), m.Config); err != nil || st.WayBack.Sequences != "" {
				t.Errorf("status: %q, %v", st.WayBack.Sequences, err)
			}
			r.cancel()
			if _, err := r.end(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
