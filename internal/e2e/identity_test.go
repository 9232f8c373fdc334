package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// followed has a table of each kind whose identity can change while it is followed.
const followed = `
create schema other;
create table a (id int primary key, v text, w text, n int);
create table b (id int primary key, v text, w text, n int);
create index a_w on a (w); create unique index a_n on a (n) where n > 0; create index a_lower on a (lower(v), w);
insert into a select i, 'v' || i, 'w' || i, i from generate_series(1, 20) i;
insert into b select i, 'b' || i, 'wb' || i, i from generate_series(1, 20) i;
create table ev (id int, ts date) partition by range (ts);
create table ev_1 partition of ev for values from ('2024-01-01') to ('2024-02-01');
create table ev_2 partition of ev for values from ('2024-02-01') to ('2024-03-01');
alter table ev_1 add primary key (id); alter table ev_2 add primary key (id);
insert into ev select i, '2024-01-01'::date + i % 50 from generate_series(1, 100) i;
create table num (id int, v text, f float8) partition by range (id, v);
create table num_1 partition of num for values from (-10, minvalue) to (0, 'it''s');
create table num_2 partition of num for values from (0, 'it''s') to (maxvalue, maxvalue);
alter table num_1 add primary key (id); alter table num_2 add primary key (id);
insert into num values (-5, 'a', 1), (7, 'b', 2);
create table flag (b bool, n numeric) partition by list (b);
create table flag_t partition of flag for values in (true, null) partition by range (n);
create table flag_t_1 partition of flag_t for values from (-1.5) to (12345678901);
alter table flag_t_1 replica identity full; insert into flag values (true, 3);
create table base (id int, v text); create table kid (primary key (id)) inherits (base); create table loose (id int primary key, v text);
alter table base add primary key (id);
insert into base values (1, 'base'); insert into kid values (2, 'kid'); insert into loose values (3, 'loose');
create table staging (id int primary key, ts date); insert into staging values (900, '2024-05-05');
`

// following moves the database of followed until it follows.
func followIdentity(t *testing.T, label string, from, to int) (*moving, *run) {
	t.Helper()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, followed)
	m := newMoving(t, label, source, target)
	m.Exclude = []string{"public.staging"}
	m.Cut.MaxLag, m.Cut.Timeout = patience, patience
	m.Heartbeat = 30 * time.Second // migrate looks after some heartbeats: here others look first
	r := m.start()
	r.waitFor(migration.Following)
	return m, r
}

// refuses asks for a cutover that must refuse before anything is fenced.
func (m *moving) refuses(why, names string) {
	m.t.Helper()
	_, err := migration.Cutover(context.Background(), m.Config, nil)
	gate := fail.Find(err, fail.Gate)
	if gate == nil || !strings.Contains(gate.Problem, names) || gate.Advice == "" {
		m.t.Errorf("cutover after %q: %v; want a gate that names %q, and what to do", why, err, names)
	}
	if n := one[int](m.t, m.Source, `select count(*) from pg_trigger where tgname = 'walferry_fence'`); n != 0 {
		m.t.Errorf("after %q the source has %d triggers of a fence", why, n)
	}
}

// passes asks whether a cutover would go through its gates.
func (m *moving) passes(why string) {
	m.t.Helper()
	c := m.Config
	c.Cut.DryRun, c.Cut.NoFence = true, true
	if _, err := migration.Cutover(context.Background(), c, nil); err != nil {
		m.t.Errorf("rehearsal after %q: %v", why, err)
	}
}

