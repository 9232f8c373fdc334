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

// The net effect of random transactions over few keys leaves what the changes one by one do.
func TestFold_Random(t *testing.T) {
	s := &facts{replica: true, tables: map[*decoder.Relation]*table{
		keyedRelation: known(keyedRelation, unique("id"), func(t *table) { t.foldable = true }),
		bareRelation:  known(bareRelation, nil, func(t *table) { t.foldable = true }),
	}}
	rapid.Check(t, func(t *rapid.T) {
		m := &model{keyed: map[string][2]string{}}
		for _, id := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"1", "2", "3", "4"}), rapid.ID).Draw(t, "there before") {
			m.keyed[id] = [2]string{"was", "was"}
		}
		rows := maps.Clone(m.keyed)
		bare := map[string]int{}
		f := s.batch(true).fold()
		for range rapid.IntRange(0, 30).Draw(t, "changes") {
			c := m.change(t)
			if f.add(&decoder.Tx{}, &c) {
				continue
			}
			if c.Op != decoder.Truncate {
				t.Fatal("a table in one form was taken for another")
			}
			replay(t, f, rows, bare)
			replayOne(t, &c, rows, bare)
			f = s.batch(true).fold()
		}
		replay(t, f, rows, bare)
		got := &model{keyed: rows}
		for a, n := range bare {
			got.bare = append(got.bare, slices.Repeat([]string{a}, n)...)
		}
		if got.String() != m.String() {
			t.Fatalf("got\n%s\nwant\n%s", got, m)
		}
	})
}

// replay does to rows what a fold would send, and makes sure that each row is there, or is not, as
// the statements want it.
func replay(t *rapid.T, f *fold, rows map[string][2]string, bare map[string]int) {
	for _, to := range f.order {
		for _, step := range to.steps {
			if step.net == nil {
				replayOne(t, step.change, rows, bare)
				continue
			}
			for _, e := range step.net.list {
				if e.remove {
					replayOne(t, &decoder.Change{Op: decoder.Delete, Relation: to.table.relation, Old: e.change.Old}, rows, bare)
				}
			}
			for _, op := range []decoder.Op{decoder.Update, decoder.Insert} {
				for _, e := range step.net.list {
					if e.put && e.change.Op == op {
						replayOne(t, &e.change, rows, bare)
					}
				}
			}
		}
	}
}

func replayOne(t *rapid.T, c *decoder.Change, rows map[string][2]string, bare map[string]int) {
	if c.Op == decoder.Truncate {
		if slices.Contains(c.Truncated, keyedRelation) {
			clear(rows)
		}
		if slices.Contains(c.Truncated, bareRelation) {
			clear(bare)
		}
		return
	}
	if c.Relation == bareRelation {
		if c.Op != decoder.Insert {
			if a := string(c.Old[0].Data); bare[a] == 0 {
				t.Fatalf("no row %q", a)
			} else {
				bare[a]--
			}
		}
		if c.Op != decoder.Delete {
			bare[string(c.New[0].Data)]++
		}
		return
	}
	key := c.Old
	if key == nil {
		key = c.New
	}
	id := string(key[0].Data)
	row, there := rows[id]
	if there == (c.Op == decoder.Insert) {
		t.Fatalf("%c of %s, which is there: %v", c.Op, id, there)
	}
	delete(rows, id)
	if c.Op == decoder.Delete {
		return
	}
	for i := range row {
		switch v := c.New[1+i]; v.Kind {
		case decoder.Text:
			row[i] = string(v.Data)
		case decoder.Null:
			row[i] = ""
		}
	}
	rows[string(c.New[0].Data)] = row
}

