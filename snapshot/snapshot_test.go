package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

// Every trait a table can have that makes naive copies wrong or impossible.
const traitsSource = `
create table plain (id int primary key, name text, at timestamptz);
insert into plain select i, 'name ' || i, '2024-01-01'::timestamptz + i * interval '1 hour' from generate_series(1, 1000) i;
create table nothing ();
insert into nothing select from generate_series(1, 7);
create table empty (id int primary key);
create table dropped (a int, gone text, b int);
insert into dropped values (1, 'x', 2), (3, 'y', 4);
alter table dropped drop column gone;
alter table dropped add c text default 'later';
insert into dropped values (5, 6, null);
create table ordered (a int, b text, c bool);
insert into ordered values (1, 'b', true), (2, null, false);
create table always (id int generated always as identity primary key, v text);
insert into always (v) select 'v' || i from generate_series(1, 5) i;
create schema "My ""odd"" schema";
create table "My ""odd"" schema"."a'b;--.c %s" ("select" int, "A b""c" text, "ü" text);
insert into "My ""odd"" schema"."a'b;--.c %s" values (1, E'tab\there\\N\nnew \\.', 'é'), (2, '\.', ''), (3, '\N', null);
create table parent (id int, kind text);
create table child (extra int) inherits (parent);
insert into parent values (1, 'parent');
insert into child values (2, 'child', 22);
create table toast (id int primary key, doc text);
alter table toast alter doc set storage external;
insert into toast select i, repeat(md5(i::text), 3000) from generate_series(1, 20) i;
create table measures (at date not null, v int) partition by range (at);
create table measures_1 partition of measures for values from ('2024-01-01') to ('2024-02-01');
create table measures_2 partition of measures for values from ('2024-02-01') to ('2024-03-01');
insert into measures select '2024-01-01'::date + i, i from generate_series(0, 50) i;
create type mood as enum ('sad', 'it''s "ok"');
create domain small as int check (value < 100);
create type pair as (x int, y text);
create table custom (m mood, d small, p pair, ms mood[], ps pair[], r regclass, rs regclass[]);
insert into custom values ('it''s "ok"', 3, (1, 'a,"b'), '{sad,NULL}', array[(1, null), null]::pair[], '"My ""odd"" schema"."a''b;--.c %s"', '{plain}'),
    (null, null, (null, ''), '{}', null, null, null);
`

// The same on the target, where it differs.
const traitsTarget = `
create table plain (id int primary key, name text, at timestamptz);
create table nothing ();
create table empty (id int primary key);
create table dropped (a int, b int, c text);
create table ordered (c bool, extra text default 'filled', b text, number serial, a int);
create table always (id int generated always as identity primary key, v text);
create schema "My ""odd"" schema";
create table "My ""odd"" schema"."a'b;--.c %s" ("select" int, "A b""c" text, "ü" text);
create table parent (id int, kind text);
create table child (extra int) inherits (parent);
create table toast (id int primary key, doc text);
create table measures (at date not null, v int) partition by range (at);
create table measures_1 partition of measures for values from ('2024-01-01') to ('2024-02-01');
create table measures_2 partition of measures for values from ('2024-02-01') to ('2024-03-01');
create type mood as enum ('sad', 'it''s "ok"');
create domain small as int check (value < 100);
create type pair as (x int, y text);
create table custom (m mood, d small, p pair, ms mood[], ps pair[], r regclass, rs regclass[]);
`

// Generated columns came with 12.
const generated = `
create table computed (a int, twice int generated always as (a * 2) stored);
create table only_computed (one int generated always as (1) stored);
`

