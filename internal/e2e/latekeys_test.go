package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

const plain = `do $$ begin create role plain login password 'plain'; exception when duplicate_object or unique_violation then end $$;`

// asPlain gives a role that may not set session_replication_role what it needs of a database,
// and returns its connection string.
func asPlain(t *testing.T, dsn string) string {
	t.Helper()
	pgtest.Exec(t, dsn, plain+`do $$ begin execute format('grant create on database %I to plain', current_database()); end $$; grant all on schema public to plain`)
	return strings.Replace(dsn, "postgres://postgres", "postgres://plain:plain", 1)
}

// joined has foreign keys of every kind: to itself, deferrable, between partitioned tables, NOT VALID, to
// a table that is said to be inserted into only.
const joined = `
create table parent (id int primary key, up int references parent deferrable initially deferred);
create table child (id int primary key, parent int references parent on delete cascade, other int);
create table log (a int, b text);
create unique index log_a on log (a);
create table refers (id int primary key, a int references log (a) on delete cascade);
create table parts (id int, k int, parent int, primary key (id, k)) partition by list (k);
create table parts_1 partition of parts for values in (1);
create table parts_2 partition of parts for values in (2) partition by list (k);
create table parts_2_2 partition of parts_2 for values in (2);
alter table parts add constraint parts_parent foreign key (parent) references parent on update cascade;
create table topart (id int primary key, p int, k int, foreign key (p, k) references parts);
insert into parent values (1, null), (2, 1);
insert into child select i, 1 + i % 2, 99 from generate_series(1, 100) i;
alter table child add constraint old foreign key (other) references parent not valid;
insert into log select i, 'x' from generate_series(1, 100) i;
insert into refers select i, i from generate_series(1, 50) i;
insert into parts values (1, 1, 1), (1, 2, 2);
insert into topart values (1, 1, 1), (2, 1, 2);
`

const keysOf = `select conrelid::regclass, conname, convalidated, pg_get_constraintdef(oid, true), conparentid <> 0 from pg_constraint
 where contype = 'f' and connamespace = 'public'::regnamespace and (conparentid = 0 or conrelid <> 'topart'::regclass) -- names and states of its parts are the server's own
 order by conrelid::regclass::text, 2, 4`

