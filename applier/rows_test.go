package applier

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
)

// refuse applies one transaction that must fail with an error of a type.
func (g *target) refuse(want any, changes ...decoder.Change) error {
	g.t.Helper()
	err := g.Apply(g.t.Context(), g.tx(changes...))
	if !errors.As(err, want) {
		g.t.Fatalf("got %v, want a %s", err, fmt.Sprintf("%T", want)[1:])
	}
	return err
}

// A column that is GENERATED ALWAYS AS IDENTITY cannot be updated, not even to the value it has
// (428C9).
func TestApply_IdentityAlways(t *testing.T) {
	t.Parallel()
	g := newTargetSince(t, 12, `
create table t (id int generated always as identity primary key, doc text, own text default 'mine');
create table serial (name text primary key, n int generated always as identity, v int, own text default 'mine', twice int generated always as (v * 2) stored)`)
	r := relation("t", 'd', "id*", "doc")
	g.apply(insert(r, "1", "a"), insert(r, "2", "b"))
	g.exec(`update t set own = 'kept'`)
	g.apply(update(r, nil, row("1", "A")))
	g.apply(update(r, row("2", nil), row("20", unchanged)))
	g.want(`select id, doc, own from t order by id`, "1|A|kept", "20|b|kept")

	s := relation("serial", 'd', "name*", "n", "v")
	g.apply(insert(s, "x", "1", "5"), insert(s, "y", "2", "6"), insert(s, "z", "3", "7"))
	g.exec(`update serial set own = 'kept'`)
	g.apply(
		update(s, nil, row("x", "1", "50")),                         // n as it was: a plain UPDATE
		update(s, nil, row("y", "22", "60")),                        // n changed
		update(s, row("z", nil, nil), row("zz", "33", unchanged)),   // and the key
		update(s, row("zz", nil, nil), row("zzz", unchanged, "70")), // nothing of it
	)
	g.want(`select name, n, v, own, twice from serial order by name`, "x|1|50|kept|100", "y|22|60|kept|120", "zzz|33|70|kept|140")
	g.refuse(new(*ConflictError), update(s, nil, row("nobody", "1", "1")))

	full := relation("serial", 'f', "name", "n", "v")
	g.apply(update(full, row("x", "1", "50"), row("x", "1", "51")))
	g.apply(update(full, row("x", "1", "51"), row("x", "11", "51")))
	g.want(`select name, n, v from serial where name = 'x'`, "x|11|51")
}

// The target computes what is generated there, and keeps what only it has.
func TestApply_GeneratedAndExtraColumns(t *testing.T) {
	t.Parallel()
	g := newTargetSince(t, 12, `
create table t (b int, own text default 'default', id int primary key, a int, sum int generated always as (a + b) stored);
create table same (id int primary key, plain int generated always as (id * 2) stored)`)
	r := relation("t", 'd', "id*", "a", "b")
	g.apply(insert(r, "1", "10", "100"))
	g.exec(`update t set own = 'changed'`)
	g.apply(update(r, nil, row("1", "20", "100")))
	g.want(`select id, a, b, sum, own from t`, "1|20|100|120|changed")

	// a plain column of the source that is generated on the target
	s := relation("same", 'd', "id*", "plain")
	g.apply(insert(s, "1", "999"), update(s, nil, row("1", "998")))
	g.want(`select id, plain from same`, "1|2")
}

// TOAST values that did not change are not sent, also when the key changes.
func TestApply_UnchangedValues(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id text primary key, a text not null, b text)`)
	r := relation("t", 'd', "id*", "a", "b")
	g.apply(insert(r, "1", "doc", "x"))
	g.apply(update(r, nil, row("1", unchanged, "y")))
	g.apply(update(r, row("1", nil, nil), row("2", unchanged, unchanged)))
	g.apply(update(r, row("2", nil, nil), row(unchanged, unchanged, "z"))) // the key itself is out of line
	g.want(`select * from t`, "2|doc|z")
	g.apply(update(r, nil, row("2", unchanged, unchanged))) // nothing, but the row must be there
	err := g.refuse(new(*ConflictError), update(r, nil, row("3", unchanged, unchanged)))
	if !strings.Contains(err.Error(), string(MissingRow)) {
		t.Errorf("got %v", err)
	}
	g.refuse(new(*ConflictError), update(r, nil, row(unchanged, "a", "b")))

	full := relation("t", 'f', "id", "a", "b")
	g.apply(update(full, row("2", "doc", "z"), row("2", unchanged, "zz")))
	g.want(`select * from t`, "2|doc|zz")
}

// Two keys trade places through a third in one transaction.
func TestApply_KeySwap(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key, v text); insert into t values (1, 'a'), (2, 'b')`)
	r := relation("t", 'd', "id*", "v")
	g.apply(
		update(r, row("1", nil), row("-1", "a")),
		update(r, row("2", nil), row("1", "b")),
		update(r, row("-1", nil), row("2", "a")))
	g.want(`select * from t order by id`, "1|b", "2|a")
}

