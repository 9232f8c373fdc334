package verify

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/pgtest"
	pinned "github.com/walferry/walferry/internal/session"
)

// typeMatrix has a column of every kind of type with its edge values; from is the first version
// with the type.
var typeMatrix = []struct {
	from   int
	name   string
	typ    string
	values string // separated by |
}{
	{10, "b", "bool", `true|false`},
	{10, "i2", "int2", `-32768|32767|0`},
	{10, "i8", "int8", `-9223372036854775808|9223372036854775807`},
	{10, "o", "oid", `0|4294967295`},
	{10, "x", "xid", `0|4294967295`},
	{10, "f4", "float4", `NaN|Infinity|-Infinity|-0|0|1.17549435e-38|0.1|0.366667|3.4028235e38`},
	{10, "f8", "float8", `NaN|Infinity|-Infinity|-0|0|4.94e-324|1.7976931348623157e308|0.1|0.30000000000000004|1e15`},
	{10, "n", "numeric", `NaN|0.00|1.0|1.00|-0|1e-100|12345678901234567890.1234567890`},
	{10, "nt", "numeric(10,2)", `1|-99999999.99`},
	{14, "ni", "numeric", `Infinity|-Infinity`},
	{10, "m", "money", `-92233720368547758.08|92233720368547758.07|1.5`},
	{10, "t", "text", `|a|ä€😀e` + "\u0301" + `|back\slash|tab` + "\t" + `|line` + "\n" + `|\.|"|'|,|(`},
	{10, "vc", "varchar(20)", `|  a  `},
	{10, "c5", "char(5)", `ab||     `},
	{10, "c1", `"char"`, `a||\001`},
	{10, "nm", "name", `abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz12345678901`},
	{10, "by", "bytea", `\x|\x00ff5c27|abc`},
	{10, "d", "date", `4713-01-01 BC|infinity|-infinity|5874897-12-31|0001-01-01`},
	{10, "ti", "time", `24:00:00|00:00:00.000001`},
	{10, "tz", "timetz", `00:00:00+15:59|24:00:00-15:59`},
	{10, "ts", "timestamp", `4713-01-01 BC|294276-12-31 23:59:59.999999|infinity|1900-01-01`},
	{10, "tt", "timestamptz", `4713-01-02 BC|294276-12-31|infinity|-infinity|0001-01-01 00:00:00+00`},
	{10, "iv", "interval", `-1 mon +1 day -00:00:01|178000000 years|0|1.5 sec`},
	{17, "ii", "interval", `infinity|-infinity`},
	{10, "u", "uuid", `00000000-0000-0000-0000-000000000000|ffffffff-ffff-ffff-ffff-ffffffffffff`},
	{10, "ip", "inet", `10.1.2.3/8|::1|fe80::1/64|1.2.3.4`},
	{10, "ci", "cidr", `10.0.0.0/8|::/0`},
	{10, "ma", "macaddr", `08:00:2b:01:02:03`},
	{10, "m8", "macaddr8", `08:00:2b:01:02:03:04:05`},
	{10, "bi", "bit(3)", `101`},
	{10, "bv", "bit varying", `|1|1010101010101`},
	{10, "js", "json", `{"a":1, "a":2}|  [1]|"\u00e4"`},
	{10, "jb", "jsonb", `{"a":1,"b":[1.0,1.00,null]}|1e100|"\u00e4"|0.1`},
	{10, "xm", "xml", `<a b="c">d</a>|text|<?xml version="1.0" encoding="UTF-8"?><a/>`},
	{10, "pt", "point", `(0.1,-0)|(1e300,NaN)`},
	{10, "ls", "lseg", `((0.1,0.2),(0.3,0.30000000000000004))`},
	{10, "bo", "box", `((0.1,0.2),(0.3,0.4))`},
	{10, "pa", "path", `((0.1,0.2),(0.3,0.4))|[(0.1,0.2),(0.3,0.4)]`},
	{10, "po", "polygon", `((0.1,0.2),(0.3,0.4),(0.7,0.1))`},
	{10, "li", "line", `{0.1,0.2,0.3}`},
	{10, "cr", "circle", `<(0.1,0.2),0.30000000000000004>`},
	{10, "tv", "tsvector", `'a':1A,2B 'quo''te':3|`},
	{10, "tq", "tsquery", `'a' & !'b':*A <2> 'c'`},
	{10, "pl", "pg_lsn", `FFFFFFFF/FFFFFFFF|0/0`},
	{13, "x8", "xid8", `18446744073709551615`},
	{10, "tx", "txid_snapshot", `10:20:10,14,15`},
	{10, "td", "tid", `(0,1)|(4294967295,65535)`},
	{12, "jp", "jsonpath", `$.a[*] ? (@.b > 1.0)`},
	{10, "rc", "regclass", `pg_class|"Odd, name"`},
	{10, "rt", "regtype", `int4|numeric(10,2)`},
	{10, "rp", "regprocedure", `now()`},
	{10, "ia", "int4[]", `{}|{1,NULL,3}|[0:2]={1,2,3}|{{1,2},{3,4}}`},
	{10, "ta", "text[]", `{NULL,"NULL",""}|{"a,b","q\"u","b\\s"," "}`},
	{10, "fa", "float8[]", `{0.1,-0,NaN,0.30000000000000004}`},
	{10, "f4a", "float4[]", `{0.1,0.366667}`},
	{10, "ca", "char(3)[]", `{a,"b  "}`},
	{10, "ir", "int4range", `empty|[1,2)|(,)|[1,)`},
	{10, "nr", "numrange", `[1.0,1.00]|(0.1,2)`},
	{10, "tr", "tstzrange", `["2020-01-01 00:00:00+00",infinity]`},
	{14, "mr", "int4multirange", `{}|{[1,2),[5,6)}`},
	{10, "en", `public.mood`, `sad|so "so"|it's`},
	{10, "ea", `public.mood[]`, `{sad,"so \"so\""}`},
	{10, "co", `public.pair`, `(1,)|(,"")|(1,"a,b")`},
	{10, "cf", `public.floats`, `(0.1,0.25)`},
	{10, "fr", `public.floatrange`, `[0.1,0.5)|empty`},
	{10, "fra", `public.floatrange[]`, `{"[0.1,0.5)"}`},
	{10, "dt", `public.code`, `ABC`},
	{10, "df", `public.ratio`, `0.1|0.30000000000000004`},
	{10, "dd", `public.strict_ratio`, `0.1`},
	{10, "da", `public.tags`, `{a,b}`},
	{11, "dar", `public.code[]`, `{ABC,DEF}`},
	{10, "ct", `public.citext`, `MiXed|mixed`},
	{10, "hs", `public.hstore`, `"a"=>"1", "b"=>NULL`},
}

