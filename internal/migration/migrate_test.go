package migration

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// testLog writes to the test's log, and nothing after the test has ended.
func testLog(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func start(t *testing.T, c Config) (wait func() (Outcome, error), stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	type result struct {
		o   Outcome
		err error
	}
	done := make(chan result, 1)
	go func() {
		o, err := Migrate(ctx, c, Observer{})
		done <- result{o, err}
	}()
	var got *result
	wait = func() (Outcome, error) {
		if got == nil {
			r := <-done
			got = &r
		}
		return got.o, got.err
	}
	t.Cleanup(func() { cancel(); wait() })
	return wait, cancel
}

// waitPhase waits until the migration is in a phase.
func waitPhase(t *testing.T, c Config, phase Phase) Status {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		st, err := ReadStatus(context.Background(), c)
		if err == nil && st.Phase == phase && (phase != Following || st.Running) {
			return st
		}
		if time.Now().After(deadline) || st.Error != "" {
			t.Fatalf("the migration did not reach phase %s: %+v, %v", phase, st, err)
		}
	}
}

func query[T any](t *testing.T, dsn, sql string) T {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var v T
	if err := conn.QueryRow(context.Background(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// A database with rows is copied, followed, compared at one position, switched over and cleaned up;
// the sequence continues where the source's stood.
func TestMigrate_WholeWay(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `
create table public.customer (id serial primary key, name text not null);
create table public.orders (id int generated always as identity primary key, customer_id int not null references customer(id), note text);
create index on orders (customer_id);
insert into customer (name) select 'c' || i from generate_series(1, 1000) i;
insert into orders (customer_id, note) select i, 'n' from generate_series(1, 1000) i;
create view v as select * from orders;
`)
	name := fmt.Sprintf("whole_%d", time.Now().UnixNano()%1e9)
	c := Config{Source: source, Target: target, Name: name, Logger: testLog(t), Heartbeat: time.Second, Prove: On}
	wait, _ := start(t, c)
	waitPhase(t, c, Following)
	pgtest.Exec(t, source, `insert into orders (customer_id, note) values (7, 'after'); update customer set name = 'x' where id = 5; delete from orders where id = 9`)
	v, err := Verify(context.Background(), c, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !v.AllEqual() || v.Position == "" {
		t.Errorf("verify: %+v", v)
	}
	var steps []string
	dry := c
	dry.Cut.DryRun = true
	result, err := Cutover(context.Background(), dry, func(s string) { steps = append(steps, s) })
	if err != nil {
		t.Fatal(err)
	}
	if result.FinishedAt != nil || result.FencedAt == nil || result.DrainedAt == nil {
		t.Errorf("dry run: %+v, steps %q", result, steps)
	}
	pgtest.Exec(t, source, `insert into orders (customer_id, note) values (8, 'not fenced')`)
	result, err = Cutover(context.Background(), c, func(s string) { t.Log("step:", s) })
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", result)
	outcome, err := wait()
	if err != nil || outcome.Phase != Finished {
		t.Fatalf("migrate ended with %+v, %v", outcome, err)
	}
	if got, want := query[int64](t, target, `select count(*) from orders where note in ('after', 'not fenced')`), int64(2); got != want {
		t.Errorf("%d of the followed rows are on the target, want %d", got, want)
	}
	if got, want := query[int32](t, target, `insert into orders (customer_id) values (1) returning id`), query[int32](t, source, `select last_value::int + 1 from orders_id_seq`); got != want {
		t.Errorf("the target's next id is %d, want %d", got, want)
	}
	if proof, err := Verify(context.Background(), c, VerifyOptions{}); err != nil || !proof.AllEqual() || !proof.AsOfCutover {
		t.Errorf("the proof of the cutover: %+v, %v", proof, err)
	}
	left, err := Cleanup(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range left {
		t.Errorf("left on the %s: %s", l.On, l.Object)
	}
}

// A replication origin belongs to the server: one that a migration of the same name
// to another database uses stays for that, and the clean-up of this one is complete.
func TestCleanup_SharedOrigin(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	_, other := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (a int primary key)`)
	c := Config{Source: source, Target: target, Name: "shared_origin", Until: UntilCaughtUp, Logger: testLog(t)}
	if _, err := Migrate(t.Context(), c, Observer{}); err != nil {
		t.Fatal(err)
	}
	if err := Abort(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	const origin = "walferry_shared_origin"
	for _, sql := range []string{
		`select pg_replication_origin_create('` + origin + `') where pg_replication_origin_oid('` + origin + `') is null`,
		`select pg_replication_origin_session_setup('` + origin + `')`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	left, err := Cleanup(t.Context(), c)
	if err != nil || len(left) != 0 {
		t.Errorf("got %v, %v", left, err)
	}
	for _, sql := range []string{`select pg_replication_origin_session_reset()`, `select pg_replication_origin_drop('` + origin + `')`} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

// What failed before it had all of its tables on the target can be given up and
// cleaned up.
func TestCleanup_FailedEarly(t *testing.T) {
	source, target := pgtest.Pair(t, 13, 18)
	pgtest.Exec(t, source, `create function twice (int) returns int language sql immutable as 'select $1 * 2';
		create operator !! (leftarg = int, procedure = twice); -- a postfix operator, which 18 refuses
		create table t (a serial primary key, b int default (3 !!))`)
	c := Config{Source: source, Target: target, Name: "failed_early", Logger: testLog(t)}
	if _, err := Migrate(t.Context(), c, Observer{}); err == nil {
		t.Fatal("the migration did not fail")
	}
	if st, err := ReadStatus(t.Context(), c); err != nil || st.Phase != New || st.Error == "" {
		t.Errorf("got %+v, %v", st, err)
	}
	if err := Abort(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if left, err := Cleanup(t.Context(), c); err != nil || len(left) != 0 {
		t.Errorf("got %v, %v", left, err)
	}
}
