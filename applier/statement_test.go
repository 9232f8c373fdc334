package applier

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/decoder"
)

// known makes a table as resolve would, of int columns unless changed by edit.
func known(r *decoder.Relation, keys []key, edit func(*table)) *table {
	t := &table{relation: r, schema: "public", name: r.Name, sql: `"public"."` + r.Name + `"`, statements: map[string]*statement{}}
	for _, c := range r.Columns {
		t.columns = append(t.columns, column{name: `"` + c.Name + `"`, value: `"` + c.Name + `"`, typ: "integer", equal: "operator(pg_catalog.=)"})
	}
	if edit != nil {
		edit(t)
	}
	t.choose(keys)
	return t
}

// unique is a unique index of the target.
func unique(columns ...string) []key {
	k := key{columns: columns, collations: make([]string, len(columns))}
	for range columns {
		k.operators = append(k.operators, "operator(pg_catalog.=)")
	}
	return []key{k}
}

var (
	keyedRow   = relation("t", 'd', "id*", "a", "b")
	fullRow    = relation("t", 'f', "a", "b")
	pairRow    = relation("t", 'i', "x*", "y*", "v")
	primaryKey = []key{{columns: []string{"a"}, operators: []string{"operator(public.=)"}, collations: []string{""}}}
)

var statementTests = []struct {
	name   string
	table  *table
	change decoder.Change
	want   string
}{
	{
		"insert", known(keyedRow, nil, nil), insert(keyedRow, "1", "", nil),
		`insert into "public"."t" ("id", "a", "b") overriding system value values ($1, $2, $3) <- 1,,NULL`,
	},
	{
		"insert, generated on the target", known(keyedRow, nil, func(t *table) { t.columns[1].generated = true }), insert(keyedRow, "1", "2", "3"),
		`insert into "public"."t" ("id", "b") overriding system value values ($1, $2) <- 1,3`,
	},
	{
		"insert, no columns", known(relation("t", 'd'), nil, nil), insert(relation("t", 'd')),
		`insert into "public"."t" default values <- `,
	},
	{
		"update", known(keyedRow, nil, nil), update(keyedRow, nil, row("1", "2", nil)),
		`update only "public"."t" set "a" = $1, "b" = $2 where "id" operator(pg_catalog.=) $3::integer <- 2,NULL,1`,
	},
	{
		"update, value not sent", known(keyedRow, nil, nil), update(keyedRow, nil, row("1", unchanged, "3")),
		`update only "public"."t" set "b" = $1 where "id" operator(pg_catalog.=) $2::integer <- 3,1`,
	},
	{
		"update, nothing sent", known(keyedRow, nil, nil), update(keyedRow, nil, row("1", unchanged, unchanged)),
		`select 1 from only "public"."t" where "id" operator(pg_catalog.=) $1::integer for update <- 1`,
	},
	{
		"key changed", known(keyedRow, nil, nil), update(keyedRow, row("1", nil, nil), row("2", "3", unchanged)),
		`update only "public"."t" set "id" = $1, "a" = $2 where "id" operator(pg_catalog.=) $3::integer <- 2,3,1`,
	},
	{
		"half of the key changed", known(pairRow, nil, nil), update(pairRow, row("1", "2", nil), row("1", "3", "v")),
		`update only "public"."t" set "y" = $1, "v" = $2 where "x" operator(pg_catalog.=) $3::integer and "y" operator(pg_catalog.=) $4::integer <- 3,v,1,2`,
	},
	{
		"key sent, but not in the new row", known(pairRow, nil, nil), update(pairRow, row("1", "2", nil), row(unchanged, "2", "v")),
		`update only "public"."t" set "v" = $1 where "x" operator(pg_catalog.=) $2::integer and "y" operator(pg_catalog.=) $3::integer <- v,1,2`,
	},
	{
		"delete", known(keyedRow, nil, nil), remove(keyedRow, "1", nil, nil),
		`delete from only "public"."t" where "id" operator(pg_catalog.=) $1::integer <- 1`,
	},
	{
		"full, found by the target's key", known(fullRow, primaryKey, nil), update(fullRow, row("1", "2"), row("1", "2")),
		`update only "public"."t" set "b" = $1 where "a" operator(public.=) $2::integer <- 2,1`,
	},
	{
		"full, no key", known(fullRow, nil, nil), update(fullRow, row("1", nil), row("1", unchanged)),
		`update only "public"."t" set "a" = $1 where ctid = (select ctid from only "public"."t" where ` +
			`"a" operator(pg_catalog.=) $2::integer and concat("a") collate "C" = concat($2::integer) and "b" is null limit 1) <- 1,1`,
	},
	{
		"full, types without equality", known(fullRow, nil, func(t *table) {
			t.columns[0].equal, t.columns[0].typ = "", "json"
			t.columns[1].composite, t.columns[1].nested = true, true
		}), remove(fullRow, "{}", nil),
		`delete from only "public"."t" where ctid = (select ctid from only "public"."t" where ` +
			`"a" is distinct from null and concat("a") collate "C" = concat($1::json) and "b" is not distinct from null limit 1) <- {}`,
	},
	{
		"full, partitioned", known(fullRow, nil, func(t *table) { t.partitioned = true }), remove(fullRow, nil, nil),
		`delete from "public"."t" where (tableoid, ctid) = (select tableoid, ctid from "public"."t" where "a" is null and "b" is null limit 1) <- `,
	},
	{
		"identity always, perhaps changed", known(keyedRow, nil, func(t *table) { t.columns[1].always = true; t.extra = []string{`"x"`} }), update(keyedRow, nil, row("1", "2", unchanged)),
		`with kept as (select 1 from only "public"."t" where "id" operator(pg_catalog.=) $2::integer and ("a" = $1::integer) for update),
gone as (delete from only "public"."t" where "id" operator(pg_catalog.=) $2::integer and not ("a" = $1::integer) returning *),
put as (insert into "public"."t" ("id", "a", "b", "x") overriding system value select gone."id", $1::integer, gone."b", gone."x" from gone returning 1)
select 1 from kept union all select 1 from put <- 2,1`,
	},
	{
		"identity always as key, unchanged", known(keyedRow, nil, func(t *table) { t.columns[0].always = true }), update(keyedRow, nil, row("1", "2", "3")),
		`update only "public"."t" set "a" = $1, "b" = $2 where "id" operator(pg_catalog.=) $3::integer <- 2,3,1`,
	},
	{
		"identity always, full and unchanged", known(fullRow, nil, func(t *table) { t.columns[0].always = true }), update(fullRow, row("1", nil), row("1", "2")),
		`update only "public"."t" set "b" = $1 where ctid = (select ctid from only "public"."t" where ` +
			`"a" operator(pg_catalog.=) $2::integer and concat("a") collate "C" = concat($2::integer) and "b" is null limit 1) <- 2,1`,
	},
}

