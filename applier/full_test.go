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

// heap is what a source holds of a table with REPLICA IDENTITY FULL and no key: the target alone
// has a unique index on the id.
type heap []heapRow

type heapRow struct{ id, v, doc string }

var fullRelation = relation("heap", 'f', "id", "v", "doc")

// change makes a random change that a source in this state could make; it is not kept from two rows
// of one id, but for short times, as with a deferrable key.
func (h *heap) change(t *rapid.T) decoder.Change {
	var free []string
	for _, id := range []string{"1", "2", "3", "4", "5"} {
		if !slices.ContainsFunc(*h, func(r heapRow) bool { return r.id == id }) || rapid.IntRange(0, 9).Draw(t, "taken once more") == 9 {
			free = append(free, id)
		}
	}
	free = append(free, rapid.StringMatching("[6-9]").Draw(t, "another id"))
	id, text := rapid.SampledFrom(free), rapid.SampledFrom([]string{"a", "b"})
	whole := func(r heapRow) []any { return []any{r.id, r.v, r.doc} }
	what := "insert"
	var twice []int // rows that share an id: they soon do not
	for i, r := range *h {
		if slices.ContainsFunc((*h)[:i], func(o heapRow) bool { return o.id == r.id }) {
			twice = append(twice, i, slices.IndexFunc(*h, func(o heapRow) bool { return o.id == r.id }))
		}
	}
	switch {
	case len(twice) > 0:
		what = rapid.SampledFrom([]string{"delete", "delete", "delete", "update", "update", "move", "insert"}).Draw(t, "change")
	case len(*h) > 0:
		what = rapid.SampledFrom([]string{"insert", "update", "update", "move", "delete"}).Draw(t, "change")
	}
	if what == "insert" {
		r := heapRow{id.Draw(t, "id"), text.Draw(t, "v"), text.Draw(t, "doc")}
		*h = append(*h, r)
		return insert(fullRelation, whole(r)...)
	}
	i := rapid.IntRange(0, len(*h)-1).Draw(t, "row")
	if len(twice) > 0 && rapid.IntRange(0, 3).Draw(t, "one of them") > 0 {
		i = rapid.SampledFrom(twice).Draw(t, "row")
	}
	was := (*h)[i]
	if what == "delete" {
		*h = slices.Delete(*h, i, i+1)
		return remove(fullRelation, whole(was)...)
	}
	is := was
	is.v = text.Draw(t, "v")
	if what == "move" {
		is.id = id.Draw(t, "id")
	}
	(*h)[i] = is
	if rapid.Bool().Draw(t, "doc is out of line") {
		return update(fullRelation, row(whole(was)...), row(is.id, is.v, unchanged))
	}
	is.doc = text.Draw(t, "doc")
	(*h)[i] = is
	return update(fullRelation, row(whole(was)...), row(whole(is)...))
}

func (h heap) String() string {
	lines := make([]string, len(h))
	for i, r := range h {
		lines[i] = r.id + "|" + r.v + "|" + r.doc
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// start is a heap of rows with different ids, which is all that the target could have copied.
func start(t *rapid.T) (h heap) {
	for _, id := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"1", "2", "3"}), rapid.ID).Draw(t, "there before") {
		h = append(h, heapRow{id, "a", "a"})
	}
	return h
}

// With REPLICA IDENTITY FULL a key that only the target enforces never makes of the source's rows
// anything else: the net effect is theirs, or a statement is refused.
func TestFold_FullRandom(t *testing.T) {
	s := &facts{replica: true, tables: map[*decoder.Relation]*table{
		fullRelation: known(fullRelation, unique("id"), func(t *table) { t.foldable = true }),
	}}
	right, refused, merged := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		h := start(t)
		there := map[string]heapRow{}
		for _, r := range h {
			there[r.id] = r
		}
		f, n := s.batch(true).fold(), rapid.IntRange(1, 20).Draw(t, "changes")
		for range n {
			c := h.change(t)
			if !f.add(&decoder.Tx{}, &c) {
				t.Fatal("a change was not taken")
			}
		}
		sent := 0
		for _, to := range f.order {
			for _, step := range to.steps {
				for _, c := range statements(step) {
					sent++
					if !strictly(there, c) {
						refused++
						return
					}
				}
			}
		}
		if sent < n {
			merged++
		}
		right++
		if got, want := heap(slices.Collect(maps.Values(there))).String(), h.String(); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
	})
	if right == 0 || refused == 0 || merged == 0 {
		t.Errorf("%d came out right, %d of them with fewer statements than changes, %d were refused: this test shows nothing any more", right, merged, refused)
	}
}