// Of five equal rows without a key, each change takes exactly one; rows that are only equal by
// their type's = are told apart.
func TestApply_FullWithoutKey(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `
create extension citext;
create type pair as (a int, b text);
create table t (a int, b text);
insert into t select 1, null from generate_series(1, 5);
create table odd (c citext, n numeric, f float8, s bpchar, j json, p point, x xml, i interval, r pair, e json[], m int[]);
create table nothing ()`)
	r := relation("t", 'f', "a", "b")
	g.apply(remove(r, "1", nil))
	g.want(`select count(*) from t`, "4")
	g.apply(update(r, row("1", nil), row("1", "x")))
	g.want(`select a, b, count(*) from t group by 1, 2 order by 2`, "1|x|1", "1|NULL|3")
	g.refuse(new(*ConflictError), remove(r, "1", "y"))

	odd := relation("odd", 'f', "c", "n", "f", "s", "j", "p", "x", "i", "r", "e", "m")
	rows := [][]any{
		{"Foo", "1.0", "0", "a", `{"a": 1}`, "(1,2)", "<a/>", "1 mon", "(1,)", `{"{\"a\": 1}"}`, "{1,2}"},
		{"foo", "1.0", "0", "a", `{"a": 1}`, "(1,2)", "<a/>", "1 mon", "(1,)", `{"{\"a\": 1}"}`, "{1,2}"},
		{"Foo", "1.00", "0", "a", `{"a": 1}`, "(1,2)", "<a/>", "1 mon", "(1,)", `{"{\"a\": 1}"}`, "{1,2}"},
		{"Foo", "1.0", "-0", "a", `{"a": 1}`, "(1,2)", "<a/>", "1 mon", "(1,)", `{"{\"a\": 1}"}`, "{1,2}"},
		{"Foo", "1.0", "0", "a ", `{"a": 1}`, "(1,2)", "<a/>", "1 mon", "(1,)", `{"{\"a\": 1}"}`, "{1,2}"},
		{"Foo", "1.0", "0", "a", `{"a":1}`, "(1,2)", "<a/>", "1 mon", "(1,)", `{"{\"a\": 1}"}`, "{1,2}"},
		{"Foo", "1.0", "0", "a", `{"a": 1}`, "(1,3)", "<a/>", "1 mon", "(1,)", `{"{\"a\": 1}"}`, "{1,2}"},
		{"Foo", "1.0", "0", "a", `{"a": 1}`, "(1,2)", "<a></a>", "1 mon", "(1,)", `{"{\"a\": 1}"}`, "{1,2}"},
		{"Foo", "1.0", "0", "a", `{"a": 1}`, "(1,2)", "<a/>", "30 days", "(1,)", `{"{\"a\": 1}"}`, "{1,2}"},
		{"Foo", "1.0", "0", "a", `{"a": 1}`, "(1,2)", "<a/>", "1 mon", `(1,"")`, `{"{\"a\": 1}"}`, "{1,2}"},
		{"Foo", "1.0", "0", "a", `{"a": 1}`, "(1,2)", "<a/>", "1 mon", "(1,)", `{"{\"a\":1}"}`, "{1,2}"},
		{"Foo", "1.0", "0", "a", `{"a": 1}`, "(1,2)", "<a/>", "1 mon", "(1,)", `{"{\"a\": 1}"}`, "[0:1]={1,2}"},
		{"Foo", "1.0", "0", "a", `{"a": 1}`, "(1,2)", "", "1 mon", "(,)", `{"{\"a\": 1}"}`, "{1,2}"},
		{"Foo", "1.0", "0", "a", `{"a": 1}`, "(1,2)", nil, "1 mon", "(,)", `{"{\"a\": 1}"}`, "{1,2}"},
		{"Foo", "1.0", "0", "a", `{"a": 1}`, "(1,2)", nil, "1 mon", nil, `{"{\"a\": 1}"}`, "{1,2}"},
		{nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil},
		{nil, nil, nil, nil, nil, nil, nil, nil, "(,)", nil, nil},
	}
	for _, values := range rows {
		g.apply(insert(odd, values...))
	}
	for i, values := range rows { // each finds itself among those that look like it
		g.apply(update(odd, row(values...), append(row("found"), row(values...)[1:]...)))
		g.want(`select count(*) filter (where c = 'found'), count(*) from odd`, fmt.Sprintf("1|%d", len(rows)-i))
		g.apply(remove(odd, append([]any{"found"}, values[1:]...)...))
		g.refuse(new(*ConflictError), remove(odd, values...))
	}

	none := relation("nothing", 'f')
	g.apply(insert(none), insert(none), remove(none))
	g.want(`select count(*) from nothing`, "1")
}

