package applier

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
	pinning "github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/slot"
)

// typeMatrix has the values of each type that get lost on the way most easily.
var typeMatrix = []struct {
	typ    string
	values []string
}{
	{"bool", []string{"t", "f"}},
	{"int8", []string{"-9223372036854775808", "9223372036854775807"}},
	{"float8", []string{"NaN", "Infinity", "-Infinity", "-0", "5e-324", "1.7976931348623157e308", "0.1", "0.30000000000000004"}},
	{"float4", []string{"1.17549435e-38", "0.36666667", "-0", "NaN"}},
	{"numeric", []string{"NaN", "0.00", "1.0", "1.00", "-0", "1e-1000", "123456789012345678901234567890.12345678901234567890"}},
	{"money", []string{"-92233720368547758.08", "92233720368547758.07"}},
	{"text", []string{"", "NULL", `\N`, `\.`, "a\r\n\\.\r\n\x01", "'; drop table types; --", "$1 $tag$ E'\\'", "é😀e\u0301", "a\nb\tc\\d\\.'\"", strings.Repeat("long ", 50_000)}},
	{"varchar(5)", []string{"abcde", "  "}},
	{"char(5)", []string{"ab", ""}},
	{`"char"`, []string{"x", `\200`, ""}},
	{"name", []string{strings.Repeat("n", 63)}},
	{"bytea", []string{`\x`, `\x00ff5c27`, everyByte()}},
	{"bit(3)", []string{"101"}},
	{"varbit", []string{"", "10"}},
	{"date", []string{"4714-11-24 BC", "5874897-12-31", "infinity", "-infinity"}},
	{"time", []string{"24:00:00", "00:00:00", "23:59:59.999999"}},
	{"timetz", []string{"00:00:00+15:59", "24:00:00-15:59"}},
	{"timestamp", []string{"4714-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999", "infinity"}},
	{"timestamptz", []string{"4714-11-24 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00", "-infinity", "0001-01-01 00:00:00+00"}},
	{"interval", []string{"-1 mon +1 day -00:00:01", "178000000 years", "1 year 2 mons", "00:00:00"}},
	{"uuid", []string{"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"}},
	{"inet", []string{"10.1.2.3/8", "::ffff:1.2.3.4", "10.0.0.1"}},
	{"cidr", []string{"10.0.0.0/8"}},
	{"macaddr8", []string{"08:00:2b:01:02:03:04:05"}},
	{"json", []string{`{"a": 1, "a" : 2}`, "  null ", `"\u0000\ud800"`}},
	{"jsonb", []string{`{"b": 1, "a": "é"}`, "1e400", `null`}},
	{"jsonb[]", []string{`{"{\"a\": [1]}",NULL}`}},
	{"xml", []string{"", "<a>x</a>", "text<b/>", `<!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>`}},
	{"tsvector", []string{`'a':1A,2B 'b'`, ""}},
	{"tsquery", []string{`'a' & !'b':*`}},
	{"point", []string{"(1e+300,-0)"}},
	{"line", []string{"{1,2,3}"}},
	{"box", []string{"(2,2),(1,1)"}},
	{"path", []string{"((1,1),(2,2))", "[(1,1),(2,2)]"}},
	{"polygon", []string{"((1,1),(2,2),(3,0))"}},
	{"circle", []string{"<(1,2),3>"}},
	{"int[]", []string{"{}", "[0:2]={1,NULL,3}", "{{1,2},{3,4}}", "[1:1][2:2][3:3][4:4][5:5][6:7]={{{{{{1,2}}}}}}"}},
	{"text[]", []string{`{NULL,"NULL","","a\"b\\c, d"}`}},
	{"int4range", []string{"empty", "[1,5)", "(,)"}},
	{"tstzrange", []string{`["2024-01-01 00:00:00+00",infinity]`, "empty"}},
	{"oid", []string{"4294967295"}},
	{"xid", []string{"4294967295"}},
	{"tid", []string{"(4294967295,65535)"}},
	{"pg_lsn", []string{"FFFFFFFF/FFFFFFFF"}},
	{"regclass", []string{"pg_catalog.pg_class", `"Qu oted"`}},
	{"regtype", []string{"integer[]", `"Mo'od"`}},
	{`"Mo'od"`, []string{"sad", `it's "ok"`, ""}},
	{`"Mo'od"[]`, []string{`{sad,"it's \"ok\"",""}`}},
	{"positive", []string{"1"}},
	{"words", []string{`{a,NULL}`}},
	{"pair", []string{"(,)", `(1,"")`, `(1,"a ""b"" \\c")`}},
	{"pair[]", []string{`{"(1,)",NULL}`}},
	{"citext", []string{"Foo", ""}},
	{"hstore", []string{`"a"=>NULL, "b"=>"x\"y"`, ""}},
}

func everyByte() string {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	return fmt.Sprintf(`\x%x`, all)
}

const typeSchema = `
create extension citext; create extension hstore;
create table "Qu oted" ();
create type "Mo'od" as enum ('sad', 'it''s "ok"', '');
create domain positive as int check (value > 0);
create domain words as text[];
create type pair as (a int, b text);
`

// Every value arrives as it was, through a slot, although both databases have settings that change
// what values look like.
func TestApply_Types(t *testing.T) {
	t.Run("one by one", func(t *testing.T) { applyTypes(t, func(a *Applier) { a.folds.leastFold = math.MaxInt }) })
	t.Run("gathered", func(t *testing.T) { applyTypes(t, func(a *Applier) { a.folds.leastCopy = 1 << 30 }) })
	t.Run("copied", func(t *testing.T) { applyTypes(t, func(a *Applier) { a.folds.leastCopy = 1 }) })
}

