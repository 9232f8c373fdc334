package schema

import (
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
)

// Whatever is taken away from the target is named.
func TestLost_OneOfEach(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	loadOdd(t, source, target, 15)
	restore(t, dump(t, source, Options{}), target)
	from, to := open(t, source), open(t, target)
	tx, err := to.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	const s = `"Odd ""Schema"""`
	damage := []struct{ sql, want string }{
		{`drop index S.gin`, `index "Odd ""Schema""".gin is missing`},
		{`update pg_index set indisvalid = false where indexrelid = 'S.brin'::regclass`, `index "Odd ""Schema""".brin is missing`},
		{`alter table S.refers drop constraint "fk one"`, `constraint "Odd ""Schema""".refers."fk one" is missing`},
		{`alter table S.exclusive drop constraint no_overlap`, `constraint "Odd ""Schema""".exclusive.no_overlap is missing`},
		{`update pg_constraint set convalidated = false where conname = 'fk_deferred'`, `refers.fk_deferred is "foreign key, deferrable" on the source and "foreign key, not valid, deferrable"`},
		{`alter domain S.code drop constraint short`, `constraint "Odd ""Schema""".code.short is missing`},
		{`alter table S.refers enable trigger off`, `trigger "Odd ""Schema""".refers.off is "D" on the source and "O"`},
		{`drop trigger plain on S.refers`, `trigger "Odd ""Schema""".refers.plain is missing`},
		{`drop trigger "b c" on S.a`, `trigger "Odd ""Schema""".a."b c" is missing`},
		{`alter table S."parted 1" enable trigger on_parted_off`, `trigger of partition "Odd ""Schema"""."parted 1".on_parted_off is missing`},
		{`drop policy everybody on S.refers`, `policy "Odd ""Schema""".refers.everybody is missing`},
		{`alter table S.refers disable row level security`, `row security "Odd ""Schema""".refers is missing`},
		{`drop rule "no delete" on S.refers`, `rule "Odd ""Schema""".refers."no delete" is missing`},
		{`alter table S."select" alter column how drop default`, `column default definition "Odd ""Schema"""."select".how is missing`},
		{`alter table S.refers alter column id drop identity`, `column "Odd ""Schema""".refers.id is "integer, not null, identity a"`},
		{`alter table S.made alter column twice drop expression`, `column "Odd ""Schema""".made.twice is`},
		{`alter sequence S.lonely cache 1`, `sequence settings "Odd ""Schema""".lonely is`},
		{`alter sequence S.select_id_seq owned by none`, `sequence of column "Odd ""Schema""".select_id_seq is missing`},
		{`drop view S.invoker`, `view "Odd ""Schema""".invoker is missing`},
		{`drop materialized view S."empty mat"`, `materialized view "Odd ""Schema"""."empty mat" is missing`},
		{`refresh materialized view S.mat_on_mat with no data`, `rows of materialized view "Odd ""Schema""".mat_on_mat is missing`},
		{`drop operator S.=== (int, int)`, `operator "Odd ""Schema""".===(integer,integer) is missing`},
		{`drop function S.same cascade`, `function "Odd ""Schema""".same(integer,integer) is missing`},
		{`alter function S.body security invoker`, `function "Odd ""Schema""".body(integer,text) is`},
		{`alter type S.mood add value 'more'`, `enum "Odd ""Schema""".mood is`},
		{`alter domain S.positive drop not null`, `domain "Odd ""Schema""".positive is`},
		{`comment on table S."select" is null`, `comment table "Odd ""Schema"""."select" is missing`},
		{`revoke insert on S."select" from odd_reader`, `privileges table "Odd ""Schema"""."select" of odd_reader is`},
		{`revoke update (big) on S."select" from odd_reader`, `privileges column "Odd ""Schema"""."select".big of odd_reader is missing`},
		{`grant execute on function S.body to public`, `privileges function "Odd ""Schema""".body(integer,text) of public is ""`},
		{`alter default privileges in schema S revoke select on tables from odd_reader`, `default privileges of postgres in schema "Odd ""Schema""" for r to odd_reader is missing`},
		{`alter table S."select" owner to postgres`, `owner table "Odd ""Schema"""."select" is "odd_owner" on the source and "postgres"`},
		{`alter table S."select" reset (fillfactor)`, `options "Odd ""Schema"""."select" is`},
		{`alter table S."select" replica identity default`, `replica identity "Odd ""Schema"""."select" is "i ident"`},
		{`alter table S."select" set without cluster`, `clustered on "Odd ""Schema""".ident is missing`},
		{`alter table S."select" alter big set storage extended`, `column storage "Odd ""Schema"""."select".big is missing`},
		{`alter table S."select" alter big set statistics -1`, `column statistics "Odd ""Schema"""."select".big is missing`},
		{`alter index S."in dex" alter column 1 set statistics -1`, `index column statistics "Odd ""Schema"""."in dex".1 is missing`},
		{`drop statistics S.together`, `statistics definition "Odd ""Schema""".together is missing`},
		{`alter statistics S.mcv set statistics -1`, `statistics target "Odd ""Schema""".mcv is missing`},
		{`alter event trigger odd_off enable`, `event trigger odd_off is`},
		{`drop extension btree_gist cascade`, `extension btree_gist is missing`},
		{`drop collation S.cees`, `collation "Odd ""Schema""".cees is missing`},
		{`alter table S.heir no inherit S."select"`, `parents "Odd ""Schema""".heir is missing`},
		{`alter table S.parted detach partition S.parted_rest`, `partition bound definition "Odd ""Schema""".parted_rest is missing`},
		{`drop table S.newer cascade`, `table "Odd ""Schema""".newer is missing`},
	}
	for _, c := range damage {
		sql := strings.ReplaceAll(strings.ReplaceAll(c.sql, "S.", s+"."), "schema S ", "schema "+s+" ")
		if err := execute(t.Context(), to, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	losses, err := Lost(t.Context(), from, to, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, l := range losses {
		lines = append(lines, l.String())
	}
	text := strings.Join(lines, "\n")
	for _, c := range damage {
		if !strings.Contains(text, c.want) {
			t.Errorf("after %s: %s is not said in\n%s", c.sql, c.want, text)
		}
	}
	if strings.Contains(text, ".newer.") || strings.Contains(text, "owner function") {
		t.Errorf("the parts of a missing table are listed:\n%s", text)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := execute(t.Context(), to, `drop index "Odd ""Schema""".gin`); err != nil {
		t.Fatal(err)
	}
	losses, err = LostIndexes(t.Context(), from, to, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(losses), `[index "Odd ""Schema""".gin is missing on the target]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	losses, err = LostIndexes(t.Context(), from, to, Options{Exclude: []catalog.Name{{Schema: `Odd "Schema"`, Name: "select"}}})
	if err != nil || len(losses) > 0 {
		t.Errorf("got %v, %v for an excluded table, want nothing", losses, err)
	}
}

// A server's own text of an expression is not the one it was given.
func TestNormalize(t *testing.T) {
	for _, pair := range [][2]string{
		{
			`CHECK (((status)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])))`,
			`CHECK (((status)::text = ANY (ARRAY[('a'::character varying)::text, ('b'::character varying(10))::text])))`,
		},
		{`DEFAULT '2020-01-01 00:00:00'::timestamp(3) without time zone`, `DEFAULT ('2020-01-01 00:00:00')`},
		{`a::"odd ""type"""."x y" COLLATE "C"`, `a COLLATE "C"`},
		{`EXECUTE PROCEDURE f('x :: (y)')`, `EXECUTE FUNCTION f('x :: (y)')`},
	} {
		if got, want := normalize(pair[0]), normalize(pair[1]); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if normalize("a > 'x y'") == normalize("a > 'xy'") {
		t.Error("texts within quotes are not the same")
	}
}

// A schema that the user has brought may be wider, but not narrower.
func TestCompare_OwnSchema(t *testing.T) {
	source, target := pgtest.Pair(t, 13, 18)
	pgtest.Exec(t, source, `
create extension citext;
create type mood as enum ('sad', 'ok');
create domain code as varchar(10);
create table same (id int primary key, a varchar(10), b numeric(6,2), c code, d int, m mood, g int generated always as (1) stored);
create table absent (id int);
create table narrow (id int primary key, a varchar(20), b bigint, c citext, d int, g int, n numeric(6,2), missing text);`)
	pgtest.Exec(t, target, `
create type mood as enum ('ok');
create table same (more text, d bigint, id int primary key, a text, b numeric(8,2), c varchar(12), m mood, g int generated always as (2) stored, x int not null default 1);
create table narrow (id int, a varchar(10), b int, c text, d int not null, g int generated always as (3) stored, n numeric(6,1), y int not null);`)
	from, to := open(t, source), open(t, target)
	tables, err := catalog.Tables(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	differences, err := Compare(t.Context(), from, to, tables)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range differences {
		got = append(got, d.String())
	}
	want := []string{
		`"public"."absent": the target has no such table`,
		`"public"."narrow": column "a": is character varying(20) on the source and character varying(10) on the target`,
		`"public"."narrow": column "b": is bigint on the source and integer on the target`,
		`"public"."narrow": column "c": is public.citext on the source and text on the target`,
		`"public"."narrow": column "d": is not null on the target only`,
		`"public"."narrow": column "g": is generated on the target and not on the source`,
		`"public"."narrow": column "n": is numeric(6,2) on the source and numeric(6,1) on the target`,
		`"public"."narrow": column "missing": is missing on the target`,
		`"public"."narrow": column "y": is on the target only, is not null and has no default`,
		`"public"."narrow": the target has no key of the columns id, which identify a row on the source`,
		`enum public.mood has no label 'sad' on the target`,
		`the target has no extension "citext"`,
	}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, d := range differences {
		if d.Table == "" && strings.HasPrefix(d.SQL, "create extension") || d.SQL == "" || strings.Contains(d.SQL, "drop expression") {
			continue
		}
		if strings.Contains(d.SQL, "citext") {
			continue // wants the extension first
		}
		pgtest.Exec(t, target, d.SQL)
	}
}
