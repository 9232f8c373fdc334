package applier

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/walferry/walferry/decoder"
)

// The order of the columns tells what names alone do not.
func TestDisplaced(t *testing.T) {
	for _, test := range []struct {
		name   string
		was    string // number name, of the source; the target's numbers are a hundred more
		now    string
		target string // what the target has now, by number; empty: as it was
		want   string
	}{
		{"as it was", "1 id, 2 a, 3 b", "id a b", "", ""},
		{"one was dropped before, one is generated", "1 id, 3 a, 6 b", "id a b", "", ""},
		{"dropped", "1 id, 2 a, 3 b", "id b", "", ""},
		{"added", "1 id, 2 a", "id a new newer", "", ""},
		{"dropped and added", "1 id, 2 a, 3 b", "id b new", "", ""},
		{"renamed", "1 id, 2 a, 3 b", "id x b", "", ""},
		{"no longer generated", "1 id, 3 b", "id g b", "", ""},
		{"swapped", "1 id, 2 a, 3 b", "id b a", "", "a b"},
		{"in a circle", "1 id, 2 a, 3 b, 4 c", "id c a b", "", "a b c"},
		{"swapped, and another one dropped", "1 id, 2 a, 3 x, 4 b", "id b a", "", "a b"},
		{"dropped and added again", "1 id, 2 a, 3 b", "id b a", "", "a b"},
		{"the last one dropped and added again cannot be seen", "1 id, 2 a, 3 b", "id a b", "", ""},
		{"renamed into another's place", "1 id, 2 a, 3 b", "id x a", "", "a x"},
		{"the first one's name, too", "1 a, 2 b, 3 c", "x a c", "", "a x"},
		{"swapped on the target, too", "1 id, 2 a, 3 b", "id b a", "101 id, 102 b, 103 a", ""},
		{"added again on the target, too", "1 id, 2 a, 3 b", "id b a", "101 id, 103 b, 104 a", ""},
		{"in a circle on the target, too", "1 id, 2 a, 3 b, 4 c", "id c a b", "101 id, 102 c, 103 a, 104 b", ""},
		{"renamed likewise on the target", "1 id, 2 a, 3 b", "id x a", "101 id, 102 x, 103 a", ""},
		{"renamed otherwise on the target", "1 id, 2 a, 3 b", "id x a", "101 id, 102 a, 103 x", "a x"},
		{"in another order on the target from the beginning, which is that of the source now", "1 id, 2 a, 3 b", "id b a", "101 id, 103 b, 102 a", "a b"},
		{"swapped on the target alone", "1 id, 2 a, 3 b", "id a b", "101 id, 102 b, 103 a", "a b"},
		{"added again on the target alone", "1 id, 2 a, 3 b", "id a b", "101 id, 103 b, 104 a", "a"},
		{"in a circle on the target alone", "1 id, 2 a, 3 b, 4 c", "id a b c", "101 id, 102 c, 103 a, 104 b", "a b c"},
		{"of an older version, without numbers", "0 id, 0 a, 0 b", "id b a", "", ""},
		{"nothing is known", "", "id b a", "101 id, 102 b, 103 a", ""},
	} {
		var o Original
		target := map[string]column{}
		for _, text := range strings.Split(test.was, ", ") {
			var c OriginalColumn
			if fmt.Sscanf(text, "%d %s", &c.Number, &c.Name); c.Name == "" {
				continue
			}
			c.Target = 100 + c.Number
			o.Columns = append(o.Columns, c)
			target[c.Name] = column{number: c.Target}
		}
		var now []decoder.Column
		for _, name := range strings.Fields(test.now) {
			now = append(now, decoder.Column{Name: name})
		}
		if test.target != "" {
			clear(target)
			for _, text := range strings.Split(test.target, ", ") {
				var c column
				fmt.Sscanf(text, "%d %s", &c.number, &c.name)
				target[c.name] = c
			}
		}
		got := o.displaced(now, target)
		slices.Sort(got)
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: got %v, want %s", test.name, got, test.want)
		}
	}
}

