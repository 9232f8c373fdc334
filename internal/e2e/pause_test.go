package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// TestPause measures what clients see of a cutover where the most would have to be done inside the
// fence: a table without a key that is said to be inserted into only, and a role that may not set
// session_replication_role with ten foreign keys. WALFERRY_TEST_PAUSE has the numbers of rows,
// as in 100000,5000000; the pause must not grow with them.
func TestPause(t *testing.T) {
	sizes := strings.Split(os.Getenv("WALFERRY_TEST_PAUSE"), ",")
	if sizes[0] == "" {
		t.Skip("WALFERRY_TEST_PAUSE is not set: what it measures needs a machine that does nothing else")
	}
	for _, size := range sizes {
		t.Run(size, func(t *testing.T) {
			source, target := pgtest.Pair(t, 15, 18)
			pgtest.Exec(t, source, fmt.Sprintf(`
create table events (n int8, what text, at timestamptz);
insert into events select i, md5(i::text), now() from generate_series(1, %[1]s) i;
create table customers (id int primary key, name text);
insert into customers select i, md5(i::text) from generate_series(1, %[1]s / 10) i;
create sequence numbers;
do $$ begin
  for i in 1..10 loop
    execute format('create table orders_%%s (id int primary key, customer int references customers)', i);
    execute format('insert into orders_%%s select i, i from generate_series(1, %[1]s / 10) i', i);
  end loop;
end $$`, size))
			m := newMoving(t, "pause", source, asPlain(t, target))
			m.InsertOnly = []string{"public.events"}
			r := m.start()
			r.waitFor(migration.Following)
			pgtest.Exec(t, source, `insert into events values (-1); insert into orders_1 values (-1, 1)`)
			m.caughtUp(r)
			c := m.Config
			c.Cut.MaxLag, c.Cut.Timeout, c.Cut.DryRun = patience, patience, true
			rehearsed, err := migration.Cutover(context.Background(), c, nil)
			if err != nil {
				t.Fatal(err)
			}
			if rehearsed.ExpectMS == nil || *rehearsed.ExpectMS < rehearsed.PauseMS {
				t.Errorf("the rehearsal expects %v, after a pause of %d ms", rehearsed.ExpectMS, rehearsed.PauseMS)
			}
			result := m.cutover(r)
			t.Logf("%s rows: rehearsed %d ms; %s; writes were refused for %d ms", size, rehearsed.PauseMS, rehearsed.Expectation(), result.PauseMS)
			if result.PauseMS > 1000 {
				t.Errorf("%s rows: writes were refused for %d ms, want 1 s at most", size, result.PauseMS)
			}
			if n := one[int](t, target, `select count(*) from pg_constraint where contype = 'f' and convalidated`); n != 10 {
				t.Errorf("%d validated foreign keys, want 10", n)
			}
		})
	}
}
