package identity

import (
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/state"
)

// A pair of columns must remain a pair, whatever their names.
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
		replaced, swapped string // the message; empty: none
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
		// It is known to be gone from both: what both get under its name is new.
		again := func(table *catalog.Table, number int16) *catalog.Table {
			table.Columns = append(table.Columns, catalog.Column{Name: c.gone, Number: number})
			return table
		}
		if replaced, swapped, _ := compareColumns(table, again(c.source, 9), again(c.target, 9)); len(replaced)+len(swapped) > 0 {
			t.Errorf("%s: added later: %q, %q", c.name, replaced, swapped)
		}
	}
}
