package verify

import (
	"testing"

	"github.com/walferry/walferry/internal/pgtest"
)

// A table that a side no longer has is a difference, and so is another one with its name: one that
// was created again, or has swapped names with another, with the same rows or without. If nothing
// was compared, the result is not "equal".
func TestRun_Gone(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	both(t, source, target, `
create table public.kept (id int primary key);
create table public.dropped (id int primary key); insert into dropped values (1);
create table public.renamed (id int primary key);
create table public.again (id int primary key); insert into again values (1);
create table public.left (id int primary key);
create table public.right (id int primary key);
create table public.lost (id int primary key)`)
	list := tables(t, source)
	pgtest.Exec(t, source, `
drop table dropped; alter table renamed rename to other;
drop table again; create table again (id int primary key); insert into again values (1);
alter table "left" rename to middle; alter table "right" rename to "left"; alter table middle rename to "right"`)
	pgtest.Exec(t, target, `drop table lost`)
	report, err := Run(t.Context(), Config{Source: source, Target: target, Tables: list})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, report, `
public.again key 0/0
  gone: the source has another table of this name
public.dropped key 0/0
  gone: the source has no such table any more
public.kept key 0 equal
public.left key 0/0
  gone: the source has another table of this name; the migrated one is now called public."right"
public.lost multiset 0/0
  gone: the target has no such table
public.renamed key 0/0
  gone: the source has no such table any more; the migrated one is now called public.other
public.right key 0/0
  gone: the source has another table of this name; the migrated one is now called public."left"
`)
	if !report.Differs() || report.Compared != 7 || report.NotCompared != 0 {
		t.Errorf("got %+v", report)
	}
	report, err = Run(t.Context(), Config{Source: source, Target: target})
	if err != nil || report.Equal != nil || report.Compared != 0 {
		t.Errorf("of no table: got %+v, %v", report, err)
	}
}
