package verify

import (
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/pgtest"
)

// Version 19 stems Dutch differently: rows where therefore only the generated column differs are
// distinguished from rows where more does, with a key and without one, in one range and in many.
func TestRun_Generated(t *testing.T) {
	source, target := pgtest.Shared(t, 18).Database(t), pgtest.Shared(t, 19).Database(t)
	both(t, source, target, `
create table page (id int primary key, body text, fts tsvector generated always as (to_tsvector('dutch', body)) stored, size int generated always as (length(body)) stored);
create table loose (body text, fts tsvector generated always as (to_tsvector('dutch', body)) stored);
create table mixed (id int primary key, body text, fts tsvector generated always as (to_tsvector('dutch', body)) stored);
create table english (id int primary key, body text, fts tsvector generated always as (to_tsvector('simple', body)) stored);
insert into page select i, case when i % 2 = 0 then 'lichamelijk' else 'huis' end from generate_series(1, 100) i;
insert into loose select body from page;
insert into mixed select id, body from page;
insert into english select id, body from page;
analyze`)
	pgtest.Exec(t, target, `
update mixed set body = 'lichamelijke' where id = 2;
update mixed set body = 'tuinen' where id = 3`)
	want := `
public.english key 100 equal
public.loose multiset 100/100
  different 50: ctid=(,) (fts); ctid=(,) (fts)
  more 48
  generated columns alone 50
public.mixed key 100/100
  different 51: id=2 (body, fts); id=3 (body, fts)
  more 49
  generated columns alone 49
public.page key 100/100
  different 50: id=2 (fts); id=4 (fts)
  more 48
  generated columns alone 50
`
	for _, rows := range []int{0, 10} {
		report := compare(t, source, target, func(c *Config) { c.RowsPerRange, c.MaxRows = rows, 2 })
		expect(t, report, want)
		for _, table := range report.Tables {
			want := table.Name == "page" || table.Name == "loose"
			if got := strings.Contains(table.Hint, "only generated columns differ, \"fts\"") && strings.Contains(table.Hint, "stemmers"); got != want {
				t.Errorf("%s, %d rows each range: the hint is %q, want one: %t", table.Name, rows, table.Hint, want)
			}
		}
	}
	// What the hint says: the old stemmer has another name, and the rows are equal with it.
	pgtest.Exec(t, target, `
create text search dictionary dutch_old (template = snowball, language = dutch_porter, stopwords = dutch);
create text search configuration dutch_old (copy = dutch);
alter text search configuration dutch_old alter mapping replace dutch_stem with dutch_old;
alter table page alter column fts set expression as (to_tsvector('dutch_old', body));
alter table loose alter column fts set expression as (to_tsvector('dutch_old', body))`)
	report := compare(t, source, target)
	for _, table := range report.Tables {
		if table.Equal != (table.Name != "mixed") {
			t.Errorf("%s: equal %t with the old stemmer", table.Name, table.Equal)
		}
	}
}

// A function that depends on the search_path: the values differ whatever the versions are, and an
// UPDATE of the columns they depend on computes them again.
func TestRun_GeneratedByOwnFunction(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 15)
	both(t, source, target, `
create function twice(int) returns int language sql immutable as 'select $1 * 2';
create table t (id int primary key, n int, d int generated always as (twice(n)) stored);
insert into t (id, n) values (1, 1), (2, 2);
create or replace function twice(int) returns int language sql immutable as 'select $1 + $1 + 1'`)
	pgtest.Exec(t, target, `update t set n = n`)
	report := compare(t, source, target)
	expect(t, report, `
public.t key 2/2
  different 2: id=1 (d); id=2 (d)
  generated columns alone 2
`)
	const want = `only generated columns differ, "d": nothing was lost, each server computes them with its own functions from equal values. ` +
		`If the target's values are right, continue with --allow-differences. If not, correct the function there and have them computed again: ` +
		`update "public"."t" set a column that they depend on to itself`
	if got := report.Tables[0].Hint; got != want {
		t.Errorf("the hint is\n%s\nwant\n%s", got, want)
	}
	pgtest.Exec(t, source, `update t set n = n`)
	expect(t, compare(t, source, target), "\npublic.t key 2 equal\n")
}
