package e2e

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// insideTheFence asks for a cutover, does something while the source is fenced and drained,
// and returns what the cutover ends with. The source has a sequence seq.
func (m *moving) insideTheFence(do func()) error {
	m.t.Helper()
	pgtest.Exec(m.t, m.Source, `select nextval('seq')`)
	sequence := hold(m.t, m.Target, `alter sequence seq cache 7`)
	cut := make(chan error, 1)
	go func() {
		c := m.Config
		c.Cut.MaxLag, c.Cut.Timeout = patience, patience
		_, err := migration.Cutover(context.Background(), c, nil)
		cut <- err
	}()
	target := newLine(m.t, m.Target)
	m.eventually("a cutover that is drained", func() bool {
		select {
		case err := <-cut:
			m.t.Fatalf("the cutover has ended before: %v", err)
		default:
		}
		phase, err := target.ask(phaseOf(m.Config))
		return err == nil && phase == string(migration.Drained)
	})
	do()
	if phase, err := target.ask(phaseOf(m.Config)); err != nil || phase != string(migration.Drained) {
		m.t.Fatalf("the cutover did not wait: phase %s, %v", phase, err)
	}
	sequence.rollback()
	return <-cut
}

// atEnd runs statements when a test is over.
func atEnd(t *testing.T, dsn string, statements ...string) {
	t.Cleanup(func() {
		line := newLine(t, dsn)
		for _, sql := range statements {
			if _, err := line.ask(sql); err != nil && err != io.EOF {
				t.Errorf("%v\nin: %s", err, sql)
			}
		}
	})
}

// refusedGate tells whether an error is a gate's, and says something.
func refusedGate(err error, say string) bool {
	gate := fail.Find(err, fail.Gate)
	return gate != nil && strings.Contains(gate.Problem+" "+gate.Advice, say)
}

// Whoever passes the fence by a way that no trigger sees is seen in the stream: the cutover
// takes everything back, the target has what was written, and the next cutover goes through.
func TestFence_Passed(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 13, 18)
	pgtest.Exec(t, source, `create table t (id int primary key, v text); insert into t values (1, 'a'); create sequence seq; create table u (id int primary key)`)
	m := newMoving(t, "passed", source, target)
	r := m.start()
	r.waitFor(migration.Following)
	for name, sql := range map[string]string{
		"trigger disabled for a moment": `begin; alter table t disable trigger user; insert into t values (2); alter table t enable always trigger walferry_fence; commit`,
		"trigger made anew": `begin; drop trigger walferry_fence on u; truncate u;
create trigger walferry_fence before insert or update or delete or truncate on u for each statement execute procedure walferry."fence_` + m.Name + `"();
alter table u enable always trigger walferry_fence; commit`,
	} {
		err := m.insideTheFence(func() {
			app := newLine(t, source)
			for _, pass := range []string{m.Name, ""} {
				if _, err := app.ask(`set walferry.pass = '` + pass + `'`); err != nil && err != io.EOF {
					t.Error(err)
				}
				if _, err := app.ask(`update t set v = 'b'`); err == nil || !strings.Contains(err.Error(), "WF001") {
					t.Errorf("with the pass %q: %v, want WF001", pass, err)
				}
			}
			pgtest.Exec(t, source, sql)
		})
		if !refusedGate(err, "somebody has passed the fence") || !refusedGate(err, "everything is as before") {
			t.Errorf("%s: the cutover ended with %v", name, err)
		}
		r.waitFor(migration.Following)
		m.caughtUp(r)
		sameRows(t, source, target)
		pgtest.Exec(t, source, `update t set v = v`) // it is open
	}
	m.cutover(r)
	sameRows(t, source, target)
	m.cleanup()
}