// A change of before the source's columns were renamed goes where they were copied to.
func TestPlaces(t *testing.T) {
	for _, test := range []struct {
		name   string
		was    string // number name, of the source; the target's numbers are a hundred more
		now    string
		target string // what the target has now, by number
		want   string // the target's numbers, by the source's columns; 0: it has none
	}{
		{"as it was", "1 id, 2 a, 3 b", "id a b", "101 id, 102 a, 103 b", "101 102 103"},
		{"renamed", "1 id, 2 a, 3 b", "id a b", "101 id, 102 x, 103 b", "101 102 103"},
		{"renamed on both", "1 id, 2 a, 3 b", "id x b", "101 id, 102 x, 103 b", "101 102 103"},
		{"swapped", "1 id, 2 a, 3 b", "id a b", "101 id, 102 b, 103 a", "101 102 103"},
		{"swapped on both", "1 id, 2 a, 3 b", "id b a", "101 id, 102 b, 103 a", "101 102 103"},
		{"swapped on the source", "1 id, 2 a, 3 b", "id b a", "101 id, 102 a, 103 b", "101 103 102"},
		{"one of two was renamed so far", "1 id, 2 a, 3 b", "id x b", "101 id, 102 x, 103 y", "101 102 0"},
		{"dropped", "1 id, 2 a, 3 b", "id a b", "101 id, 102 a", "101 102 0"},
		{"dropped, and one renamed", "1 id, 2 a, 3 b", "id a b", "101 id, 102 x", "101 102 0"},
		{"another one has the new name", "1 id, 2 a, 3 b", "id a b x", "101 id, 102 x, 103 b", "101 102 103 0"},
		{"one has the name of another that was dropped", "1 id, 2 a, 3 b", "id a", "101 id, 102 old, 103 a", "101 103"},
		{"after another one was dropped on both", "1 id, 2 a, 3 b", "id b", "101 id, 103 x", "101 103"},
		{"another one was dropped on the source alone", "1 id, 2 a, 3 b", "id b", "101 id, 102 a, 103 x", "101 0"},
		{"its own of the target", "1 id, 2 a", "id a", "101 id, 102 x, 103 own", "101 102"},
		{"of an older version, without numbers", "0 id, 0 a", "id a", "101 id, 102 x", "101 0"},
		{"nothing is known", "", "id a", "101 id, 102 x", "101 0"},
	} {
		var o Original
		for _, text := range strings.Split(test.was, ", ") {
			var c OriginalColumn
			if fmt.Sscanf(text, "%d %s", &c.Number, &c.Name); c.Name != "" {
				c.Target = 100 + c.Number
				o.Columns = append(o.Columns, c)
			}
		}
		target := map[string]column{}
		for _, text := range strings.Split(test.target, ", ") {
			var c column
			fmt.Sscanf(text, "%d %s", &c.number, &c.name)
			target[c.name] = c
		}
		var now []decoder.Column
		var got []string
		for _, name := range strings.Fields(test.now) {
			now = append(now, decoder.Column{Name: name})
		}
		placed := o.places(now, target)
		for _, c := range now {
			got = append(got, fmt.Sprint(placed[c.Name].number))
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: got %v, want %s", test.name, got, test.want)
		}
	}
}

// live is a column as only the catalogue knows it.
type live struct {
	number int16
	name   string
}

// alter does to columns what a random ALTER TABLE does; next is the number of the next one.
func alter(t *rapid.T, columns []live, next *int16) []live {
	name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
	free := func(name string) bool {
		return !slices.ContainsFunc(columns, func(c live) bool { return c.name == name })
	}
	columns = slices.Clone(columns)
	what := rapid.SampledFrom([]string{"add", "drop", "rename", "rename", "swap"}).Draw(t, "alter")
	if what == "add" || len(columns) == 0 {
		if to := name.Draw(t, "name"); free(to) {
			columns = append(columns, live{*next, to})
			*next++
		}
		return columns
	}
	i := rapid.IntRange(0, len(columns)-1).Draw(t, "column")
	switch what {
	case "drop":
		return slices.Delete(columns, i, i+1)
	case "rename":
		if to := name.Draw(t, "name"); free(to) {
			columns[i].name = to
		}
	case "swap":
		j := rapid.IntRange(0, len(columns)-1).Draw(t, "with")
		columns[i].name, columns[j].name = columns[j].name, columns[i].name
	}
	return columns
}

