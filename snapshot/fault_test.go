package snapshot

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/pgtest"
)

const bigTable = `create table big (id int primary key, v text); create table side (id int)`

// fillBig makes about 12 MB, some 40 pieces of 300 kB, and side's single row.
const fillBig = `insert into big select i, repeat(md5(i::text), 6) from generate_series(1, 50000) i; insert into side values (1); analyze big`

func big(t *testing.T, sourceMajor, targetMajor int) (source, target string, c Config) {
	t.Helper()
	source, target = pgtest.Pair(t, sourceMajor, targetMajor)
	pgtest.Exec(t, source, bigTable+";"+fillBig)
	pgtest.Exec(t, target, bigTable)
	c = config(source, target, snapshotOf(t, source), Table{Schema: "public", Name: "big"}, Table{Schema: "public", Name: "side"})
	c.PieceBytes = 300 << 10
	return source, target, c
}

// during runs the copy and calls act once, as soon as pieces are done and the copy is not.
func during(t *testing.T, ctx context.Context, c Config, act func()) (*Copier, error) {
	t.Helper()
	copier, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- copier.Run(ctx) }()
	acted := false
	for {
		select {
		case err := <-done:
			if !acted {
				t.Fatalf("the copy was over before anything could happen to it: %v", err)
			}
			return copier, err
		default:
		}
		if p := copier.Progress(); !acted && p.PiecesDone > 2 && p.PiecesDone < p.Pieces-5 {
			act()
			acted = true
		}
		time.Sleep(time.Millisecond)
	}
}

func exact(t *testing.T, source, target string) {
	t.Helper()
	const sum = `select count(*), count(distinct id), sum(id), md5(string_agg(v, '' order by id)) from big`
	got, want := pgtest.Query(t, target, sum)[0], pgtest.Query(t, source, sum)[0]
	if !slices.Equal(got, want) {
		t.Errorf("target %q, source %q", got, want)
	}
}

// killBackends ends walferry's copying connections to a database, at most n of them.
func killBackends(t *testing.T, url string, n int) {
	pgtest.Exec(t, url, fmt.Sprintf(`select pg_terminate_backend(pid) from (select pid from pg_stat_activity
		where datname = current_database() and application_name = 'walferry copy' order by pid limit %d) p`, n))
}

func TestRun_LostConnections(t *testing.T) {
	for _, side := range []string{"source", "target"} {
		t.Run(side, func(t *testing.T) {
			source, target, c := big(t, 15, 18)
			url := map[string]string{"source": source, "target": target}[side]
			// One now, and two more a moment later.
			_, err := during(t, t.Context(), c, func() {
				killBackends(t, url, 1)
				killBackends(t, url, 2)
			})
			if err != nil {
				t.Fatal(err)
			}
			exact(t, source, target)
			noConnections(t, source, target)
		})
	}
}