// What a TRUNCATE of one table takes away is not written first, nor is it emptied twice; one that
// restarts sequences is not lost, and one of several tables stands alone.
func TestFold_Truncate(t *testing.T) {
	empty := func(restart bool, tables ...*decoder.Relation) decoder.Change {
		return decoder.Change{Op: decoder.Truncate, Truncated: tables, Restart: restart}
	}
	for _, test := range []struct {
		name    string
		changes []decoder.Change
		want    []string // what is sent of each table; a set of changes is its number
		refused int      // the change that is not taken
	}{
		{"between inserts", []decoder.Change{insert(keyedRelation, "1", "", ""), insert(bareRelation, "a", nil), empty(false, keyedRelation), insert(keyedRelation, "1", "", "")}, []string{"keyed: truncate, 1", "bare: 1"}, -1},
		{"twice", []decoder.Change{empty(false, keyedRelation), insert(keyedRelation, "1", "", ""), empty(true, keyedRelation), insert(keyedRelation, "2", "", ""), insert(keyedRelation, "3", "", "")}, []string{"keyed: restart, 2"}, -1},
		{"after a restart", []decoder.Change{empty(true, keyedRelation), empty(false, keyedRelation)}, []string{"keyed: restart"}, 1},
		{"restart twice", []decoder.Change{empty(true, keyedRelation), empty(true, keyedRelation)}, []string{"keyed: restart"}, -1},
		{"of a change that stands alone", []decoder.Change{remove(bareRelation, "a", nil), empty(false, bareRelation)}, []string{"bare: truncate"}, -1},
		{"several tables", []decoder.Change{insert(keyedRelation, "1", "", ""), empty(false, keyedRelation, bareRelation)}, []string{"keyed: 1"}, 1},
	} {
		s := &facts{replica: true, tables: map[*decoder.Relation]*table{
			keyedRelation: known(keyedRelation, unique("id"), func(t *table) { t.foldable = true }),
			bareRelation:  known(bareRelation, nil, func(t *table) { t.foldable = true }),
		}}
		f, refused := s.batch(true).fold(), -1
		for i := range test.changes {
			if !f.add(&decoder.Tx{}, &test.changes[i]) {
				refused = i
			}
		}
		var got []string
		for _, to := range f.order {
			var parts []string
			for _, p := range to.steps {
				switch {
				case p.net != nil:
					parts = append(parts, fmt.Sprint(len(p.net.list)))
				case p.change.Restart:
					parts = append(parts, "restart")
				case p.change.Op == decoder.Truncate:
					parts = append(parts, "truncate")
				default:
					parts = append(parts, "alone")
				}
			}
			got = append(got, to.table.relation.Name+": "+strings.Join(parts, ", "))
		}
		if !slices.Equal(got, test.want) || refused != test.refused {
			t.Errorf("%s: got %q, refused %d; want %q, %d", test.name, got, refused, test.want, test.refused)
		}
	}
}

// Two rows swap a unique value: the end state is fine, and half of the way is not.
func TestApply_FoldedSwap(t *testing.T) {
	g := newTarget(t, `create table s (id int primary key, u int unique, v text); insert into s select i, i, 'v' from generate_series(1, 20) i`)
	r := relation("s", 'd', "id*", "u", "v")
	var changes []decoder.Change
	set := func(id, u int) {
		changes = append(changes, update(r, nil, row(fmt.Sprint(id), fmt.Sprint(u), "new")))
	}
	for id := 1; id <= 20; id += 2 { // through a value that is free
		set(id, -id)
		set(id+1, id)
		set(id, id+1)
	}
	g.apply(changes...)
	g.want(`select count(*) from s where v = 'new' and u = case when id % 2 = 1 then id + 1 else id - 1 end`, "20")
	if g.folds.misfits == 0 {
		t.Error("the server took an UPDATE of all at once: this test shows nothing any more")
	}
	// Values that leave room for each other go through at once again.
	g.folds.skip = 0
	changes = nil
	for id := 1; id <= 20; id++ {
		set(id, 100+id)
	}
	g.apply(changes...)
	g.want(`select count(*) from s where u = 100 + id`, "20")
	if g.folds.misfits != 0 {
		t.Error("an UPDATE of all at once was not taken")
	}
}

// A transaction in pieces, of which a later one does not go through by its net effect, begins
// again, and then goes row by row.
func TestRun_FoldedPieces(t *testing.T) {
	g := newTarget(t, `create table s (id int primary key, u int unique); insert into s select i, i from generate_series(1, 20) i`)
	r := relation("s", 'd', "id*", "u")
	var changes []decoder.Change
	set := func(id, u int) { changes = append(changes, update(r, nil, row(fmt.Sprint(id), fmt.Sprint(u)))) }
	for id := 1; id <= 10; id++ {
		set(id, 100+id)
	}
	for id := 11; id <= 20; id += 2 {
		set(id, -id)
		set(id+1, id)
		set(id, id+1)
	}
	first := g.tx(changes...)
	last := *first
	first.Last, first.EndLSN, first.Changes = false, 0, changes[:10]
	last.First, last.Changes = false, changes[10:]
	var restart *RestartError
	if err := g.Run(t.Context(), newFeed(first, &last)); !errors.As(err, &restart) || restart.LSN != last.CommitLSN || restart.Applied != g.Applied() {
		t.Fatalf("got %v, want that the transaction begins again", err)
	}
	g.want(`select count(*) from s where u = id`, "20")
	g.run(newFeed(first, &last))
	g.want(`select count(*) from s where u = case when id <= 10 then 100 + id when id % 2 = 1 then id + 1 else id - 1 end`, "20")
}