// typeDatabases is a pair of databases whose settings change what values look like, with a table of
// every type, and the number of its rows.
func typeDatabases(t *testing.T) (sourceURL, targetURL string, rows int) {
	// Shortest floats came with 12, \200 in "char" with 16: it is the same value, but not the same
	// text.
	sourceURL, targetURL = pgtest.Pair(t, max(sourceMajor(), 15), max(targetMajor(), 16))
	var table strings.Builder
	table.WriteString("create table types (id int primary key")
	for i, m := range typeMatrix {
		fmt.Fprintf(&table, ", c%d %s", i, m.typ)
		rows = max(rows, len(m.values))
	}
	table.WriteString(")")
	for _, url := range []string{sourceURL, targetURL} {
		name := pgx.Identifier{databaseOf(t, url)}.Sanitize()
		pgtest.Exec(t, url, typeSchema+table.String())
		for setting, value := range map[string]string{
			"datestyle": "german", "intervalstyle": "sql_standard", "timezone": "Asia/Kathmandu", "extra_float_digits": "-3",
			"bytea_output": "escape", "search_path": "nowhere", "xmloption": "document", "array_nulls": "off",
		} {
			pgtest.Exec(t, url, fmt.Sprintf(`alter database %s set %s = '%s'`, name, setting, value))
		}
	}
	return sourceURL, targetURL, rows
}

// changeTypes makes a slot, and fills and changes the table.
func changeTypes(t *testing.T, source *pgx.Conn, slot string, rows int) {
	t.Helper()
	run := func(sql string, values ...[]byte) {
		t.Helper()
		if err := source.PgConn().ExecParams(t.Context(), sql, values, nil, nil, nil).Read().Err; err != nil {
			t.Fatalf("%v in %.200s", err, sql)
		}
	}
	run(`select pg_create_logical_replication_slot('` + slot + `', 'pgoutput')`)
	run(`set search_path = public`)
	run(`begin`) // one transaction is one group
	for row := range rows {
		names, params, values := []string{"id"}, []string{"$1"}, [][]byte{fmt.Append(nil, row)}
		for i, m := range typeMatrix {
			if row < len(m.values) {
				values = append(values, []byte(m.values[row]))
				names, params = append(names, fmt.Sprintf("c%d", i)), append(params, fmt.Sprintf("$%d", len(values)))
			}
		}
		run(`insert into types (`+strings.Join(names, ", ")+`) values (`+strings.Join(params, ", ")+`)`, values...)
	}
	run(`commit`)
	run(`update types set c0 = not c0`)                                 // all the others again, but TOAST values stay
	run(`update types set id = id + 100, c0 = not c0 where id % 2 = 0`) // the key too
	run(`set search_path = ''`)
}

func applyTypes(t *testing.T, way func(*Applier)) {
	t.Parallel()
	sourceURL, targetURL, rows := typeDatabases(t)
	source, err := pinning.Open(t.Context(), pinning.Config{DSN: sourceURL})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close(t.Context())
	name := databaseOf(t, sourceURL)
	if _, err := slot.CreatePublication(t.Context(), source, "types", []pgx.Identifier{{"public", "types"}}, ""); err != nil {
		t.Fatal(err)
	}
	changeTypes(t, source, name, rows)

	conn, err := pgx.Connect(t.Context(), targetURL)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(t.Context(), conn, Config{Name: "types"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close(t.Context())
	way(a)
	stream, err := decoder.Open(t.Context(), sourceURL, decoder.Config{
		Slot: name, Publications: []string{"types"}, StatusInterval: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	g := &target{Applier: a, t: t, url: targetURL}
	stop := g.start(stream)
	var now string
	if err := source.QueryRow(t.Context(), `select pg_current_wal_insert_lsn()::text`).Scan(&now); err != nil {
		t.Fatal(err)
	}
	at, err := pglogrepl.ParseLSN(now)
	if err != nil {
		t.Fatal(err)
	}
	paused := make(chan error, 1)
	go func() { _, err := g.Pause(t.Context(), at); paused <- err }()
	select {
	case err = <-paused:
	case <-time.After(time.Minute):
		t.Fatalf("not applied up to %s: %v", at, stop())
	}
	if err != nil {
		t.Fatal(err)
	}

	if a.folds.misfits > 0 {
		t.Error("what was gathered did not go through, and was applied one by one")
	}
	target, err := pinning.Open(t.Context(), pinning.Config{DSN: targetURL})
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close(t.Context())
	compareTypes(t, source, target, rows)
}

// compareTypes compares the rows of both sides as they are written out.
func compareTypes(t *testing.T, source, target *pgx.Conn, rows int) {
	t.Helper()
	var sides [2][][][]byte
	for i, conn := range []*pgx.Conn{source, target} {
		result := conn.PgConn().ExecParams(t.Context(), `select * from public.types order by id`, nil, nil, nil, nil).Read()
		if result.Err != nil {
			t.Fatal(result.Err)
		}
		sides[i] = result.Rows
	}
	if len(sides[0]) != rows || len(sides[1]) != rows {
		t.Fatalf("%d rows on the source, %d on the target, want %d", len(sides[0]), len(sides[1]), rows)
	}
	for r := range rows {
		for c, m := range typeMatrix {
			was, is := sides[0][r][c+1], sides[1][r][c+1]
			if !bytes.Equal(was, is) || (was == nil) != (is == nil) {
				t.Errorf("%s: %.100q arrived as %.100q", m.typ, was, is)
			}
		}
	}
}