// Statements of the copy are cancelled, as people do with what looks stuck: they are retried, as
// the applier's are.
func TestRun_CancelledStatements(t *testing.T) {
	for _, side := range []string{"source", "target"} {
		t.Run(side, func(t *testing.T) {
			source, target, c := big(t, 15, 18)
			url := map[string]string{"source": source, "target": target}[side]
			_, err := during(t, t.Context(), c, func() {
				conn := connect(t, url) // what is copied next waits for its lock, and so is there to be cancelled
				if _, err := conn.Exec(t.Context(), `begin; lock table big in access exclusive mode`); err != nil {
					t.Fatal(err)
				}
				cancelled := 0
				eventually(t, "three statements cancelled", func() bool {
					n, err := strconv.Atoi(pgtest.Query(t, url, `select count(pg_cancel_backend(pid)) from pg_stat_activity
						where datname = current_database() and application_name = 'walferry copy' and wait_event_type = 'Lock'`)[0][0])
					if err != nil {
						t.Fatal(err)
					}
					cancelled += n
					return cancelled > 2
				})
				if _, err := conn.Exec(t.Context(), `rollback`); err != nil {
					t.Fatal(err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			exact(t, source, target)
			noConnections(t, source, target)
		})
	}
}

// The connection that exported the snapshot is gone when a worker has to import it again: the other
// workers have it.
func TestRun_ExporterGone(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, bigTable+";"+fillBig)
	pgtest.Exec(t, target, bigTable)
	e := snapshotOf(t, source)
	c := config(source, target, e, Table{Schema: "public", Name: "big"})
	c.PieceBytes = 300 << 10
	_, err := during(t, t.Context(), c, func() {
		e.Close(t.Context())
		killBackends(t, source, 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	exact(t, source, target)
}

func TestRun_SnapshotLost(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			source, target := pgtest.Pair(t, major, 18)
			pgtest.Exec(t, source, bigTable)
			pgtest.Exec(t, target, bigTable)
			e := snapshotOf(t, source)
			c := config(source, target, e, Table{Schema: "public", Name: "big"})
			e.Close(t.Context())
			// The server ends the session, and with it the snapshot, when it comes to it.
			eventually(t, "the snapshot is gone", func() bool {
				return pgtest.Query(t, source, `select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)[0][0] == "0"
			})
			copier, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			err = copier.Run(t.Context())
			var lost *SnapshotLostError
			if !errors.As(err, &lost) || lost.Hint() == "" {
				t.Errorf("got error %v, want a SnapshotLostError", err)
			}
			noConnections(t, source, target)
		})
	}
}

// The run ends half-way, twice: cancelled, then by a constraint. Each time the next one resumes
// under the snapshot that is still there.
func TestRun_Resume(t *testing.T) {
	source, target, c := big(t, 15, 18)
	goroutines := runtime.NumGoroutine()
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	if _, err := during(t, ctx, c, func() { cancel(stop) }); !errors.Is(err, stop) {
		t.Fatalf("cancelled run: got error %v", err)
	}
	noConnections(t, source, target)
	eventually(t, "all goroutines ended", func() bool { return runtime.NumGoroutine() <= goroutines })

	// The table has grown and was vacuumed; the pieces stay as they were cut.
	pgtest.Exec(t, source, `delete from big where id % 5 = 0; insert into big select i, 'new' from generate_series(50001, 90000) i`)
	pgtest.Exec(t, source, `vacuum analyze big`)
	pgtest.Exec(t, target, `alter table big add constraint narrow check (id < 49990) not valid`)
	copier, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := copier.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "copy table public.big: target: ") || !strings.Contains(err.Error(), "23514") {
		t.Fatalf("run against a constraint: got error %v", err)
	}
	noConnections(t, source, target)
	pgtest.Exec(t, target, `alter table big drop constraint narrow`)

	var announced atomic.Int32
	c.OnTable = func(context.Context, Table) error { announced.Add(1); return nil }
	run(t, c)
	if got := pgtest.Query(t, target, `select count(*), count(distinct id), min(id), max(id) from big`)[0]; !slices.Equal(got, []string{"50000", "50000", "1", "50000"}) {
		t.Errorf("big has %q", got)
	}
	// Nothing is left to do, and that is announced too.
	run(t, c)
	if got := announced.Load(); got != 4 {
		t.Errorf("OnTable was called %d times by two runs, want 4", got)
	}
	if got := count(t, target, "side"); got != "1" {
		t.Errorf("side has %s rows", got)
	}
}

func TestRun_OtherSnapshot(t *testing.T) {
	source, target, c := big(t, 15, 18)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := during(t, ctx, c, cancel); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	e := snapshotOf(t, source)
	if e.ConsistentPoint == c.AsOf {
		t.Fatal("two slots at one position")
	}
	second := c
	second.Snapshot, second.AsOf = e.Name, e.ConsistentPoint
	copier, err := New(second)
	if err != nil {
		t.Fatal(err)
	}
	before := count(t, target, "big")
	err = copier.Run(t.Context())
	var state *StateError
	if !errors.As(err, &state) || state.Found != c.AsOf || state.Want != second.AsOf {
		t.Fatalf("got error %v, want a StateError", err)
	}
	if got := count(t, target, "big"); got != before {
		t.Errorf("rows went from %s to %s", before, got)
	}

	// Reset empties what the copy filled, and nothing else.
	pgtest.Exec(t, target, `create table mine (id int); insert into mine values (1)`)
	conn := connect(t, target)
	if err := Reset(t.Context(), conn, "test", append(c.Tables, Table{Schema: "public", Name: "mine"})); err != nil {
		t.Fatal(err)
	}
	if got := count(t, target, "big") + count(t, target, "mine") + count(t, target, "walferry.copy_state"); got != "010" {
		t.Errorf("after Reset big, mine and copy_state have %s rows", got)
	}
	run(t, second)
	exact(t, source, target)
}

// Two copiers of one migration at a time: every piece is there once.
func TestRun_TwoAtOnce(t *testing.T) {
	source, target, c := big(t, 15, 18)
	var group sync.WaitGroup
	pgtest.Exec(t, target, createState) // the schema itself is created by one at a time
	errs := make([]error, 2)
	for i := range errs {
		group.Go(func() {
			copier, err := New(c)
			if err == nil {
				err = copier.Run(t.Context())
			}
			errs[i] = err
		})
	}
	group.Wait()
	// The second may be refused by the first one's plan; it must not copy again.
	if errs[0] != nil && errs[1] != nil {
		t.Fatal(errs)
	}
	exact(t, source, target)
}

func TestRun_Changed(t *testing.T) {
	tests := []struct {
		table, sql string
		rows       string // empty: refused
	}{
		{"rewritten", `alter table rewritten alter id type int using id + 1`, ""},
		{"retyped", `alter table retyped alter id type bigint`, ""},
		{"replaced", `drop table replaced; create table replaced (id int); insert into replaced values (7)`, ""},
		{"renamed", `alter table renamed rename to old; create table renamed (id int)`, ""},
		{"dropped", `drop table dropped`, ""},
		{"volatile", `alter table volatile add at float default random()`, ""},
		{"vacuumed", `vacuum full vacuumed`, "1"},
		{"truncated", `truncate truncated`, "0"}, // which comes through the slot
		{"widened", `alter table widened add at int default 1`, "1"},
	}
	source, target := pgtest.Pair(t, 15, 18)
	for _, test := range tests {
		pgtest.Exec(t, source, fmt.Sprintf(`create table %s (id int); insert into %[1]s values (1)`, test.table))
		pgtest.Exec(t, target, fmt.Sprintf(`create table %s (id int)`, test.table))
	}
	e := snapshotOf(t, source)
	for _, test := range tests {
		pgtest.Exec(t, source, test.sql)
	}
	for _, test := range tests {
		c := config(source, target, e, Table{Schema: "public", Name: test.table})
		c.Migration, c.Jobs = test.table, 1
		copier, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		err = copier.Run(t.Context())
		var changed *ChangedError
		switch {
		case test.rows == "" && (err == nil || test.table != "dropped" && !errors.As(err, &changed)):
			t.Errorf("%s: got error %v, want a ChangedError", test.table, err)
		case test.rows != "" && err != nil:
			t.Errorf("%s: %v", test.table, err)
		case test.rows == "" && count(t, target, test.table) != "0":
			t.Errorf("%s: rows were kept", test.table)
		case test.rows != "" && count(t, target, test.table) != test.rows:
			t.Errorf("%s: got %s rows, want %s", test.table, count(t, target, test.table), test.rows)
		}
	}
}

// Neither a TRUNCATE nor an ALTER TABLE of the application has to wait for the whole copy, only for
// the piece of that table.
func TestRun_LocksNothingForLong(t *testing.T) {
	source, target, c := big(t, 15, 18)
	c.Jobs = 1 // big first, side last
	_, err := during(t, t.Context(), c, func() {
		locks := pgtest.Query(t, source, `select distinct relation::regclass::text from pg_locks l join pg_stat_activity using (pid)
			where application_name = 'walferry copy' and relation in ('side'::regclass)`)
		if len(locks) > 0 {
			t.Errorf("locked while another table is copied: %q", locks)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	exact(t, source, target)
}

func TestRun_TriggersKeepRows(t *testing.T) {
	source, target, c := big(t, 15, 18)
	// An ordinary trigger does not fire, one that is enabled ALWAYS does.
	pgtest.Exec(t, target, `create function swallow() returns trigger language plpgsql as 'begin return null; end';
create trigger swallow before insert on side for each row execute function swallow()`)
	c.Tables = c.Tables[1:]
	run(t, c)
	if got := count(t, target, "side"); got != "1" {
		t.Errorf("got %s rows", got)
	}
	if err := Reset(t.Context(), connect(t, target), "test", c.Tables); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, target, `alter table side enable always trigger swallow`)
	copier, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	err = copier.Run(t.Context())
	var counts *RowCountError
	if !errors.As(err, &counts) || counts.Sent != 1 || counts.Stored != 0 {
		t.Errorf("got error %v, want a RowCountError", err)
	}
	if got := count(t, source, "side") + count(t, target, "side") + count(t, target, "walferry.copy_state"); got != "100" {
		t.Errorf("source, target and copy_state have %s rows", got)
	}
}
