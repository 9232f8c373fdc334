package schema

import (
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/pgtest"
)

// A run that finds the keys of one that was killed before the target was open validates them all, also those of
// partitioned tables. One that was NOT VALID on the source is left so.
func TestLateForeignKeys_Again(t *testing.T) {
	for _, major := range []int{15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			source, target := pgtest.Pair(t, 15, major)
			pgtest.Exec(t, source, `
create table a (id int primary key);
create table b (id int primary key, x int constraint bx references a, y int);
alter table b add constraint b_y foreign key (y) references a not valid;
create table p (k int, x int constraint px references a) partition by list (k);
create table p_1 partition of p for values in (1);
create table p_2 partition of p for values in (2) partition by list (k);
create table p_2_2 partition of p_2 for values in (2);
create table q (k int, x int constraint qx references a) partition by list (k);`)
			d := dump(t, source, Options{})
			want := "[[b b_y f] [b bx t] [p px t] [p_1 px t] [p_2 px t] [p_2_2 px t] [q qx t]]"
			if major >= 18 {
				for _, e := range d.entries { // what pg_dump writes of a source of version 18
					if e.kind == "FK CONSTRAINT" && e.tag == "q qx" {
						e.sql = strings.Replace(e.sql, ";", " NOT VALID;", 1)
						want = strings.Replace(want, "qx t", "qx f", 1)
					}
				}
			}
			conn := open(t, target)
			if _, err := preData(t, d, conn); err != nil {
				t.Fatal(err)
			}
			pgtest.Exec(t, target, `insert into a values (1); insert into b values (1, 1, 2); insert into p values (1, 1), (2, 1)`)
			late := func() *LateKeys {
				t.Helper()
				keys, err := d.LateForeignKeys(t.Context(), conn)
				if err != nil {
					t.Fatal(err)
				}
				return keys
			}
			first := late()
			if err := first.Create(t.Context(), conn); err != nil {
				t.Fatal(err)
			}
			second := late()
			if got, want := fmt.Sprint(second.Later), fmt.Sprint(first.Later); len(second.Add) > 0 || got != want {
				t.Errorf("when they are there: to be created %q, to be validated\n%s\nwant none and\n%s", second.Add, got, want)
			}
			err := Validate(t.Context(), target, second.Later, 2, func(v Validation, err error) {
				if err != nil {
					t.Errorf("%s: %v", v.SQL, err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(pgtest.Query(t, target, `select conrelid::regclass, conname, convalidated from pg_constraint where contype = 'f' order by conrelid::regclass::text, 2`)); got != want {
				t.Errorf("foreign keys of the target\n%s\nwant\n%s", got, want)
			}
			if third := late(); len(third.Add)+len(third.Later) > 0 {
				t.Errorf("when they are validated: to be created %q, to be validated %v", third.Add, third.Later)
			}
		})
	}
}

// So does a role that creates foreign keys before the data is followed.
func TestForeignKeys_LeftUnvalidated(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `
create table a (id int primary key);
create table p (k int, x int constraint px references a) partition by list (k);
create table p_1 partition of p for values in (1);`)
	d := dump(t, source, Options{})
	conn := open(t, target)
	if _, err := preData(t, d, conn); err != nil {
		t.Fatal(err)
	}
	late, err := d.LateForeignKeys(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := late.Create(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if err := d.ForeignKeys(t.Context(), target, 2); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(pgtest.Query(t, target, `select conrelid::regclass, convalidated from pg_constraint where contype = 'f' order by 1`))
	if want := "[[p t] [p_1 t]]"; got != want {
		t.Errorf("foreign keys of the target: %s, want %s", got, want)
	}
}
