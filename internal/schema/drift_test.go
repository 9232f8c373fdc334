package schema

import (
	"slices"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/state"
)

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
func TestRepair(t *testing.T) {
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
		m := repair{table: "t", columns: test.columns, target: test.target, types: map[string]string{"b": "text"}, major: 15}
		m.byNumber(was, test.now)
		want := slices.Clone(test.want)
		for i := range want {
			want[i] = "alter table t " + want[i] + ";"
		}
		if !slices.Equal(m.SQL, want) || m.Again != (test.name == "the last one added again") {
			t.Errorf("%s: got %q, added again: %v; want %q", test.name, m.SQL, m.Again, want)
		}
	}
}
