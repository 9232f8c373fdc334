package applier

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/walferry/walferry/decoder"
)

// history is what a source held after each of its transactions, and where each row of the keyed
// table was: a change moves it.
type history struct {
	txs    []*decoder.Tx
	states []*model // one more than txs
	places []map[string]int
}

// at is a position at which the first n transactions have committed, and no other.
func (h *history) at(n int) decoder.LSN {
	if n == 0 {
		return h.txs[0].CommitLSN
	}
	return h.txs[n-1].EndLSN
}

func (m *model) clone() *model {
	return &model{keyed: maps.Clone(m.keyed), bare: slices.Clone(m.bare)}
}

// live makes a random history.
func (s *script) live(t *rapid.T) *history {
	m, places := &model{keyed: map[string][2]string{}}, map[string]int{}
	h := &history{states: []*model{m.clone()}, places: []map[string]int{maps.Clone(places)}}
	for range rapid.IntRange(2, 10).Draw(t, "transactions") {
		var changes []decoder.Change
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			c := m.change(t)
			changes = append(changes, c)
			if c.Relation == keyedRelation && c.New != nil {
				places[string(c.New[0].Data)] = rapid.IntRange(0, 3).Draw(t, "place")
			}
		}
		h.txs = append(h.txs, s.tx(changes...))
		h.states, h.places = append(h.states, m.clone()), append(h.places, maps.Clone(places))
	}
	return h
}

// Tables are copied under several snapshots: one of them place by place, so that rows which moved
// meanwhile are there twice, or not at all; the other as a whole. Once the last snapshot's position
// is passed, the target is what the source was, and every change after that is held to what is
// there.
func TestWindows_Random(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table keyed (id int primary key, v text, w text); create table bare (a text, b text)`)
	asked := 0
	rapid.Check(t, func(t *rapid.T) {
		h := g.live(t)
		n := len(h.txs)
		whole := rapid.IntRange(0, n).Draw(t, "bare as of")
		read := make([]int, 4) // as of, by place
		for i := range read {
			read[i] = rapid.IntRange(0, n).Draw(t, "keyed as of")
		}
		first, last := slices.Min(read), slices.Max(read)
		g.copyAsOf(h, whole, read)

		delivered, later := 0, 0
		g.setWindows(t, &Windows{
			Tables: map[decoder.Name]decoder.Window{
				{Schema: "public", Name: "bare"}:  {From: h.at(whole), To: h.at(whole)},
				{Schema: "public", Name: "keyed"}: {From: h.at(first), To: h.at(last)},
			},
			Read: func(_ context.Context, r *decoder.Relation, key []decoder.Value) ([]decoder.Value, decoder.LSN, error) {
				asked++
				now := max(delivered, last)
				now += later % (n - now + 1)
				v, ok := h.states[now].keyed[string(key[0].Data)]
				if !ok {
					return nil, h.at(now), nil
				}
				return row(string(key[0].Data), v[0], v[1]), h.at(now), nil
			},
		})
		for delivered < n {
			from := delivered
			delivered, later = rapid.IntRange(from+1, n).Draw(t, "delivered"), rapid.IntRange(0, n).Draw(t, "read later")
			if rapid.Bool().Draw(t, "by Run") {
				f := newFeed()
				for _, tx := range h.txs[from:delivered] {
					f.put(pieces(t, tx)...)
				}
				close(f.txs)
				if err := g.Run(t.Context(), f); !errors.Is(err, errEnd) {
					t.Fatal(err)
				}
			} else if err := g.Apply(t.Context(), h.txs[from:delivered]...); err != nil {
				t.Fatal(err)
			}
			if g.Applied() < g.Settled() {
				continue
			}
			rows := g.exec(`select coalesce(string_agg(line, E'\n' order by line collate "C"), '') from (
  select concat_ws('|', id, v, w) line from keyed union all select concat('bare|', a) from bare) x`)
			if got, want := string(rows[0][0]), h.states[delivered].String(); got != want {
				t.Fatalf("after %d transactions got\n%s\nwant\n%s", delivered, got, want)
			}
		}
	})
	if asked == 0 {
		t.Error("no row was ever read from the source")
	}
}

// copyAsOf fills the target as copies of several positions would.
func (g *target) copyAsOf(h *history, whole int, read []int) {
	g.exec(`truncate keyed, bare`)
	for _, a := range h.states[whole].bare {
		g.exec(fmt.Sprintf(`insert into bare values ('%s')`, quoteText(a)))
	}
	for place, as := range read {
		for id, v := range h.states[as].keyed {
			if h.places[as][id] == place {
				g.exec(fmt.Sprintf(`insert into keyed values (%s, '%s', '%s') on conflict do nothing`, id, quoteText(v[0]), quoteText(v[1])))
			}
		}
	}
}

func quoteText(s string) string {
	out := ""
	for _, r := range s {
		if r == '\'' {
			out += "'"
		}
		out += string(r)
	}
	return out
}

func (g *target) setWindows(t rapid.TB, w *Windows) {
	g.Applier.windows = newWindows(w)
	if err := g.session.clean(context.Background()); err != nil {
		t.Fatal(err)
	}
	g.session.facts.windows = g.Applier.windows
}

// A change before the window must not touch the table, and one after it must find its row.
func TestWindows_Ends(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table keyed (id int primary key, v text, w text); insert into keyed values (1, 'copied', '')`)
	before, within, after := g.tx(insert(keyedRelation, "1", "old", "")), g.tx(remove(keyedRelation, "7", nil, nil)), g.tx(remove(keyedRelation, "8", nil, nil))
	g.setWindows(t, &Windows{
		Tables: map[decoder.Name]decoder.Window{{Schema: "public", Name: "keyed"}: {From: within.CommitLSN, To: after.CommitLSN}},
	})
	if err := g.Apply(t.Context(), before, within); err != nil {
		t.Fatal(err)
	}
	var conflict *ConflictError
	if err := g.Apply(t.Context(), after); !errors.As(err, &conflict) || conflict.Kind != MissingRow {
		t.Errorf("a DELETE of no row after the window: %v, want a missing row", err)
	}
	g.want(`select * from keyed`, "1|copied|")
	if g.Settled() != after.CommitLSN {
		t.Errorf("settled %s, want %s", g.Settled(), after.CommitLSN)
	}
}

// A table that was altered on both sides before it was copied: changes of its old form, which the
// target does not fit any more, are in its rows, and one that is not in them stops the stream.
func TestWindows_OldForm(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table keyed (id int primary key, v text); insert into keyed values (1, 'copied')`)
	before, within := g.tx(insert(keyedRelation, "1", "old", "dropped since")), g.tx(insert(relation("keyed", 'd', "id*", "v"), "2", "new"))
	after := g.tx(insert(keyedRelation, "3", "new", "w"))
	g.setWindows(t, &Windows{Tables: map[decoder.Name]decoder.Window{{Schema: "public", Name: "keyed"}: {From: within.CommitLSN, To: within.CommitLSN}}})
	f := newFeed(before, within)
	g.run(f)
	g.want(`select * from keyed order by id`, "1|copied", "2|new")
	f = newFeed(after)
	close(f.txs)
	var schema *SchemaError
	if err := g.Run(t.Context(), f); !errors.As(err, &schema) {
		t.Errorf("a change of the old form after the window: %v, want a SchemaError", err)
	}
}
