package check

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// exec runs statements one by one, as an operator would run those of a finding.
func exec(t testing.TB, dsn string, statements ...string) {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql).ReadAll(); err != nil {
			t.Fatalf("%v\nin: %s", err, sql)
		}
	}
}

// background is a test whose context has not ended, for its cleanup.
type background struct{ testing.TB }

func (background) Context() context.Context { return context.Background() }

func check(t testing.TB, c Config) Report {
	t.Helper()
	report, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func find(r Report, id, on string) []Finding {
	var found []Finding
	for _, f := range r.Findings {
		if f.ID == id && (on == "" || f.On == on) {
			found = append(found, f)
		}
	}
	return found
}

func summary(r Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s %s %s: %s\n", f.Severity, f.On, f.ID, f.Object, f.Seen)
	}
	return b.String()
}

func mustParse(t testing.TB, dsn string) *url.URL {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// as returns a DSN for another role.
func as(t testing.TB, dsn, role string) string {
	t.Helper()
	u := mustParse(t, dsn)
	u.User = url.User(role)
	return u.String()
}

// database returns the DSN of another database of the same server.
func database(t testing.TB, dsn, name string) string {
	t.Helper()
	u := mustParse(t, dsn)
	u.Path = "/" + name
	return u.String()
}

// situation is one problem, and how to cause it.
type situation struct {
	id, on   string
	severity Severity
	object   string   // of the finding; empty: any
	source   []string // SQL that causes it
	target   []string
	seen     string // in Seen or Do
	noMend   bool   // no SQL fixes it
}

func (s situation) find(r Report) []Finding {
	return slices.DeleteFunc(find(r, s.id, s.on), func(f Finding) bool { return s.object != "" && f.Object != s.object })
}

// bring causes the situations, all of them in one pair of databases.
func bring(t *testing.T, source, target string, situations []situation) {
	t.Helper()
	for _, s := range situations {
		exec(t, source, s.source...)
		exec(t, target, s.target...)
	}
}

// fix finds every situation, runs the SQL of the findings as a superuser, and no longer finds it.
func fix(t *testing.T, c Config, source, target string, situations []situation) {
	t.Helper()
	report := check(t, c)
	for _, s := range situations {
		found := s.find(report)
		if len(found) == 0 {
			t.Errorf("%s %s is not found", s.id, s.object)
			continue
		}
		f := found[0]
		if f.Severity != s.severity || !strings.Contains(f.Seen+" "+f.Do, s.seen) {
			t.Errorf("got %+v, want %s, %q", f, s.severity, s.seen)
		}
		if f.Do == "" && len(f.SQL) == 0 {
			t.Errorf("nothing can be done: %+v", f)
		}
		if s.noMend {
			continue
		}
		for _, f := range found {
			if len(f.SQL) == 0 {
				t.Errorf("no SQL: %+v", f)
			}
			if f.On == "target" {
				exec(t, target, f.SQL...)
			} else {
				exec(t, source, f.SQL...)
			}
		}
	}
	if t.Failed() {
		t.Fatal("found:\n" + summary(report))
	}
	after := check(t, c)
	for _, s := range situations {
		if left := s.find(after); len(left) > 0 && !s.noMend {
			t.Errorf("after its SQL there is still %+v", left)
		}
	}
}

const trigger = `create function f() returns trigger language plpgsql as 'begin return new; end'`

// fingerprint returns what a check could leave behind.
func fingerprint(t *testing.T, dsn string) string {
	t.Helper()
	return fmt.Sprint(pgtest.Query(t, dsn, `
select (select md5(string_agg(oid || relname || relfilenode || coalesce(relacl::text, ''), ',' order by oid)) from pg_class),
       (select md5(string_agg(oid || nspname, ',' order by oid)) from pg_namespace),
       (select md5(string_agg(oid || proname, ',' order by oid)) from pg_proc),
       (select md5(string_agg(oid || tgname || tgenabled::text, ',' order by oid)) from pg_trigger),
       (select string_agg(pubname, ',' order by pubname) from pg_publication),
       (select string_agg(slot_name, ',' order by slot_name) from pg_replication_slots where database = current_database()),
       (select count(*) from pg_replication_origin)`))
}

// Each finding is caused on real servers and fixed by its own SQL.
func TestRun_Dump(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	situations := []situation{
		{id: "replica-identity", on: "source", severity: Block, object: `"public"."bare"`, seen: "no primary key", source: []string{`create table bare (a int, b text)`}},
		{
			id: "replica-identity", on: "source", severity: Block, object: `"public"."uniq"`,
			source: []string{`create table uniq (a int not null, b text)`, `create unique index "T idx" on uniq (a)`, `create unique index p on uniq (a) where b is null`},
		},
		{id: "replica-identity", on: "source", severity: Block, object: `"public"."def"`, seen: "deferrable", source: []string{`create table def (a int primary key deferrable)`}},
		{id: "replica-identity", on: "source", severity: Block, object: `"public"."noth"`, seen: "NOTHING", source: []string{`create table noth (a int primary key)`, `alter table noth replica identity nothing`}},
		{
			id: "replica-identity", on: "source", severity: Block, object: `"public"."lost"`, seen: "gone",
			source: []string{`create table lost (a int not null, b int primary key)`, `create unique index i on lost (a)`, `alter table lost replica identity using index i`, `drop index i`},
		},
		{
			id: "replica-identity", on: "source", severity: Block, object: `"public"."p1"`,
			source: []string{`create table pp (a int) partition by range (a)`, `create table p1 partition of pp for values from (0) to (9)`},
		},
		{id: "identity-generated", on: "source", severity: Block, object: `"public"."gen"`, source: []string{`create table gen (a int, g int generated always as (a + 1) stored primary key)`}},
		{
			id: "identity-no-equality", on: "source", severity: Warn, seen: "j, p has", noMend: true,
			source: []string{`create domain d as json`, `create table neq (a int, v varchar(3), e int[], j d, p point[], u uuid, b jsonb)`, `alter table neq replica identity full`},
		},
		{id: "identity-full-big", on: "source", severity: Warn, source: []string{
			`create table big (a int primary key, b text)`, `alter table big alter b set storage external`,
			`insert into big select n, repeat('x', 1000000) from generate_series(1, 70) n`, `alter table big replica identity full`,
		}},
		{id: "insert-only-changed", on: "source", severity: Warn, seen: "1 updated", source: []string{`create table log (a int)`, `insert into log values (1)`, `update log set a = 2`}},
		{id: "unlogged-table", on: "source", severity: Block, source: []string{`create unlogged table unl (a int primary key)`}},
		{id: "oid-column", on: "source", severity: Warn, noMend: true, source: []string{`create table oids (a int primary key, o oid)`}},
		{id: "large-objects", on: "source", severity: Warn, noMend: true, source: []string{`select lo_create(0)`}},
		{
			id: "base-types", on: "source", severity: Warn, noMend: true,
			source: []string{
				`create type bt`, `create function bt_in(cstring) returns bt language internal immutable strict as 'textin'`,
				`create function bt_out(bt) returns cstring language internal immutable strict as 'textout'`, `create type bt (input = bt_in, output = bt_out)`,
			},
		},
		{id: "materialized-views", on: "source", severity: Info, noMend: true, source: []string{`create materialized view m as select 1`}},
		{
			id: "foreign-tables", on: "source", severity: Info, noMend: true,
			source: []string{`create foreign data wrapper w`, `create server s foreign data wrapper w`, `create foreign table ft (a int) server s`},
		},
		{id: "constraint-not-valid", on: "source", severity: Warn, source: []string{`create table con (a int primary key)`, `alter table con add constraint "C" check (a > 0) not valid`}},
		{
			id: "index-invalid", on: "source", severity: Warn,
			source: []string{`create table inv (a int primary key)`, `create index inv_i on inv (a)`, `update pg_index set indisvalid = false where indexrelid = 'inv_i'::regclass`},
		},
		{
			id: "trigger-always", on: "source", severity: Info, noMend: true,
			source: []string{`create table trg (a int primary key)`, trigger, `create trigger "T" before insert on trg for each row execute procedure f()`, `alter table trg enable always trigger "T"`},
		},
		{
			id: "event-trigger", on: "target", severity: Warn,
			target: []string{`create function e() returns event_trigger language plpgsql as 'begin end'`, `create event trigger e on sql_drop execute procedure e()`},
		},
		{
			id: "event-trigger", on: "source", severity: Info, noMend: true,
			source: []string{`create function e() returns event_trigger language plpgsql as 'begin end'`, `create event trigger e on sql_drop execute procedure e()`},
		},
		{id: "sequence-exhaustion", on: "source", severity: Warn, object: `"public"."S"`, source: []string{`create sequence "S" as smallint`, `select setval('"S"', 30000)`}},
		{id: "target-not-empty", on: "target", severity: Block, noMend: true, source: []string{`create table "T x" (a int primary key)`}, target: []string{`create table "T x" (a int)`}},
		{id: "roles-missing", on: "target", severity: Warn, seen: `"check Owner"`, source: []string{`create table own (a int primary key)`, `create role "check Owner"`, `alter table own owner to "check Owner"`}},
		{id: "slot-exists", on: "source", severity: Block, object: "walferry_taken", source: []string{`select pg_create_logical_replication_slot('walferry_taken', 'pgoutput')`}},
		{id: "publication-exists", on: "source", severity: Block, object: "walferry_taken", source: []string{`create publication walferry_taken`}},
		{id: "publication-exists", on: "source", severity: Block, object: "walferry_taken_insert", source: []string{`create publication walferry_taken_insert`}},
		{id: "other-slots", on: "source", severity: Info, noMend: true, source: []string{`select pg_create_logical_replication_slot('check_other', 'pgoutput')`}},
		{id: "helper-schema", on: "target", severity: Block, seen: "walferry.theirs", target: []string{`create schema walferry`, `create table walferry.theirs (a int)`}},
		{id: "extension-older", on: "target", severity: Warn, noMend: true, source: []string{`create extension citext`, `update pg_extension set extversion = '99.0' where extname = 'citext'`}},
		{
			id: "extension-missing", on: "target", severity: Block, object: `"unheard"`, noMend: true,
			source: []string{`create extension hstore`, `update pg_extension set extname = 'unheard' where extname = 'hstore'`},
		},
		{
			id: "session-settings", on: "source", severity: Info, seen: "statement_timeout=7s", noMend: true,
			source: []string{`do $$ begin execute format('alter database %I set statement_timeout = ''7s''', current_database()); end $$`},
		},
		{id: "fsync-off", on: "target", severity: Warn, noMend: true},
		{
			id: "source-subscribes", on: "source", severity: Warn, object: `"check_fed"`, seen: "public.fed", noMend: true, // a disabled one is reported, too
			source: []string{
				`create table fed (a int primary key)`, `create subscription check_fed connection 'dbname=nowhere' publication p with (connect = false)`,
				`insert into pg_subscription_rel (srsubid, srrelid, srsubstate) select oid, 'fed'::regclass, 'r' from pg_subscription where subname = 'check_fed'`,
				`alter subscription check_fed enable`,
			},
		},
		// It keeps slots from being created: it comes last.
		{id: "prepared-transaction", on: "source", severity: Block, source: []string{`begin; create table prep (a int primary key); prepare transaction 'check ''it'`}},
	}
	t.Cleanup(func() {
		exec(background{t}, source, `drop owned by "check Owner"`, `drop role "check Owner"`)
		exec(background{t}, target, `drop role if exists "check Owner"`)
	})
	bring(t, source, target, situations)
	c := Config{SourceDSN: source, TargetDSN: target, Name: "taken", InsertOnly: []string{"log"}, Jobs: 1}

	before := fingerprint(t, source) + fingerprint(t, target)
	report := check(t, c)
	if after := fingerprint(t, source) + fingerprint(t, target); after != before {
		t.Errorf("the check changed something:\n%s\n%s", before, after)
	}
	if !report.Blocks() || report.Findings[0].Severity != Block {
		t.Errorf("got %+v first", report.Findings[0])
	}
	// What a migration has created itself does not block it when it resumes.
	resuming := c
	resuming.Resuming = true
	again := check(t, resuming)
	for _, id := range []string{"slot-exists", "publication-exists", "target-not-empty", "prepared-transaction"} {
		if f := find(again, id, ""); len(f) > 0 {
			t.Errorf("resuming: got %v", f)
		}
	}
	fix(t, c, source, target, situations)
}

func TestRun_SchemaNone(t *testing.T) {
	source, target := pgtest.Pair(t, 13, 17)
	situations := []situation{
		{
			id: "trigger-always", on: "target", severity: Info, noMend: true, object: `"public"."trg"`, source: []string{`create table trg (a int primary key)`},
			target: []string{`create table trg (a int primary key)`, trigger, `create trigger r before insert on trg for each row execute procedure f()`, `alter table trg enable replica trigger r`},
		},
		{
			id: "trigger-always", on: "target", severity: Info, noMend: true, object: `"public"."rul"`, source: []string{`create table rul (a int primary key)`},
			target: []string{`create table rul (a int primary key)`, `create rule r as on insert to rul do also select 1`, `alter table rul enable always rule r`},
		},
		{
			id: "target-not-empty", on: "target", severity: Block, noMend: true, object: `"public"."rows"`, source: []string{`create table rows (a int primary key)`},
			target: []string{`create table rows (a int primary key)`, `insert into rows values (1)`},
		},
		{id: "target-table-missing", on: "target", severity: Block, object: `"public"."miss"`, noMend: true, source: []string{`create table miss (a int primary key)`}},
		{
			id: "schema-difference", on: "target", severity: Block, object: `"public"."diff"`, seen: `column "b"`, noMend: true,
			source: []string{`create table diff (a int primary key, b text)`}, target: []string{`create table diff (a int primary key)`},
		},
		{
			id: "target-stricter", on: "target", severity: Warn, object: `"public"."strict"`, seen: "target only",
			source: []string{`create table strict (a int not null, b text)`, `alter table strict replica identity full`},
			target: []string{`create table strict (a int not null, b text)`, `create unique index "S idx" on strict (a)`},
		},
		{id: "extension-not-created", on: "target", severity: Warn, source: []string{`create extension citext`}},
	}
	bring(t, source, target, situations)
	// A table that had rows has none.
	exec(t, source, `create table dead (a int primary key)`)
	exec(t, target, `create table dead (a int primary key)`, `insert into dead values (1)`, `delete from dead`)
	c := Config{SourceDSN: source, TargetDSN: target, Schema: "none", Jobs: 1}
	fix(t, c, source, target, situations)
	report := check(t, c)
	if f := (situation{id: "target-not-empty", object: `"public"."dead"`}).find(report); len(f) > 0 {
		t.Errorf("got %+v", f)
	}
	if f := (situation{id: "schema-difference", object: `"public"."miss"`}).find(report); len(f) > 0 {
		t.Errorf("the missing table is told twice: %+v", f)
	}
}