// Whatever is altered on the source: as long as the target follows there is nothing to say, and
// where it does not, columns that are another's or new are found unless dropping others would have
// left the same names.
func TestDisplaced_Random(t *testing.T) {
	found := 0
	rapid.Check(t, func(t *rapid.T) {
		var o Original
		target, followed := map[string]column{}, map[string]column{}
		var columns []live
		for i, name := range []string{"a", "b", "c", "d"}[:rapid.IntRange(1, 4).Draw(t, "columns")] {
			c := OriginalColumn{Name: name, Number: int16(i + 1), Target: int16(100 + i)}
			o.Columns, columns = append(o.Columns, c), append(columns, live{c.Number, name})
			target[name] = column{number: c.Target}
		}
		next := int16(len(columns) + 1)
		for range rapid.IntRange(0, 4).Draw(t, "alterations") {
			columns = alter(t, columns, &next)
		}
		var now []decoder.Column
		same := true // every column that has a name which the target knows is the one that had it
		for _, c := range columns {
			now = append(now, decoder.Column{Name: c.name})
			followed[c.name] = column{number: 99 + c.number}
			if i := slices.IndexFunc(o.Columns, func(o OriginalColumn) bool { return o.Name == c.name }); i >= 0 && o.Columns[i].Number != c.number {
				same = false
			}
		}
		if got := o.displaced(now, followed); got != nil {
			t.Fatalf("the target has followed, got %v", got)
		}
		got := o.displaced(now, target)
		switch {
		case same && got != nil:
			t.Fatalf("nothing is another's, got %v", got)
		case !same && got == nil && !droppedOnly(&o, now):
			t.Fatalf("%v is not what it was, and nothing was found", columns)
		case got != nil:
			found++
		}
	})
	if found == 0 {
		t.Error("nothing was ever found: this test shows nothing any more")
	}
}

// droppedOnly reports whether dropping, renaming to new names and adding could have left these
// columns, so that each name is the column that it was: the order cannot tell then.
func droppedOnly(o *Original, now []decoder.Column) bool {
	var try func(was []OriginalColumn, now []decoder.Column) bool
	known := func(name string) bool {
		return slices.ContainsFunc(o.Columns, func(c OriginalColumn) bool { return c.Name == name })
	}
	try = func(was []OriginalColumn, now []decoder.Column) bool {
		if len(was) == 0 || len(now) == 0 {
			return !slices.ContainsFunc(now, func(c decoder.Column) bool { return known(c.Name) }) // all are added
		}
		if try(was[1:], now) { // it was dropped
			return true
		}
		return (was[0].Name == now[0].Name || !known(now[0].Name)) && try(was[1:], now[1:]) // it is still there
	}
	return try(o.Columns, now)
}

// originals are what the tables of the target are copies of: each was the source's table of its
// name, whose numbers are a thousand less.
func (g *target) originals() map[decoder.Name]Original {
	all := map[decoder.Name]Original{}
	for _, row := range g.exec(`select n.nspname, c.relname, c.oid, a.attname, a.attnum, a.atttypid, a.atttypmod from pg_class c join pg_namespace n on n.oid = c.relnamespace
 join pg_attribute a on a.attrelid = c.oid and attnum > 0 where c.relkind = 'r' and n.nspname = 'public' order by c.oid, attnum`) {
		var c OriginalColumn
		var oid uint32
		fmt.Sscan(string(row[2]), &oid)
		fmt.Sscan(string(row[4]), &c.Number)
		fmt.Sscan(string(row[5]), &c.TypeOID)
		fmt.Sscan(string(row[6]), &c.TypeMod)
		c.Name, c.Target = string(row[3]), c.Number
		name := decoder.Name{Schema: string(row[0]), Name: string(row[1])}
		o := all[name]
		o.OID, o.Target, o.Columns = oid-1000, oid, append(o.Columns, c)
		all[name] = o
	}
	return all
}