const typeMatrixTypes = `
create extension citext schema public;
create extension hstore schema public;
create table public."Odd, name" ();
create type public.unused as enum ('moves', 'the', 'OIDs');
create type public.mood as enum ('sad', 'so "so"', 'it''s');
create type public.pair as (a int, b text);
create type public.floats as (a float8, b float4);
create type public.floatrange as range (subtype = float8);
create domain public.code as char(3);
create domain public.ratio as float8;
create domain public.strict_ratio as public.ratio not null default 1;
create domain public.tags as text[];
`

// Values of every type are found equal although the servers format some of them differently, and
// although the OIDs of types differ between them.
func TestRun_TypesAreEqual(t *testing.T) {
	for _, majors := range [][2]int{{10, 18}, {11, 12}, {13, 17}, {15, 18}} {
		t.Run(fmt.Sprintf("%d-%d", majors[0], majors[1]), func(t *testing.T) {
			source, target := pgtest.Pair(t, majors[0], majors[1])
			pgtest.Exec(t, source, typeMatrixTypes)
			pgtest.Exec(t, target, strings.Replace(typeMatrixTypes, "create type public.unused as enum ('moves', 'the', 'OIDs');", "", 1))
			var names, columns []string
			var inserts strings.Builder
			for _, c := range typeMatrix {
				if c.from > majors[0] {
					continue
				}
				names, columns = append(names, c.name), append(columns, c.name+" "+c.typ)
				for _, value := range strings.Split(c.values, "|") {
					fmt.Fprintf(&inserts, "insert into public.matrix (%s) values ('%s');\n", c.name, strings.ReplaceAll(value, "'", "''"))
				}
			}
			// Columns are in another order on the target.
			pgtest.Exec(t, source, "create table public.matrix (id serial primary key, "+strings.Join(columns, ", ")+")")
			for i, j := 0, len(columns)-1; i < j; i, j = i+1, j-1 {
				columns[i], columns[j] = columns[j], columns[i]
			}
			pgtest.Exec(t, target, "create table public.matrix (dropped text, "+strings.Join(columns, ", ")+", id int primary key); alter table public.matrix drop column dropped")
			pgtest.Exec(t, source, "alter table public.matrix alter dd set default 0.1;"+inserts.String())
			// The same values without the key, and each as a key of its own.
			for _, dsn := range []string{source, target} {
				pgtest.Exec(t, dsn, "create table public.keyless as select * from public.matrix with no data")
				pgtest.Exec(t, dsn, "create table public.by_float (k float8 primary key, a public.floats); create table public.by_enum (k public.mood primary key); create table public.by_domain (k public.ratio primary key)")
			}
			pgtest.Exec(t, source, `insert into public.keyless select * from public.matrix;
insert into public.by_float select i / 7.0::float8, row(i / 3.0, i / 3.0)::public.floats from generate_series(1, 500) i;
insert into public.by_enum values ('sad'), ('it''s');
insert into public.by_domain select i / 7.0::float8 from generate_series(1, 500) i; analyze`)
			for table, list := range map[string]string{"matrix": "id, " + strings.Join(names, ", "), "keyless": "id, " + strings.Join(names, ", "), "by_float": "k, a", "by_enum": "k", "by_domain": "k"} {
				transfer(t, source, target, "public."+table, list)
			}

			for _, perRange := range []int{0, 10} {
				report := compare(t, source, target, func(c *Config) { c.RowsPerRange = perRange })
				for _, r := range report.Tables {
					if !r.Equal {
						t.Errorf("rows per range %d: table %s is not equal:\n%s", perRange, r.Name, transcript(report))
					}
				}
			}

			// A float's last bit is seen, also between versions that write it with different
			// digits.
			pgtest.Exec(t, target, `update public.matrix set f8 = '0.1' where f8 = '0.30000000000000004'; update public.matrix set f8 = '0.3' where f8 = '1e15';
update public.matrix set fa = '{0.1,0,NaN,0.30000000000000004}' where fa is not null; update public.matrix set pt = '(0.10000000000000002,-0)' where pt[0] = 0.1;
update public.by_float set k = k * (1 + 2.3e-16) where k = (select min(k) from public.by_float)`)
			report := compare(t, source, target)
			for _, r := range report.Tables {
				if want := map[string]int64{"matrix": 4}[r.Name]; r.DifferentRows != want {
					t.Errorf("table %s: got %d different rows, want %d", r.Name, r.DifferentRows, want)
				}
				if want := map[string]int64{"by_float": 1}[r.Name]; r.ExtraRows != want || r.MissingRows != want {
					t.Errorf("table %s: got %d extra and %d missing rows, want %d", r.Name, r.ExtraRows, r.MissingRows, want)
				}
			}
		})
	}
}