// statements are the changes that a step sends, in their order.
func statements(p step) (changes []*decoder.Change) {
	if p.net == nil {
		return []*decoder.Change{p.change}
	}
	for _, op := range []decoder.Op{decoder.Delete, decoder.Update, decoder.Insert} {
		for i := range p.net.list {
			e := &p.net.list[i]
			switch {
			case op == decoder.Delete && e.remove:
				changes = append(changes, &decoder.Change{Op: op, Relation: fullRelation, Old: e.change.Old})
			case op != decoder.Delete && e.put && e.change.Op == op:
				changes = append(changes, &e.change)
			}
		}
	}
	return changes
}

// strictly does what a target with a unique index does; false when it refuses.
func strictly(rows map[string]heapRow, c *decoder.Change) bool {
	key := c.Old
	if key == nil {
		key = c.New
	}
	id := string(key[0].Data)
	r, there := rows[id]
	if there == (c.Op == decoder.Insert) {
		return false
	}
	delete(rows, id)
	if c.Op == decoder.Delete {
		return true
	}
	r.id = string(c.New[0].Data)
	for i, to := range []*string{&r.v, &r.doc} {
		if v := c.New[1+i]; v.Kind == decoder.Text {
			*to = string(v.Data)
		}
	}
	if _, taken := rows[r.id]; taken {
		return false
	}
	rows[r.id] = r
	return true
}