// What the source does to tables and columns without losing a row is refused by the cutover while it differs from the
// target, and passes once it was taken back, or done on the target too.
func TestIdentity_Mended(t *testing.T) {
	t.Parallel()
	const swap = `alter table a rename to x; alter table b rename to a; alter table x rename to b`
	for _, pair := range [][2]int{{15, 18}, {10, 13}} {
		t.Run(fmt.Sprintf("%d-%d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			m, r := followIdentity(t, "mended", pair[0], pair[1])
			m.passes("nothing")
			for _, change := range []struct {
				ddl, names   string
				undo, follow string // either, on the source or on the target
				since        int
			}{
				{ddl: swap, names: `"public"."a" is called "public"."b"`, undo: swap},
				{ddl: `alter table a set schema other`, names: `"public"."a" is called "other"."a"`, undo: `alter table other.a set schema public`},
				{ddl: `alter table a rename to a_old; create table a (like b including all)`, names: `"public"."a" is called "public"."a_old"`, undo: `drop table a; alter table a_old rename to a`},
				{
					ddl: `alter table a rename v to x; alter table a rename w to v; alter table a rename x to w`, names: `column "v" of the source was "w"`,
					undo: `alter table a rename v to x; alter table a rename w to v; alter table a rename x to w`,
				},
				{
					ddl: `alter table b rename v to x; alter table b rename w to v; alter table b rename x to w`, names: `column "v" of the source was "w"`,
					follow: `alter table b rename v to x; alter table b rename w to v; alter table b rename x to w`,
				},
				{
					ddl: `alter table b drop column v; alter table b add column v text default 'new'`, names: `column "v" was dropped on the source and added again`,
					follow: `alter table b drop column v; alter table b add column v text default 'new'`,
				},
				{ddl: `alter table ev detach partition ev_1`, names: `"public"."ev_1" is no part of another table on the source and part of "public"."ev" on the target`, follow: `alter table ev detach partition ev_1`},
				{
					ddl: `alter table ev attach partition ev_1 for values from ('2023-12-01') to ('2024-02-01')`, names: `"public"."ev_1" is part of "public"."ev" on the source`,
					follow: `alter table ev attach partition ev_1 for values from ('2023-12-01') to ('2024-02-01')`,
				},
				{
					ddl:   `alter table ev detach partition ev_2; alter table ev attach partition ev_2 for values from ('2024-02-01') to ('2024-04-01')`,
					names: `"public"."ev_2" has the partition bound`, undo: `alter table ev detach partition ev_2; alter table ev attach partition ev_2 for values from ('2024-02-01') to ('2024-03-01')`,
				},
				{ddl: `alter table ev attach partition staging for values from ('2024-05-01') to ('2024-06-01')`, names: `"public"."staging", which is not migrated, was attached to "public"."ev"`, undo: `alter table ev detach partition staging`},
				{
					ddl:   `create foreign data wrapper far; create server far foreign data wrapper far; create foreign table away (id int, ts date) server far; alter table ev attach partition away for values from ('2025-01-01') to ('2026-01-01')`,
					names: `"public"."away", which is not migrated, was attached`, undo: `drop foreign data wrapper far cascade`,
				},
				{ddl: `alter table loose inherit base; alter table kid no inherit base`, names: `"public"."kid" is no part of another table on the source`, follow: `alter table loose inherit base; alter table kid no inherit base`},
				{ddl: `alter table staging rename ts to v; alter table staging alter v type text; alter table staging inherit base`, names: `"public"."staging", which is not migrated`, undo: `alter table staging no inherit base`},
				{ddl: `alter table ev detach partition ev_2 concurrently`, names: `"public"."ev_2" is no part`, undo: `alter table ev attach partition ev_2 for values from ('2024-02-01') to ('2024-03-01'); alter table ev_2 drop constraint ev_2_ts_check`, since: 14},
				{ddl: `drop index a_w; create index a_w on a (v)`, names: "index public.a_w is", undo: `drop index a_w; create index a_w on a (w)`},
				{ddl: `drop index a_n; create unique index a_n on a (n) where n > 100`, names: "index public.a_n is", follow: `drop index a_n; create unique index a_n on a (n) where n > 100`},
				{ddl: `drop index a_w; create index a_w on a (w text_pattern_ops desc)`, names: "index public.a_w is", follow: `drop index a_w; create index a_w on a (w text_pattern_ops desc)`},
				{ddl: `drop index a_lower; create index a_lower on a (upper(v), w)`, names: "index public.a_lower is", undo: `drop index a_lower; create index a_lower on a (lower(v), w)`},
			} {
				if pair[0] < change.since {
					continue
				}
				pgtest.Exec(t, m.Source, change.ddl)
				m.refuses(change.ddl, change.names)
				if change.undo != "" {
					pgtest.Exec(t, m.Source, change.undo)
				} else {
					pgtest.Exec(t, m.Target, change.follow)
				}
				m.passes(change.ddl)
			}
			pgtest.Exec(t, m.Source, `insert into a values (21, 'last', 'of all', 2100); update ev set id = id + 1000 where id < 50`)
			m.cutover(r)
			if got, want := one[string](t, m.Target, `select string_agg(id || v || w, ' ' order by id) from a`), one[string](t, m.Source, `select string_agg(id || v || w, ' ' order by id) from a`); got != want {
				t.Errorf("a is\n%s\nwant\n%s", got, want)
			}
			for _, of := range []string{`(select count(*) || ' ' || sum(id) from ev)`, `(select count(*) || ' ' || string_agg(v, ',' order by v) from base)`, `(select count(*) || ' ' || string_agg(v || w, ',' order by w) from b)`} {
				if got, want := one[string](t, m.Target, `select `+of), one[string](t, m.Source, `select `+of); got != want {
					t.Errorf("%s is %s, want %s", of, got, want)
				}
			}
			m.cleanup()
		})
	}
}