// A statement on a parent that is not migrated is refused like one on its children.
func TestFence_ParentLeftOut(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 15)
	pgtest.Exec(t, source, `create table par (id int, v text); create table child (primary key (id)) inherits (par); insert into child values (1, 'a'); create sequence seq`)
	pgtest.Exec(t, target, `create table child (id int primary key, v text); create sequence seq`)
	m := newMoving(t, "parent", source, target)
	m.Schema, m.Exclude = "none", []string{"public.par"}
	r := m.start()
	r.waitFor(migration.Following)
	err := m.insideTheFence(func() {
		app := newLine(t, source)
		for _, sql := range []string{`update par set v = 'b'`, `delete from par`, `truncate par`} {
			if _, err := app.ask(sql); err == nil || !strings.Contains(err.Error(), "WF001") {
				t.Errorf("%s: %v, want WF001", sql, err)
			}
		}
		pgtest.Exec(t, source, `create table late (id int, v text); alter table child inherit late`)
	})
	if !refusedGate(err, "un-fenced") {
		t.Errorf("a parent that was made inside the fence: %v", err)
	}
	r.waitFor(migration.Following)
	pgtest.Exec(t, source, `alter table child no inherit late; drop table late; update par set v = 'c'`)
	m.cutover(r)
	if got := one[string](t, target, `select v from child`); got != "c" {
		t.Errorf("the target has %s", got)
	}
	m.cleanup()
}

// What a subscription of the source receives is no statement. The cutover refuses while it is
// enabled; when somebody enables it inside the fence, its change is refused and kept by
// its publisher; and so it is after the cutover.
func TestFence_Subscription(t *testing.T) {
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			// Servers of their own: on one that tests share, a subscription waits for the others' transactions
			// when it makes its slot, and for a free worker.
			upstream := pgtest.New(t, pgtest.Options{Major: 15}).Database(t)
			source := pgtest.New(t, pgtest.Options{Major: major}).Database(t)
			_, target := pgtest.Pair(t, 15, 18)
			const ddl = `create table t (id int primary key, b text)`
			pgtest.Exec(t, upstream, ddl+`; create publication p for table t; insert into t values (1, 'copied')`)
			for _, dsn := range []string{source, target} {
				pgtest.Exec(t, dsn, ddl+`; create sequence seq`)
			}
			s := migrationName("sub")
			pgtest.Exec(t, source, fmt.Sprintf(`create subscription %s connection '%s' publication p`, s, upstream))
			disable := `alter subscription ` + s + ` disable`
			has := func(id int) bool {
				return one[bool](t, source, fmt.Sprintf(`select exists(select from t where id = %d)`, id))
			}
			m := newMoving(t, "subscribes", source, target)
			m.Schema = "none"
			m.eventually("the subscription's copy", func() bool { return has(1) })
			r := m.start()
			r.waitFor(migration.Following)
			c := m.Config
			c.Cut.MaxLag = patience
			if _, err := migration.Cutover(context.Background(), c, nil); !refusedGate(err, s) || !refusedGate(err, `alter subscription "`+s+`" disable`) {
				t.Errorf("cutover while a subscription writes: %v", err)
			}
			// Two workers were seen: the first has met the fence, and ended.
			refused := func() {
				workers := map[string]bool{}
				line := newLine(t, source)
				m.eventually("the worker's second attempt", func() bool {
					for range 500 { // without a pause: a worker that is refused lives for some milliseconds, every five seconds
						pid, err := line.ask(`select pid from pg_stat_subscription where subname = '` + s + `' and pid is not null`)
						if err == nil {
							workers[pid] = true
						}
					}
					return len(workers) > 1
				})
			}
			pgtest.Exec(t, source, disable)
			err := m.insideTheFence(func() {
				pgtest.Exec(t, upstream, `insert into t values (2, 'inside')`)
				pgtest.Exec(t, source, `alter subscription `+s+` enable`)
				refused()
				if has(2) {
					t.Error("the subscription has passed the fence")
				}
			})
			if !refusedGate(err, "enabled inside the fence") {
				t.Errorf("cutover: %v", err)
			}
			m.eventually("what the publisher has kept", func() bool { return has(2) })
			r.waitFor(migration.Following)
			pgtest.Exec(t, source, disable)
			m.eventually("the end of the worker", func() bool {
				return one[int](t, source, `select count(*) from pg_stat_subscription where pid is not null and subname = '`+s+`'`) == 0
			})
			m.cutover(r)
			pgtest.Exec(t, upstream, `insert into t values (1000, 'after')`)
			pgtest.Exec(t, source, `alter subscription `+s+` enable`)
			refused()
			if has(1000) {
				t.Error("the subscription writes to a source that is sealed")
			}
			sameRows(t, source, target)
			pgtest.Exec(t, source, disable)
			m.cleanup()
		})
	}
}