// transfer copies a table's rows as text under the pinned settings.
func transfer(t *testing.T, source, target, table, columns string) {
	t.Helper()
	from, err := pinned.Open(t.Context(), pinned.Config{DSN: source})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close(context.WithoutCancel(t.Context()))
	to, err := pinned.Open(t.Context(), pinned.Config{DSN: target})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close(context.WithoutCancel(t.Context()))
	reader, writer := io.Pipe()
	go func() {
		_, err := from.PgConn().CopyTo(t.Context(), writer, "copy "+table+" ("+columns+") to stdout")
		writer.CloseWithError(err)
	}()
	if _, err := to.PgConn().CopyFrom(t.Context(), reader, "copy "+table+" ("+columns+") from stdin"); err != nil {
		t.Fatalf("copy %s: %v", table, err)
	}
}

// The bytes of text are not those of the server's encoding: a LATIN1 source equals its UTF8 target,
// whatever the key contains.
func TestRun_Encodings(t *testing.T) {
	server := pgtest.Shared(t, 13)
	pgtest.Exec(t, server.URL("postgres"), `create database latin encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0`)
	// A session opened as the project does: its encoding is UTF8 from the start.
	exec := func(dsn, sql string) {
		t.Helper()
		conn, err := pinned.Open(context.Background(), pinned.Config{DSN: dsn})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := conn.PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { exec(server.URL("postgres"), `drop database latin`) })
	source, target := server.URL("latin"), pgtest.Shared(t, 17).Database(t)
	for _, dsn := range []string{source, target} {
		exec(dsn, `
create type public.mood as enum ('fröhlich');
create table public.t (k text primary key, c char(4), m public.mood, j jsonb, a text[]);
insert into public.t select 'käse ' || i, 'ß', 'fröhlich', '{"ä": "ö"}', '{ü}' from generate_series(1, 500) i;
create table public.log as select * from public.t;
analyze`)
	}
	for _, perRange := range []int{0, 10} {
		expect(t, compare(t, source, target, func(c *Config) { c.RowsPerRange = perRange }), "public.log multiset 500 equal\npublic.t key 500 equal\n")
	}
	exec(target, `update public.t set c = 'ss' where k = 'käse 7'`)
	expect(t, compare(t, source, target, func(c *Config) { c.RowsPerRange = 10 }), "public.log multiset 500 equal\npublic.t key 500/500\n  different 1: k='käse 7' (c)\n")
}