// gaps are what nobody can go on after: rows are missing, or may be.
var gaps = []struct {
	label, on string // the source or the target
	ddl       string // {p} stands for the publication
	names     string
	pair      [2]int
}{
	{"made again", "source", `drop table a; create table a (id int primary key, v text, w text, n int); create index a_w on a (w); create unique index a_n on a (n) where n > 0; create index a_lower on a (lower(v), w); insert into a values (1, 'new', 'new', 1)`, `"public"."a" was dropped on the source and made again`, [2]int{15, 18}},
	{"made again on 10", "source", `drop table b; create table b (id int primary key, v text, w text, n int); insert into b values (1, 'new', 'new', 1)`, `"public"."b" was dropped on the source and made again`, [2]int{10, 15}},
	{"partition made again", "source", `drop table ev_1; create table ev_1 partition of ev for values from ('2024-01-01') to ('2024-02-01'); alter table ev_1 add primary key (id)`, `"public"."ev_1" was dropped on the source and made again`, [2]int{13, 15}},
	{"dropped", "source", `drop table loose`, `"public"."loose" was dropped on the source`, [2]int{15, 18}},
	{"taken out", "source", `alter publication {p} drop table a`, `has lost table "public"."a"`, [2]int{15, 18}},
	{"taken out and put back", "source", `alter publication {p} drop table a; update a set v = 'lost'; alter publication {p} add table a`, `had table "public"."a" taken out`, [2]int{15, 18}},
	{"taken out and put back on 13", "source", `alter publication {p} drop table only ev_1; update ev_1 set id = id + 1000; alter publication {p} add table ev_1`, `had table "public"."ev_1" taken out`, [2]int{13, 15}},
	{"filtered", "source", `alter publication {p} set table a where (id < 10), b, ev_1, ev_2, num_1, num_2, flag_t_1, only base, kid, loose`, `had table "public"."a" taken out, or restricted`, [2]int{15, 18}},
	{"columns left out", "source", `alter publication {p} drop table a; alter publication {p} add table a (id, v)`, `had table "public"."a" taken out`, [2]int{15, 18}},
	{"fewer kinds", "source", `alter publication {p} set (publish = 'insert')`, `publishes insert now`, [2]int{15, 18}},
	{"fewer kinds for a moment", "source", `alter publication {p} set (publish = 'insert'); delete from a where id = 1; alter publication {p} set (publish = 'insert, update, delete, truncate')`, `was altered, and perhaps altered back`, [2]int{15, 18}},
	{"a schema", "source", `alter publication {p} add tables in schema other`, `holds tables in schema other now`, [2]int{15, 18}},
	{"column made again", "source", `alter table a drop column n; alter table a add column n int; create unique index a_n on a (n) where n > 0`, `column "n" of the source is another one`, [2]int{15, 18}},
	{"column made again on 10", "source", `alter table b drop column n; alter table b add column n int`, `column "n" of the source is another one`, [2]int{10, 15}},
	{"column made again on the target", "target", `alter table a drop column w; alter table a add column w text; create index a_w on a (w); create index a_lower on a (lower(v), w)`, `column "w" of the target is another one`, [2]int{15, 18}},
	{"column made again on both", "both", `alter table b drop column n; alter table b add column n int`, `column "n" was dropped on both sides and added again`, [2]int{15, 18}},
	{"made again on the target", "target", `drop table b; create table b (id int primary key, v text, w text, n int)`, `"public"."b" was dropped on the target and made again`, [2]int{15, 18}},
}

// After a gap the cutover refuses, and a run that begins ends at once; both say that it must start over.
func TestIdentity_Gaps(t *testing.T) {
	t.Parallel()
	turns := make(chan struct{}, 2)
	for _, gap := range gaps {
		t.Run(gap.label, func(t *testing.T) {
			t.Parallel()
			turns <- struct{}{}
			defer func() { <-turns }()
			m, r := followIdentity(t, "gap", gap.pair[0], gap.pair[1])
			m.passes("nothing")
			m.exec(gap.on, gap.ddl)
			m.refuses(gap.ddl, gap.names)
			r.cancel()
			r.end() //nolint:errcheck // it was stopped, or has met the gap itself
			r = m.start()
			if _, err := r.end(); err == nil || !strings.Contains(err.Error(), gap.names) || !strings.Contains(hint(err), "walferry abort") {
				t.Errorf("the next run ended with %v, hint %q; want that it says %q and to start over", err, hint(err), gap.names)
			}
			if err := migration.Abort(t.Context(), m.Config); err != nil {
				t.Error(err)
			}
		})
	}
}

