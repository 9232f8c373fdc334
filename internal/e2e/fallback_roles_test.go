package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wayback"
)

// guarded has what acts on rows that are written: triggers that write, in every state, rules, and foreign keys of every kind.
const guarded = `
create table parent (id int primary key, up int constraint up references parent deferrable initially deferred);
create table child (id int primary key, parent int constraint gone references parent on update cascade on delete cascade, other int,
  maybe int constraint maybe references parent on delete set null deferrable);
create table "Odd ""Name""" (id int primary key, "C c" int constraint "Odd ""key""" references child on delete set default);
create table audit (id bigserial primary key, what text not null);
create table journal (v text not null);
create table outside (id int primary key, parent int constraint from_outside references parent);
create table near (id int primary key, o int constraint to_outside references outside on delete cascade);
comment on constraint gone on child is 'it''s the parent''s \ word';
comment on constraint "Odd ""key""" on "Odd ""Name""" is 'odd';
create function noted() returns trigger language plpgsql as $$ begin insert into public.audit (what) values (tg_table_name || ' ' || tg_name || ' ' || tg_op); return new; end $$;
create trigger by_row after insert or update or delete on child for each row execute procedure noted();
create trigger always after insert on child for each row execute procedure noted();
create trigger replica after insert on child for each row execute procedure noted();
create trigger off after insert on child for each row execute procedure noted();
create trigger by_statement after update or delete on parent for each statement execute procedure noted();
alter table child enable always trigger always, enable replica trigger replica, disable trigger off;
create constraint trigger at_last after insert on parent deferrable initially deferred for each row execute procedure noted();
create rule too as on insert to parent where new.id % 2 = 0 do also insert into audit (what) values ('rule');
insert into parent values (1, null), (2, 1), (3, 3), (4, 2);
insert into child select i, 1 + i % 4, 99, 1 + i % 4 from generate_series(1, 40) i;
insert into "Odd ""Name""" select i, i from generate_series(1, 10) i;
insert into outside values (1, 1), (2, 1);
insert into near values (1, 1), (2, 2);
alter table child add constraint not_valid foreign key (other) references parent not valid;
`

// guardedParts has partitions with foreign keys, as far as a version takes them.
func guardedParts(major int) string {
	sql := `
create table parts (id int not null, k int not null, parent int) partition by list (k);
create table parts_1 partition of parts (primary key (id, k)) for values in (1);
create table parts_2 partition of parts for values in (2) partition by list (k);
create table parts_2_2 partition of parts_2 (primary key (id, k)) for values in (2);
alter table parts_1 add constraint own foreign key (parent) references parent on delete set null;
create trigger part_row after insert or update or delete on parts_1 for each row execute procedure noted();
`
	if major >= 12 {
		sql += `
alter table parts add constraint parts_parent foreign key (parent) references parent on delete cascade;
comment on constraint parts_parent on parts is 'of all parts';
create table whole (id int, k int, primary key (id, k)) partition by list (k);
create table whole_1 partition of whole for values in (1);
create table whole_2 partition of whole for values in (2);
create table to_whole (id int primary key, w int, k int, constraint to_whole_key foreign key (w, k) references whole on delete cascade);
insert into whole values (1, 1), (1, 2), (2, 1), (3, 1);
insert into to_whole values (1, 1, 1), (2, 1, 2), (3, 2, 1);
`
	}
	if major >= 13 { // before that nobody but a superuser may disable a partition's copy of a trigger
		sql += `create trigger all_parts after insert on parts for each row execute procedure noted();
`
	}
	return sql + `insert into parts values (1, 1, 1), (1, 2, 2), (2, 1, 3), (2, 2, 3);
`
}