// A trigger that fires in replica role sees each change, and what was before it in other tables.
func TestApply_FoldedTrigger(t *testing.T) {
	g := newTarget(t, `create table t (id int primary key, v text); create table other (id int primary key);
create table seen (n serial, what text, others int);
create function see() returns trigger language plpgsql as $$ begin
  insert into public.seen (what, others) select new.v, count(*) from public.other; return new; end $$;
create trigger see before insert or update on t for each row execute procedure see();
alter table t enable replica trigger see`)
	r, other := relation("t", 'd', "id*", "v"), relation("other", 'd', "id*")
	var changes []decoder.Change
	for id := 1; id <= 5; id++ {
		changes = append(changes, insert(other, fmt.Sprint(id)), insert(r, fmt.Sprint(id), "new"), update(r, nil, row(fmt.Sprint(id), "changed")))
	}
	g.apply(changes...)
	g.want(`select what, others from seen order by n`, "new|1", "changed|1", "new|2", "changed|2", "new|3", "changed|3", "new|4", "changed|4", "new|5", "changed|5")
}

// The triggers of a fence of walferry's own, which let the applier pass, do not keep changes from being applied by their net
// effect; those of anybody else do.
func TestApply_FoldedFence(t *testing.T) {
	for function, alone := range map[string]bool{"walferry.fence_x": false, "walferry.other": true, "public.fence_x": true} {
		g := newTarget(t, `create schema walferry; create table t (id int primary key, v text); create sequence statements;
create function `+function+`() returns trigger language plpgsql as $$ begin perform nextval('public.statements'); return null; end $$;
create trigger walferry_fence before insert or update or delete or truncate on t for each statement execute procedure `+function+`();
alter table t enable always trigger walferry_fence`)
		r := relation("t", 'd', "id*", "v")
		var changes []decoder.Change
		for id := 1; id <= 100; id++ {
			changes = append(changes, insert(r, fmt.Sprint(id), "new"), update(r, nil, row(fmt.Sprint(id), "changed")))
		}
		g.apply(changes...)
		g.want(`select count(*) from t where v = 'changed'`, "100")
		g.want(`select (last_value >= 200)::text from statements`, fmt.Sprint(alone))
		g.want(`select is_called::text from statements`, "true")
	}
}

// In a large group the change that does not fit is told as exactly as if it were alone.
func TestApply_FoldedConflict(t *testing.T) {
	g := newTarget(t, `create table t (id int primary key, v text); insert into t select i from generate_series(1, 20) i`)
	r := relation("t", 'd', "id*", "v")
	g.exec(`delete from t where id = 13`)
	var txs []*decoder.Tx
	for id := 1; id <= 20; id++ {
		txs = append(txs, g.tx(update(r, nil, row(fmt.Sprint(id), "new"))))
	}
	err := g.Apply(t.Context(), txs...)
	var conflict *ConflictError
	if !errors.As(err, &conflict) || conflict.Kind != MissingRow || conflict.XID != txs[12].XID || conflict.LSN != txs[12].CommitLSN || conflict.Table != "public.t" {
		t.Errorf("got %v, want the missing row of transaction %d", err, txs[12].XID)
	}
	g.want(`select count(*) from t where v is not null`, "0")
	g.exec(`insert into t values (13)`)
	if err := g.Apply(t.Context(), txs...); err != nil {
		t.Fatal(err)
	}
	g.want(`select count(*) from t where v = 'new'`, "20")
}

