package e2e

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// refused are the names of what status says that the target refuses.
func (m *moving) refused() (names []string) {
	m.t.Helper()
	st, err := migration.ReadStatus(context.Background(), m.Config)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, o := range st.Refused {
		names = append(names, o.Object)
	}
	slices.Sort(names)
	return names
}

// gate asks for a cutover that must be refused before the fence, and returns its error.
func (m *moving) gate() *fail.Error {
	m.t.Helper()
	_, err := migration.Cutover(context.Background(), m.Config, nil)
	gate := fail.Find(err, fail.Gate)
	if gate == nil {
		m.t.Fatalf("cutover: %v, want a gate", err)
	}
	if n := one[int](m.t, m.Source, `select count(*) from pg_trigger where tgname = 'walferry_fence'`); n != 0 {
		m.t.Errorf("the source has %d triggers of a fence", n)
	}
	return gate
}

// A view on a catalogue whose columns have gone, an aggregate whose function has another type
// now, and what depends on them, stop no migration whose tables are all there. They are
// listed, a gate of the cutover, taken where somebody makes them by hand, and can be gone without.
func TestRefused_BeforeTheData(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 13, 18)
	pgtest.Exec(t, source, `
create table t (id int primary key, v text);
insert into t values (1, 'a');
create view mon as select buffers_checkpoint from pg_stat_bgwriter;
create view "above it" as select * from mon;
comment on view mon is 'checkpoints';
grant select on mon to public;
create aggregate array_accum (anyelement) (sfunc = array_append, stype = anyarray);
create view sums as select array_accum(v) from t;
create view fine as select * from t`)
	m := newMoving(t, "refused", source, target)
	r := m.start()
	r.waitFor(migration.Following)
	if got, want := m.refused(), []string{"aggregate:public.array_accum(anyelement)", "view:public.above it", "view:public.mon", "view:public.sums"}; !slices.Equal(got, want) {
		t.Errorf("status says that the target refuses %q, want %q", got, want)
	}
	if got := one[string](t, target, `select v from fine`); got != "a" {
		t.Errorf("the view that the target takes has %q", got)
	}
	for _, part := range []string{"view:public.mon", "view:public.sums", "--without 'view:public.above it'"} {
		if gate := m.gate(); !strings.Contains(gate.Problem+gate.Advice, part) {
			t.Errorf("the gate does not name %s: %s; %s", part, gate.Problem, gate.Advice)
		}
	}
	pgtest.Exec(t, target, `create table mon (x int)`)
	if gate := m.gate(); !strings.Contains(gate.Problem, "view:public.mon ") {
		t.Errorf("a table of the view's name was taken for it: %s", gate.Problem)
	}
	pgtest.Exec(t, target, `drop table mon;
create view mon as select 1::bigint as buffers_checkpoint;
create aggregate array_accum (anycompatible) (sfunc = array_append, stype = anycompatiblearray)`)
	if gate := m.gate(); strings.Contains(gate.Problem, "view:public.mon ") || !strings.Contains(gate.Problem, "view:public.sums") {
		t.Errorf("mon is there, sums is not: %s", gate.Problem)
	}
	m.Cut.Without = []string{"view:public.above it", "view:public.sums", "aggregate:public.array_accum(anyelement)"}
	m.cutover(r)
	sameRows(t, source, target)
	m.cleanup()
}