// A role that may not set session_replication_role gets its foreign keys inside the fence, where
// no row is looked at, and has them validated when the target is open: also of partitioned
// tables. What does not hold is told, stays recorded, and is tried again.
func TestLateForeignKeys(t *testing.T) {
	t.Parallel()
	for _, to := range []int{15, 18} {
		source, target := pgtest.Pair(t, 15, to)
		pgtest.Exec(t, source, joined)
		m := newMoving(t, "late_keys", source, asPlain(t, target))
		m.InsertOnly = []string{"public.log"}
		r := m.start()
		r.waitFor(migration.Following)
		if got := pgtest.Query(t, target, keysOf); len(got) > 0 {
			t.Fatalf("foreign keys while following: %v", got)
		}
		pgtest.Exec(t, source, `update log set b = 'updated' where a = 60; delete from log where a = 40; delete from refers where a = 41; insert into child values (1000, 2, 1)`)
		m.caughtUp(r)
		// What is copied again waits for every transaction of the server, those of other tests too.
		m.eventually("log is copied again", func() bool { return len(status(t, m.Config).InsertOnlyBroken) == 0 })
		// A cutover that is over before it has them leaves none, and nothing that is to be validated.
		c := m.Config
		c.Cut.MaxLag, c.Cut.Timeout = patience, 20*time.Second
		busy := hold(t, target, `lock table parent in row exclusive mode`)
		if _, err := migration.Cutover(context.Background(), c, nil); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "everything is as before") {
			t.Fatalf("cutover that cannot lock a table of the target: %v", err)
		}
		busy.rollback()
		if got, st := pgtest.Query(t, target, keysOf), status(t, m.Config); len(got) > 0 || len(st.Unvalidated) > 0 {
			t.Errorf("after it: foreign keys %v, to be validated %q", got, st.Unvalidated)
		}
		pgtest.Exec(t, source, `insert into child values (1001, 2, 1)`)
		m.caughtUp(r)
		// Somebody takes a row away that others need: nothing but the validation notices.
		pgtest.Exec(t, target, `delete from parts where k = 2 and id = 1`)
		c.Cut.Timeout = patience
		var steps []string
		result, err := migration.Cutover(context.Background(), c, func(s string) { steps = append(steps, s) })
		if err == nil || result.FinishedAt == nil || !strings.Contains(err.Error(), "foreign keys are not validated yet") {
			t.Fatalf("cutover: %+v, %v; want it done, but for a foreign key", result, err)
		}
		if fmt.Sprint(result.Recopied) != `["public"."log"]` {
			t.Errorf("copied again: %v", result.Recopied)
		}
		if _, err := r.end(); err == nil || !strings.Contains(err.Error(), "1 foreign keys could not be validated") {
			t.Errorf("migrate ended with %v, want that a foreign key could not be validated", err)
		}
		st := status(t, m.Config)
		if len(st.Unvalidated) == 0 || !strings.Contains(strings.Join(st.Unvalidated, " "), "topart") {
			t.Errorf("status names %q", st.Unvalidated)
		}
		// It holds for what is written from now on.
		conn := newLine(t, target)
		if _, err := conn.ask(`insert into topart values (3, 7, 7)`); err == nil || !strings.Contains(err.Error(), "23503") {
			t.Errorf("a new row without the one it refers to: %v", err)
		}
		pgtest.Exec(t, target, `insert into parts values (1, 2, 2)`)
		if outcome, err := m.start().end(); err != nil || outcome.Phase != migration.Finished {
			t.Fatalf("migrate again: %+v, %v", outcome, err)
		}
		if st := status(t, m.Config); len(st.Unvalidated) > 0 {
			t.Errorf("status after it: %q", st.Unvalidated)
		}
		if got, want := fmt.Sprint(pgtest.Query(t, target, keysOf)), fmt.Sprint(pgtest.Query(t, source, keysOf)); got != want {
			t.Errorf("%d: foreign keys of the target\n%s\nwant\n%s", to, got, want)
		}
		sameRows(t, source, target)
		m.cleanup()
	}
}

