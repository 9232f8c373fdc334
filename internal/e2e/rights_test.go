package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// spies are what an ordinary user can leave in a database for whoever comes with more
// rights: each tells the server's log what it is and whose rights it has.
const spies = `
create schema hers;
create function hers.spy(what text) returns void language plpgsql immutable as $$ begin raise log 'spy % has the rights of %.', what, current_user; end $$;
create function hers.indexed(int) returns int language plpgsql immutable as $$ begin perform hers.spy('index'); return $1; end $$;
create function hers.folded(int) returns bool language plpgsql immutable as $$ begin perform hers.spy('folded'); return true; end $$;
create function hers.checked(int) returns bool language plpgsql immutable as $$ begin perform hers.spy('check'); return true; end $$;
create function hers.stored(int) returns int language plpgsql immutable as $$ begin perform hers.spy('generated'); return $1 + 1; end $$;
create function hers.fits(text) returns bool language plpgsql immutable as $$ begin perform hers.spy('domain'); return true; end $$;
create function hers.standard() returns int language plpgsql as $$ begin perform hers.spy('default'); return 1; end $$;
create function hers.sees(int) returns bool language plpgsql as $$ begin perform hers.spy('policy'); return true; end $$;
create function hers.counted(int) returns int language plpgsql as $$ begin perform hers.spy('view'); return $1; end $$;
create function hers.acts() returns trigger language plpgsql as $$ begin perform hers.spy('trigger'); return new; end $$;
create type hers.mood as enum ('glad', 'sad');
create function hers.told(hers.mood) returns text language plpgsql immutable as $$ begin perform hers.spy('cast'); return 'same'; end $$;
create cast (hers.mood as text) with function hers.told(hers.mood) as assignment;
create domain hers.word as text check (hers.fits(value));
create table hers.t (
  id int primary key, m hers.mood not null, w hers.word, n int default hers.standard(), g int generated always as (hers.stored(id)) stored,
  check (hers.checked(id)));
create index on hers.t (hers.indexed(id));
create index on hers.t (n) where hers.folded(1);
create table hers.refers (id serial primary key, t int references hers.t);
alter table hers.t enable row level security;
create policy p on hers.t using (hers.sees(id));
create trigger a before insert on hers.t for each row execute procedure hers.acts();
alter table hers.t enable always trigger a;
create materialized view hers.sums as select sum(hers.counted(id)) as of from hers.t;
insert into hers.t (id, m, w) select g, 'glad', 'w' || g from generate_series(1, 50) g;
insert into hers.refers (t) select id from hers.t;
analyze hers.t;
refresh materialized view hers.sums;
`

var spied = regexp.MustCompile(`spy (\w+) has the rights of (\w+)\.`)

// ran are the spies that have run with the rights of a role.
func ran(s *pgtest.Server, role string) []string {
	var what []string
	for _, m := range spied.FindAllStringSubmatch(s.Log(), -1) {
		if m[2] == role {
			what = append(what, m[1])
		}
	}
	slices.Sort(what)
	return slices.Compact(what)
}

func as(t *testing.T, dsn, role string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	return u.String()
}

// trap is a pair of servers with an ordinary user's spies on the source.
func trap(t *testing.T, from, to int) (source, target *pgtest.Server) {
	t.Helper()
	source, target = pgtest.New(t, pgtest.Options{Major: from}), pgtest.New(t, pgtest.Options{Major: to})
	for _, s := range []*pgtest.Server{source, target} {
		pgtest.Exec(t, s.URL("postgres"), `create role alice login; create role bob; grant create on database postgres to alice; grant create on schema public to bob`)
	}
	pgtest.Exec(t, as(t, source.URL("postgres"), "alice"), spies)
	pgtest.Exec(t, source.URL("postgres"), `create table his (id int primary key, v text); alter table his owner to bob; insert into his values (1, 'a')`)
	return source, target
}

// moveTrap moves what trap has made, with changes while it follows, a comparison and a cutover.
func moveTrap(t *testing.T, m *moving, source *pgtest.Server) {
	t.Helper()
	alice := as(t, source.URL("postgres"), "alice")
	r := m.start()
	r.waitFor(migration.Following)
	pgtest.Exec(t, alice, `insert into hers.t (id, m, w) values (51, 'sad', 'new'); update hers.t set m = 'sad' where id = 1; delete from hers.refers where t = 2; delete from hers.t where id = 2`)
	m.caughtUp(r)
	m.verified()
	m.cutover(r)
	m.verified()
	m.cleanup()
}

// A whole move by roles without superuser, of which docs/operating.md says what they need:
// nothing that a user has made runs with more rights than theirs, on either side.
func TestRights_WithoutSuperuser(t *testing.T) {
	for _, majors := range [][2]int{{15, 18}, {13, 15}} {
		t.Run(fmt.Sprint(majors), func(t *testing.T) {
			t.Parallel()
			source, target := trap(t, majors[0], majors[1])
			pgtest.Exec(t, source.URL("postgres"), `create role ferry login replication bypassrls; grant alice, bob to ferry; grant create on database postgres to ferry`)
			if majors[0] >= 14 {
				pgtest.Exec(t, source.URL("postgres"), `grant pg_read_all_data to ferry`)
			}
			pgtest.Exec(t, target.URL("postgres"), `create role ferry login bypassrls; grant alice, bob to ferry; grant create on database postgres to ferry; grant create, usage on schema public to ferry;
grant set on parameter session_replication_role to ferry`)
			m := newMoving(t, "rights", as(t, source.URL("postgres"), "ferry"), as(t, target.URL("postgres"), "ferry"))
			m.Prove = migration.On
			moveTrap(t, m, source)
			for side, s := range map[string]*pgtest.Server{"source": source, "target": target} {
				if got := ran(s, "postgres"); len(got) > 0 {
					t.Errorf("on the %s ran with a superuser's rights: %v", side, got)
				}
			}
			if got := ran(source, "ferry"); slices.Contains(got, "cast") || slices.Contains(got, "policy") {
				t.Errorf("on the source ran with the rights of walferry's role: %v", got)
			}
			if got := ran(target, "ferry"); slices.Contains(got, "cast") || slices.Contains(got, "trigger") || slices.Contains(got, "default") {
				t.Errorf("on the target ran with the rights of walferry's role: %v", got)
			}
			owners := one[string](t, target.URL("postgres"), `select string_agg(relowner::regrole::text, ' ' order by relname) from pg_class where relname in ('t', 'his', 'sums')`)
			if owners != "bob alice alice" {
				t.Errorf("the owners on the target: %s", owners)
			}
		})
	}
}

