package check

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/pgtest"
)

// What is in pg_dump's schema and would fail on the target, or because of an empty search_path, the
// clock, or an excluded table, is found before anything is copied; nothing of it is left behind.
func TestRun_Definitions(t *testing.T) {
	source, target := pgtest.Pair(t, 13, 18)
	situations := []situation{
		{id: "definition-refused", on: "target", severity: Warn, object: "view:public.mon", noMend: true, source: []string{
			`create table t (id int primary key)`, `create view mon as select buffers_checkpoint from pg_stat_bgwriter`,
		}},
		{id: "definition-refused", on: "target", severity: Warn, object: "aggregate:public.array_accum(anyelement)", noMend: true, source: []string{
			`create aggregate array_accum (anyelement) (sfunc = array_append, stype = anyarray)`,
		}},
		{id: "check-may-fail", on: "source", severity: Warn, object: `"public"."offer"`, seen: "now", noMend: true, source: []string{
			`create table offer (id int primary key, until timestamptz check (until > now()), day date constraint d check (day <= current_date or true))`,
			`create function ok(int) returns bool language sql stable as 'select true'`,
			`create table by_function (id int primary key check (ok(id)))`,
		}},
		{id: "check-may-fail", on: "source", severity: Warn, object: `"public"."by_function"`, seen: "ok", noMend: true},
		{id: "constraint-not-valid", on: "source", severity: Warn, object: `"public"."pos"`, source: []string{
			`create domain pos as int`, `create table uses_pos (id int primary key, p pos)`, `alter domain pos add constraint c check (value > 0) not valid`,
		}},
		{id: "search-path", on: "source", severity: Warn, object: "public.outer_f(integer)", seen: "by_outer", source: []string{
			`create function inner_f(int) returns int language plpgsql immutable as 'begin return $1; end'`,
			`create function outer_f(int) returns int language plpgsql immutable as 'begin return inner_f($1); end'`,
			`create table indexed (id int primary key, v int)`, `create index by_outer on indexed (outer_f(v))`,
		}},
		{id: "search-path", on: "source", severity: Warn, object: "public.f_norm(text)", seen: "norm", source: []string{
			`create function f_norm(text) returns text language plpgsql immutable as 'begin return lower($1); end'`,
			`create table people (id int primary key, name text, norm text generated always as (f_norm(name)) stored)`,
		}},
		{id: "search-path", on: "source", severity: Warn, object: "public.doc_count()", seen: "mv_fn", source: []string{
			`create function doc_count() returns bigint language sql stable as 'select count(*) from t'`, `create materialized view mv_fn as select doc_count() as n with no data`,
		}},
	}
	bring(t, source, target, situations)
	fix(t, Config{SourceDSN: source, TargetDSN: target, Jobs: 1, Definitions: true}, source, target, situations)
	if got := pgtest.Query(t, target, `select count(*) from pg_class where relnamespace = 'public'::regnamespace`)[0][0]; got != "0" {
		t.Errorf("%s relations are left on the target", got)
	}
}

// A table that needs an excluded one would be left out with it.
func TestRun_NeedsExcluded(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	situations := []situation{
		{id: "needs-excluded", on: "source", severity: Block, object: `"public"."c"`, seen: "d_id_seq", source: []string{
			`create table d (id bigserial primary key)`, `create table c (id bigint primary key default nextval('d_id_seq'))`,
		}},
		{id: "needs-excluded", on: "source", severity: Block, object: `"public"."kid"`, seen: "inherits", noMend: true, source: []string{`create table kid (primary key (id)) inherits (d)`}},
		{id: "needs-excluded", on: "source", severity: Block, object: `"public"."rows"`, seen: "row type", noMend: true, source: []string{`create table rows (id int primary key, r d[])`}},
	}
	bring(t, source, target, situations)
	fix(t, Config{SourceDSN: source, TargetDSN: target, Exclude: []string{"public.d"}}, source, target, situations)
	for _, f := range find(check(t, Config{SourceDSN: source, TargetDSN: target}), "needs-excluded", "") {
		t.Errorf("with everything selected: %s: %s", f.Object, f.Seen)
	}
}

