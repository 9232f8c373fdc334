package applier

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/walferry/walferry/decoder"
)

// model is what a source would hold: a table with a key, of which the texts may be out of line, and
// one without, whose rows may be equal.
type model struct {
	keyed map[string][2]string
	bare  []string
}

var (
	keyedRelation = relation("keyed", 'd', "id*", "v", "w")
	bareRelation  = relation("bare", 'f', "a", "b")
)

// change makes a random change that a source in this state could make.
func (m *model) change(t *rapid.T) decoder.Change {
	ids := slices.Sorted(maps.Keys(m.keyed))
	id := rapid.SampledFrom([]string{"1", "2", "3", "4"})
	text := rapid.SampledFrom([]string{"", "a", "b", "it's"})
	for {
		switch rapid.SampledFrom([]string{"insert", "insert bare", "update", "update bare", "move", "delete", "delete bare", "truncate"}).Draw(t, "change") {
		case "insert":
			key := id.Draw(t, "id")
			if _, ok := m.keyed[key]; ok {
				continue
			}
			v, w := text.Draw(t, "v"), text.Draw(t, "w")
			m.keyed[key] = [2]string{v, w}
			return insert(keyedRelation, key, v, w)
		case "update", "move":
			if len(ids) == 0 {
				continue
			}
			key := rapid.SampledFrom(ids).Draw(t, "id")
			values, row := m.keyed[key], row(key, unchanged, unchanged)
			for i := range values {
				if rapid.Bool().Draw(t, "sent") {
					values[i] = text.Draw(t, "value")
					row[1+i] = decoder.Value{Kind: decoder.Text, Data: []byte(values[i])}
				}
			}
			to := id.Draw(t, "to")
			if _, taken := m.keyed[to]; taken {
				m.keyed[key] = values
				return update(keyedRelation, nil, row)
			}
			delete(m.keyed, key)
			m.keyed[to] = values
			row[0].Data = []byte(to)
			return update(keyedRelation, old(key), row)
		case "delete":
			if len(ids) == 0 {
				continue
			}
			key := rapid.SampledFrom(ids).Draw(t, "id")
			delete(m.keyed, key)
			return remove(keyedRelation, key, nil, nil)
		case "insert bare":
			a := text.Draw(t, "a")
			m.bare = append(m.bare, a)
			return insert(bareRelation, a, nil)
		case "update bare":
			if len(m.bare) == 0 {
				continue
			}
			i := rapid.IntRange(0, len(m.bare)-1).Draw(t, "row")
			was, is := m.bare[i], text.Draw(t, "a")
			m.bare[i] = is
			return update(bareRelation, row(was, nil), row(is, unchanged))
		case "delete bare":
			if len(m.bare) == 0 {
				continue
			}
			i := rapid.IntRange(0, len(m.bare)-1).Draw(t, "row")
			was := m.bare[i]
			m.bare = slices.Delete(m.bare, i, i+1)
			return remove(bareRelation, was, nil)
		case "truncate":
			if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
				continue
			}
			tables := rapid.SampledFrom([][]*decoder.Relation{{keyedRelation}, {bareRelation}, {keyedRelation, bareRelation}}).Draw(t, "tables")
			if slices.Contains(tables, keyedRelation) {
				clear(m.keyed)
			}
			if slices.Contains(tables, bareRelation) {
				m.bare = nil
			}
			return decoder.Change{Op: decoder.Truncate, Truncated: tables, Restart: rapid.Bool().Draw(t, "restart")}
		}
	}
}

func old(key string) []decoder.Value { return row(key, nil, nil) }

func (m *model) String() string {
	var lines []string
	for id, v := range m.keyed {
		lines = append(lines, fmt.Sprintf("%s|%s|%s", id, v[0], v[1]))
	}
	for _, a := range m.bare {
		lines = append(lines, "bare|"+a)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Random transactions over few keys, delivered in random groups or by Run in random pieces, some of
// them again: each time the target is what the source was.
func TestApply_Random(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table keyed (id int primary key, v text, w text); create table bare (a text, b text)`)
	rapid.Check(t, func(t *rapid.T) {
		g.folds.leastCopy = rapid.SampledFrom([]int{1, 2, leastCopy}).Draw(t, "least COPY") // few rows are worth a COPY to anybody else
		g.exec(`truncate keyed, bare`)
		m := &model{keyed: map[string][2]string{}}
		var delivered []*decoder.Tx
		for range rapid.IntRange(1, 3).Draw(t, "groups") {
			var group []*decoder.Tx
			for range rapid.IntRange(1, 4).Draw(t, "transactions") {
				var changes []decoder.Change
				for range rapid.IntRange(0, 6).Draw(t, "changes") {
					changes = append(changes, m.change(t))
				}
				group = append(group, g.tx(changes...))
				if rapid.Bool().Draw(t, "position") {
					group = append(group, g.position())
				}
			}
			delivered = append(delivered, group...)
			from := rapid.IntRange(0, len(delivered)-len(group)).Draw(t, "delivered again from")
			if rapid.Bool().Draw(t, "by Run") {
				f := newFeed()
				for _, tx := range delivered[from:] {
					f.put(pieces(t, tx)...)
				}
				close(f.txs)
				if err := g.Run(t.Context(), f); !errors.Is(err, errEnd) {
					t.Fatal(err)
				}
			} else if err := g.Apply(t.Context(), delivered[from:]...); err != nil {
				t.Fatal(err)
			}
			rows := g.exec(`select coalesce(string_agg(line, E'\n' order by line collate "C"), '') from (
  select concat_ws('|', id, v, w) line from keyed union all select concat('bare|', a) from bare) x`)
			if got, want := string(rows[0][0]), m.String(); got != want {
				t.Fatalf("got\n%s\nwant\n%s", got, want)
			}
			if got, want := g.Applied(), delivered[len(delivered)-1].EndLSN; got != want {
				t.Fatalf("applied %s, want %s", got, want)
			}
		}
	})
}

// pieces splits a transaction at random, and at times breaks off and begins again.
func pieces(t *rapid.T, tx *decoder.Tx) []*decoder.Tx {
	var all []*decoder.Tx
	for from := 0; ; {
		to := from + rapid.IntRange(0, len(tx.Changes)-from).Draw(t, "piece")
		if to == from {
			to = len(tx.Changes) // also makes most transactions whole
		}
		piece := *tx
		piece.First, piece.Last, piece.Changes = from == 0, to == len(tx.Changes), tx.Changes[from:to]
		if !piece.Last {
			piece.EndLSN = 0
		}
		all = append(all, &piece)
		if piece.Last {
			return all
		}
		if from = to; rapid.IntRange(0, 3).Draw(t, "breaks off") == 0 {
			from = 0
		}
	}
}