func TestRun_Traits(t *testing.T) {
	for _, pair := range [][2]int{{10, 18}, {13, 17}, {15, 18}} {
		t.Run(fmt.Sprintf("%d to %d", pair[0], pair[1]), func(t *testing.T) {
			source, target := pgtest.Pair(t, pair[0], pair[1])
			pgtest.Exec(t, source, traitsSource)
			pgtest.Exec(t, target, traitsTarget)
			if pair[0] >= 12 {
				pgtest.Exec(t, source, generated+`
insert into computed (a) values (1), (null), (3);
insert into only_computed select from generate_series(1, 4);`)
				pgtest.Exec(t, target, generated)
			}
			var mu sync.Mutex
			announced := map[string]int{}
			c := config(source, target, snapshotOf(t, source), tablesOf(t, source)...)
			c.OnTable = func(_ context.Context, table Table) error {
				mu.Lock()
				defer mu.Unlock()
				announced[table.Name]++
				return nil
			}
			copier := run(t, c)

			tables := map[string]string{
				"plain": "*", "empty": "*", "dropped": "a, b, c", "ordered": "a, b, c", "always": "*",
				`"My ""odd"" schema"."a'b;--.c %s"`: "*", "parent": "*", "child": "*", "toast": "*",
				"measures_1": "*", "measures_2": "*", "custom": "m, d, p, ms, ps, r, rs",
			}
			if pair[0] >= 12 {
				tables["computed"], tables["only_computed"] = "*", "*"
			}
			for table, columns := range tables {
				same(t, source, target, table, columns)
			}
			if got, want := count(t, target, "nothing"), "7"; got != want {
				t.Errorf("table without columns: got %s rows, want %s", got, want)
			}
			if got, want := rows(t, target, "ordered", "extra, number"), []string{"filled|1", "filled|2"}; !slices.Equal(got, want) {
				t.Errorf("extra columns of the target: got %q, want %q", got, want)
			}
			for _, table := range c.Tables {
				if want := map[bool]int{true: 0, false: 1}[table.Name == "measures"]; announced[table.Name] != want {
					t.Errorf("OnTable called %d times for %s, want %d", announced[table.Name], table, want)
				}
			}
			p := copier.Progress()
			if p.TablesDone != p.Tables || p.PiecesDone != p.Pieces || p.Bytes != p.BytesTotal || len(p.Running) != 0 {
				t.Errorf("progress at the end: %+v", p)
			}
			noConnections(t, source, target)
		})
	}
}

// The values that home-grown copies lose, once in a table that travels in binary and once, because
// of an array of an enum beside them, as text.
func TestRun_Values(t *testing.T) {
	const types = `
create type color as enum ('red');
create table %s (f8 float8, f4 float4, n numeric, ts timestamptz, tsp timestamp, d date, t time, tz timetz, iv interval,
    b bytea, x text, c5 char(5), c "char", bits varbit, jb jsonb, j json, u uuid, i inet, ci cidr, m macaddr,
    arr int4[], texts text[], r int4range, tr tstzrange, nr numrange, big int8, s int2, l pg_lsn, nm numeric(10,3) %s)`
	const values = `
insert into %s values
 ('NaN', 'NaN', 'NaN', 'infinity', '-infinity', 'infinity', '24:00:00', '00:00:00+15:59', '-1 mon +1 day -00:00:01',
  '', '', 'ab', 'a', '', '1e100', '{"a":1, "a":2 }', '00000000-0000-0000-0000-000000000000', '10.1.2.3/8', '10.0.0.0/8', '08:00:2b:01:02:03',
  '[0:2]={1,NULL,3}', '{"NULL",NULL,"","a,\"b\""}', 'empty', '(,)', '[1.0,1.00]', 9223372036854775807, -32768, '16/B374D848', 1),
 ('-0', '-0', '1.00', '4713-01-01 00:00:00+00 BC', '294276-12-31 23:59:59.999999', '4713-01-01 BC', '00:00', '23:59:59.999999-15:59', '178000000 years',
  (select decode(string_agg(lpad(to_hex(g), 2, '0'), ''), 'hex') from generate_series(0, 255) g), E'\\N \\. \t\n\r\b', '', '', '101', '{"k": "\u00e9\ud83d\ude00"}', 'null', null, '::1', null, null,
  '{{1,2},{3,4}}', '{}', '[1,5)', '["2024-01-01","infinity"]', '(,1.5)', -9223372036854775808, 32767, '0/0', 1234567.891),
 ('4.94e-324', '1.17549435e-38', 0.00, '0001-01-01 00:00:00+00', '1999-12-31 23:59:59.999999', '5874897-12-31', '12:34:56.789', null, '1 year 2 mons',
  null, repeat('é😀', 100000), null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null),
 (1.7976931348623157e308, 0.1, (repeat('9', 5000) || '.' || repeat('1', 300))::numeric, null, null, null, null, null, null,
  null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null)`
	source, target := pgtest.Pair(t, 13, 17)
	for _, url := range []string{source, target} {
		pgtest.Exec(t, url, fmt.Sprintf(types, "in_binary", "")+";"+strings.Replace(fmt.Sprintf(types, "as_text", ", e color[]"), "create type color as enum ('red');", "", 1))
	}
	pgtest.Exec(t, source, fmt.Sprintf(values, "in_binary")+";"+fmt.Sprintf(values, "as_text"))
	// A session that was left to itself would write and read these otherwise.
	for _, url := range []string{source, target} {
		pgtest.Exec(t, url, `do $$ begin execute format('alter database %I set datestyle = ''SQL, DMY''', current_database());
			execute format('alter database %I set intervalstyle = ''sql_standard''', current_database());
			execute format('alter database %I set timezone = ''America/St_Johns''', current_database()); end $$`)
	}
	copier := run(t, config(source, target, snapshotOf(t, source), tablesOf(t, source)...))
	for _, table := range copier.tables {
		if got, want := table.binary, table.Name == "in_binary"; got != want {
			t.Errorf("table %s in binary: got %v, want %v", table.Table, got, want)
		}
		same(t, source, target, table.Name, "*")
	}
}