// of makes the source's relation of an original under a name, with columns in this order.
func (o Original) as(name, columns string) *decoder.Relation {
	r := relation(name, 'd', strings.Fields(columns)...)
	r.OID = o.OID
	for i := range r.Columns {
		c := &r.Columns[i]
		c.TypeOID, c.TypeMod = 25, -1
		if c.Key {
			c.TypeOID = 23
		}
	}
	return r
}

type originals map[decoder.Name]Original

func (o originals) at(name string) Original { return o[decoder.Name{Schema: "public", Name: name}] }

const identityColumns = "id* v w"

var identityTests = []struct {
	name   string
	first  func(o originals) []decoder.Change
	says   string // part of the error
	hint   string
	follow string // on the target, after which it resumes; empty: there is no way
}{
	{"two tables swapped", func(o originals) []decoder.Change {
		return []decoder.Change{update(o.at("a").as("b", identityColumns), nil, row("1", "of a", "w"))}
	}, "was called public.a", "old names back", `alter table a rename to x; alter table b rename to a; alter table x rename to b`},
	{"three in a circle", func(o originals) []decoder.Change {
		return []decoder.Change{update(o.at("c").as("a", identityColumns), nil, row("1", "of c", "w"))}
	}, "was called public.c", "public.c to public.a", `alter table a rename to x; alter table c rename to a; alter table b rename to c; alter table x rename to b`},
	{"renamed, and the target has it under the old name", func(o originals) []decoder.Change {
		return []decoder.Change{update(o.at("a").as("new", identityColumns), nil, row("1", "of a", "w"))}
	}, "no such table; when it was copied the source's was called public.a", "public.a to public.new", `alter table a rename to new`},
	{"renamed, and the target has another one of the new name", func(o originals) []decoder.Change {
		return []decoder.Change{update(o.at("a").as("other", identityColumns), nil, row("1", "of a", "w"))}
	}, "the target's table of this name is another one", "public.a to public.other", `alter table other rename to x; alter table a rename to other`},
	{"made again", func(o originals) []decoder.Change {
		return []decoder.Change{insert(Original{OID: 7}.as("a", identityColumns), "2", "x", "x")}
	}, "another one (oid 7)", "new copy", ""},
	{"emptied under another's name", func(o originals) []decoder.Change {
		return []decoder.Change{{Op: decoder.Truncate, Truncated: []*decoder.Relation{o.at("a").as("b", identityColumns)}}}
	}, "was called public.a", "old names back", `alter table a rename to x; alter table b rename to a; alter table x rename to b`},
	{"emptied under another's name, on version 10", func(o originals) []decoder.Change {
		r := o.at("a").as("b", "")
		return []decoder.Change{{Op: decoder.Truncate, Truncated: []*decoder.Relation{r}}}
	}, "was called public.a", "old names back", `alter table a rename to x; alter table b rename to a; alter table x rename to b`},
	{"two columns swapped", func(o originals) []decoder.Change {
		return []decoder.Change{update(o.at("a").as("a", "id* w v"), nil, row("1", "w", "of a"))}
	}, "each other's names", "v, w", `alter table a rename v to x; alter table a rename w to v; alter table a rename x to w`},
	{"a column added again", func(o originals) []decoder.Change {
		return []decoder.Change{update(o.at("a").as("a", "id* w v"), nil, row("1", "w", "of a"))}
	}, "dropped and added them again", "v, w", `alter table a drop v; alter table a add v text`},
}

