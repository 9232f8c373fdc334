package verify

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/pgtest"
	pinned "github.com/walferry/walferry/internal/session"
)

// What is committed after the snapshots does not count, and the exporter of the source's may go
// once the sessions are open.
func TestVerifier_Snapshots(t *testing.T) {
	source, target := pgtest.Pair(t, 13, 17)
	both(t, source, target, `create table public.t (id int primary key, v text); insert into public.t select i, 'v' from generate_series(1, 1000) i`)
	exporter, err := pinned.Open(t.Context(), pinned.Config{DSN: source})
	if err != nil {
		t.Fatal(err)
	}
	defer exporter.Close(context.WithoutCancel(t.Context()))
	if _, err := exporter.Exec(t.Context(), `begin isolation level repeatable read`); err != nil {
		t.Fatal(err)
	}
	var name string
	if err := exporter.QueryRow(t.Context(), `select pg_export_snapshot()`).Scan(&name); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, source, `delete from public.t where id < 10`)

	v, err := New(Config{Source: source, Target: target, Tables: tables(t, source), Jobs: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if err := v.OpenSource(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if _, err := exporter.Exec(t.Context(), `rollback`); err != nil {
		t.Fatal(err)
	}
	if err := v.OpenTarget(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, source, `update public.t set v = 'new'`)
	pgtest.Exec(t, target, `insert into public.t select i, 'v' from generate_series(2000, 2010) i`)
	report, err := v.Compare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expect(t, report, "public.t key 1000 equal\n")

	// Under new snapshots the sides differ.
	report = compare(t, source, target)
	if got := report.Tables[0]; got.DifferentRows != 991 || got.ExtraRows != 20 || got.MissingRows != 0 || got.More != 991+20-20 || len(got.Different)+len(got.Extra) != 20 {
		t.Errorf("got %d different, %d extra, %d missing, %d more:\n%s", got.DifferentRows, got.ExtraRows, got.MissingRows, got.More, transcript(report))
	}
}

// A table that is truncated while it is compared looks empty to an old snapshot. That is reported
// as such, and not as so many differences.
func TestVerifier_Truncated(t *testing.T) {
	source, target := pgtest.Pair(t, 13, 17)
	both(t, source, target, `create table public.a (id int primary key); insert into public.a values (1), (2); create table public.b (id int primary key); insert into public.b values (1); create table public.c (id int primary key)`)
	v, err := New(Config{Source: source, Target: target, Tables: tables(t, source), Jobs: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if err := v.OpenSource(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if err := v.OpenTarget(t.Context()); err != nil {
		t.Fatal(err)
	}
	both(t, source, target, `truncate public.a`)
	pgtest.Exec(t, target, `drop table public.c`)
	report, err := v.Compare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := report.Tables[0]; got.Equal || !got.Rewritten || !strings.Contains(got.Error, "truncated or rewritten") || got.MissingRows+got.ExtraRows != 0 {
		t.Errorf("truncated table: got %+v", got)
	}
	if !report.Tables[1].Equal {
		t.Errorf("other table: got %+v", report.Tables[1])
	}
	if got := report.Tables[2]; got.Equal || got.Rewritten || !strings.Contains(got.Error, "does not exist") {
		t.Errorf("dropped table: got %+v", got)
	}
	if report.Equal != nil || report.Compared != 1 || report.NotCompared != 2 {
		t.Errorf("two of three tables could not be compared: got %+v", report)
	}
	// No lock is kept: the same again, while the sessions are still open.
	pgtest.Exec(t, source, `set lock_timeout = '5s'; truncate public.b; alter table public.b add x int`)
}

// A target that lacks a table or a column, and one with the same rows in other types.
func TestRun_OtherSchema(t *testing.T) {
	source, target := pgtest.Pair(t, 13, 17)
	pgtest.Exec(t, source, `
create table public.absent (id int primary key);
create table public.narrow (id int primary key, v text, w text);
insert into public.narrow values (1, 'a', 'b');
create table public.other (id int primary key, v varchar(10), n int);
insert into public.other select i, 'v' || i, i from generate_series(1, 3000) i;
create table public.computed (id int primary key, twice int generated always as (id * 2) stored);
insert into public.computed values (1), (2); analyze`)
	pgtest.Exec(t, target, `
create table public.narrow (id int primary key, v text);
insert into public.narrow values (1, 'a');
create table public.other (n int8, added int default 1, id int8 primary key, v text);
insert into public.other (id, v, n) select i, 'v' || i, i from generate_series(1, 3000) i;
create table public.computed (id int primary key, twice int generated always as (case id when 2 then 5 else 2 end) stored);
insert into public.computed values (1), (2)`)
	for _, perRange := range []int{0, 100} {
		expect(t, compare(t, source, target, func(c *Config) { c.RowsPerRange = perRange }), `
public.absent multiset 0/0
  gone: the target has no such table
public.computed key 2/2
  different 1: id=2 (twice)
  generated columns alone 1
public.narrow key 1/1
  missing columns w
public.other key 3000 equal
`)
	}
}

// Three differences in a large table are found by reading it once on each side, and a few ranges of
// it a second time; those in a table without a key and in one with a text key by a second scan.
func TestRun_Large(t *testing.T) {
	source, target := pgtest.Pair(t, 13, 17)
	const rows = 300_000
	both(t, source, target, fmt.Sprintf(`
create table public.big as select i::int8 as id, 'customer ' || i as name, (i * 7) %% 1000 as n, 'epoch'::timestamptz + i * interval '1 s' as at,
       i / 3.0::float8 as ratio, i::numeric(12,2) as amount, repeat('x', i %% 60) as note, null::text as nothing from generate_series(1, %d) i;
alter table public.big add primary key (id);
create table public.lettered as select 'k' || i as code, md5(i::text) as v from generate_series(1, 50000) i;
alter table public.lettered add primary key (code);
create table public.log as select i / 2 as n, md5((i / 2)::text) as v from generate_series(1, 50000) i;
`, rows))
	pgtest.Exec(t, source, `vacuum analyze`)
	list := tables(t, source)
	pgtest.Exec(t, target, `
update public.big set note = note || ' ' where id = 123456; delete from public.big where id = 7; insert into public.big (id) values (300001);
delete from public.lettered where code = 'k77';
delete from public.log where ctid = '(3,3)'`)

	plain := func(dsn, sql string) time.Duration {
		start := time.Now()
		conn, err := pinned.Open(t.Context(), pinned.Config{DSN: dsn})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.WithoutCancel(t.Context()))
		if strings.HasPrefix(sql, "copy") {
			_, err = conn.PgConn().CopyTo(t.Context(), discard{}, sql)
		} else {
			_, err = conn.Exec(t.Context(), sql)
		}
		if err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	var last Progress
	start := time.Now()
	report, err := Run(t.Context(), Config{Source: source, Target: target, Tables: list, Jobs: 2, Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	expect(t, report, `
public.big key 300000/300000
  missing 1: id=7
  extra 1: id=300001
  different 1: id=123456 (note)
public.lettered key 50000/49999
  missing 1: code=k77
public.log multiset 50000/49999
  missing 1: ctid=(,)
`)
	if last.TablesDone != 3 || last.PartsDone != last.Parts || last.Narrowing != 0 || last.Rows != 2*(rows+100_000)-2 {
		t.Errorf("progress at the end: %+v", last)
	}
	t.Logf("verify: %s for %d rows on each side, %.0f rows/s; of big alone: count %s and %s, copy %s and %s", took, rows+100_000, (rows+100_000)/took.Seconds(),
		plain(source, `select count(*) from public.big`), plain(target, `select count(*) from public.big`),
		plain(source, `copy public.big to stdout`), plain(target, `copy public.big to stdout`))

	// Narrowing reads by index: the condition is a range of the key and not an expression.
	big := &table{ranges: ranges{count: 4, of: "r", bounds: []string{"10", "20", "30"}, typeName: "bigint"}, lead: `"id"`, key: []int{0}}
	big.sides[src].leading, big.sides[dst].leading = true, true
	big.sums = [2]map[int]sum{{0: {rows: 9}, 1: {rows: 9}, 2: {rows: 9}, 3: {rows: 1}}, {0: {rows: 9}, 1: {rows: 9}, 2: {rows: 9}, 3: {rows: 2}}}
	for n := range big.sums {
		for r, s := range big.sums[n] {
			big.sums[n][r] = sum{s.rows, s.plus(sum{}).hash}
		}
	}
	if got, want := strings.Join(big.batches(), ";"), ` where "id" >= '30'::bigint`; got != want {
		t.Errorf("condition: got %q, want %q", got, want)
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

// The end of the context ends a comparison, and so does a lost connection: neither counts as a
// table's error.
func TestVerifier_Ends(t *testing.T) {
	source, target := pgtest.Pair(t, 13, 17)
	both(t, source, target, `create table public.t (id int primary key)`)
	open := func() *Verifier {
		t.Helper()
		v, err := New(Config{Source: source, Target: target, Tables: tables(t, source), Jobs: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(v.Close)
		if err := v.OpenSource(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		if err := v.OpenTarget(t.Context()); err != nil {
			t.Fatal(err)
		}
		return v
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open().Compare(ctx); err == nil {
		t.Error("canceled: got no error")
	}
	v := open()
	pgtest.Exec(t, target, `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'walferry verify' and datname = current_database()`)
	if report, err := v.Compare(t.Context()); err == nil {
		t.Errorf("connection lost: got no error but %+v", report)
	}

	if err := open().OpenSource(t.Context(), ""); err == nil {
		t.Error("opened twice: got no error")
	}
	v, err := New(Config{Source: source, Target: target})
	if err != nil {
		t.Fatal(err)
	}
	if err := v.OpenSource(t.Context(), "00000003-0000001B-1"); err == nil || !strings.Contains(err.Error(), "00000003-0000001B-1") {
		t.Errorf("no such snapshot: got %v", err)
	}
}
