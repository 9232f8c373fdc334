package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// catalogue lists, a line each, what a command could have changed in a database and
// what of it belongs to the whole server. %s is the name of the migration.
const catalogue = `
select 'schema', nspname::text, nspowner::regrole::text, nspacl::text from pg_namespace where nspname !~ '^pg_(toast_)?temp_'
union all
select 'relation ' || relkind, c.oid::regclass::text, relowner::regrole || ' ' || relreplident, relacl::text || array_to_string(reloptions, ',')
  from pg_class c where relnamespace not in ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace, 'information_schema'::regnamespace)
union all
select 'column', attrelid::regclass || '.' || attname, atttypid::regtype::text || attnotnull, attacl::text
  from pg_attribute a join pg_class c on c.oid = attrelid
  where attnum > 0 and relnamespace not in ('pg_catalog'::regnamespace, 'pg_toast'::regnamespace, 'information_schema'::regnamespace)
union all
select 'constraint', conrelid::regclass || '.' || conname, pg_get_constraintdef(c.oid), convalidated::text from pg_constraint c
  where connamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
union all
select 'function', p.oid::regprocedure::text, proacl::text, md5(prosrc) from pg_proc p
  where pronamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
union all
select 'trigger', tgrelid::regclass || '.' || tgname, tgenabled::text, pg_get_triggerdef(t.oid) from pg_trigger t
union all
select 'event trigger', evtname, evtevent, evtenabled::text from pg_event_trigger
union all
select 'extension', extname, extversion, null from pg_extension
union all
select 'publication', pubname, puballtables::text, null from pg_publication
union all
select 'published', prpubid::text, prrelid::regclass::text, null from pg_publication_rel
union all
select 'subscription', subname, subenabled::text, null from pg_subscription where subdbid = (select oid from pg_database where datname = current_database())
union all
select 'slot', slot_name, plugin, null from pg_replication_slots where database = current_database() or slot_name = 'walferry_%[1]s'
union all
select 'origin', roname, null, null from pg_replication_origin where roname = 'walferry_%[1]s'
union all
select 'settings', setdatabase::text, setrole::text, setconfig::text from pg_db_role_setting
  where setdatabase in (0, (select oid from pg_database where datname = current_database()))
union all
select 'database', datname, datconnlimit::text, datacl::text from pg_database where datname = current_database()
union all
select 'sequence', schemaname || '.' || sequencename, last_value::text, null from pg_sequences
union all
select 'prepared', gid, null, null from pg_prepared_xacts where database = current_database()
order by 1, 2, 3, 4`

// rows gives a statement for each table that returns the hash of its rows. What a
// running migrate writes all the time is left out.
const rows = `
select format('select %L, count(*), md5(string_agg(t::text, chr(10) order by t::text)) from %s t', c.oid::regclass, c.oid::regclass)
  from pg_class c where relkind in ('r', 'm') and relpersistence <> 't' and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
  and not (relnamespace::regnamespace::text = 'walferry' and relname in ('heartbeat', 'migration', 'progress'))
order by 1`

// listing is what both servers hold.
func listing(ts *testscript.TestScript) (lines []string) {
	for _, name := range []string{"source", "target"} {
		dsn := side(ts, name)
		for _, row := range pgtest.Query(of(ts).tb, dsn, fmt.Sprintf(catalogue, ts.Getenv("NAME"))) {
			lines = append(lines, name+": "+strings.Join(row, " "))
		}
		for _, statement := range pgtest.Query(of(ts).tb, dsn, rows) {
			for _, row := range pgtest.Query(of(ts).tb, dsn, statement[0]) {
				lines = append(lines, name+": rows "+strings.Join(row, " "))
			}
		}
	}
	return lines
}

// remember keeps what both servers hold, for unchanged.
func remember(ts *testscript.TestScript, _ bool, _ []string) {
	of(ts).before = listing(ts)
	if len(of(ts).before) < 10 {
		ts.Fatalf("a listing of %d lines is none: %q", len(of(ts).before), of(ts).before)
	}
}

// unchanged holds when both servers hold what remember saw.
func unchanged(ts *testscript.TestScript, neg bool, _ []string) {
	before, after := of(ts).before, listing(ts)
	if before == nil {
		ts.Fatalf("nothing was remembered")
	}
	var difference []string
	for _, line := range before {
		if !slices.Contains(after, line) {
			difference = append(difference, "- "+line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			difference = append(difference, "+ "+line)
		}
	}
	if changed := len(difference) > 0; changed != neg {
		ts.Fatalf("changed: %v\n%s", changed, strings.Join(difference, "\n"))
	}
}

// reach waits until the migration is in a phase, and run by a migrate if it is
// following: reach PHASE.
func reach(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: reach PHASE")
	}
	config := migration.Config{Source: side(ts, "source"), Target: side(ts, "target"), Name: ts.Getenv("NAME")}
	ctx := of(ts).tb.Context()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		st, err := migration.ReadStatus(ctx, config)
		ts.Check(err)
		want := migration.Phase(args[0])
		if st.Phase == want && (want != migration.Following || st.Running && st.Stream.Transactions > 0) {
			return
		}
		if st.Error != "" || time.Now().After(deadline) {
			ts.Fatalf("phase %s was not reached: %+v", want, st)
		}
	}
}

// What the scripts rely on when they say that nothing was changed.
func TestListing_SeesChanges(t *testing.T) {
	source, _ := pgtest.Default()
	dsn := pgtest.Shared(t, source).Database(t)
	see := func() string { return fmt.Sprint(pgtest.Query(t, dsn, fmt.Sprintf(catalogue, "none"))) }
	before := see()
	for _, sql := range []string{
		`create schema walferry`, `create table t (a int)`, `alter table t replica identity full`, `create publication p for table t`,
		`select pg_create_logical_replication_slot('see_' || substr(md5(current_database()), 1, 12), 'pgoutput')`,
		`create function f() returns trigger language plpgsql as 'begin return null; end'`,
		`create trigger g before insert on t for each statement execute function f()`, `alter table t disable trigger g`,
	} {
		pgtest.Exec(t, dsn, sql)
		after := see()
		if after == before {
			t.Errorf("not seen: %s", sql)
		}
		before = after
	}
}