// exec runs SQL on the source, the target, or both, with {p} for the publication.
func (m *moving) exec(on, sql string) {
	m.t.Helper()
	sql = strings.ReplaceAll(sql, "{p}", "walferry_"+m.Name)
	if on != "target" {
		pgtest.Exec(m.t, m.Source, sql)
	}
	if on != "source" {
		pgtest.Exec(m.t, m.Target, sql)
	}
}

// A migrate that follows looks by itself, and ends; where a name is all that has changed the same command goes on.
func TestIdentity_Watched(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ label, ddl, names, undo string }{
		{"made again", `drop table a; create table a (id int primary key, v text, w text, n int)`, `"public"."a" was dropped on the source and made again`, ""},
		{"put back", `alter publication {p} drop table b; alter publication {p} add table b`, `had table "public"."b" taken out`, ""},
		{"renamed", `alter table a rename to x; alter table b rename to a; alter table x rename to b`, `"public"."a" is called "public"."b"`, `alter table a rename to x; alter table b rename to a; alter table x rename to b`},
	} {
		t.Run(c.label, func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, 15, 18)
			pgtest.Exec(t, source, followed)
			m := newMoving(t, "watched", source, target)
			m.Exclude = []string{"public.staging"}
			m.Heartbeat = 50 * time.Millisecond
			r := m.start()
			r.waitFor(migration.Following)
			m.exec("source", c.ddl)
			if _, err := r.end(); err == nil || !strings.Contains(err.Error(), c.names) || hint(err) == "" {
				t.Fatalf("migrate ended with %v, want that it names %q, and what to do", err, c.names)
			}
			if c.undo != "" {
				m.exec("source", c.undo)
				pgtest.Exec(t, source, `update a set v = 'again'`)
				r = m.start()
				m.caughtUp(r)
				if n := one[int](t, target, `select count(*) from a where v = 'again'`); n != 20 {
					t.Errorf("%d rows of a were updated, want 20", n)
				}
			}
			if err := migration.Abort(t.Context(), m.Config); err != nil {
				t.Error(err)
			}
		})
	}
}

// DDL is not fenced. What is made, dropped or attached between the gates and the seal is found before the seal: the cutover
// un-fences, says so, and everything is as before.
func TestIdentity_InsideTheFence(t *testing.T) {
	t.Parallel()
	turns := make(chan struct{}, 2)
	for _, c := range []struct{ label, ddl, names, undo string }{
		{"a partition", `create table ev_3 partition of ev for values from ('2024-03-01') to ('2024-04-01'); alter table ev_3 add primary key (id); insert into ev_3 values (500, '2024-03-03')`, `"public"."ev_3"`, `drop table ev_3`},
		{"a table", `create table fresh (id int primary key); insert into fresh values (1)`, `"public"."fresh"`, `drop table fresh`},
		{"a root above", `create table root (id int, v text) partition by range (id); alter table root attach partition loose for values from (0) to (100)`, `"public"."loose" was attached to "public"."root"`, `alter table root detach partition loose; drop table root`},
		{"a child", `create table late () inherits (base); insert into late values (70, 'late')`, `"public"."late"`, `drop table late`},
		{"another table", `drop table a; create table a (id int primary key, v text, w text, n int); insert into a values (1)`, `"public"."a" was dropped on the source and made again`, ""},
		{"the publication", `alter publication {p} drop table a; alter publication {p} add table a`, `had table "public"."a" taken out`, ""},
		{"columns", `alter table a rename v to x; alter table a rename w to v; alter table a rename x to w`, `column "v" of the source was "w"`, `alter table a rename v to x; alter table a rename w to v; alter table a rename x to w`},
	} {
		t.Run(c.label, func(t *testing.T) {
			t.Parallel()
			turns <- struct{}{}
			defer func() { <-turns }()
			source, target := pgtest.Pair(t, 15, 18)
			pgtest.Exec(t, source, followed)
			m := newMoving(t, "fence", source, target)
			m.Exclude = []string{"public.staging"}
			m.Cut.MaxLag, m.Cut.Timeout = patience, patience
			m.Heartbeat = 30 * time.Second
			p := pgtest.ProxyFor(t, target)
			var once sync.Once
			p.Watch(func(s pgtest.Step) (f pgtest.Fault) {
				if strings.Contains(s.Statement, "set drained_at") {
					once.Do(func() { m.exec("source", c.ddl) })
				}
				return f
			})
			through := *m
			through.Config.Target = p.Through(target)
			r := through.start()
			r.m = m
			r.waitFor(migration.Following)
			_, err := migration.Cutover(context.Background(), m.Config, nil)
			gate := fail.Find(err, fail.Gate)
			if gate == nil || !strings.Contains(gate.Problem, c.names) || !strings.Contains(gate.Problem, "un-fenced, everything is as before") {
				t.Fatalf("cutover: %v; want a gate that names %q, and that it has un-fenced", err, c.names)
			}
			if n := one[int](t, source, `select count(*) from pg_trigger where tgname = 'walferry_fence'`); n != 0 {
				t.Errorf("the source has %d triggers of a fence", n)
			}
			if c.undo == "" {
				if err := migration.Abort(t.Context(), m.Config); err != nil {
					t.Error(err)
				}
				return
			}
			pgtest.Exec(t, source, c.undo)
			m.cutover(r)
			pgtest.Exec(t, target, `drop table if exists staging`)
			pgtest.Exec(t, source, `drop table staging`)
			sameRows(t, source, target)
			m.cleanup()
		})
	}
}