// A role that is not a superuser tries what it can: what works with an empty search_path is not a
// finding.
func TestRun_SearchPathTried(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	exec(t, source,
		`create role tries_paths login replication`, `grant usage, create on schema public to tries_paths`,
		`create function fine(int) returns int language plpgsql immutable as 'begin return $1; end'`,
		`create function bad(int) returns int language plpgsql immutable as 'begin return fine($1); end'`,
		`create table t (id int primary key, v int)`, `create index by_fine on t (fine(v))`, `create index by_bad on t (bad(v))`,
		`insert into t values (1, 1)`, `alter table t owner to tries_paths`)
	t.Cleanup(func() { exec(background{t}, source, `drop owned by tries_paths`, `drop role tries_paths`) })
	report := check(t, Config{SourceDSN: as(t, source, "tries_paths"), TargetDSN: target})
	found := find(report, "search-path", "source")
	if len(found) != 1 || found[0].Object != "public.bad(integer)" || !strings.Contains(found[0].Seen, "does not exist") {
		t.Errorf("got %+v, want a finding of bad with the server's error", found)
	}
}

// Forced row security restricts the owner, too: it is found for the role of the target, whose
// tables do not exist yet.
func TestRun_ForcedRowSecurityOfTheTarget(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	exec(t, target, `create role forced_rls login`)
	t.Cleanup(func() { exec(background{t}, target, `drop role forced_rls`) })
	situations := []situation{{id: "row-security-forced", on: "target", severity: Block, object: `"public"."t"`, source: []string{
		`create table t (id int primary key)`, `alter table t enable row level security`, `alter table t force row level security`,
	}}}
	bring(t, source, target, situations)
	fix(t, Config{SourceDSN: source, TargetDSN: as(t, target, "forced_rls")}, source, target, situations)
}

// Roles with sessions on the source that cannot log in to the target, and settings of the database
// and of roles, are reported with the SQL. An extension that is not trusted is found before a role
// without superuser tries to create it. No SQL ever drops a table.
func TestRun_Logins(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	here := strings.TrimPrefix(mustParse(t, source).Path, "/")
	exec(t, source,
		`create table t (id int primary key)`, `create role login_app login`, `create role login_owner login`, `create table o (id int primary key)`, `alter table o owner to login_owner`,
		`alter database `+here+` set search_path = "$user", app, public`, `alter role login_app in database `+here+` set work_mem = '7MB'`, `alter role login_app set datestyle = 'SQL, DMY'`,
		`create extension pg_stat_statements`)
	exec(t, target, `create role plain_target login`, `grant create on schema public to plain_target`,
		`grant create on database `+strings.TrimPrefix(mustParse(t, target).Path, "/")+` to plain_target`)
	t.Cleanup(func() {
		exec(background{t}, source, `alter table o owner to postgres`, `drop role login_owner`, `drop role login_app`)
		exec(background{t}, target, `drop owned by plain_target`, `drop role plain_target`)
	})
	conn, err := pgconn.Connect(t.Context(), as(t, source, "login_app"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	report := check(t, Config{SourceDSN: source, TargetDSN: as(t, target, "plain_target")})
	for _, want := range []struct{ id, sql string }{
		{"logins-missing", `create role "login_app" login`},
		{"roles-missing", `create role "login_owner" login`},
		{"settings-missing", `set "search_path" = "$user", app, public`},
		{"settings-missing", `alter role "login_app" in database "` + strings.TrimPrefix(mustParse(t, target).Path, "/") + `" set "work_mem" = '7MB'`},
		{"settings-missing", `alter role "login_app" set "DateStyle" = 'SQL, DMY'`},
		{"extension-not-permitted", `create extension "pg_stat_statements"`},
	} {
		found := find(report, want.id, "target")
		if len(found) != 1 || !strings.Contains(strings.Join(found[0].SQL, ";"), want.sql) {
			t.Errorf("%s: got %+v, want SQL with %s", want.id, found, want.sql)
		}
	}
	var sql []string
	for _, f := range report.Findings {
		if f.On == "target" && f.ID != "extension-not-permitted" {
			sql = append(sql, f.SQL...)
		}
	}
	exec(t, target, sql...)
	t.Cleanup(func() { exec(background{t}, target, `drop role login_owner`, `drop role login_app`) })
	report = check(t, Config{SourceDSN: source, TargetDSN: target})
	for _, id := range []string{"logins-missing", "roles-missing", "settings-missing", "extension-not-permitted"} {
		if found := find(report, id, "target"); len(found) > 0 {
			t.Errorf("after its SQL: %+v", found)
		}
	}
	exec(t, target, `create table t (id int primary key)`, `insert into t values (1)`)
	for _, schema := range []string{"dump", "none"} {
		for _, f := range check(t, Config{SourceDSN: source, TargetDSN: target, Schema: schema}).Findings {
			for _, sql := range f.SQL {
				if strings.Contains(sql, "drop table") || strings.Contains(sql, "truncate") {
					t.Errorf("%s: %s offers %s", schema, f.ID, sql)
				}
			}
		}
	}
}
