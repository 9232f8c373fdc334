package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// wordy is a table that is said to be inserted into only, of more rows than one message of COPY.
const wordy = `
create table log (a int, b text);
insert into log select i, repeat('x', 100) from generate_series(1, 5000) i;
create table ordinary (id int primary key);
`

// newWordy follows wordy, and has a unique index on the target alone: an open insertion of
// the same number there stops a copy in its middle.
func newWordy(t *testing.T, label string, schema ...string) (*moving, *run) {
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, wordy+strings.Join(schema, ""))
	m := newMoving(t, label, source, target)
	m.InsertOnly = []string{"public.log"}
	r := m.start()
	r.waitFor(migration.Following)
	pgtest.Exec(t, target, `create unique index on log (a)`)
	return m, r
}

const countLog = `select count(*) || ' rows, ' || coalesce(min(a), 0) || ' to ' || coalesce(max(a), 0) from log`

// A copy that does not end leaves the target's table as it was, and the applier at work:
// when the cutover's time is over before it, and when migrate is stopped.
func TestCopyAgainThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	m, r := newWordy(t, "again_stopped")
	pgtest.Exec(t, m.Source, `delete from log where a <= 10; update log set a = -11 where a = 11`)
	row := hold(t, m.Target, `insert into log values (-11)`)
	c := m.Config
	c.Cut.MaxLag, c.Cut.Timeout = patience, 20*time.Second // the gates before need some of it on a busy machine
	_, err := migration.Cutover(context.Background(), c, nil)
	gate := fail.Find(err, fail.Gate)
	if gate == nil || !strings.Contains(err.Error(), `"public"."log"`) {
		t.Fatalf("cutover: %v, want a gate that names the table", err)
	}
	if got, want := one[string](t, m.Target, countLog), "5000 rows, 1 to 5000"; got != want {
		t.Errorf("target after the cutover's time was over: %s, want %s", got, want)
	}
	// The copy goes on by itself, and the stream beside it.
	pgtest.Exec(t, m.Source, `insert into log values (6000); insert into ordinary values (1)`)
	m.caughtUp(r)
	m.eventually("a copy that waits", func() bool {
		return one[bool](t, m.Target, `select exists(select from pg_stat_activity where wait_event_type = 'Lock' and query ~* '^copy .*log' and datname = current_database())`)
	})
	r.cancel()
	if outcome, err := r.end(); err != nil || !outcome.Stopped {
		t.Fatalf("migrate: %+v, %v, want that it was stopped", outcome, err)
	}
	if got, want := one[string](t, m.Target, countLog), "5001 rows, 1 to 6000"; got != want {
		t.Errorf("target after migrate was stopped: %s, want %s", got, want)
	}
	if st := status(t, m.Config); len(st.InsertOnlyBroken) != 1 {
		t.Errorf("status: %+v, want that the table is named", st)
	}
	report, err := migration.Check(context.Background(), m.Config)
	if text := fmt.Sprintf("%+v", report); err != nil || report.Blocks() || strings.Contains(text, "walferry_word") {
		t.Errorf("check: %v: %s", err, text)
	}
	row.rollback()
	r = m.start()
	m.eventually("the copy of the next run", func() bool { return one[string](t, m.Target, countLog) == "4991 rows, -11 to 6000" })
	m.caughtUp(r)
	m.verified()
	if result := m.cutover(r); fmt.Sprint(result.Recopied) != `["public"."log"]` {
		t.Errorf("copied again: %v", result.Recopied)
	}
	sameRows(t, m.Source, m.Target)
	m.cleanup()
}

// What the source does while a table is copied again comes on top of it, in its order; a TRUNCATE
// waits for the copy's end there, as it does for any COPY.
func TestTruncatedWhileCopiedAgain(t *testing.T) {
	t.Parallel()
	m, r := newWordy(t, "again_truncated")
	pgtest.Exec(t, m.Source, `update log set a = -11 where a = 11`)
	row := hold(t, m.Target, `insert into log values (-11)`)
	done := make(chan error, 2)
	c := m.Config
	c.Cut.MaxLag, c.Cut.Timeout = patience, patience
	go func() {
		_, err := migration.Cutover(context.Background(), c, nil)
		done <- err
	}()
	waits := func(dsn, what string) {
		t.Helper()
		m.eventually("a statement that waits: "+what, func() bool {
			return one[bool](t, dsn, `select exists(select from pg_stat_activity where wait_event_type = 'Lock' and query ~* '`+what+`' and datname = current_database())`)
		})
	}
	waits(m.Target, "^copy .*log")
	pgtest.Exec(t, m.Source, `insert into log values (-1), (-2)`)
	application := hold(t, m.Source, `select`)
	go func() {
		_, err := application.conn.Exec(context.Background(), `truncate log; insert into log values (1), (-11); commit`)
		done <- err
	}()
	waits(m.Source, "^truncate")
	row.rollback()
	for range 2 {
		if err := <-done; err != nil {
			t.Fatalf("the cutover, or the application: %v", err)
		}
	}
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	sameRows(t, m.Source, m.Target)
}

// A check NOT VALID that old rows violate does not refuse them when they are copied again, and is
// there afterwards; one that is inherited cannot be put aside, and that is said before the fence.
func TestCopyAgainUnderChecks(t *testing.T) {
	t.Parallel()
	m, r := newWordy(t, "again_checks", `alter table log add constraint positive check (a > 10) not valid`)
	pgtest.Exec(t, m.Source, `update log set b = 'updated' where a = 20`)
	result := m.cutover(r)
	if fmt.Sprint(result.Recopied) != `["public"."log"]` {
		t.Errorf("copied again: %v", result.Recopied)
	}
	sameRows(t, m.Source, m.Target)
	if got := one[string](t, m.Target, `select convalidated || ' ' || pg_get_constraintdef(oid) from pg_constraint where conname = 'positive'`); got != "false CHECK ((a > 10)) NOT VALID" {
		t.Errorf("the check afterwards: %s", got)
	}

	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table parent (a int) partition by range (a); create table leaf partition of parent for values from (0) to (1000);
insert into parent values (1), (100); alter table parent add constraint small check (a > 10) not valid`)
	m = newMoving(t, "again_inherited", source, target)
	m.InsertOnly = []string{"public.leaf"}
	r = m.start()
	r.waitFor(migration.Following)
	pgtest.Exec(t, source, `update parent set a = 200 where a = 100`)
	c := m.Config
	c.Cut.MaxLag, c.Cut.Timeout = patience, patience
	_, err := migration.Cutover(context.Background(), c, nil)
	gate := fail.Find(err, fail.Gate)
	if gate == nil || !strings.Contains(err.Error(), "inherited") || !strings.Contains(gate.Hint(), "drop it on the target") {
		t.Fatalf("cutover: %v, want a gate that says what to do", err)
	}
	if got := one[string](t, target, `select string_agg(a::text, ' ' order by a) from leaf`); got != "1 100" {
		t.Errorf("the target's rows after it: %s", got)
	}
	pgtest.Exec(t, target, `alter table parent drop constraint small`)
	m.eventually("the copy", func() bool {
		return one[string](t, target, `select string_agg(a::text, ' ' order by a) from leaf`) == "1 200"
	})
	pgtest.Exec(t, target, `alter table parent add constraint small check (a > 10) not valid`)
	m.cutover(r)
	sameRows(t, source, target)
}