// The user's own schema may differ from the beginning: no partitions, no children, other indexes. That is let be, and only what
// the source alters is held against it.
func TestIdentity_OwnSchema(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, followed)
	pgtest.Exec(t, target, `
create table a (n int, own text, id int primary key, v text, w text); create index a_w on a (v);
create table b (w text, id int primary key, v text, n bigint);
create table ev_1 (id int primary key, ts date); create table ev_2 (id int primary key, ts date);
create table num (id int, v text, f float8) partition by list (v); create table num_1 (id int primary key, v text, f float8); create table num_2 (id int primary key, v text, f float8);
create table ev (id int, ts date) partition by list (id); create table flag (b bool, n numeric) partition by range (n); create table flag_t (b bool, n numeric) partition by list (n); create table flag_t_1 (b bool, n numeric);
create table base (id int primary key, v text); create table kid (id int primary key, v text); create table loose (id int primary key, v text) `)
	m := newMoving(t, "own", source, target)
	m.Schema, m.Exclude = "none", []string{"public.staging"}
	m.Cut.MaxLag, m.Cut.Timeout = patience, patience
	m.Heartbeat = 30 * time.Second
	r := m.start()
	r.waitFor(migration.Following)
	m.passes("nothing")
	for _, change := range []struct{ ddl, names, undo string }{
		{`drop index a_w; create index a_w on a (w, v)`, "index public.a_w is", `drop index a_w; create index a_w on a (w)`},
		{`alter table ev detach partition ev_1; alter table loose inherit base`, `"public"."loose" is part of "public"."base" on the source`, `alter table loose no inherit base; alter table ev attach partition ev_1 for values from ('2024-01-01') to ('2024-02-01')`},
		{`alter table b rename v to x; alter table b rename w to v; alter table b rename x to w`, `column "v" of the source was "w"`, `alter table b rename v to x; alter table b rename w to v; alter table b rename x to w`},
	} {
		pgtest.Exec(t, source, change.ddl)
		m.refuses(change.ddl, change.names)
		pgtest.Exec(t, source, change.undo)
		m.passes(change.undo)
	}
	m.cutover(r)
	m.cleanup()
}

// A record that an older version has made has none of it: the migration goes on, and what that version
// noticed is noticed.
func TestIdentity_OldRecord(t *testing.T) {
	t.Parallel()
	m, r := followIdentity(t, "old", 15, 18)
	r.cancel()
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, m.Target, `
update walferry.migration set tables = (select jsonb_agg(t - array['oid', 'target_oid', 'place', 'indexes'] || jsonb_build_object('columns',
         (select jsonb_agg(c - array['num', 'to']) from jsonb_array_elements(t -> 'columns') c))) from jsonb_array_elements(tables) t),
       publications = (select jsonb_object_agg(key, value - array['Entries', 'Version', 'Beyond']) from jsonb_each(publications))`)
	told := &strings.Builder{}
	m.Logger = slog.New(slog.NewTextHandler(told, nil))
	r = m.start()
	r.waitFor(migration.Following)
	m.passes("nothing")
	pgtest.Exec(t, m.Source, `drop table loose`)
	m.refuses("drop table loose", `"public"."loose" is gone from the source`)
	pgtest.Exec(t, m.Source, `create table loose (id int primary key, v text)`)
	r.cancel()
	r.end() //nolint:errcheck // it was stopped
	if !strings.Contains(told.String(), "begun by an older version") {
		t.Errorf("nothing is said of the older version in:\n%s", told)
	}
	if err := migration.Abort(t.Context(), m.Config); err != nil {
		t.Error(err)
	}
}