// With REPLICA IDENTITY FULL a key of the target is used, if it is one.
func TestApply_FullWithTargetKey(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `
create table t (a int not null, b int not null, c int, unique (a) deferrable, unique (c));
create unique index by_b on t (b);
create unique index partly on t (a) where c > 0`)
	r := relation("t", 'f', "a", "b", "c")
	g.apply(insert(r, "1", "1", nil), insert(r, "5", "5", "5"))
	if got, want := strings.Join(g.session.facts.of(r).keyNames(), ","), "b"; got != want {
		t.Errorf("rows are found by (%s), want (%s)", got, want)
	}
	g.apply(update(r, row("5", "5", "5"), row("6", "6", nil)))
	g.want(`select a, b, c from t order by b`, "1|1|NULL", "6|6|NULL")
}

// Keys of all kinds of types: their equality is the target's, wherever it lives.
func TestApply_KeyTypes(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `
create extension citext; create extension hstore; create extension ltree;
create schema other; create extension isn schema other;
create type mood as enum ('sad', 'it''s "ok"');
create domain mood_domain as mood check (value <> 'sad');
create domain word as varchar(20);
create type pair as (a int, b text);
create domain pairs as int[]`)
	for i, test := range []struct{ typ, first, second string }{
		{"int2", "1", "2"},
		{"bigint", "9223372036854775807", "-1"},
		{"numeric", "1.10", "1.2"},
		{"numeric(4,1)", "1.1", "2.0"},
		{"real", "0.1", "-0"},
		{"text", "a'b\\", ""},
		{"varchar(3)", "abc", "d"},
		{"char(3)", "a  ", "b  "},
		{`"char"`, "x", "y"},
		{"name", "n", "m"},
		{"bpchar", "a", "b"},
		{"uuid", "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"},
		{"timestamptz", "2024-01-01 00:00:00+00", "infinity"},
		{"interval", "1 mon", "1 day"},
		{"date", "4714-11-24 BC", "2024-01-01"},
		{"bytea", "\\x00ff", "\\x"},
		{"inet", "10.0.0.1/8", "::1"},
		{"cidr", "10.0.0.0/8", "11.0.0.0/8"},
		{"macaddr8", "08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:06"},
		{"bit(3)", "101", "111"},
		{"varbit", "1", "10"},
		{"jsonb", `{"a": 1}`, `[1]`},
		{"int[]", "{1,NULL}", "{}"},
		{"text[]", `{"a,b",""}`, "{x}"},
		{"int4range", "[1,5)", "empty"},
		{"tstzrange", `["2024-01-01 00:00:00+00",)`, "(,)"},
		{"tsvector", "'a':1A", ""},
		{"pg_lsn", "0/1", "0/2"},
		{"oid", "1", "2"},
		{"regclass", "pg_class", "walferry.progress"},
		{"bool", "t", "f"},
		{"money", "$1.00", "-$2.00"},
		{"tid", "(0,1)", "(0,2)"},
		{"time", "24:00:00", "00:00:00"},
		{"timetz", "00:00:00+15:59", "00:00:00+00"},
		{"citext", "Foo", "bar"},
		{"hstore", `"a"=>"1"`, `"b"=>NULL`},
		{"ltree", "a.b", "c"},
		{"other.isbn", "0-306-40615-2", "0-393-04002-X"},
		{"mood", "sad", `it's "ok"`},
		{"mood_domain", `it's "ok"`, ""},
		{"word", "w", "v"},
		{"pair", "(1,)", `(1,"")`},
		{"pairs", "{1,2}", "{3}"},
	} {
		if test.typ == "mood_domain" {
			test.second = `it's "ok"` // the only label it allows
		}
		t.Run(test.typ, func(t *testing.T) {
			g := &target{Applier: g.Applier, t: t, url: g.url, other: g.other, script: script{lsn: decoder.LSN(i+1) << 32}}
			name := fmt.Sprintf("t%d", i)
			g.exec(fmt.Sprintf(`create table %s (k %s primary key, v text); create table %[1]s_bare (k %[2]s, v text)`, name, test.typ))
			for _, name := range []string{name, name + "_bare"} { // the key's index says what equality is, or the type does
				r := relation(name, 'd', "k*", "v")
				g.apply(insert(r, test.first, "1"))
				g.apply(update(r, nil, row(test.first, "2")))
				g.apply(update(r, row(test.first, nil), row(test.second, "3")))
				g.want(`select k, v from `+name, test.second+"|3")
				g.apply(remove(r, test.second, nil))
				g.want(`select count(*) from `+name, "0")
			}
			full := relation(name+"_bare", 'f', "k", "v")
			g.apply(insert(full, test.first, "1"), update(full, row(test.first, "1"), row(test.second, nil)), remove(full, test.second, nil))
			g.want(`select count(*) from `+name+`_bare`, "0")
		})
	}
}