// The same by superusers. What the server does for the owner of a table runs with his
// rights; what it does for whoever writes a row, or plans a query, does not: docs/limitations.md
// has it, and this is all there is.
func TestRights_Superuser(t *testing.T) {
	source, target := trap(t, 15, 18)
	m := newMoving(t, "rights", source.URL("postgres"), target.URL("postgres"))
	m.Prove = migration.On
	moveTrap(t, m, source)
	if got, want := ran(source, "postgres"), []string{"folded"}; !slices.Equal(got, want) {
		t.Errorf("on the source ran with a superuser's rights: %v, want %v", got, want)
	}
	if got, want := ran(target, "postgres"), []string{"check", "domain", "folded", "generated", "index"}; !slices.Equal(got, want) {
		t.Errorf("on the target ran with a superuser's rights: %v, want %v", got, want)
	}
	if got, want := ran(target, "alice"), []string{"folded", "index", "view"}; !slices.Equal(got, want) {
		t.Errorf("on the target ran with the owner's rights: %v, want %v", got, want)
	}
}

// unending is a test whose context has not ended, for its clean-up.
type unending struct{ testing.TB }

func (unending) Context() context.Context { return context.Background() }

// Whoever may create in a database makes what walferry would use: it is not used, not even
// to read where a migration stands.
func TestRights_SchemaMadeBefore(t *testing.T) {
	const evil = `create schema walferry; create table public.ran (by text, at float8 primary key default random()); grant insert on public.ran to public;
create function walferry.f() returns trigger language plpgsql as $$ begin insert into public.ran (by) values (current_user); return new; end $$;
create function walferry.g() returns text language plpgsql as $$ begin insert into public.ran (by) values (current_user); return 'x'; end $$;`
	for name, c := range map[string]struct{ source, target string }{
		"canary": {source: evil + `create table walferry.heartbeat (migration text, kind text, id int8, at timestamptz, primary key (migration, kind)); create trigger t before insert on walferry.heartbeat for each row execute procedure walferry.f()`},
		"progress": {target: evil + `create table walferry.progress (stream text primary key, applied pg_lsn, commit_time timestamptz, transactions bigint, changes bigint, applied_at timestamptz);
create trigger t before insert on walferry.progress for each row execute procedure walferry.f()`},
		"view": {target: evil + `create view walferry.migration as select walferry.g() as name, walferry.g() as phase`},
	} {
		t.Run(name, func(t *testing.T) {
			source, target := pgtest.Pair(t, 15, 18)
			pgtest.Exec(t, source, `create table t (id int primary key)`)
			for dsn, sql := range map[string]string{source: c.source, target: c.target} {
				if sql != "" {
					role := migrationName("mallory")
					pgtest.Exec(t, dsn, `create role `+role+` login; grant create on schema public to `+role+`; do $$ begin execute format('grant create on database %I to `+role+`', current_database()); end $$`)
					t.Cleanup(func() { pgtest.Exec(unending{t}, dsn, `drop owned by `+role+` cascade; drop role `+role) })
					pgtest.Exec(t, as(t, dsn, role), sql)
				}
			}
			m := newMoving(t, "before", source, target)
			m.Until = migration.UntilCopied // so that it ends where it does not refuse
			_, err := migration.Migrate(t.Context(), m.Config, migration.Observer{})
			var check *migration.CheckError
			var strangers *catalog.StrangersError
			if !errors.As(err, &check) && !errors.As(err, &strangers) {
				t.Fatalf("migrate: got %v, want that it refuses", err)
			}
			report, err := migration.Check(t.Context(), m.Config)
			if err != nil || !report.Blocks() || !strings.Contains(fmt.Sprint(report.Findings), "helper-schema-rights") {
				t.Errorf("check: got %+v, %v; want that it blocks", report, err)
			}
			if _, err := migration.ReadStatus(t.Context(), m.Config); c.target != "" && name == "view" && !errors.As(err, &strangers) {
				t.Errorf("status: got %v, want that it refuses", err)
			}
			for _, f := range []func() error{
				func() error { _, err := migration.Cutover(t.Context(), m.Config, nil); return err },
				func() error { _, err := migration.Cleanup(t.Context(), m.Config); return err },
				func() error { return migration.Abort(t.Context(), m.Config) },
			} {
				f() //nolint:errcheck // whatever it says, it must not run what is there
			}
			for dsn, sql := range map[string]string{source: c.source, target: c.target} {
				if sql == "" {
					continue
				}
				if got := pgtest.Query(t, dsn, `select by from ran`); len(got) > 0 {
					t.Errorf("mallory's function ran with the rights of %v", got)
				}
			}
		})
	}
}