// A reader with a long transaction on the source keeps a trigger from being taken away, and
// nothing else: the rehearsal succeeds and says who it is, writers pass, and a cutover follows.
func TestRehearsal_LongReader(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 15)
	pgtest.Exec(t, source, `create table t (id int primary key); create table u (id int primary key)`)
	m := newMoving(t, "reader", source, target)
	r := m.start()
	r.waitFor(migration.Following)
	reader := hold(t, source, `set application_name = 'reports'; select from t`)
	var told []string
	c := m.Config
	c.Cut.MaxLag, c.Cut.Timeout, c.Cut.DryRun = patience, patience, true
	result, err := migration.Cutover(context.Background(), c, func(step string) { told = append(told, step) })
	if err != nil {
		t.Fatalf("rehearsal: %v", err)
	}
	all := strings.Join(told, "\n")
	if !strings.Contains(all, `on "public"."t" (pid`) || !strings.Contains(all, `"reports"`) || strings.Contains(all, "FAILED") {
		t.Errorf("it told:\n%s", all)
	}
	if result.PauseMS > result.DrainedAt.Sub(*result.FencedAt).Milliseconds()+9000 { // the attempts alone take ten seconds
		t.Errorf("the pause is %d ms, and drained it was after %s", result.PauseMS, result.DrainedAt.Sub(*result.FencedAt))
	}
	pgtest.Exec(t, source, `insert into t values (1); insert into u values (1)`)
	if got := one[int](t, source, `select count(*) from pg_trigger where tgname ~ 'walferry_fence'`); got != 1 {
		t.Errorf("%d triggers are left, want that of t", got)
	}
	m.cutover(r)
	sameRows(t, source, target)
	reader.rollback()
	m.cleanup()
}

// plainRole makes a role without superuser that owns what is in public on both sides, and
// has a connect as it.
func (m *moving) plainRole() {
	m.t.Helper()
	admin := map[string]string{"source": m.Source, "target": m.Target}
	role := migrationName("plain")
	for _, dsn := range admin {
		pgtest.Exec(m.t, dsn, `create role `+role+` login replication password 'plain'`)
		pgtest.Exec(m.t, dsn, `do $$ declare x record; begin
execute format('grant create on database %I to `+role+`', current_database());
grant all on schema public to `+role+`;
for x in select relname, relkind from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'S') loop
  if x.relkind = 'r' then execute format('alter table public.%I owner to `+role+`', x.relname); end if;
end loop; end $$`)
		atEnd(m.t, dsn, `drop owned by `+role+` cascade`, `drop role `+role)
	}
	as := func(dsn string) string {
		u, err := url.Parse(dsn)
		if err != nil {
			m.t.Fatal(err)
		}
		u.User = url.UserPassword(role, "plain")
		return u.String()
	}
	m.Source, m.Target = as(m.Source), as(m.Target)
}

const eventTriggers = `
create table t (id int primary key);
create table ddl_audit (id bigserial primary key, tag text);
create function intercept_ddl() returns event_trigger language plpgsql security definer as $$ begin insert into public.ddl_audit (tag) values (tg_tag); end $$;
create function no_drop() returns event_trigger language plpgsql as $$ begin raise exception 'DROP is not allowed here'; end $$;
create event trigger intercept_ddl on ddl_command_end execute procedure intercept_ddl();
create event trigger no_drop on sql_drop execute procedure no_drop();
`

