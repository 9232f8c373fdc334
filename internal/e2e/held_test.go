package e2e

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// plainRole makes a role that is no superuser and may not set session_replication_role the
// owner of both databases, and returns how to connect as it.
func plainRole(t *testing.T, dsns ...string) []string {
	t.Helper()
	out := make([]string, len(dsns))
	for i, dsn := range dsns {
		pgtest.Exec(t, dsn, `do $$ begin create role held_mover login replication; exception when duplicate_object or unique_violation then null; end $$`)
		pgtest.Exec(t, dsn, `do $$ begin execute format('alter database %I owner to held_mover', current_database()); end $$; alter schema public owner to held_mover`)
		u, err := url.Parse(dsn)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.User("held_mover")
		out[i] = u.String()
	}
	return out
}

// acting is a database whose triggers and rules write a row of their own for each row: whatever
// of them acts on the target, too, leaves a row too many there.
const acting = `
create table log (id text default md5(random()::text || clock_timestamp()) primary key, what text);
create function note() returns trigger language plpgsql as $$ begin insert into public.log (what) values (tg_table_name || tg_name); return new; end $$;
create table plain (id int primary key, v text);
create trigger t_o after insert on plain for each row execute procedure note();
create trigger t_d after insert on plain for each row execute procedure note();
create trigger t_a after insert on plain for each row execute procedure note();
create trigger t_r before insert on plain for each statement execute procedure note();
alter table plain disable trigger t_d, enable always trigger t_a, enable replica trigger t_r;
create rule r_o as on insert to plain do also insert into log (what) values ('r_o' || new.id);
create rule r_d as on insert to plain do also insert into log (what) values ('r_d' || new.id);
create rule r_a as on insert to plain do also insert into log (what) values ('r_a' || new.id);
create rule r_r as on insert to plain do also insert into log (what) values ('r_r' || new.id);
alter table plain disable rule r_d, enable always rule r_a, enable replica rule r_r;
create table archive (id int primary key, v text);
create table ev (id int primary key, v text);
create rule away as on insert to ev where new.v = 'archive' do instead insert into archive values (new.id, new.v);
insert into plain values (1, 'a')`

// actingParts has partitions whose triggers have other states than those of their parents.
const actingParts = `
create table part (a int primary key, b int) partition by range (a);
create table part1 partition of part for values from (0) to (10);
create table part2 partition of part for values from (10) to (20);
create table sub partition of part for values from (20) to (40) partition by range (a);
create table sub1 partition of sub for values from (20) to (30);
create trigger p_o after insert on part for each row execute procedure note();
create trigger p_a after insert on part for each row execute procedure note();
create trigger p_d after insert on part for each row execute procedure note();
create constraint trigger p_c after insert on part for each row execute procedure note();
create trigger s after insert on part1 for each statement execute procedure note();
alter table part enable always trigger p_a; alter table part disable trigger p_d;
alter table only part1 enable always trigger p_o; alter table only part2 disable trigger p_o; alter table only sub enable replica trigger p_o;
alter table only part1 enable trigger p_a; alter table only sub1 disable trigger p_a;
alter table only part1 enable always trigger p_d; alter table only sub enable trigger p_d;
alter table only sub1 enable always trigger p_c; alter table only part enable replica trigger p_c;
insert into part select i, i from generate_series(1, 29, 4) i`

// states are those of all triggers and rules, but for what the servers make themselves.
const states = `
select string_agg(what, ' ' order by what collate "C")
  from (select g.tgrelid::regclass || '.' || g.tgname || '=' || g.tgenabled::text from pg_trigger g left join pg_constraint k on k.oid = g.tgconstraint
         where (g.tgconstraint = 0 or k.contype = 't') and g.tgname !~ '^walferry'
        union all select w.ev_class::regclass || '.' || w.rulename || '=' || w.ev_enabled::text from pg_rewrite w join pg_class c on c.oid = w.ev_class
         where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')) s(what)`