// Version 19 writes a pg_lsn with eight digits. In a value that is compared as text that is not a
// difference, while another position still is.
func TestRun_LSNOf19(t *testing.T) {
	source, target := pgtest.Shared(t, 18).Database(t), pgtest.Shared(t, 19).Database(t)
	for _, dsn := range []string{source, target} {
		pgtest.Exec(t, dsn, `
create type public.at as (n int, lsn pg_lsn, note text);
create type public.span as range (subtype = pg_lsn);
create domain public.place as public.at;
create table public.t (id int primary key, plain pg_lsn, c public.at, a public.at[], r public.span, d public.place);
insert into public.t select i, lsn, row(1, lsn, 'x/0y')::public.at, array[row(2, lsn, '')::public.at, null], public.span(lsn, null), row(3, lsn, '')::public.at
  from unnest(array['0/0', '0/1', '16/B374D848', 'FF/FFFFFFFF', '1/00ABCDEF']::pg_lsn[]) with ordinality u(lsn, i);
insert into public.t (id) values (9)`)
	}
	expect(t, compare(t, source, target, func(*Config) {}), "\npublic.t key 6 equal\n")
	pgtest.Exec(t, target, `update public.t set c.lsn = '0/2' where id = 2; update public.t set a[1].lsn = '16/B374D840' where id = 3; update public.t set r = '[0/0,0/1)' where id = 4`)
	expect(t, compare(t, source, target, func(*Config) {}), `
public.t key 6/6
  different 3: id=2 (c); id=3 (a); id=4 (r)
`)
}