// Types that are not built in travel in binary where their form is known to be the same on both
// sides, whatever their OIDs.
func TestRun_TypesOfUsers(t *testing.T) {
	source, target := pgtest.Pair(t, 10, 18)
	const types = `
create extension citext; create extension hstore;
create type mood as enum ('sad', 'it''s, "fine"', 'ärgerlich');
create domain code as char(3) check (value <> 'bad');
create domain price as numeric(10,2); create domain net as price check (value >= 0);
create domain numbers as int[];
create type place as (street text, gone int, zip char(5), at timestamptz, worth numeric);
alter type place drop attribute gone;
create type nested as (m mood);
create type floatrange as range (subtype = float8);
create table b (m mood, c code, n net, ns numbers, email citext, h hstore, p place, v tsvector, pt point, pg polygon);
create table t1 (m mood[]); create table t2 (n nested); create table t3 (r floatrange); create table t4 (ps place[]); create table t5 (m money);
create table differs (v text)`
	pgtest.Exec(t, source, types+`;
insert into b values
 ('it''s, "fine"', 'x', 1, '[0:1]={1,NULL}', 'Üser@Example.COM', 'a=>1, "b \"q\""=>NULL, ""=>""', row('a "street"', 'z', 'infinity', 1.00), $$'a':1A,3 'b c':2B$$, '(2.5,-0)', '((0,0),(1,1.5))'),
 ('ärgerlich', 'ärg', 0.5, '{}', '', '', row(null, null, null, null), '', null, null),
 (null, null, null, null, null, null, null, null, null, null);
insert into t1 values ('{sad,NULL}'); insert into t2 values (row('sad')); insert into t3 values ('[1,2)'); insert into t4 values (array[row('a', 'b', null, null)::place]); insert into t5 values ('1.50');
alter table differs alter v type citext; insert into differs values ('Ab')`)
	pgtest.Exec(t, target, `create table earlier (a int); create type other as enum ('a');`+types+`; alter table differs alter v type varchar(2)`)
	copier := run(t, config(source, target, snapshotOf(t, source), tablesOf(t, source)...))
	for _, table := range copier.tables {
		if got, want := table.binary, table.Name == "b"; got != want {
			t.Errorf("table %s in binary: got %v, want %v", table.Table, got, want)
		}
		same(t, source, target, table.Name, "*")
	}
	if len(copier.tables) != 7 {
		t.Errorf("got %d tables, want 7", len(copier.tables))
	}
}