// Nothing of the target acts on what is copied and applied, and when the target is open each
// trigger and rule has the state it had, of partitions too: with and without the right to set
// session_replication_role, whoever brought the schema.
func TestHeld(t *testing.T) {
	for _, c := range []struct {
		from, to int
		plain    bool
		schema   string
		parts    bool
	}{
		{15, 15, false, "dump", true},
		{15, 18, true, "dump", true},
		{13, 15, false, "none", true},
		{13, 14, true, "none", true},
		{11, 12, false, "none", true}, // copies are known by pg_depend only
		{10, 12, true, "none", false}, // there only a superuser may disable the copies
	} {
		t.Run(fmt.Sprintf("%d-%d/plain=%v/schema=%s", c.from, c.to, c.plain, c.schema), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, c.from, c.to)
			if c.plain {
				dsns := plainRole(t, source, target)
				source, target = dsns[0], dsns[1]
			}
			before := acting
			if c.parts {
				before += ";" + actingParts
			}
			runScript(t, source, before)
			if c.schema == "none" {
				runScript(t, target, before[:strings.LastIndex(acting, "insert into")])
				if c.parts {
					runScript(t, target, actingParts[:strings.LastIndex(actingParts, "insert into")])
				}
			}
			want := one[string](t, source, states)
			m := newMoving(t, "held", source, target)
			m.Schema = c.schema
			r := m.start()
			r.waitFor(migration.Following)
			pgtest.Exec(t, source, `insert into plain values (2, 'b'), (3, 'c')`)
			copyInto(t, source, "ev", []any{1, "archive"}, []any{2, "kept"}) // passes by the rule
			if c.parts {
				pgtest.Exec(t, source, `insert into part select i, i from generate_series(2, 29, 4) i`)
			}
			m.caughtUp(r)
			m.verified()
			m.cutover(r)
			sameRows(t, source, target)
			if got := one[string](t, target, states); got != want {
				t.Errorf("states on the target:\n%s\nwant\n%s", got, want)
			}
			m.cleanup()
		})
	}
}

// copyInto writes rows by COPY.
func copyInto(t *testing.T, dsn, table string, rows ...[]any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	columns := []string{"id", "v"}
	if _, err := conn.CopyFrom(t.Context(), pgx.Identifier{table}, columns, pgx.CopyFromRows(rows)); err != nil {
		t.Fatal(err)
	}
}

// following begins a migration of acting with everything of it.
func followActing(t *testing.T, label string, from, to int) (*moving, *run) {
	t.Helper()
	source, target := pgtest.Pair(t, from, to)
	runScript(t, source, acting+";"+actingParts)
	m := newMoving(t, label, source, target)
	m.Cut.MaxLag, m.Cut.Timeout = patience, patience
	r := m.start()
	r.waitFor(migration.Following)
	return m, r
}

// What is held and is dropped on the target is left out of the opening, what is renamed is
// found, and a partition that came meanwhile gets its parent's state.
func TestHeld_TargetIsAltered(t *testing.T) {
	t.Parallel()
	m, r := followActing(t, "held_altered", 15, 15)
	pgtest.Exec(t, m.Target, `drop trigger t_a on plain; drop rule r_a on plain; alter trigger t_r on plain rename to t_r2;
alter rule r_r on plain rename to r_r2; create table part9 partition of part for values from (90) to (99)`)
	var steps []string
	result, err := migration.Cutover(t.Context(), m.Config, func(s string) { steps = append(steps, s) })
	if err != nil || len(result.Disabled) > 0 {
		t.Fatalf("cutover: %+v, %v", result, err)
	}
	if outcome, err := r.end(); err != nil {
		t.Fatalf("migrate ended with %+v, %v", outcome, err)
	}
	got := one[string](t, m.Target, states)
	for _, want := range []string{"plain.t_r2=R", "plain.r_r2=R", "part9.p_a=A", "part9.p_o=O", "part9.p_d=D", "part1.p_o=A"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in the states after the cutover: %s", want, got)
		}
	}
	for _, want := range []string{`trigger "t_a" of "public"."plain"`, `rule "r_a" of "public"."plain"`} {
		if !strings.Contains(strings.Join(steps, "\n"), want) {
			t.Errorf("the steps do not tell that %s is gone: %q", want, steps)
		}
	}
}

// A reader of the target in an open transaction, for whom a held rule would have to wait, is found
// before the fence: the cutover is refused and names him. So is a trigger that somebody enabled while it followed.
func TestHeld_Refused(t *testing.T) {
	t.Parallel()
	m, r := followActing(t, "held_refused", 15, 15)
	m.Cut.Timeout = 4 * time.Second
	refused := func(names ...string) {
		t.Helper()
		_, err := migration.Cutover(t.Context(), m.Config, nil)
		gate := fail.Find(err, fail.Gate)
		if gate == nil {
			t.Fatalf("cutover: %v, want a gate", err)
		}
		for _, name := range names {
			if !strings.Contains(gate.Problem, name) {
				t.Errorf("cutover: %s, want that it names %s", gate.Problem, name)
			}
		}
		if n := one[int](t, m.Source, `select count(*) from pg_trigger where tgname = 'walferry_fence'`); n != 0 {
			t.Errorf("the source has %d triggers of a fence", n)
		}
	}
	reader := hold(t, m.Target, `set application_name = 'report'; select from plain`)
	refused(`"public"."plain"`, `"report"`, fmt.Sprint(reader.conn.PgConn().PID()))
	reader.rollback()
	pgtest.Exec(t, m.Target, `alter table plain enable always trigger t_a; alter table only part1 enable always trigger p_o`)
	refused(`trigger "t_a" of "public"."plain"`, `trigger "p_o" of "public"."part1"`)
	m.Cut.Timeout = patience
	want := one[string](t, m.Source, states)
	m.cutover(r)
	if got := one[string](t, m.Target, states); got != want {
		t.Errorf("states on the target:\n%s\nwant\n%s", got, want)
	}
}

