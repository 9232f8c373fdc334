package migration

import (
	"slices"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/state"
)

// A pair of columns must remain a pair, whatever they are called.
func TestCompareColumns(t *testing.T) {
	type pair struct {
		name         string
		number, into int16
	}
	side := func(columns ...any) *catalog.Table {
		table := &catalog.Table{Name: catalog.Name{Schema: "public", Name: "t"}}
		for i := 0; i < len(columns); i += 2 {
			table.Columns = append(table.Columns, catalog.Column{Name: columns[i].(string), Number: int16(columns[i+1].(int))})
		}
		return table
	}
	was := []pair{{"a", 1, 1}, {"b", 3, 2}, {"c", 4, 3}}
	for _, c := range []struct {
		name              string
		source, target    *catalog.Table
		replaced, swapped string // what is said; empty: nothing
		gone              string
	}{
		{name: "same", source: side("a", 1, "b", 3, "c", 4), target: side("a", 1, "b", 2, "c", 3)},
		{name: "the target's own", source: side("a", 1, "b", 3, "c", 4), target: side("a", 1, "b", 2, "c", 3, "own", 4)},
		{name: "added on both", source: side("a", 1, "b", 3, "c", 4, "d", 5), target: side("a", 1, "b", 2, "c", 3, "d", 4)},
		{name: "renamed on both", source: side("a", 1, "x", 3, "c", 4), target: side("a", 1, "x", 2, "c", 3)},
		{name: "renamed on the source", source: side("a", 1, "x", 3, "c", 4), target: side("a", 1, "b", 2, "c", 3)}, // the stream shows it, and drift
		{name: "renamed, and another added under its name, on both", source: side("a", 1, "x", 3, "c", 4, "b", 5), target: side("a", 1, "x", 2, "c", 3, "b", 4)},
		{name: "swapped", source: side("b", 1, "a", 3, "c", 4), target: side("a", 1, "b", 2, "c", 3), swapped: `column "b" of the source was "a"`},
		{name: "swapped on both", source: side("b", 1, "a", 3, "c", 4), target: side("b", 1, "a", 2, "c", 3)},
		{name: "swapped on the target", source: side("a", 1, "b", 3, "c", 4), target: side("b", 1, "a", 2, "c", 3), swapped: `of the target "b"`},
		{name: "rotated", source: side("c", 1, "a", 3, "b", 4), target: side("a", 1, "b", 2, "c", 3), swapped: `column "c" of the source was "a"`},
		{name: "the last one made again", source: side("a", 1, "b", 3, "c", 5), target: side("a", 1, "b", 2, "c", 3), replaced: `column "c" of the source is another one`},
		{name: "the last one made again on both", source: side("a", 1, "b", 3, "c", 5), target: side("a", 1, "b", 2, "c", 4), replaced: `column "c" was dropped on both sides and added again`},
		{name: "made again", source: side("a", 1, "c", 4, "b", 5), target: side("a", 1, "b", 2, "c", 3), swapped: `column "b" was dropped on the source and added again`},
		{name: "made again on both", source: side("a", 1, "c", 4, "b", 5), target: side("a", 1, "c", 3, "b", 4)},
		{name: "made again on the target", source: side("a", 1, "b", 3, "c", 4), target: side("a", 1, "c", 3, "b", 4), replaced: `column "b" of the target is another one`},
		{name: "dropped on the source", source: side("a", 1, "b", 3), target: side("a", 1, "b", 2, "c", 3)},
		{name: "dropped on both", source: side("a", 1, "b", 3), target: side("a", 1, "b", 2), gone: "c"},
	} {
		table := &state.Table{}
		for _, p := range was {
			table.Columns = append(table.Columns, state.Column{Name: p.name, Number: p.number, Target: p.into})
		}
		replaced, swapped, marked := compareColumns(table, c.source, c.target)
		for _, said := range []struct{ what, got, want string }{
			{"replaced", strings.Join(replaced, "; "), c.replaced},
			{"swapped", strings.Join(swapped, "; "), c.swapped},
		} {
			if (said.want == "") != (said.got == "") || !strings.Contains(said.got, said.want) {
				t.Errorf("%s: %s: %q, want %q", c.name, said.what, said.got, said.want)
			}
		}
		gone := ""
		for _, column := range table.Columns {
			if column.Gone {
				gone += column.Name
			}
		}
		if gone != c.gone || marked != (gone != "") {
			t.Errorf("%s: marked %v, gone %q, want %q", c.name, marked, gone, c.gone)
		}
		if c.gone == "" {
			continue
		}
		// It was seen to be gone from both: what both get under its name is new.
		again := func(table *catalog.Table, number int16) *catalog.Table {
			table.Columns = append(table.Columns, catalog.Column{Name: c.gone, Number: number})
			return table
		}
		if replaced, swapped, _ := compareColumns(table, again(c.source, 9), again(c.target, 9)); len(replaced)+len(swapped) > 0 {
			t.Errorf("%s: added later: %q, %q", c.name, replaced, swapped)
		}
	}
}