// One TRUNCATE of tables that reference each other, within a transaction, and never more than was
// named.
func TestApply_Truncate(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `
create table parent (id serial primary key);
create table child (id int primary key references parent);
create table base (id int primary key); create table heir () inherits (base);
create table parted (id int) partition by range (id); create table part partition of parted for values from (0) to (10)`)
	parent, child := relation("parent", 'd', "id*"), relation("child", 'd', "id*")
	base, heir, parted := relation("base", 'd', "id*"), relation("heir", 'd', "id*"), relation("parted", 'd', "id*")
	g.apply(insert(parent, "1"), insert(child, "1"), insert(base, "1"), insert(heir, "2"), insert(parted, "3"))
	g.exec(`select setval('parent_id_seq', 50)`)
	g.apply(insert(parent, "2"),
		decoder.Change{Op: decoder.Truncate, Truncated: []*decoder.Relation{parent, child}, Cascade: true, Restart: true},
		insert(parent, "3"))
	g.want(`select (select string_agg(id::text, ',') from parent), (select count(*) from child), nextval('parent_id_seq')`, "3|0|1")
	g.apply(decoder.Change{Op: decoder.Truncate, Truncated: []*decoder.Relation{base}})
	g.want(`select id from base`, "2")
	g.apply(decoder.Change{Op: decoder.Truncate, Truncated: []*decoder.Relation{parted}})
	g.want(`select count(*) from parted`, "0")
	g.refuse(new(*ConflictError), decoder.Change{Op: decoder.Truncate, Truncated: []*decoder.Relation{parent}})
}

// A partitioned table of the target takes what a plain one of the source sends.
func TestApply_Partitioned(t *testing.T) {
	t.Parallel()
	g := newTargetSince(t, 11, `
create table p (id int, v text) partition by range (id);
create table p1 partition of p for values from (0) to (10);
create table p2 partition of p for values from (10) to (20)`)
	r := relation("p", 'd', "id*", "v")
	g.apply(insert(r, "1", "a"), insert(r, "2", "b"))
	g.apply(update(r, row("1", nil), row("11", "c")), update(r, nil, row("2", "d")))
	g.want(`select tableoid::regclass, id, v from p order by id`, "p1|2|d", "p2|11|c")
	full := relation("p", 'f', "id", "v")
	g.apply(insert(full, "11", "c"), update(full, row("11", "c"), row("3", "c")), remove(full, "11", "c"))
	g.want(`select tableoid::regclass, id, v from p order by id`, "p1|2|d", "p1|3|c")
	g.apply(remove(r, "2", nil))
	g.refuse(new(*ConflictError), remove(r, "2", nil))
}

