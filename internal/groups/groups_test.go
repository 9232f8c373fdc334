package groups

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/state"
)

// relations are tables of schema public by their names, as a stream has them.
type relations map[string]*decoder.Relation

func (r relations) of(name string) *decoder.Relation {
	if r[name] == nil {
		schema, table := "public", name
		if own, ok := strings.CutPrefix(name, "walferry."); ok {
			schema, table = "walferry", own
		}
		r[name] = &decoder.Relation{OID: uint32(len(r) + 1), Namespace: schema, Name: table}
	}
	return r[name]
}

// tx is a transaction, or the first piece of one, that changes a row of each table; truncate is one of them that empties two.
func (r relations) tx(xid uint32, last bool, tables ...string) *decoder.Tx {
	tx := &decoder.Tx{XID: xid, CommitLSN: decoder.LSN(xid), CommitTime: time.Unix(int64(xid), 0), First: true, Last: last}
	for _, name := range tables {
		if a, b, ok := strings.Cut(name, "+"); ok {
			tx.Changes = append(tx.Changes, decoder.Change{Op: decoder.Truncate, Truncated: []*decoder.Relation{r.of(a), r.of(b)}})
			continue
		}
		tx.Changes = append(tx.Changes, decoder.Change{Op: decoder.Insert, Relation: r.of(name)})
	}
	return tx
}

func transcript(e Evidence) string {
	var lines []string
	for _, t := range e.Together {
		lines = append(lines, fmt.Sprintf("%s %s %d last %d", t.Tables[0].Name, t.Tables[1].Name, t.Count, t.XID))
	}
	return strings.Join(lines, "; ")
}

// What one transaction has written together counts for each pair, with the last one as the example.
func TestSeen(t *testing.T) {
	t.Parallel()
	r := relations{}
	seen := newSeen(nil, Evidence{})
	s := seen.Stream()
	for _, tx := range []*decoder.Tx{
		r.tx(1, true, "orders", "orders", "stock", "orders"),
		r.tx(2, true, "walferry.progress", "orders"),
		r.tx(3, true, "stock", "orders"),
		r.tx(4, true, "a+b"),
		r.tx(5, true, "walferry.progress"),
		{XID: 0, First: true, Last: true},
		r.tx(6, true, "a", "b", "c"),
	} {
		s.Saw(tx)
	}
	// The pieces of a transaction are one; what an interrupted one has shown does not count until it has come again.
	for _, tx := range []*decoder.Tx{r.tx(7, false, "x", "lost"), r.tx(8, false, "x", "x"), r.tx(8, false, "y"), r.tx(8, true, "x")} {
		if len(tx.Changes) == 1 {
			tx.First = false
		}
		s.Saw(tx)
	}
	e := seen.Evidence()
	if got, want := transcript(e), "a b 2 last 6; a c 1 last 6; b c 1 last 6; orders stock 2 last 3; x y 1 last 8"; got != want {
		t.Errorf("written together:\n%s, want\n%s", got, want)
	}
	if e.Transactions != 6 || !e.Since.Equal(time.Unix(1, 0)) {
		t.Errorf("%d transactions since %s, want 6 since the first", e.Transactions, e.Since)
	}
	// another run goes on from there, with other oids
	again := newSeen(nil, e)
	r = relations{"nothing": nil}
	again.Stream().Saw(r.tx(9, true, "orders", "stock"))
	if got, want := transcript(again.Evidence()), "a b 2 last 6; a c 1 last 6; b c 1 last 6; orders stock 3 last 9; x y 1 last 8"; got != want {
		t.Errorf("written together after another run:\n%s, want\n%s", got, want)
	}
}

