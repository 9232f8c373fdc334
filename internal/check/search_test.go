package check

import (
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/pgtest"
)

// Version 19 has other stemmers: whoever has lexemes of the old ones, or an index of them, is told before.
func TestRun_Stemmers(t *testing.T) {
	target := pgtest.Shared(t, 19).Database(t)
	for _, major := range []int{11, 15, 19} {
		source := pgtest.Shared(t, major).Database(t)
		exec(t, source,
			`create table page (id int primary key, body text, fts tsvector, "Words" tsvector, plain tsquery)`,
			`create index on page using gin (fts)`, `create index body_idx on page using gin (to_tsvector('dutch', body))`, `create index simple_idx on page using gin (to_tsvector('simple', body))`,
			`create table part (id int, fts tsvector) partition by range (id)`, `create table part1 partition of part for values from (0) to (9)`,
			`create table left_out (id int primary key, fts tsvector)`, `create table none (id int primary key, body text)`)
		if major >= 12 {
			exec(t, source, `create function own(text) returns tsvector language sql immutable as 'select to_tsvector(''dutch'', $1)'`,
				`create table made (id int primary key, body text, fts tsvector generated always as (to_tsvector('dutch', body)) stored, named tsvector generated always as (to_tsvector('simple', body)) stored, own tsvector generated always as (own(body)) stored)`)
		}
		report := check(t, Config{SourceDSN: source, TargetDSN: target, Exclude: []string{"left_out"}, Jobs: 1})
		got := map[string]string{}
		for _, f := range append(find(report, "stemmers-stored", "source"), find(report, "stemmers-computed", "source")...) {
			if f.Severity != Warn || !strings.Contains(f.Do, "dutch_porter") || !strings.Contains(f.Do, "after the cutover") {
				t.Errorf("%d: got %+v", major, f)
			}
			what, _, _ := strings.Cut(f.Seen, " holds")
			what, _, _ = strings.Cut(what, ": computed")
			got[f.ID+" "+f.Object] = what
		}
		want := map[string]string{}
		if major < 19 {
			want[`stemmers-stored "public"."page"`] = `column "fts", "Words"`
			want[`stemmers-stored "public"."part"`] = `column "fts"`
			want[`stemmers-computed "public"."page"`] = `index "body_idx"`
			if major >= 12 {
				want[`stemmers-computed "public"."made"`] = `generated column "fts", generated column "own"`
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%d: got %v\nwant %v", major, got, want)
		}
	}
}
