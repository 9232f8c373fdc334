package verify

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
	pinned "github.com/walferry/walferry/internal/session"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// tables lists the tables of a database.
func tables(t *testing.T, dsn string) []catalog.Table {
	t.Helper()
	conn, err := pinned.Open(t.Context(), pinned.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	found, err := catalog.Tables(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// compare compares all tables of the source.
func compare(t *testing.T, source, target string, change ...func(*Config)) Report {
	t.Helper()
	c := Config{Source: source, Target: target, Tables: tables(t, source), Jobs: 2}
	for _, f := range change {
		f(&c)
	}
	report, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// both runs SQL on both sides.
func both(t *testing.T, source, target, sql string) {
	t.Helper()
	pgtest.Exec(t, source, sql)
	pgtest.Exec(t, target, sql)
}

// transcript returns a short form of a report.
func transcript(r Report) string {
	var b strings.Builder
	for _, t := range r.Tables {
		if t.Equal {
			fmt.Fprintf(&b, "%s.%s %s %d equal\n", t.Schema, t.Name, t.Method, t.SourceRows)
			continue
		}
		fmt.Fprintf(&b, "%s.%s %s %d/%d\n", t.Schema, t.Name, t.Method, t.SourceRows, t.TargetRows)
		if t.Gone != "" {
			fmt.Fprintf(&b, "  gone: %s\n", t.Gone)
		}
		if t.Error != "" {
			fmt.Fprintf(&b, "  error %s\n", t.Error)
		}
		if len(t.MissingColumns) > 0 {
			fmt.Fprintf(&b, "  missing columns %s\n", strings.Join(t.MissingColumns, ", "))
		}
		for _, kind := range []struct {
			name  string
			count int64
			keys  []Key
		}{{"missing", t.MissingRows, t.Missing}, {"extra", t.ExtraRows, t.Extra}, {"different", t.DifferentRows, t.Different}} {
			if kind.count == 0 {
				continue
			}
			var keys []string
			for _, k := range kind.keys {
				keys = append(keys, k.String())
			}
			slices.Sort(keys)
			fmt.Fprintf(&b, "  %s %d: %s\n", kind.name, kind.count, strings.Join(keys, "; "))
		}
		if t.More > 0 {
			fmt.Fprintf(&b, "  more %d\n", t.More)
		}
		if t.GeneratedRows > 0 {
			fmt.Fprintf(&b, "  generated columns alone %d\n", t.GeneratedRows)
		}
	}
	return place.ReplaceAllString(b.String(), "ctid=(,)")
}

// place matches the ctid of a row, which may differ between runs.
var place = regexp.MustCompile(`ctid=\([0-9]+,[0-9]+\)`)

func expect(t *testing.T, r Report, want string) {
	t.Helper()
	want = strings.TrimPrefix(want, "\n")
	if got := transcript(r); got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
	if got, want := r.AllEqual(), !strings.Contains(want, "/"); got != want {
		t.Errorf("report equal: got %t, want %t", got, want)
	}
}

// Every kind of difference is found and named, on tables whose keys sort the same everywhere, are
// text, or do not exist.
func TestRun_Differences(t *testing.T) {
	for _, majors := range [][2]int{{13, 17}, {15, 18}, {10, 18}} {
		t.Run(fmt.Sprintf("%d-%d", majors[0], majors[1]), func(t *testing.T) {
			source, target := pgtest.Pair(t, majors[0], majors[1])
			both(t, source, target, `
create table numbered (id int primary key, a text, b numeric, c float8, d char(5), e timestamptz);
insert into numbered select i, 'a' || i, i, i, 'x', 'epoch' from generate_series(1, 1000) i;
create table lettered (code text, part int, note text, primary key (code, part));
insert into lettered select 'k ' || i, j, 'n' from generate_series(1, 300) i, generate_series(1, 3) j;
create table log (at int, message text);
insert into log select i % 50, 'm' from generate_series(1, 1000) i;
create table "full" (id int primary key, v text);
alter table "full" replica identity full;
insert into "full" values (1, 'x'), (2, 'y');
create table indexed (id int not null, v text);
create unique index by_id on indexed (id);
alter table indexed replica identity using index by_id;
insert into indexed values (1, 'x'), (2, 'y');
create table "Odd ""name""; --" ("A key" text primary key, "h" int, "d" int, "place" int, "select" text);
insert into "Odd ""name""; --" select 'it''s ' || i, i, i, i, '' from generate_series(1, 9) i;
create table moved (id int, region text) partition by list (region);
create table moved_a partition of moved for values in ('a');
create table moved_b partition of moved for values in ('b');
alter table moved_a add primary key (id, region);
alter table moved_b add primary key (id, region);
insert into moved values (1, 'a'), (2, 'a'), (3, 'b');
create table nothing (id int primary key);
create table no_columns ();
insert into no_columns default values;
insert into no_columns default values;`)
			expect(t, compare(t, source, target), `
public.Odd "name"; -- key 9 equal
public.full key 2 equal
public.indexed key 2 equal
public.lettered key 900 equal
public.log multiset 1000 equal
public.moved_a key 2 equal
public.moved_b key 1 equal
public.no_columns multiset 2 equal
public.nothing key 0 equal
public.numbered key 1000 equal
`)
			pgtest.Exec(t, target, `
delete from numbered where id = 7;
insert into numbered (id) values (-5);
update numbered set a = '' where id = 10;
update numbered set b = 11.0 where id = 11;
update numbered set a = 'changed', c = '-0' where id = 12;
update numbered set a = 'a13 ' where id = 13;
update numbered set e = null where id = 14;
update lettered set note = null where code = 'k 5' and part = 2;
delete from lettered where code = 'k 6';
insert into lettered values ('K 5', 2, 'n');
delete from log where ctid in (select ctid from log where at = 3 limit 1);
insert into log values (null, 'new'), (null, 'new');
update "full" set v = 'z' where id = 2;
update indexed set id = 3 where id = 2;
update "Odd ""name""; --" set h = 0, "select" = null where "A key" = 'it''s 3';
delete from moved where id = 2;
insert into moved values (2, 'b');
insert into nothing values (1);
insert into no_columns default values;`)
			pgtest.Exec(t, source, `update numbered set a = null where id = 10; update numbered set c = 0 where id = 12`)
			want := `
public.Odd "name"; -- key 9/9
  different 1: "A key"='it''s 3' (h, select)
public.full key 2/2
  different 1: id=2 (v)
public.indexed key 2/2
  missing 1: id=2
  extra 1: id=3
public.lettered key 900/898
  missing 3: code='k 6', part=1; code='k 6', part=2; code='k 6', part=3
  extra 1: code='K 5', part=2
  different 1: code='k 5', part=2 (note)
public.log multiset 1000/1001
  missing 1: ctid=(,)
  extra 2: ctid=(,); ctid=(,)
public.moved_a key 2/1
  missing 1: id=2, region=a
public.moved_b key 1/2
  extra 1: id=2, region=b
public.no_columns multiset 2/3
  extra 1: ctid=(,)
public.nothing key 0/1
  extra 1: id=1
public.numbered key 1000/1000
  missing 1: id=7
  extra 1: id=-5
  different 5: id=10 (a); id=11 (b); id=12 (a, c); id=13 (a); id=14 (e)
`
			expect(t, compare(t, source, target), want)
			// The same with many ranges.
			pgtest.Exec(t, source, `analyze`)
			expect(t, compare(t, source, target, func(c *Config) { c.RowsPerRange = 10 }), want)
		})
	}
}