// A table that is renamed is another one from then on, and one that has the oid of a table before it.
func TestSeen_Renamed(t *testing.T) {
	t.Parallel()
	r := relations{}
	seen := newSeen(nil, Evidence{})
	s := seen.Stream()
	s.Saw(r.tx(1, true, "a", "b"))
	r["a"] = &decoder.Relation{OID: r.of("a").OID, Namespace: "public", Name: "renamed"}
	s.Saw(r.tx(2, true, "a", "b"))
	if got, want := transcript(seen.Evidence()), "a b 1 last 1; renamed b 1 last 2"; got != want {
		t.Errorf("written together: %s, want %s", got, want)
	}
}

// Partitions count as their topmost parent, also those of partitions.
func TestSeen_Partitions(t *testing.T) {
	t.Parallel()
	table := func(name, parent, bound string) state.Table {
		s := state.Table{Name: catalog.Name{Schema: "public", Name: name}}
		if parent != "" {
			s.Place = &state.Place{Parents: []string{catalog.Name{Schema: "public", Name: parent}.String()}, Bound: bound}
		}
		return s
	}
	r := relations{}
	seen := newSeen([]state.Table{
		table("event", "", ""), table("y25", "event", "FOR VALUES IN (25)"), table("m1", "y25", "DEFAULT"), table("m2", "y25", "FOR VALUES IN (2)"),
		table("heir", "event", ""), // by INHERITS
	}, Evidence{})
	s := seen.Stream()
	s.Saw(r.tx(1, true, "m1", "m2"))
	s.Saw(r.tx(2, true, "m1", "log"))
	s.Saw(r.tx(3, true, "log", "m2"))
	s.Saw(r.tx(4, true, "heir", "log"))
	if got, want := transcript(seen.Evidence()), "event log 2 last 3; heir log 1 last 4"; got != want {
		t.Errorf("written together: %s, want %s", got, want)
	}
}

// What is kept is bounded, and joins all the same tables.
func TestSeen_Bounded(t *testing.T) {
	t.Parallel()
	r := relations{}
	seen := newSeen(nil, Evidence{})
	s := seen.Stream()
	names := make([]string, 3000)
	for i := range names {
		names[i] = fmt.Sprint("t", i)
	}
	for i := range names { // each with others that it has nothing to do with otherwise: up to the bound, then only what joins
		s.Saw(r.tx(uint32(i+1), true, names[i], names[(7*i+1)%1000], names[(13*i+5)%1000]))
	}
	s.Saw(r.tx(10000, true, "lonely", "pair"))
	s.Saw(r.tx(10001, true, "t2999", "t17"))
	e := seen.Evidence()
	if len(e.Together) > maxPairs+3000 {
		t.Errorf("%d pairs are kept", len(e.Together))
	}
	f := found{}
	for i := range names {
		f.tables = append(f.tables, catalog.Table{Name: catalog.Name{Schema: "public", Name: names[i]}})
	}
	for _, name := range []string{"lonely", "pair"} {
		f.tables = append(f.tables, catalog.Table{Name: catalog.Name{Schema: "public", Name: name}})
	}
	f.inStream(e)
	all := f.groups(func(catalog.Name) Owner { return Old })
	if len(all) != 2 || len(all[0].Tables) != 3000 || strings.Join(all[1].Tables, " ") != "public.lonely public.pair" {
		t.Errorf("%d groups, want all tables in one, and a pair", len(all))
	}
	// a single transaction with all of them
	seen = newSeen(nil, Evidence{})
	seen.Stream().Saw(r.tx(1, true, names...))
	if e := seen.Evidence(); len(e.Together) != len(names)-1 {
		t.Errorf("a transaction of %d tables has %d pairs, want each with the first", len(names), len(e.Together))
	}
}

// BenchmarkSeen is what looking costs for each change, in transactions of two tables and in one of many.
func BenchmarkSeen(b *testing.B) {
	r := relations{}
	two, one := r.tx(1, true, "a", "b"), r.tx(2, true, "a", "a")
	var tables []string
	for i := range 10000 {
		tables = append(tables, fmt.Sprint("t", i%50))
	}
	many := r.tx(3, true, tables...)
	for _, c := range []struct {
		name string
		tx   *decoder.Tx
	}{{"one", one}, {"two", two}, {"many", many}} {
		b.Run(c.name, func(b *testing.B) {
			s := newSeen(nil, Evidence{}).Stream()
			for b.Loop() {
				s.Saw(c.tx)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(c.tx.Changes)), "ns/change")
		})
	}
}

