package applier

import (
	"slices"
	"testing"

	"github.com/walferry/walferry/decoder"
)

// What the source's columns were decides whether a target's column is left over from a DROP or
// RENAME, and whether a type that fits is another one by now.
func TestFindAlteration(t *testing.T) {
	const integer, bigint, text, mood, theirMood = 23, 20, 25, 16_400, 17_000
	id, v := decoder.Column{Name: "id", TypeOID: integer, TypeMod: -1}, decoder.Column{Name: "v", TypeOID: text, TypeMod: -1}
	retyped := func(c decoder.Column, oid uint32, mod int32) decoder.Column {
		c.TypeOID, c.TypeMod = oid, mod
		return c
	}
	as := func(oid uint32) column { return column{oid: oid, mod: -1} }
	computed := column{oid: text, mod: -1, generated: true}
	type columns = []decoder.Column
	type target = map[string]column
	was := columns{id, v}
	for _, c := range []struct {
		name   string
		was    columns
		now    columns
		target target
		want   []string
	}{
		{"as it was", was, was, target{"id": as(integer), "v": as(text)}, nil},
		{"an extra column of the target", was, was, target{"id": as(integer), "v": as(text), "own": as(text)}, nil},
		{"another type on the target all along", was, was, target{"id": as(bigint), "v": as(text)}, nil},
		{"added", columns{id}, was, target{"id": as(integer)}, []string{"v"}},
		{"added on both", columns{id}, was, target{"id": as(integer), "v": as(text)}, nil},
		{"dropped", was, columns{id}, target{"id": as(integer), "v": as(text)}, []string{"v"}},
		{"dropped on both", was, columns{id}, target{"id": as(integer)}, nil},
		{"renamed", columns{id, {Name: "old", TypeOID: text, TypeMod: -1}}, was, target{"id": as(integer), "old": as(text)}, []string{"v", "old"}},
		{"nobody knows what it was", nil, columns{id}, target{"id": as(integer), "v": as(text)}, nil},
		{"retyped", was, columns{retyped(id, bigint, -1), v}, target{"id": as(integer), "v": as(text)}, []string{"id"}},
		{"retyped on both", was, columns{retyped(id, bigint, -1), v}, target{"id": as(bigint), "v": as(text)}, nil},
		{"another modifier", was, columns{id, retyped(v, text, 9)}, target{"id": as(integer), "v": as(text)}, []string{"v"}},
		{"a user's type", was, columns{id, retyped(v, mood, -1)}, target{"id": as(integer), "v": as(text)}, []string{"v"}},
		{"a user's type on both", was, columns{id, retyped(v, mood, -1)}, target{"id": as(integer), "v": as(theirMood)}, nil},
		{"generated on the target", was, was, target{"id": as(integer), "v": computed}, []string{"v"}},
		{"no longer generated", columns{id}, was, target{"id": as(integer), "v": computed}, []string{"v"}},
		{"generated on both by now", was, columns{id}, target{"id": as(integer), "v": computed}, nil},
	} {
		var original Original
		for _, w := range c.was {
			original.Columns = append(original.Columns, OriginalColumn{Name: w.Name, TypeOID: w.TypeOID, TypeMod: w.TypeMod})
		}
		got := findAlteration(original, c.now, c.target)
		if c.want == nil && got == nil {
			continue
		}
		if got == nil || !slices.Equal(got.columns, c.want) {
			t.Errorf("%s: got %+v, want %v", c.name, got, c.want)
		}
	}
}