// Event triggers of the source's owners do not fire for a role that may leave them out: a
// whole migration passes one that writes to a migrated table and one that forbids DROP.
func TestEventTriggers_LeftOut(t *testing.T) {
	for _, major := range []int{10, 17} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, major, 18)
			pgtest.Exec(t, source, eventTriggers)
			pgtest.Exec(t, target, `create table t (id int primary key); create table ddl_audit (id bigserial primary key, tag text)`)
			m := newMoving(t, "quiet", source, target)
			m.Schema = "none"
			before := one[int](t, source, `select count(*) from ddl_audit`)
			r := m.start()
			r.waitFor(migration.Following)
			c := m.Config
			c.Cut.MaxLag, c.Cut.Timeout, c.Cut.DryRun = patience, patience, true
			if _, err := migration.Cutover(context.Background(), c, nil); err != nil {
				t.Errorf("rehearsal: %v", err)
			}
			m.cutover(r)
			m.cleanup()
			if got := one[int](t, source, `select count(*) from ddl_audit`); got != before {
				t.Errorf("%d statements of ours were written down", got-before)
			}
			sameRows(t, source, target)
		})
	}
}

// Event triggers come along with the schema. Those that forbid what opens the target, or what
// leaves nothing there, keep it neither closed nor unclean.
func TestEventTriggers_OfTheTarget(t *testing.T) {
	for _, to := range []int{15, 18} {
		t.Run(fmt.Sprint(to), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, 13, to)
			pgtest.Exec(t, source, `
create table t (id int primary key);
create function f() returns trigger language plpgsql as 'begin return null; end';
create trigger held after insert on t for each row execute function f();
alter table t enable always trigger held;
create function forbid() returns event_trigger language plpgsql as 'begin raise exception ''not here''; end';
create event trigger no_ddl on ddl_command_start execute function forbid();
create event trigger no_drop on sql_drop execute function forbid()`)
			m := newMoving(t, "forbidden", source, target)
			r := m.start()
			r.waitFor(migration.Following)
			m.cutover(r)
			if got := one[string](t, target, `select concat((select count(*) from pg_event_trigger), (select tgenabled from pg_trigger where tgname = 'held'))`); got != "2A" {
				t.Errorf("event triggers and the state of the trigger are %s, want 2A", got)
			}
			m.cleanup()
			for _, dsn := range []string{source, target} {
				pgtest.Exec(t, dsn, `drop event trigger no_ddl`)
			}
		})
	}
}

// Where the role may not leave them out, what they do to a cutover, and to the end, is said
// with their name and with what to do. Nothing that a trigger forbids keeps the source closed.
func TestEventTriggers_Named(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 13, 15)
	pgtest.Exec(t, source, eventTriggers)
	pgtest.Exec(t, target, `create table t (id int primary key); create table ddl_audit (id bigserial primary key, tag text)`)
	m := newMoving(t, "loud", source, target)
	m.Schema = "none"
	m.plainRole()
	r := m.start()
	r.waitFor(migration.Following)
	c := m.Config
	c.Cut.MaxLag, c.Cut.Timeout, c.Cut.DryRun = patience, patience, true
	_, err := migration.Cutover(context.Background(), c, nil)
	if !refusedGate(err, `event trigger "intercept_ddl"`) || !refusedGate(err, `alter event trigger "intercept_ddl" disable`) || !refusedGate(err, "everything is as before") {
		t.Errorf("with a trigger that writes to a migrated table: %v", err)
	}
	pgtest.Exec(t, source, `insert into t values (1)`)
	pgtest.Exec(t, source, `alter event trigger intercept_ddl disable`)
	var told []string
	if _, err := migration.Cutover(context.Background(), c, func(step string) { told = append(told, step) }); err != nil {
		t.Errorf("rehearsal with a trigger that forbids DROP: %v", err)
	}
	if all := strings.Join(told, "\n"); !strings.Contains(all, `event trigger "no_drop"`) || strings.Contains(all, "FAILED") {
		t.Errorf("it told:\n%s", all)
	}
	pgtest.Exec(t, source, `insert into t values (2)`)
	err = migration.Abort(context.Background(), m.Config)
	if err == nil || !strings.Contains(err.Error()+hint(err), `alter event trigger "no_drop" disable`) {
		t.Errorf("abort: %v, hint %q", err, hint(err))
	}
	pgtest.Exec(t, source, `alter event trigger no_drop disable`)
	if err := migration.Abort(context.Background(), m.Config); err != nil {
		t.Errorf("abort: %v", err)
	}
	if _, err := migration.Cleanup(context.Background(), m.Config); err != nil {
		t.Errorf("cleanup: %v", err)
	}
	m.nothingLeft()
}