// The same on a server, in groups and pieces: the target is what the source was after the last
// transaction that it has, and what it does not take is told.
func TestApply_FullRandom(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table heap (id int not null, v text, doc text); create unique index on heap (id)`)
	right, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		g.folds.leastCopy = rapid.SampledFrom([]int{1, 2, leastCopy}).Draw(t, "least COPY")
		g.folds.skip = 0
		h := start(t)
		g.exec(`truncate heap`)
		for _, r := range h {
			g.exec(fmt.Sprintf(`insert into heap values (%s, '%s', '%s')`, r.id, r.v, r.doc))
		}
		states := map[decoder.LSN]string{g.Applied(): h.String()}
		var txs []*decoder.Tx
		for range rapid.IntRange(1, 4).Draw(t, "transactions") {
			var changes []decoder.Change
			for range rapid.IntRange(1, 16).Draw(t, "changes") {
				changes = append(changes, h.change(t))
			}
			tx := g.tx(changes...)
			txs, states[tx.EndLSN] = append(txs, tx), h.String()
		}
		var err error
		if rapid.Bool().Draw(t, "by Run") {
			f := newFeed()
			for _, tx := range txs {
				f.put(pieces(t, tx)...)
			}
			close(f.txs)
			var restart *RestartError
			if err = g.Run(t.Context(), f); errors.As(err, &restart) { // a piece did not go through by its net effect
				f = newFeed(txs...)
				close(f.txs)
				err = g.Run(t.Context(), f)
			}
			if errors.Is(err, errEnd) {
				err = nil
			}
		} else {
			err = g.Apply(t.Context(), txs...)
		}
		var conflict *ConflictError
		switch {
		case err == nil:
			right++
			if got, want := g.Applied(), txs[len(txs)-1].EndLSN; got != want {
				t.Fatalf("applied %s, want %s", got, want)
			}
		case errors.As(err, &conflict) && conflict.SQLState == "23505":
			refused++
		default:
			t.Fatalf("got %v, want nothing, or a violated constraint", err)
		}
		rows := g.exec(`select coalesce(string_agg(line, E'\n' order by line collate "C"), '') from (select concat_ws('|', id, v, doc) line from heap) x`)
		if got, want := string(rows[0][0]), states[g.Applied()]; got != want {
			t.Fatalf("at %s (%v) got\n%s\nwant\n%s", g.Applied(), err, got, want)
		}
		g.lsn += 0x1000 // what was refused is not delivered again
		if err := g.Apply(t.Context(), g.position()); err != nil {
			t.Fatal(err)
		}
	})
	if right == 0 || refused == 0 {
		t.Errorf("%d came out right, %d were refused: this test shows nothing any more", right, refused)
	}
}

// The source holds two rows of a key for a moment, or for good, that the target would hold once.
// Whatever goes to which of them is not lost: the target refuses, or has the source's rows.
func TestApply_FullTargetOnlyKey(t *testing.T) {
	t.Parallel()
	r := relation("a", 'f', "id", "v")
	change := func(op decoder.Op, id int, values ...string) decoder.Change {
		k := fmt.Sprint(id)
		switch op {
		case decoder.Insert:
			return insert(r, k, values[0])
		case decoder.Delete:
			return remove(r, k, values[0])
		}
		return update(r, row(k, values[0]), row(k, values[1]))
	}
	const I, U, D = decoder.Insert, decoder.Update, decoder.Delete
	for _, test := range []struct {
		name  string
		make  func(id int) []decoder.Change
		taken string // the value that ten rows have then; empty: it is refused
	}{
		{"a new one takes the place of the old", func(id int) []decoder.Change {
			return []decoder.Change{change(I, id, "new"), change(D, id, "old")}
		}, ""},
		{"the old one is changed beside a new one", func(id int) []decoder.Change {
			return []decoder.Change{change(I, id, "new"), change(U, id, "old", "older")}
		}, ""},
		{"the old one is changed while a new one is there", func(id int) []decoder.Change {
			return []decoder.Change{change(I, id, "new"), change(U, id, "old", "older"), change(D, id, "new")}
		}, ""},
		{"the new one goes again", func(id int) []decoder.Change {
			return []decoder.Change{change(I, id, "new"), change(U, id, "new", "newer"), change(D, id, "newer")}
		}, "old"},
		{"the old one goes first", func(id int) []decoder.Change {
			return []decoder.Change{change(U, id, "old", "older"), change(D, id, "older"), change(I, id, "new")}
		}, "new"},
		{"the changed one goes, and not the one that took its old value", func(id int) []decoder.Change {
			return []decoder.Change{change(U, id, "old", "older"), change(I, id, "old"), change(D, id, "older")}
		}, ""},
	} {
		for _, key := range []string{`create unique index on a (id)`, `alter table a add primary key (id)`} {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				g := newTarget(t, `create table a (id int not null, v text); insert into a select g, 'old' from generate_series(1, 20) g; `+key)
				var changes []decoder.Change
				for id := 1; id <= 10; id++ {
					changes = append(changes, test.make(id)...)
				}
				var conflict *ConflictError
				switch err := g.Apply(t.Context(), g.tx(changes...)); {
				case test.taken != "":
					if err != nil {
						t.Fatal(err)
					}
					g.want(`select count(*) filter (where v = '`+test.taken+`' and id <= 10), count(*) from a`, "10|20")
				case !errors.As(err, &conflict) || conflict.SQLState != "23505":
					t.Fatalf("got %v, want that the second row of a key is refused", err)
				default:
					g.want(`select count(*) filter (where v = 'old'), count(*) from a`, "20|20")
				}
			})
		}
	}
}

// An index of the target keeps texts apart that its column's collation takes for one. Rows are
// found by the index's: a statement for many would otherwise give one row's value to another.
func TestApply_KeyOfAnotherCollation(t *testing.T) {
	t.Parallel()
	g := newTargetSince(t, 12, `create collation ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create table t (k text collate ci not null, v text); create unique index on t (k collate "C")`)
	for _, identity := range []byte{'d', 'f'} {
		g.exec(`truncate t`)
		r := relation("t", identity, "k*", "v")
		var inserts, changes []decoder.Change
		for _, k := range strings.Split("abcdeABCDE", "") {
			inserts = append(inserts, insert(r, k, "was "+k))
			old := row(k, "was "+k)
			if identity == 'd' {
				old = nil
			}
			changes = append(changes, update(r, old, row(k, "is "+k)))
		}
		g.apply(inserts...)
		g.apply(changes...)
		if g.folds.misfits != 0 {
			t.Error("the rows were not found by the index's collation")
		}
		g.want(`select count(*) from t where v = 'is ' || k collate "C"`, "10")
	}
}

// Nothing on the target keeps rows apart by the source's key: one statement for many changes might
// find two rows for one of them and none for another, and the number be right.
func TestApply_KeyWithoutIndex(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int, v text); insert into t select 2 * ((i + 1) / 2), 'old' from generate_series(1, 10) i`) // each even one twice, no odd one
	r := relation("t", 'd', "id*", "v")
	var changes []decoder.Change
	for id := 1; id <= 10; id++ {
		changes = append(changes, update(r, nil, row(fmt.Sprint(id), "new")))
	}
	var conflict *ConflictError
	g.refuse(&conflict, changes...)
	if conflict.Kind != MissingRow {
		t.Errorf("got %v, want a missing row", conflict)
	}
	g.want(`select count(*) from t where v = 'old'`, "10")
}