// Names that have to be quoted, and a table of 1600 columns.
func TestApply_NamesAndWidth(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", 31)
	g := newTarget(t, `
create schema "S.1"; create type "S.1"."ty""pe $1" as enum ('x', 'y');
create table "S.1"."ta'b""le %s" ("a.b" int, "$1" text, "select" text, "`+long+`" "S.1"."ty""pe $1", primary key ("a.b", "`+long+`"))`)
	r := relation(`ta'b"le %s`, 'd', "a.b*", "$1", "select", long+"*")
	r.Namespace = "S.1"
	g.apply(insert(r, "1", "d", "s", "x"))
	g.apply(update(r, row("1", nil, nil, "x"), row("1", "D", unchanged, "y")))
	g.want(`select * from "S.1"."ta'b""le %s"`, "1|D|s|y")

	columns, values := []string{"c0*"}, []any{"0"}
	definition := "c0 int primary key"
	for i := 1; i < 1600; i++ {
		columns = append(columns, fmt.Sprintf("c%d", i))
		definition += fmt.Sprintf(", c%d bool", i)
		values = append(values, "t")
	}
	g.exec(`create table wide (` + definition + `)`)
	wide := relation("wide", 'd', columns...)
	g.apply(insert(wide, values...))
	values[1599] = "f"
	g.apply(update(wide, nil, row(values...)))
	g.want(`select c0, c1, c1598, c1599 from wide`, "0|t|t|f")
}

// Config.Table renames tables and leaves some out.
func TestApply_Table(t *testing.T) {
	t.Parallel()
	_, url := pgtest.Pair(t, sourceMajor(), targetMajor())
	pgtest.Exec(t, url, `create schema moved; create table moved.t (id int primary key)`)
	g := openTarget(t, url, Config{Name: "test", Table: func(namespace, name string) (pgx.Identifier, bool) {
		return pgx.Identifier{"moved", name}, name != "out"
	}})
	r, out := relation("t", 'd', "id*"), relation("out", 'd', "id*")
	g.apply(insert(r, "1"), insert(out, "1"), insert(r, "2"),
		decoder.Change{Op: decoder.Truncate, Truncated: []*decoder.Relation{out, r}},
		decoder.Change{Op: decoder.Truncate, Truncated: []*decoder.Relation{out}}, insert(r, "3"))
	g.want(`select id from moved.t`, "3")
}

// The source's table has changed and the target's has not; then it has, too.
func TestApply_SchemaDrift(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key)`)
	r := relation("t", 'd', "id*")
	g.apply(insert(r, "1"))
	wider := relation("t", 'd', "id*", "new", "newer")
	bad := g.tx(insert(r, "2"), insert(wider, "3", "x", "y"))
	err := g.Apply(t.Context(), bad)
	var schema *SchemaError
	if !errors.As(err, &schema) || strings.Join(schema.Columns, ",") != "new,newer" || schema.Table != "public.t" || schema.LSN != bad.CommitLSN || schema.Hint() == "" {
		t.Fatalf("got %v (%+v)", err, schema)
	}
	g.want(`select id from t`, "1")
	g.exec(`alter table t add newer text, add new text`)
	if err := g.Apply(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	g.want(`select id, new, newer from t order by id`, "1|NULL|NULL", "2|NULL|NULL", "3|x|y")
	g.refuse(&schema, insert(relation("nowhere", 'd', "id*"), "1"))
}

// Somebody alters the target's table under statements that are prepared.
func TestApply_TargetAltered(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key, n int generated always as identity, v text, own int)`)
	r := relation("t", 'd', "id*", "n", "v")
	g.apply(insert(r, "1", "1", "a"), update(r, nil, row("1", "2", "b")))
	g.exec(`alter table t drop own, add other text default 'o', alter id type bigint, alter v type varchar(10)`)
	g.apply(update(r, nil, row("1", "3", "c")), insert(r, "3000000000", "4", "d"), update(r, row("3000000000", nil, nil), row("4", "5", "e")))
	g.want(`select id, n, v, other from t order by id`, "1|3|c|o", "4|5|e|o")
}