// guardedWrites are writes that triggers and cascades make more of. n is another one each time.
func guardedWrites(n, major int) string {
	sql := fmt.Sprintf(`
insert into parent values (%[1]d00, 1), (%[1]d01, %[1]d02), (%[1]d02, %[1]d01), (%[1]d03, null);
insert into child values (%[1]d00, %[1]d00, null, 1), (%[1]d01, %[1]d01, 1, %[1]d00), (%[1]d02, 1, null, %[1]d03);
insert into "Odd ""Name""" values (%[1]d00, %[1]d00), (%[1]d01, %[1]d01);
insert into parts values (%[1]d00, 1, %[1]d00), (%[1]d00, 2, %[1]d00), (%[1]d01, 1, %[1]d03);
insert into near values (%[1]d00, 1);
insert into journal values ('%[1]d');
begin; delete from parent where id = %[1]d00; savepoint s; delete from parent where id > 1; rollback to s; commit;
delete from parent where id = %[1]d03;
update parent set id = %[1]d51 where id = %[1]d01; update parent set up = %[1]d51 where id = %[1]d02;
`, n)
	if major >= 12 {
		sql += fmt.Sprintf(`insert into whole values (%[1]d00, 1), (%[1]d01, 2); insert into to_whole values (%[1]d00, %[1]d00, 1), (%[1]d01, %[1]d01, 2); delete from whole where id = %[1]d00;`, n)
	}
	return sql
}

// definitionsOf are a server's triggers, rules and foreign keys, as the catalogue has them.
const definitionsOf = `
select 'key ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(c.oid) || ' ' || convalidated::text || condeferrable || condeferred || ' ' || coalesce(obj_description(c.oid, 'pg_constraint'), '')
  from pg_constraint c join pg_namespace n on n.oid = c.connamespace where c.contype = 'f' and n.nspname = 'public' and coninhcount = 0
union all select 'trigger ' || tgrelid::regclass || ' ' || tgname || ' ' || tgenabled::text from pg_trigger t join pg_class c on c.oid = t.tgrelid
 where tgname !~ '^(RI_|walferry)' and relnamespace = 'public'::regnamespace
union all select 'rule ' || ev_class::regclass || ' ' || rulename || ' ' || ev_enabled::text from pg_rewrite w join pg_class c on c.oid = w.ev_class where relnamespace = 'public'::regnamespace and rulename <> '_RETURN'
order by 1`

var dumpNoise = regexp.MustCompile(`(?m)^(--.*|\\(un)?restrict .*|.*\bwalferry[_.].*)?\n`)

// schemaOf is what pg_dump -s says of a server, where there is one for its version, and what the catalogue does, but for walferry's triggers.
func schemaOf(t *testing.T, dsn string) string {
	t.Helper()
	var out strings.Builder
	for _, row := range pgtest.Query(t, dsn, definitionsOf) {
		fmt.Fprintln(&out, row[0])
	}
	major := one[int](t, dsn, `select current_setting('server_version_num')::int / 10000`)
	tools, err := schema.Find(t.Context(), major, major)
	if err != nil {
		t.Logf("the schema of version %d is read from the catalogue alone: %v", major, err)
		return out.String()
	}
	dump, err := exec.Command(tools.PgDump, "--schema-only", "--exclude-schema=walferry", "--no-publications", "--dbname="+dsn).Output()
	if err != nil {
		t.Fatalf("pg_dump: %v", err)
	}
	return out.String() + dumpNoise.ReplaceAllString(string(dump), "")
}

// sameSchema expects a server's schema to be what it was.
func sameSchema(t *testing.T, what, dsn, want string) {
	t.Helper()
	got := schemaOf(t, dsn)
	if got == want {
		return
	}
	has := func(in string) map[string]bool {
		lines := map[string]bool{}
		for line := range strings.SplitSeq(in, "\n") {
			lines[line] = true
		}
		return lines
	}
	before, now := has(want), has(got)
	for line := range before {
		if !now[line] {
			t.Errorf("%s: it has no longer: %s", what, line)
		}
	}
	for line := range now {
		if !before[line] {
			t.Errorf("%s: it has now: %s", what, line)
		}
	}
	t.Errorf("%s: its schema is not what it was", what)
}

