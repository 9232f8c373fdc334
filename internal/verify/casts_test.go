package verify

import (
	"fmt"
	"testing"

	"github.com/walferry/walferry/internal/pgtest"
)

// strangeCasts are types whose owner has created casts and operators: one yields the same for
// values that differ, others fail when executed. Schema public comes first in the search_path of
// the database.
const strangeCasts = `
create type public.money_t as (amount numeric, cur text);
create function public.money_text(money_t) returns text language sql immutable as $$ select round($1.amount)::text $$;
create cast (public.money_t as text) with function public.money_text(public.money_t) as assignment;

create function public.trap(anyelement) returns text language plpgsql immutable as $$ begin raise exception 'somebody''s function was run'; end $$;
create type public.mood as enum ('sad', 'glad', 'mad');
create function public.mood_text(mood) returns text language sql immutable as $$ select public.trap(1) $$;
create function public.mood_int(mood) returns int8 language sql immutable as $$ select length(public.trap(1))::int8 $$;
create function public.moods_text(mood[]) returns text language sql immutable as $$ select public.trap(1) $$;
create function public.text_mood(text) returns mood language sql immutable as $$ select public.trap(1)::mood $$;
create cast (public.mood as text) with function public.mood_text(public.mood) as implicit;
create cast (public.mood as int8) with function public.mood_int(public.mood) as implicit;
create cast (public.mood[] as text) with function public.moods_text(public.mood[]) as implicit;
create cast (text as public.mood) with function public.text_mood(text) as implicit;
create type public.span as range (subtype = int4);
create function public.span_text(span) returns text language sql immutable as $$ select public.trap(1) $$;
create cast (public.span as text) with function public.span_text(public.span) as implicit;
create domain public.humour as public.mood;
create domain public.number as int4;

-- A superuser's: what a number is as text.
create function public.int_text(int4) returns text language sql immutable as $$ select 'a number'::text $$;
create cast (int4 as text) with function public.int_text(int4) as implicit;

create function public.compared(int4, int4) returns bool language plpgsql immutable as $$ begin raise exception 'somebody''s operator was run'; end $$;
create function public.compared(mood, mood) returns bool language plpgsql immutable as $$ begin raise exception 'somebody''s operator was run'; end $$;
create operator public.= (leftarg = int4, rightarg = int4, procedure = public.compared);
create operator public.>= (leftarg = int4, rightarg = int4, procedure = public.compared);
create operator public.< (leftarg = int4, rightarg = int4, procedure = public.compared);
create operator public.= (leftarg = public.mood, rightarg = public.mood, procedure = public.compared);
create function public.md5(bytea) returns text language sql immutable as $$ select 'somebody''s'::text $$;
do $$ begin execute format('alter database %I set search_path = public, pg_catalog', current_database()); end $$;
`

// A value is what its type's own function writes, whatever casts, operators and functions users
// have created: these neither decide what is equal nor run.
func TestRun_CastsOfOthers(t *testing.T) {
	for _, majors := range [][2]int{{10, 15}, {15, 18}} {
		t.Run(fmt.Sprintf("%d-%d", majors[0], majors[1]), func(t *testing.T) {
			source, target := pgtest.Pair(t, majors[0], majors[1])
			both(t, source, target, strangeCasts)
			const columns = `(id int primary key, m money_t, ms money_t[], e mood, ea mood[], r span, h humour, n %s, d number)`
			pgtest.Exec(t, source, `set search_path = pg_catalog, public; create table public.t `+fmt.Sprintf(columns, "int4"))
			pgtest.Exec(t, target, `set search_path = pg_catalog, public; create table public.t `+fmt.Sprintf(columns, "int8"))
			both(t, source, target, `set search_path = pg_catalog, public;
create table public.by_mood (e mood, h humour, d number, primary key (e, h));
create table public.by_number (d number primary key, r span);
create table public.by_span (r span primary key, v int4);
create table public.nulls (m money_t, id int primary key);
insert into public.t select i, '(1.4,USD)', '{"(1.4,USD)"}', 'sad', '{sad}', '[1,5)', 'sad', i, i from generate_series(1, 9) i;
insert into public.by_mood values ('sad', 'mad', 1), ('glad', 'sad', 2);
insert into public.by_number select i, int4range(i, i + 3)::text::span from generate_series(1, 500) i;
insert into public.by_span select int4range(i, i + 3)::text::span, i from generate_series(1, 500) i;
insert into public.nulls values (null, 1), ('(,)', 2);
analyze`)
			for _, perRange := range []int{0, 10} {
				expect(t, compare(t, source, target, func(c *Config) { c.RowsPerRange = perRange }), `
public.by_mood key 2 equal
public.by_number key 500 equal
public.by_span key 500 equal
public.nulls key 2 equal
public.t key 9 equal
`)
			}
			pgtest.Exec(t, target, `set search_path = pg_catalog, public;
update public.t set m = '(1,EUR)' where id = 1;
update public.t set ms = '{"(1,EUR)"}' where id = 2;
update public.t set e = 'glad', ea = '{glad}' where id = 3;
update public.t set r = '[1,6)' where id = 4;
update public.t set h = 'glad' where id = 5;
update public.t set n = 99 where id = 6;
update public.t set d = 99 where id = 7;
delete from public.by_mood where d = 2;
update public.by_number set r = '[0,1)' where d = 7;
update public.by_span set v = 0 where v = 9;
update public.nulls set m = case when id = 1 then '(,)'::money_t end`)
			for _, perRange := range []int{0, 10} {
				expect(t, compare(t, source, target, func(c *Config) { c.RowsPerRange = perRange }), `
public.by_mood key 2/1
  missing 1: e=glad, h=sad
public.by_number key 500/500
  different 1: d=7 (r)
public.by_span key 500/500
  different 1: r='[9,12)' (v)
public.nulls key 2/2
  different 2: id=1 (m); id=2 (m)
public.t key 9/9
  different 7: id=1 (m); id=2 (ms); id=3 (e, ea); id=4 (r); id=5 (h); id=6 (n); id=7 (d)
`)
			}
		})
	}
}