// An index, a constraint and a materialized view that rely on a search_path are not made on
// the target; the tables are followed, a function that is repaired there lets the next run make
// them, and what is gone without is named. After the cutover a view that cannot be refreshed does
// not leave the others old.
func TestRefused_AfterTheData(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `
create table documents (id int primary key, title text, n int);
insert into documents select i, 'title '||i, i from generate_series(1, 500) i;
create function inner_f(int) returns int language plpgsql immutable as 'begin return $1 + 1; end';
create function outer_f(int) returns int language plpgsql immutable as 'begin return inner_f($1); end';
create index by_outer on documents (public.outer_f(n));
create function doc_count() returns bigint language plpgsql stable as 'begin return (select count(*) from documents); end';
create materialized view counted as select doc_count() as n;
create unique index counted_n on counted (n);
create materialized view above as select n from counted;
create materialized view plain as select count(*) as n from documents`)
	m := newMoving(t, "late", source, target)
	m.Until = migration.UntilCaughtUp
	r := m.start()
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(m.refused(), " "); !strings.Contains(got, "index:public.by_outer") || !strings.Contains(got, "materialized-view:public.counted") || strings.Contains(got, "plain") {
		t.Errorf("status says that the target refuses %s", got)
	}
	m.Until = ""
	r = m.start()
	r.waitFor(migration.Following)
	gate := m.gate()
	for _, part := range []string{"index:public.by_outer", "materialized-view:public.counted"} {
		if !strings.Contains(gate.Advice, "--without "+part) {
			t.Errorf("the gate does not name %s: %s; %s", part, gate.Problem, gate.Advice)
		}
	}
	pgtest.Exec(t, target, `alter function outer_f(int) set search_path = public; create index by_outer on documents (public.outer_f(n))`)
	if gate = m.gate(); strings.Contains(gate.Problem, "by_outer") {
		t.Errorf("the index is there: %s", gate.Problem)
	}
	pgtest.Exec(t, target, `alter function doc_count() set search_path = public; refresh materialized view counted; refresh materialized view above; alter function doc_count() reset search_path`)
	pgtest.Exec(t, source, `insert into documents select i, 'title '||i, i from generate_series(501, 520) i`)
	var steps []string
	c := m.Config
	c.Cut.MaxLag, c.Cut.Timeout = patience, patience
	if _, err := migration.Cutover(context.Background(), c, func(step string) { steps = append(steps, step) }); err != nil {
		t.Fatalf("cutover: %v", err)
	}
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	if n := one[int](t, target, `select n from plain`); n != 520 {
		t.Errorf("the view that can be refreshed says %d, want 520", n)
	}
	if said := strings.Join(steps, "\n"); !strings.Contains(said, "refreshed 2 materialized views") || !strings.Contains(said, `refresh materialized view "public"."counted"`) {
		t.Errorf("the cutover says:\n%s", said)
	}
	m.cleanup()
}

// Rows passed a check when they were written and do not now. The copy stops with what to do;
// without the check it goes on, and NOT VALID, which is all that the server takes, does for the
// cutover. So with a function that relies on a search_path.
func TestCheckThatTimeBreaks(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ source, hint, repair, before string }{
		"time": {
			`create table t (id int primary key, until timestamptz check (until > clock_timestamp()));
insert into t values (1, clock_timestamp() + interval '30 milliseconds'), (2, 'infinity'); select pg_sleep(0.1)`,
			`alter table "public"."t" drop constraint "t_until_check"`,
			`alter table t drop constraint t_until_check`,
			`alter table t add constraint t_until_check check (until > clock_timestamp()) not valid`,
		},
		"search_path": {
			`create function inner_f(int) returns bool language plpgsql as 'begin return true; end';
create function outer_f(int) returns bool language plpgsql as 'begin return inner_f($1); end';
create table t (id int primary key check (outer_f(id))); insert into t values (1)`,
			`alter function ... set search_path`,
			`alter function outer_f(int) set search_path = public`,
			``,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, 15, 18)
			pgtest.Exec(t, source, c.source)
			m := newMoving(t, "time", source, target)
			_, err := m.start().end()
			var hint interface{ Hint() string }
			if !errors.As(err, &hint) || !strings.Contains(hint.Hint(), c.hint) {
				t.Fatalf("migrate ended with %v, want a hint of %s", err, c.hint)
			}
			pgtest.Exec(t, target, c.repair)
			r := m.start()
			r.waitFor(migration.Following)
			if c.before != "" {
				if gate := m.gate(); !strings.Contains(gate.Problem, "t_until_check") {
					t.Errorf("the gate does not name the check that is missing: %s", gate.Problem)
				}
				pgtest.Exec(t, target, c.before)
			}
			m.cutover(r)
			sameRows(t, source, target)
			m.cleanup()
		})
	}
}

// Whoever has a session on the source must be able to log in to the target: a gate, which is
// waived by name.
func TestCutover_MissingLogin(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	role := "login_" + migrationName("gate")
	pgtest.Exec(t, source, `create table t (id int primary key); create role `+role+` login`)
	atEnd(t, source, `drop role `+role)
	u, err := url.Parse(source)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	conn, err := pgconn.Connect(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) }) // before the role is dropped
	m := newMoving(t, "login", source, target)
	r := m.start()
	r.waitFor(migration.Following)
	if gate := m.gate(); !strings.Contains(gate.Problem, `"`+role+`"`) || !strings.Contains(gate.Advice, "--without role:"+role) {
		t.Errorf("the gate says: %s; %s", gate.Problem, gate.Advice)
	}
	m.Cut.Without = []string{"role:" + role}
	m.cutover(r)
	m.cleanup()
}