// What the gate refuses, and what was so from the beginning and is let through.
func TestAlterations(t *testing.T) {
	column := func(name, typ string, oid uint32) catalog.Column {
		return catalog.Column{Name: name, Type: typ, TypeOID: oid, TypeMod: -1}
	}
	a, b, wide := column("a", "integer", 23), column("b", "text", 25), column("a", "bigint", 20)
	own := column("own", "text", 25)
	was := []state.Column{{Number: 1, Name: "a", TypeOID: 23, TypeMod: -1}, {Number: 2, Name: "b", TypeOID: 25, TypeMod: -1}}
	type columns = []catalog.Column
	for _, c := range []struct {
		name           string
		source, target columns
		want           string
	}{
		{"same", columns{a, b}, columns{b, a}, ""},
		{"the target's own", columns{a, b}, columns{a, b, own}, ""},
		{"wider all along", columns{a, b}, columns{wide, b}, ""},
		{"retyped", columns{wide, b}, columns{a, b}, "has become bigint on the source and is integer"},
		{"retyped on both", columns{wide, b}, columns{wide, b}, ""},
		{"dropped", columns{a}, columns{a, b}, "was dropped"},
		{"dropped on both", columns{a}, columns{a}, ""},
	} {
		got := strings.Join(alterations(was, &catalog.Table{Columns: c.source}, &catalog.Table{Columns: c.target}), "; ")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// The DDL for the target follows what the numbers of the columns say that the source has done.
func TestMend(t *testing.T) {
	const text, integer = 25, 23
	was := []state.Column{{Number: 1, Name: "id", TypeOID: integer, TypeMod: -1}, {Number: 2, Name: "a", TypeOID: text, TypeMod: -1}, {Number: 3, Name: "b", TypeOID: text, TypeMod: -1}}
	id := alteredColumn{number: 1, name: "id", typ: "integer", oid: integer, mod: -1}
	column := func(number int16, name string) alteredColumn {
		return alteredColumn{number: number, name: name, typ: "text", oid: text, mod: -1}
	}
	retyped := alteredColumn{number: 3, name: "b", typ: "integer", oid: integer, mod: -1}
	for _, test := range []struct {
		name    string
		columns []string
		now     []alteredColumn
		want    []string
		target  map[string]string
	}{
		{"renamed", []string{"c", "b"}, []alteredColumn{id, column(2, "a"), column(3, "c")}, []string{`rename column "b" to "c"`}, nil},
		{"dropped", []string{"b"}, []alteredColumn{id, column(2, "a")}, []string{`drop column "b"`}, nil},
		{"dropped and added", []string{"c", "b"}, []alteredColumn{id, column(2, "a"), column(4, "c")}, []string{`drop column "b"`, `add column "c" text`}, nil},
		{"added again", []string{"a", "b"}, []alteredColumn{id, column(3, "b"), column(4, "a")}, []string{`drop column "a"`, `add column "a" text`}, nil},
		{"the last one added again", []string{"b"}, []alteredColumn{id, column(2, "a"), {number: 4, name: "b", typ: "integer", oid: integer, mod: -1}}, []string{`drop column "b"`, `add column "b" integer`}, nil},
		{"swapped", []string{"a", "b"}, []alteredColumn{id, column(2, "b"), column(3, "a")}, []string{`rename column "a" to "walferry_1"`, `rename column "b" to "a"`, `rename column "walferry_1" to "b"`}, nil},
		{"into another's place", []string{"x", "a"}, []alteredColumn{id, column(2, "x"), column(3, "a")}, []string{`rename column "a" to "x"`, `rename column "b" to "a"`}, nil},
		{"into the place of one that is gone", []string{"b"}, []alteredColumn{id, column(3, "a")}, []string{`drop column "a"`, `rename column "b" to "a"`}, nil},
		{"of another type", []string{"b"}, []alteredColumn{id, column(2, "a"), retyped}, []string{`alter column "b" type integer`}, nil},
		{"dropped on the target before its time", []string{"b"}, []alteredColumn{id, column(2, "a")}, []string{`add column "b" text`}, map[string]string{"id": "", "a": ""}},
		{"no longer generated", []string{"g"}, []alteredColumn{id, column(2, "a"), column(4, "g")}, []string{`alter column "g" drop expression`}, map[string]string{"id": "", "a": "", "b": "", "g": "s"}},
		{"what is not concerned has been followed", []string{"a"}, []alteredColumn{id, retyped}, []string{`drop column "a"`}, nil},
	} {
		m := mend{table: "t", columns: test.columns, target: test.target, types: map[string]string{"b": "text"}, major: 15}
		m.byNumber(was, test.now)
		want := slices.Clone(test.want)
		for i := range want {
			want[i] = "alter table t " + want[i] + ";"
		}
		if !slices.Equal(m.sql, want) || m.again != (test.name == "the last one added again") {
			t.Errorf("%s: got %q, added again: %v; want %q", test.name, m.sql, m.again, want)
		}
	}
}