// A migrate that is killed, or told to end, when the target is open and its late foreign keys are not
// validated yet: the cutover is done, which nobody calls a success as long as they are not, and
// the next migrate validates them.
func TestLateForeignKeys_Interrupted(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"killed", "killed within", "told to end"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, 15, 18)
			pgtest.Exec(t, source, joined)
			direct := migration.Config{Source: source, Target: asPlain(t, target), Name: migrationName("interrupted")}
			c := direct
			p := pgtest.ProxyFor(t, target)
			c.Target = p.Through(direct.Target)
			var migrate *exec.Cmd
			var once sync.Once
			validating := make(chan struct{})
			p.Watch(func(s pgtest.Step) (f pgtest.Fault) {
				if !strings.Contains(strings.ToLower(s.Statement), "validate constraint") {
					return f
				}
				f.Hold = patience // nothing is validated by this run
				once.Do(func() {
					switch how {
					case "killed":
						migrate.Process.Kill() //nolint:errcheck // Wait tells
						f = pgtest.Fault{Cut: true}
					case "killed within":
						f = pgtest.Fault{After: func() { migrate.Process.Kill() }}
					}
					close(validating)
				})
				return f
			})
			migrate = process(t, c, "--insert-only", "public.log", "--jobs", "1")
			follows(t, direct, 0)
			asked := started(t, walferry(t, direct, "cutover", "--timeout", "3m", "--max-lag", "3m"))
			<-validating
			if how == "told to end" {
				migrate.Process.Signal(os.Interrupt) //nolint:errcheck // Wait tells
			}
			migrate.Wait() //nolint:errcheck // the code tells
			if got, want := migrate.ProcessState.ExitCode(), map[bool]int{true: 6, false: -1}[how == "told to end"]; got != want {
				t.Errorf("migrate ended with %d, want %d", got, want)
			}
			p.Watch(nil)
			if err := asked.Wait(); err == nil || asked.ProcessState.ExitCode() != 1 {
				t.Errorf("cutover ended with %v, want 1: foreign keys are not validated", err)
			}
			if again, err := walferry(t, direct, "cutover").CombinedOutput(); err == nil || !strings.Contains(string(again), "foreign keys are not validated yet") || !strings.Contains(string(again), "`walferry migrate --name "+direct.Name+"` continues") {
				t.Errorf("cutover asked for again: %v\n%s", err, again)
			}
			if st := status(t, direct); st.Phase != migration.Finished || st.Running || len(st.Unvalidated) == 0 {
				t.Errorf("status: phase %s, running %v, %d to be validated; want it finished, with some", st.Phase, st.Running, len(st.Unvalidated))
			}
			if out, err := walferry(t, direct, "migrate").CombinedOutput(); err != nil {
				t.Fatalf("migrate again: %v\n%s", err, out)
			}
			if st := status(t, direct); len(st.Unvalidated) > 0 {
				t.Errorf("to be validated after it: %q", st.Unvalidated)
			}
			if got, want := fmt.Sprint(pgtest.Query(t, target, keysOf)), fmt.Sprint(pgtest.Query(t, source, keysOf)); got != want {
				t.Errorf("foreign keys of the target\n%s\nwant\n%s", got, want)
			}
			m := &moving{t, direct}
			m.cleanup()
		})
	}
}

// A migrate that is killed when the source is sealed, and its late foreign keys are there, but not the opening of
// the target: the next one, which creates none, validates them all the same, those of partitioned tables too.
func TestLateForeignKeys_KilledBeforeOpening(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, joined)
	direct := migration.Config{Source: source, Target: asPlain(t, target), Name: migrationName("unopened")}
	c := direct
	p := pgtest.ProxyFor(t, target)
	c.Target = p.Through(direct.Target)
	var migrate *exec.Cmd
	p.Watch(func(s pgtest.Step) (f pgtest.Fault) {
		if f.Cut = strings.HasPrefix(s.Statement, "with mine as"); f.Cut {
			migrate.Process.Kill() //nolint:errcheck // Wait tells
		}
		return f
	})
	migrate = process(t, c, "--insert-only", "public.log")
	follows(t, direct, 0)
	asked := started(t, walferry(t, direct, "cutover", "--timeout", "3m", "--max-lag", "3m"))
	migrate.Wait() //nolint:errcheck // killed
	if got := pgtest.Query(t, target, `select convalidated from pg_constraint where conname = 'parts_parent' and conrelid = 'parts'::regclass`); fmt.Sprint(got) != "[[f]]" {
		t.Fatalf("the foreign key of a partitioned table when migrate is killed: validated %v, want one that is not", got)
	}
	if st := status(t, direct); st.Phase == migration.Finished {
		t.Fatal("the target is open already")
	}
	if out, err := walferry(t, direct, "migrate").CombinedOutput(); err != nil {
		t.Fatalf("migrate again: %v\n%s", err, out)
	}
	asked.Wait() //nolint:errcheck // what it says depends on how far the validation is
	if st := status(t, direct); st.Phase != migration.Finished || len(st.Unvalidated) > 0 {
		t.Errorf("status: phase %s, to be validated %q; want it finished, with nothing", st.Phase, st.Unvalidated)
	}
	if got, want := fmt.Sprint(pgtest.Query(t, target, keysOf)), fmt.Sprint(pgtest.Query(t, source, keysOf)); got != want {
		t.Errorf("foreign keys of the target\n%s\nwant\n%s", got, want)
	}
	m := &moving{t, direct}
	m.cleanup()
}