// A run that finds a sealed fence opens the target for what can be enabled at once, says what cannot,
// and leaves that for status, the next migrate and cleanup.
func TestHeld_LeftByTheOpening(t *testing.T) {
	t.Parallel()
	i := newInterruption(t)
	i.stopBeforeOpening()
	blocker := hold(t, i.Target, `lock table held in row exclusive mode`)
	i.start()
	i.waitPhase(migration.Finished) // though the trigger cannot be had
	if err := i.migrate.Wait(); err == nil {
		t.Error("migrate ended with success, and a trigger is still disabled")
	}
	i.asked.Wait() //nolint:errcheck // the migrate that it asked was killed
	want := `alter table only "public"."held" enable always trigger "always"`
	if st := status(t, i.Config); len(st.Disabled) != 1 || st.Disabled[0] != want {
		t.Errorf("status says %q is disabled, want %q", st.Disabled, want)
	}
	if _, err := migration.Cleanup(context.Background(), i.Config); err == nil || !strings.Contains(hint(err), want) {
		t.Errorf("cleanup while a trigger is disabled: %v, hint %q", err, hint(err))
	}
	blocker.rollback()
	i.start()
	i.finished(0)
	if st := status(t, i.Config); len(st.Disabled) != 0 {
		t.Errorf("status says that %q are disabled", st.Disabled)
	}
}

// stopBeforeOpening kills a cutover between the seal and the opening, of which nothing remains.
func (i *interruption) stopBeforeOpening() {
	i.Helper()
	i.prepare()
	sequence := hold(i.T, i.Target, `alter sequence seq cache 7`)
	i.quiet.commit()
	i.waitPhase(migration.Drained)
	i.waitBlocked(i.Target, `setval`)
	function := i.holdFunction()
	sequence.rollback()
	i.waitBlocked(i.Source, `raise exception`) // the seal
	row := hold(i.T, i.Target, fmt.Sprintf(`select 1 from walferry.migration where name = '%s' for update`, i.Name))
	function.rollback()
	i.waitBlocked(i.Target, `finished.*; commit`)
	if !i.sealed() {
		i.Error("the target is being opened, but the fence is not sealed")
	}
	i.die()
	pgtest.Exec(i.T, i.Target, fmt.Sprintf(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'walferry %s open'`, i.Name))
	i.wait("the end of the opening", i.Target, fmt.Sprintf(`select not exists(select from pg_stat_activity where application_name = 'walferry %s open')`, i.Name))
	i.kill(row.rollback)
}

// cleanup after an abort gives the target's triggers and rules their states back: whoever begins anew
// with the same schema finds it as it was.
func TestHeld_Abort(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 15)
	runScript(t, source, acting)
	runScript(t, target, acting[:strings.LastIndex(acting, "insert into")])
	want := one[string](t, target, states)
	m := newMoving(t, "held_abort", source, target)
	m.Schema = "none"
	r := m.start()
	r.waitFor(migration.Following)
	if got := one[string](t, target, states); got == want {
		t.Error("nothing is held while it follows")
	}
	if err := migration.Abort(t.Context(), m.Config); err != nil {
		t.Fatal(err)
	}
	r.end() //nolint:errcheck // it was aborted
	m.cleanup()
	if got := one[string](t, target, states); got != want {
		t.Errorf("states on the target:\n%s\nwant\n%s", got, want)
	}
}

// The comparison as of the cutover locks small tables against being truncated: not those whose rules
// wait to be enabled.
func TestHeld_Proof(t *testing.T) {
	t.Parallel()
	m, r := followActing(t, "held_proof", 15, 18)
	r.cancel()
	r.end() //nolint:errcheck // stopped
	m.Prove = migration.On
	r = m.start()
	r.waitFor(migration.Following)
	if result := m.cutover(r); result.Equal == nil || !*result.Equal {
		t.Errorf("the comparison as of the cutover: %+v", result)
	}
}