func TestRun_Pieces(t *testing.T) {
	for _, pair := range [][2]int{{10, 18}, {13, 17}, {15, 18}} {
		t.Run(fmt.Sprintf("%d to %d", pair[0], pair[1]), func(t *testing.T) {
			source, target := pgtest.Pair(t, pair[0], pair[1])
			const schema = `
create table by_int (id int primary key, v text);
create table by_text (id text collate "C", n int, v text, primary key (id, n));
create table by_uuid (id uuid primary key, v text);
create table keyless (v text);`
			pgtest.Exec(t, source, schema+`
insert into by_int select i, repeat(md5(i::text), 4) from generate_series(-2000, 2000) i;
insert into by_text select 'it''s ' || i, i, repeat(md5(i::text), 4) from generate_series(1, 4000) i;
insert into by_uuid select md5(i::text)::uuid, repeat(md5(i::text), 4) from generate_series(1, 4000) i;
insert into keyless select md5(i::text) || repeat('x', 100) from generate_series(1, 4000) i;
analyze;`)
			pgtest.Exec(t, target, schema)
			c := config(source, target, snapshotOf(t, source), tablesOf(t, source)...)
			c.PieceBytes = 100 << 10
			// What the snapshot does not see must not get in, nor what it sees get lost.
			before := map[string][]string{}
			for _, table := range c.Tables {
				before[table.Name] = rows(t, source, table.Name, "*")
			}
			pgtest.Exec(t, source, `delete from by_int where id % 3 = 0; update by_text set v = 'changed';
insert into keyless select 'late' from generate_series(1, 6000); insert into by_uuid values ('ffffffff-ffff-ffff-ffff-ffffffffffff', 'late')`)
			copier := run(t, c)
			for name, want := range before {
				if got := rows(t, target, name, "*"); !slices.Equal(got, want) {
					t.Errorf("%s: got %d rows, want %d as of the snapshot", name, len(got), len(want))
				}
			}
			for _, table := range copier.tables {
				wantPieces := pair[0] >= 14 || table.Name != "keyless"
				if got := len(table.bounds) > 2; got != wantPieces {
					t.Errorf("%s: %d pieces: %q", table.Table, len(table.bounds), table.bounds)
				}
			}
			p := copier.Progress()
			if p.Rows != 16001 || p.Tables != 4 || p.TablesDone != 4 || p.PiecesDone != p.Pieces || p.Bytes != p.BytesTotal {
				t.Errorf("progress: %+v", p)
			}
			stored, err := ReadProgress(t.Context(), connect(t, target), "test")
			if err != nil {
				t.Fatal(err)
			}
			if got, want := fmt.Sprint(stored), fmt.Sprint(p); got != want {
				t.Errorf("progress as stored %s, as seen by the copier %s", got, want)
			}
		})
	}
}

// A transaction is in the snapshot or comes through the slot: writers that never stop, and a
// keyless table that shows every row that is missing or there twice.
func TestExport_Boundary(t *testing.T) {
	for _, major := range []int{10, 15} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			source, target := pgtest.Pair(t, major, 18)
			pgtest.Exec(t, source, `create table log (writer int, n int); create publication p for table log`)
			pgtest.Exec(t, target, `create table log (writer int, n int)`)
			stop := make(chan struct{})
			var writers sync.WaitGroup
			for writer := range 4 {
				writers.Go(func() {
					conn, err := pgx.Connect(context.Background(), source)
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close(context.Background())
					for n := 0; ; n++ {
						select {
						case <-stop:
							return
						default:
						}
						if _, err := conn.Exec(context.Background(), `insert into log values ($1, $2)`, writer, n); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			eventually(t, "rows are written", func() bool { return count(t, source, "log") > "1000" || len(count(t, source, "log")) > 4 })
			e := snapshotOf(t, source)
			run(t, config(source, target, e, Table{Schema: "public", Name: "log"}))
			close(stop)
			writers.Wait()

			// In pgoutput an insert begins with I; a row of log is followed by 'N'.
			streamed := pgtest.Query(t, source, fmt.Sprintf(`select count(*) from pg_logical_slot_peek_binary_changes('%s', null, null,
				'proto_version', '1', 'publication_names', 'p') where get_byte(data, 0) = ascii('I')`, e.Slot))[0][0]
			var copied, rest, total int
			fmt.Sscan(count(t, target, "log"), &copied)
			fmt.Sscan(streamed, &rest)
			fmt.Sscan(count(t, source, "log"), &total)
			if copied+rest != total || copied == 0 || rest == 0 {
				t.Errorf("copied %d and streamed %d rows of %d", copied, rest, total)
			}
		})
	}
}

func TestRun_RowSecurity(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	const schema = `create table secret (id int, owner text)`
	role := "rls_" + slotFor(t)
	pgtest.Exec(t, source, schema+`; insert into secret values (1, 'me'), (2, 'you'); alter table secret enable row level security;
create policy mine on secret using (id = 1); create role `+role+` login; grant select on secret to `+role)
	t.Cleanup(func() { // the role belongs to the server, not to the test's database
		conn, err := pgx.Connect(context.Background(), source)
		if err == nil {
			_, err = conn.Exec(context.Background(), "drop owned by "+role)
		}
		if err == nil {
			_, err = conn.Exec(context.Background(), "drop role "+role)
		}
		if err != nil {
			t.Error(err)
			return
		}
		conn.Close(context.Background())
	})
	pgtest.Exec(t, target, schema)
	e := snapshotOf(t, source)
	c := config(source+"", target, e, Table{Schema: "public", Name: "secret"})
	c.Source = strings.Replace(source, "postgres@", role+"@", 1)
	copier, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	err = copier.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "copy table public.secret") || !strings.Contains(err.Error(), "42501") {
		t.Errorf("a role that sees half the rows: got error %v", err)
	}
	if got := count(t, target, "secret"); got != "0" {
		t.Errorf("target has %s rows", got)
	}
}

