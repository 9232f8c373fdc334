package schema

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
)

// Tables become complete one after the other. Each gets its indexes, then its statistics where
// those are wanted; a refused index is told and stops nothing; who abandons it does not wait for
// what has not begun.
func TestBuilder(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `
create table a (id int primary key, x int, unique (x)); create index a_x on a (x, id); create index a_half on a (x) where x > 0;
create table b (id int primary key); create table c (x int); create unique index c_x on c (x);`)
	d := dump(t, source, Options{})
	if _, err := preData(t, d, open(t, target)); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, target, `insert into a select i, i from generate_series(1, 100) i; insert into c values (1), (1)`)
	var mu sync.Mutex
	var told []string
	tell := func(what string) func(catalog.Name, time.Duration) {
		return func(table catalog.Name, took time.Duration) {
			if took <= 0 && what != "refused" {
				t.Errorf("%s %s in %s", what, table.Name, took)
			}
			mu.Lock()
			defer mu.Unlock()
			told = append(told, what+" "+table.Name)
		}
	}
	var indexes [3]int // waiting, building, done
	config := BuilderConfig{
		Indexes: func(waiting, building, done int) {
			mu.Lock()
			defer mu.Unlock()
			indexes = [3]int{indexes[0] + waiting, indexes[1] + building, indexes[2] + done}
		},
		Target: target, Application: "test", Jobs: 2, Beside: true,
		Analyze: func(table catalog.Name) bool { return table.Name == "a" },
		Refused: func(r Refused) { tell("refused")(catalog.Name{Schema: "", Name: r.Object}, 0) },
		Built:   tell("built"), Analyzed: tell("analyzed"),
	}
	b := NewBuilder(t.Context(), d, config)
	for _, table := range []string{"a", "b", "c"} {
		if err := b.Table(catalog.Name{Schema: "public", Name: table}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Wait(false); err != nil {
		t.Fatal(err)
	}
	if want := [3]int{0, 0, 5}; indexes != want {
		t.Errorf("waiting, building, done: %d, want %d", indexes, want)
	}
	if slices.Index(told, "built a") > slices.Index(told, "analyzed a") {
		t.Errorf("statistics were gathered before the indexes were there: %q", told)
	}
	slices.Sort(told)
	if got, want := strings.Join(told, ", "), "analyzed a, built a, built b, built c, refused index:public.c_x"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	if got := pgtest.Query(t, target, `select string_agg(indexrelid::regclass::text, ' ' order by indexrelid collate "C") from (select indexrelid::regclass::text from pg_index where indrelid::regclass::text in ('a', 'b', 'c')) x (indexrelid)`)[0][0]; got != "a_half a_pkey a_x a_x_key b_pkey" {
		t.Errorf("the target has the indexes %s", got)
	}

	abandoned := NewBuilder(t.Context(), d, config)
	if err := abandoned.Wait(true); err != nil {
		t.Errorf("abandoned: %v", err)
	}
	var none *Builder
	if err := none.Table(catalog.Name{Schema: "public", Name: "a"}); err != nil {
		t.Error(err)
	}
	if err := none.Wait(false); err != nil {
		t.Error(err)
	}
}