func TestJoint_String(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 12, 1, 4, 5, 6, 0, time.UTC)
	two := []string{"public.a", "public.b"}
	for want, j := range map[string]Joint{
		"public.a refers to public.b (foreign key a_fk)":                                                             {Kind: ByForeignKey, Tables: two, Name: "a_fk"},
		"public.a inherits from public.b":                                                                            {Kind: ByInheritance, Tables: two},
		"public.a and public.b draw from one sequence, public.s":                                                     {Kind: BySequence, Tables: two, Name: "public.s"},
		"public.a has a trigger that writes to public.b (t)":                                                         {Kind: ByTrigger, Tables: two, Name: "t"},
		"public.a has a rule that refers to public.b (r)":                                                            {Kind: ByRule, Tables: two, Name: "r"},
		"a transaction has written to public.a and public.b: 7, at 0/10":                                             {Kind: ByTransactions, Tables: two, Count: 1, XID: 7, LSN: "0/10"},
		"3 transactions have written to public.a and public.b; the last one was 7, at 0/10, 2026-12-01 04:05:06 UTC": {Kind: ByTransactions, Tables: two, Count: 3, XID: 7, LSN: "0/10", At: &at},
	} {
		if got := j.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// What is written is counted exactly; who has written it as far as it was caught, whether the look or the stream comes first.
func TestStream_Writes(t *testing.T) {
	t.Parallel()
	r := relations{}
	seen := newSeen(nil, Evidence{})
	s := seen.Stream()
	start := time.Unix(1000, 0)
	web, cron := who{"shop", "web"}, who{"jobs", ""}
	s.looked(start, []sample{{web, 0, 2}, {web, 1, 1}, {cron, 0, 1}})
	s.Saw(r.tx(1, true, "orders", "stock")) // was caught by the look before
	s.Saw(r.tx(2, true, "orders"))
	s.Saw(r.tx(3, true, "bill"))
	s.looked(start.Add(30*time.Second), []sample{{cron, 3, 1}, {web, 0, 2}, {web, 4, 1}}) // 3 is caught by a look that comes late
	for xid := uint32(10); xid < 20; xid++ {
		s.looked(start.Add(time.Duration(xid)*3*time.Second), []sample{{web, xid, 1}})
		s.looked(start.Add(time.Duration(xid)*3*time.Second), []sample{{web, xid, 1}}) // once is enough
		s.Saw(r.tx(xid, true, "orders"))
		s.looked(start.Add(time.Duration(xid)*3*time.Second), []sample{{web, xid, 1}})
	}
	now := s.looked(start.Add(60*time.Second), []sample{{cron, 0, 1}})
	text := fmt.Sprintf("%d commits, %.0f a minute, %d caught; %v", now.Commits, now.Rate, now.Caught, now.Tables)
	for _, w := range now.Writers {
		text += fmt.Sprintf("; %s/%s %d %.1f %v %d", w.Role, w.Application, w.Caught, *w.Rate, w.Tables, w.Sessions)
	}
	if want := "13 commits, 13 a minute, 12 caught; [{public.orders 12} {public.bill 1} {public.stock 1}]; " +
		"shop/web 11 11.9 [public.orders public.stock] 0; jobs/ 1 1.1 [public.bill] 1"; text != want {
		t.Errorf("written:\n%s, want\n%s", text, want)
	}
	// what is minutes old is forgotten
	for n := range 7 {
		now = s.looked(start.Add(time.Duration(120+n*60)*time.Second), nil)
	}
	if now.Commits != 0 || len(now.Writers) != 0 || now.Seconds < 290 || now.Seconds > 310 {
		t.Errorf("after minutes: %+v", now)
	}
}