// Bytes that are no UTF-8, in a source in SQL_ASCII: the copy stops, names the table, and leaves
// nothing of it.
func TestRun_InvalidText(t *testing.T) {
	server := pgtest.Shared(t, 15)
	const name = "snapshot_ascii"
	pgtest.Exec(t, server.URL("postgres"), `create database `+name+` template template0 encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C'`)
	t.Cleanup(func() {
		if err := server.DropDatabase(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	source, target := server.URL(name), server.Database(t)
	const schema = `create table bad (id int primary key, v text)`
	pgtest.Exec(t, source, schema+`; insert into bad values (1, 'fine'), (2, convert_from('\x62ff', 'SQL_ASCII'))`)
	pgtest.Exec(t, target, schema)
	e, err := Export(t.Context(), source, ExportConfig{Slot: slotFor(t), Temporary: true})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(context.Background())
	copier, err := New(config(source, target, e, Table{Schema: "public", Name: "bad"}))
	if err != nil {
		t.Fatal(err)
	}
	if err = copier.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "copy table public.bad") || !strings.Contains(err.Error(), "22021") {
		t.Errorf("got error %v", err)
	}
	if got := count(t, target, "bad"); got != "0" {
		t.Errorf("target has %s rows", got)
	}
}

// A value that the target cannot read is not told: its own log has it.
func TestRun_RefusedValue(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (v text); insert into t values ('wren')`)
	pgtest.Exec(t, target, `create table t (v int)`)
	copier, err := New(config(source, target, snapshotOf(t, source), tablesOf(t, source)...))
	if err != nil {
		t.Fatal(err)
	}
	err = copier.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "copy table public.t") || !strings.Contains(err.Error(), "(value left out) (SQLSTATE 22P02)") || strings.Contains(err.Error(), "wren") {
		t.Errorf("got error %v", err)
	}
}

func TestRun_SchemaDiffers(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table a (id int, note text, v int); create table b (id int); create table c (id int); insert into c values (1)`)
	pgtest.Exec(t, target, `create table a (id int, v int generated always as (id) stored); create table c (id int)`)
	copier, err := New(config(source, target, snapshotOf(t, source), append(tablesOf(t, source), Table{Schema: "public", Name: "d"})...))
	if err != nil {
		t.Fatal(err)
	}
	err = copier.Run(t.Context())
	var schema *SchemaError
	if !errors.As(err, &schema) {
		t.Fatalf("got error %v", err)
	}
	want := []string{
		`public.a: the target has no column "note"`,
		`public.a: column "v" is generated on the target`,
		`public.b: public.b is not a table of the target`,
		`public.d is not a table of the source`,
	}
	if !slices.Equal(schema.Differences, want) {
		t.Errorf("got %q\nwant %q", schema.Differences, want)
	}
	if got := count(t, target, "c"); got != "0" {
		t.Errorf("something was copied: %s rows", got)
	}
}