// By roles that are no superuser and may not set session_replication_role on either server, a migration goes over, back, over
// again and is finished. Triggers, rules and cascades act once, where the database is; and each server has them as before
// when it is the database again.
func TestFallBack_Roles(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{10, 18}, {13, 17}, {15, 18}} {
		t.Run(fmt.Sprintf("%d-%d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			old, young := pgtest.Pair(t, pair[0], pair[1])
			roles := plainRole(t, old, young)
			pgtest.Exec(t, roles[0], guarded+guardedParts(pair[0])+`analyze`)
			m := newMoving(t, fmt.Sprint("roles_", pair[0]), roles[0], roles[1])
			m.FallBack, m.InsertOnly, m.Exclude = migration.FallBackRequire, []string{"public.journal"}, []string{"public.outside"}
			r := m.start()
			r.waitFor(migration.Following)
			before := schemaOf(t, old)
			n := 0
			arrives := func(from, to string) {
				t.Helper()
				n++
				pgtest.Exec(t, from, guardedWrites(n, pair[0]))
				m.eventually("the rows of "+from, func() bool {
					return one[int](t, from, `select count(*) from audit`) == one[int](t, to, `select count(*) from audit`) &&
						one[int](t, from, `select count(*) from journal`) == one[int](t, to, `select count(*) from journal`)
				})
				if from == old {
					m.caughtUp(r)
				}
				sameMoved(t, from, to)
			}
			arrives(old, young)
			m.asked(migration.Cutover)
			r.waitFor(migration.Switched)
			after := schemaOf(t, young)
			arrives(young, old)

			m.asked(migration.Fallback)
			r.waitFor(migration.Following)
			sameSchema(t, "the old server after the fallback", old, before)
			arrives(old, young)

			m.asked(migration.Cutover)
			r.waitFor(migration.Switched)
			sameSchema(t, "the new server after the second cutover", young, after)
			arrives(young, old)
			if _, err := migration.Finish(context.Background(), m.Config); err != nil {
				t.Fatal(err)
			}
			if outcome, err := r.end(); err != nil || outcome.Phase != migration.Finished {
				t.Fatalf("migrate ended with %+v, %v", outcome, err)
			}
			m.cleanup()
			sameSchema(t, "the new server at the end", young, after)
			sameSchema(t, "the old server at the end", old, before)
		})
	}
}

// sameMoved is sameRows without the table that is not migrated.
func sameMoved(t *testing.T, from, to string) {
	t.Helper()
	for _, table := range []string{"parent", "child", `"Odd ""Name"""`, "audit", "journal", "near", "parts", "whole", "to_whole"} {
		if pgtest.Query(t, from, `select to_regclass('`+table+`') is null`)[0][0] == "t" {
			continue
		}
		rows := `select coalesce(string_agg(t::text, ' ' order by t::text), '') from ` + table + ` t`
		if got, want := one[string](t, to, rows), one[string](t, from, rows); got != want {
			t.Errorf("%s has\n%s\nwant\n%s", table, got, want)
		}
	}
}

// Walferry and the new server are gone, and the old one is opened by hand, by the SQL that was printed: the query that was logged has
// what puts back everything that was put aside.
func TestFallBack_Emergency(t *testing.T) {
	t.Parallel()
	for _, major := range []int{10, 15} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			old, young := pgtest.Pair(t, major, 18)
			roles := plainRole(t, old, young)
			pgtest.Exec(t, roles[0], guarded+guardedParts(major))
			m := newMoving(t, fmt.Sprint("emergency_", major), roles[0], roles[1])
			m.FallBack, m.InsertOnly, m.Exclude = migration.FallBackRequire, []string{"public.journal"}, []string{"public.outside"}
			r := m.start()
			r.waitFor(migration.Following)
			before := schemaOf(t, old)
			m.asked(migration.Cutover)
			r.waitFor(migration.Switched)
			m.eventually("a way back that follows", func() bool { return m.back().State == state.BackFollowing })
			r.cancel()
			if _, err := r.end(); err != nil {
				t.Fatal(err)
			}
			if got := one[int](t, old, `select count(*) from pg_constraint where contype = 'f' and confrelid = 'parent'::regclass and conrelid <> 'outside'::regclass`); got != 0 {
				t.Errorf("the old server has %d foreign keys that would act", got)
			}
			pgtest.Exec(t, roles[0], cutover.UnfenceSQL(m.Name))
			conn, err := pgx.Connect(context.Background(), roles[0])
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			for range 2 { // as often as one likes
				for _, row := range pgtest.Query(t, roles[0], wayback.PutBackSQL(m.Name+"_back")) {
					_, err := conn.Exec(context.Background(), row[0], pgx.QueryExecModeSimpleProtocol)
					if err != nil && catalog.State(err) != catalog.DuplicateObject { // it is there already
						t.Errorf("%s: %v", row[0], err)
					}
				}
			}
			sameSchema(t, "the old server that was opened by hand", old, before)
			pgtest.Exec(t, roles[0], guardedWrites(1, major))
		})
	}
}