// What the server says of a value that it cannot read: the message without the value.
func TestApply_RefusedValues(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create type mood as enum ('ok'); create table t (id int primary key, n int check (n < 10), m mood, s varchar(3) not null)`)
	r := relation("t", 'd', "id*", "n", "m", "s")
	for _, test := range []struct {
		values          []any
		state, contains string
	}{
		{[]any{"secret", nil, nil, "x"}, "22P02", "(value left out) (SQLSTATE"},
		{[]any{"1", nil, "fine", "x"}, "22P02", `: "fine"`},
		{[]any{"1", "50", nil, "x"}, "23514", "t_n_check"},
		{[]any{"1", nil, nil, nil}, "23502", `"s"`},
		{[]any{"1", nil, nil, "long"}, "22001", "too long"},
	} {
		var conflict *ConflictError
		err := g.refuse(&conflict, insert(r, test.values...))
		if conflict.SQLState != test.state || !strings.Contains(err.Error(), test.contains) || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v (SQLSTATE %s), want %s", err, conflict.SQLState, test.contains)
		}
	}
	g.want(`select count(*) from t`, "0")
	g.apply(insert(r, "1", "1", "ok", "x"))
}

// A row that a rule or trigger swallows is noticed.
func TestApply_NotInserted(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `
create table t (id int primary key);
create function swallow() returns trigger language plpgsql as 'begin return null; end';
create trigger swallow before insert on t for each row execute procedure swallow()`)
	r := relation("t", 'd', "id*")
	g.apply(insert(r, "1")) // in replica role it does not fire
	g.exec(`alter table t enable always trigger swallow`)
	var conflict *ConflictError
	g.refuse(&conflict, insert(r, "2"))
	if conflict.Kind != NotInserted {
		t.Errorf("got %v", conflict)
	}
}

// Where the role may not set session_replication_role, ordinary rules and triggers fire: what they
// make of a row is noticed, also where the server counts the row that went elsewhere.
func TestApply_RulesThatFire(t *testing.T) {
	t.Parallel()
	g, _ := plainTarget(t, `
create table own.t (id int primary key, v text); create table own.archive (id int, v text);
create table own.calm (id int primary key, v text);
create function own.swallow() returns trigger language plpgsql as 'begin return null; end'`)
	r, calm := relation("t", 'd', "id*", "v"), relation("calm", 'd', "id*", "v")
	r.Namespace, calm.Namespace = "own", "own"
	for _, test := range []struct {
		name, on, off string
		change        decoder.Change
		want          any
	}{
		{"an INSERT of some rows", `create rule x as on insert to own.t where new.v = 'archive' do instead insert into own.archive values (new.*)`, `drop rule x on own.t`, insert(r, "1", "archive"), new(*ConflictError)},
		{"every INSERT", `create rule x as on insert to own.t do instead insert into own.archive values (new.*)`, `drop rule x on own.t`, insert(r, "1", "archive"), new(*SchemaError)},
		{"every UPDATE", `create rule x as on update to own.t do instead update own.calm set v = new.v where id = new.id`, `drop rule x on own.t`, update(r, nil, row("7", "x")), new(*SchemaError)},
		{"nothing instead of a DELETE", `create rule x as on delete to own.t do instead nothing`, `drop rule x on own.t`, remove(r, "7", nil), new(*SchemaError)},
		{"a trigger", `create trigger x before insert on own.t for each row execute procedure own.swallow()`, `drop trigger x on own.t`, insert(r, "1", "x"), new(*ConflictError)},
	} {
		g.exec(`truncate own.t, own.archive, own.calm; insert into own.t values (7, 'seven'); insert into own.calm values (7, 'seven'); ` + test.on)
		g.session.forget() // as it is known from before
		for _, by := range []string{"Apply", "Run"} {
			tx := g.tx(insert(calm, "1", "x"), test.change)
			err := g.Apply(t.Context(), tx)
			if by == "Run" {
				f := newFeed(tx)
				close(f.txs)
				err = g.Run(t.Context(), f)
			}
			if !errors.As(err, test.want) {
				t.Errorf("%s, %s: got %v, want a %T", test.name, by, err, test.want)
			}
			g.want(`select (select count(*) from own.archive), (select string_agg(v, ',') from own.t), (select string_agg(v, ',') from own.calm)`, "0|seven|seven")
		}
		g.exec(test.off)
		g.session.forget()
		g.apply(insert(r, "1", "archive"), update(r, nil, row("7", "changed")), remove(r, "7", nil))
		g.want(`select * from own.t`, "1|archive")
	}
}

// A rule that is enabled for replica role counts as any other, and one that is not does not matter.
func TestApply_RulesInReplicaRole(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key); create table archive (id int);
create rule x as on insert to t do instead insert into archive values (new.*)`)
	r := relation("t", 'd', "id*")
	g.apply(insert(r, "1"))
	g.exec(`alter table t enable always rule x`)
	var schema *SchemaError
	g.session.forget()
	g.refuse(&schema, insert(r, "2"))
	if !strings.Contains(schema.Error(), "x") || !strings.Contains(schema.Hint(), "disable") {
		t.Errorf("got %v, hint %q", schema, schema.Hint())
	}
	g.want(`select (select count(*) from archive), (select count(*) from t)`, "0|1")
}