// The SQL and the parameters of each shape of change.
func TestStatement(t *testing.T) {
	for _, test := range statementTests {
		t.Run(test.name, func(t *testing.T) {
			var buf shape
			for range 2 { // the second comes from the cache
				s, err := test.table.statement(&test.change, false, &buf)
				if err != nil {
					t.Fatal(err)
				}
				var values []string
				for _, v := range s.parameters(&test.change, nil) {
					if v == nil {
						values = append(values, "NULL")
					} else {
						values = append(values, string(v))
					}
				}
				if got := s.sql + " <- " + strings.Join(values, ","); got != test.want {
					t.Errorf("got\n%s\nwant\n%s", got, test.want)
				}
			}
		})
	}
}

// What no statement can be made of.
func TestStatement_Errors(t *testing.T) {
	byKey := relation("t", 'd', "id*", "a")
	nothing := relation("t", 'n', "id", "a")
	full := relation("t", 'f', "id", "a")
	for _, test := range []struct {
		name   string
		change decoder.Change
		want   any
	}{
		{"key not sent", update(byKey, nil, row(unchanged, "1")), new(*ConflictError)},
		{"no identity", remove(nothing, "1", nil), new(*SchemaError)},
		{"short row", insert(byKey, "1"), new(*inputError)},
		{"value not sent", insert(byKey, "1", unchanged), new(*inputError)},
		{"no old row", decoder.Change{Op: decoder.Delete, Relation: byKey}, new(*inputError)},
		{"old key only", decoder.Change{Op: decoder.Delete, Relation: full, Old: row("1", nil)}, new(*inputError)},
		{"unknown operation", decoder.Change{Op: 'X', Relation: byKey}, new(*inputError)},
	} {
		t.Run(test.name, func(t *testing.T) {
			var buf shape
			_, err := known(test.change.Relation, nil, nil).statement(&test.change, false, &buf)
			if !errors.As(err, test.want) {
				t.Errorf("got %v, want a %s", err, fmt.Sprintf("%T", test.want)[1:])
			}
		})
	}
}

func TestTruncate(t *testing.T) {
	a := known(relation("a", 'd'), nil, nil)
	b := known(relation("b", 'd'), nil, func(t *table) { t.partitioned = true })
	if got, want := truncate([]*table{a, b}, true), `truncate table only "public"."a", "public"."b" restart identity`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// The form of a statement that fails on the server unless it touches its one row.
func TestStatement_Proven(t *testing.T) {
	byKey := relation("t", 'd', "id*", "a")
	for _, test := range []struct {
		name   string
		change decoder.Change
		table  *table
		want   string
	}{
		{
			"update", update(byKey, nil, row("1", "2")), known(byKey, nil, nil),
			`with done as (update only "public"."t" set "a" = $1 where "id" operator(pg_catalog.=) $2::integer returning 1) select 1/(count(*) = 1)::int from done`,
		},
		{
			"only looked for", update(byKey, nil, row("1", unchanged)), known(byKey, nil, nil),
			`with done as (select 1 from only "public"."t" where "id" operator(pg_catalog.=) $1::integer for update) select 1/(count(*) = 1)::int from done`,
		},
		{
			"insert that cannot do anything else", insert(byKey, "1", "2"), known(byKey, nil, nil),
			`insert into "public"."t" ("id", "a") overriding system value values ($1, $2)`,
		},
		{
			"insert that a trigger sees", insert(byKey, "1", "2"), known(byKey, nil, func(t *table) { t.watched = true }),
			`with done as (insert into "public"."t" ("id", "a") overriding system value values ($1, $2) returning 1) select 1/(count(*) = 1)::int from done`,
		},
		{
			"identity always, perhaps changed", update(byKey, nil, row("1", "2")), known(byKey, nil, func(t *table) { t.columns[1].always = true }),
			`with kept as (select 1 from only "public"."t" where "id" operator(pg_catalog.=) $2::integer and ("a" = $1::integer) for update),
gone as (delete from only "public"."t" where "id" operator(pg_catalog.=) $2::integer and not ("a" = $1::integer) returning *),
put as (insert into "public"."t" ("id", "a") overriding system value select gone."id", $1::integer from gone returning 1),
done as (select 1 from kept union all select 1 from put) select 1/(count(*) = 1)::int from done`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var buf shape
			s, err := test.table.statement(&test.change, true, &buf)
			if err != nil {
				t.Fatal(err)
			}
			if s.sql != test.want {
				t.Errorf("got\n%s\nwant\n%s", s.sql, test.want)
			}
		})
	}
}
