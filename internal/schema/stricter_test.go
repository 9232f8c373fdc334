package schema

import (
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
)

// What the target refuses and the source may take is told, with what takes it away; what both have, under
// whatever name, is not.
func TestStricter(t *testing.T) {
	source, target := pgtest.Pair(t, 13, 18)
	pgtest.Exec(t, source, `
create table same (id int primary key, a int not null, b text unique, c int, r int4range, constraint s unique (a) deferrable, exclude using gist (r with &&));
create unique index on same (lower(b)) where c > 0; create unique index on same (c) include (b);
create table later (id int primary key deferrable initially deferred, u int unique deferrable);
create table loose (id int not null, v text, r int4range, exclude using gist (r with =)); create index on loose (v);`)
	pgtest.Exec(t, target, `
create table same (id int, a int not null, b text, c int, r int4range, constraint other_name unique (a) deferrable, exclude using gist (r with &&));
create unique index x1 on same (id); create unique index x2 on same (b); create unique index x3 on same (lower(b)) where c > 0; create unique index x4 on same (c);
create table later (id int primary key, u int, constraint at_once unique (u));
create table loose (id int not null, v text, r int4range, constraint overlapping exclude using gist (r with &&));
create unique index by_id on loose (id); create unique index "By V" on loose (v) nulls not distinct; create table own (id int primary key);`)
	from, to := open(t, source), open(t, target)
	tables, err := catalog.Tables(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	found, err := Stricter(t.Context(), from, to, tables)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range found {
		what, _, _ := strings.Cut(d.Problem, ",")
		what, _, _ = strings.Cut(what, ":")
		got = append(got, d.Table+" "+what+"; "+d.SQL)
		pgtest.Exec(t, target, d.SQL)
	}
	want := []string{
		`"public"."later" the constraint of "public"."at_once" is checked with each row on the target; alter table "public"."later" drop constraint "at_once"`,
		`"public"."later" the constraint of "public"."later_pkey" is checked with each row on the target; alter table "public"."later" drop constraint "later_pkey"`,
		`"public"."loose" the unique index "public"."By V" is on the target only; drop index "public"."By V"`,
		`"public"."loose" the unique index "public"."by_id" is on the target only; drop index "public"."by_id"`,
		`"public"."loose" the constraint of "public"."overlapping" is on the target only; alter table "public"."loose" drop constraint "overlapping"`,
	}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if found, err := Stricter(t.Context(), from, to, tables); err != nil || len(found) > 0 {
		t.Errorf("after that: %v, %v", found, err)
	}
}

// A key that the target compares more loosely than the source is a difference: two rows of the
// source may be one there.
func TestCompare_LooseKey(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	const ci = `create collation ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false);`
	pgtest.Exec(t, source, ci+`create table t (k text primary key, v text); create table same (k text collate ci primary key); create table other (k text collate ci primary key)`)
	pgtest.Exec(t, target, ci+`create table t (k text collate ci primary key, v text collate ci); create table same (k text collate ci primary key); create table other (k text primary key)`)
	from, to := open(t, source), open(t, target)
	tables, err := catalog.Tables(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	found, err := Compare(t.Context(), from, to, tables)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].Table != `"public"."t"` || found[0].Column != "k" || !strings.Contains(found[0].Problem, "collation") {
		t.Errorf("got %v, want the key of t", found)
	}
}