// The SQL of statements for many rows.
func TestSetStatement(t *testing.T) {
	byKey := relation("t", 'd', "id*", "a", "b")
	pair := relation("t", 'i', "x*", "y*", "v")
	key := []key{{columns: []string{"x", "y"}, operators: []string{"operator(public.=)", "operator(pg_catalog.=)"}, collations: []string{"", ` collate pg_catalog."C"`}}}
	for _, test := range []struct {
		name   string
		table  *table
		change decoder.Change
		want   string
	}{
		{
			"insert", known(byKey, nil, nil), insert(byKey, "1", "", nil),
			`insert into "public"."t" ("id", "a", "b") overriding system value select v.p1::integer, v.p2::integer, v.p3::integer from unnest($1::text[], $2::text[], $3::text[]) v(p1, p2, p3)`,
		},
		{
			"update", known(byKey, nil, nil), update(byKey, nil, row("1", unchanged, "2")),
			`update only "public"."t" t set "b" = v.p1::integer from unnest($1::text[], $2::text[]) v(p1, p2) where t."id" operator(pg_catalog.=) v.p2::integer`,
		},
		{"update of nothing", known(byKey, nil, nil), update(byKey, nil, row("1", unchanged, unchanged)), ""},
		{
			"delete, two columns of the key", known(pair, key, nil), remove(pair, "1", "2", nil),
			`delete from only "public"."t" t using unnest($1::text[], $2::text[]) v(p1, p2) where t."x" operator(public.=) v.p1::integer and t."y" operator(pg_catalog.=) v.p2::integer collate pg_catalog."C"`,
		},
		{
			"a domain, a cast that is a function", known(byKey, nil, func(t *table) {
				t.columns[0].value, t.columns[1].typ, t.columns[1].castFunction = `"id"::integer`, "xml", true
			}), update(byKey, nil, row("1", "<a/>", unchanged)),
			`update only "public"."t" t set "a" = v.p1 from unnest($1::xml[], $2::text[]) v(p1, p2) where t."id"::integer operator(pg_catalog.=) v.p2::integer`,
		},
		{"insert of no columns", known(relation("t", 'd'), nil, nil), insert(relation("t", 'd')), ""},
	} {
		test.table.setStatements = map[string]*statement{}
		shape, err := test.table.shape(&test.change, false, nil)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		got := ""
		if s := test.table.setStatement(shape); s != nil {
			got = s.sql
		}
		if got != test.want {
			t.Errorf("%s\ngot:  %s\nwant: %s", test.name, got, test.want)
		}
	}
}

// Texts that need quotes come out of an array as they went in, whichever way they are sent.
func TestArrays(t *testing.T) {
	g := newTarget(t, `select 1`)
	rapid.Check(t, func(t *rapid.T) {
		texts := rapid.SliceOfN(rapid.OneOf(
			rapid.SampledFrom([]string{"", "NULL", "null", `"`, `\`, "{", "}", ",", ";", " ", "\n", `\"`, "a b", "é😀"}),
			rapid.StringMatching(`[^\x00]*`),
		), 1, 10).Draw(t, "texts")
		var changes []*decoder.Change
		for _, text := range texts {
			changes = append(changes, &decoder.Change{Op: decoder.Insert, New: row(text)})
		}
		changes = append(changes, &decoder.Change{Op: decoder.Insert, New: row(nil)})
		result := g.other.ExecParams(t.Context(), `select count(*), coalesce(bool_and(a is not distinct from b), true), array_agg(a is null) from unnest($1::text[], $2::text[]) x(a, b)`,
			[][]byte{textArray(changes, arg{}), literal(changes, arg{}, ',')}, nil, []int16{binaryFormat, textFormat}, nil).Read()
		if result.Err != nil {
			t.Fatal(result.Err)
		}
		nulls := "{" + strings.Repeat("f,", len(texts)) + "t}"
		if got := result.Rows[0]; string(got[0]) != fmt.Sprint(len(changes)) || string(got[1]) != "t" || string(got[2]) != nulls {
			t.Fatalf("%q: got %q", texts, got)
		}
		result = g.other.ExecParams(t.Context(), `select a from unnest($1::text[]) x(a)`, [][]byte{literal(changes, arg{}, ',')}, nil, nil, nil).Read()
		for i, text := range texts {
			if string(result.Rows[i][0]) != text {
				t.Fatalf("%q came out as %q", text, result.Rows[i][0])
			}
		}
	})
}