// What a Relation message says of a table decides whether it is the one that was copied. Nothing of
// a transaction is applied before that, by whatever way it comes.
func TestApply_Identity(t *testing.T) {
	t.Parallel()
	const schema = `
create table a (id int primary key, v text, w text); insert into a values (1, 'a', 'a');
create table b (id int primary key, v text, w text); insert into b values (1, 'b', 'b');
create table c (id int primary key, v text, w text); insert into c values (1, 'c', 'c')`
	for _, test := range identityTests {
		for _, by := range []string{"Apply", "Run", "Run in pieces"} {
			t.Run(test.name+" by "+by, func(t *testing.T) {
				t.Parallel()
				g := newTarget(t, schema)
				o := originals(g.originals())
				g.exec(`create table other (id int primary key, v text, w text)`)
				g.config.Originals = o
				tx := g.tx(append([]decoder.Change{insert(o.at("c").as("c", identityColumns), "2", "before", "it")}, test.first(o)...)...)
				try := func() error {
					if by == "Apply" {
						return g.Apply(t.Context(), tx)
					}
					f := newFeed(tx)
					if by != "Run" {
						first, last := *tx, *tx
						first.Last, first.EndLSN, first.Changes = false, 0, tx.Changes[:1]
						last.First, last.Changes = false, tx.Changes[1:]
						f = newFeed(&first, &last)
					}
					close(f.txs)
					err := g.Run(t.Context(), f)
					if errors.Is(err, errEnd) {
						return nil
					}
					return err
				}
				var schema *SchemaError
				err := try()
				if !errors.As(err, &schema) || !strings.Contains(err.Error(), test.says) || !strings.Contains(schema.Hint(), test.hint) || schema.XID != tx.XID {
					t.Fatalf("got %v (%+v), want an error that says %q, with the hint %q", err, schema, test.says, test.hint)
				}
				g.want(`select 'a', * from a union all select 'b', * from b union all select 'c', * from c order by 1`, "a|1|a|a", "b|1|b|b", "c|1|c|c")
				if test.follow == "" {
					return
				}
				g.exec(test.follow)
				// In a circle the name of the table beside it has moved, too: that one has not been
				// renamed on the source.
				tx.Changes = tx.Changes[1:]
				by = "Apply"
				if err := try(); err != nil {
					t.Fatal(err)
				}
				g.want(fmt.Sprintf(`select count(*) from pg_class where oid = %d and relname = '%s'`, relationOf(tx).OID+1000, relationOf(tx).Name), "1")
				if tx.Changes[0].Op != decoder.Truncate {
					g.want(fmt.Sprintf(`select count(*) from %s where id = 1 and v like 'of _'`, pgx.Identifier{relationOf(tx).Name}.Sanitize()), "1")
				}
			})
		}
	}
}

func relationOf(tx *decoder.Tx) *decoder.Relation {
	if c := &tx.Changes[0]; c.Op != decoder.Truncate {
		return c.Relation
	}
	return tx.Changes[0].Truncated[0]
}

// Changes of what was renamed on both sides are applied, to and fro, and so are those of an unknown
// table; not those of tables that only the target has swapped.
func TestApply_IdentityKept(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table a (id int primary key, v text); create table b (id int primary key, v text); create table log (id int primary key)`)
	o := g.originals()
	delete(o, decoder.Name{Schema: "public", Name: "log"})
	g.config.Originals = o
	a, b := o[decoder.Name{Schema: "public", Name: "a"}], o[decoder.Name{Schema: "public", Name: "b"}]
	const columns = "id* v"
	g.apply(insert(a.as("a", columns), "1", "a"), insert(b.as("b", columns), "1", "b"), insert(Original{OID: 5}.as("log", "id*"), "1"))

	const swap = `alter table a rename to x; alter table b rename to a; alter table x rename to b`
	g.exec(swap)
	g.apply(insert(a.as("b", columns), "2", "a"), insert(b.as("a", columns), "2", "b"))
	var schema *SchemaError
	g.refuse(&schema, insert(a.as("a", columns), "3", "a"))
	if !strings.Contains(schema.Error(), "the target's table is another one") {
		t.Errorf("got %v", schema)
	}
	g.exec(swap)
	g.apply(insert(a.as("a", columns), "3", "a"), insert(b.as("b", columns), "3", "b"))
	g.want(`select (select string_agg(id || v, ',' order by id) from a), (select string_agg(id || v, ',' order by id) from b)`, "1a,2a,3a|1b,2b,3b")

	// A column that is added at the end, and one that is dropped, on both sides.
	g.exec(`alter table a add n text; alter table b drop v`)
	g.apply(insert(a.as("a", "id* v n"), "4", "a", "n"), insert(b.as("b", "id*"), "4"))

	// Without the target's numbers, changes are applied under names that no other table had.
	for name, known := range o {
		known.Target = 0
		o[name] = known
	}
	g.exec(`alter table b rename to renamed`)
	g.apply(insert(b.as("renamed", "id*"), "5"))
	g.refuse(&schema, insert(b.as("a", "id*"), "6"))
}
