package online

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func run(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%v\nin: %s", err, sql)
	}
}

// DDL that waits for a table gives up long before the server looks for deadlocks, however short
// that time is, and succeeds once the table is free. Until then its holder is named.
func TestRun_Waits(t *testing.T) {
	for _, major := range []int{10, 18} {
		dsn := pgtest.Shared(t, major).Database(t)
		pgtest.Exec(t, dsn, `create table t (id int)`)
		conn, app := connect(t, dsn), connect(t, dsn)
		for setting, want := range map[string]string{"1s": "200ms", "50ms": "25ms", "1ms": "10ms", "10min": "200ms"} {
			run(t, conn, `set deadlock_timeout = '`+setting+`'`)
			if err := Try(t.Context(), conn, `create table seen_`+setting+` as select current_setting('lock_timeout') as is`); err != nil {
				t.Fatal(err)
			}
			if got := pgtest.Query(t, dsn, `select "is" from seen_`+setting)[0][0]; got != want {
				t.Errorf("%d: with a deadlock_timeout of %s waits for %s, want %s", major, setting, got, want)
			}
		}
		run(t, conn, `reset deadlock_timeout`)
		run(t, app, `set application_name = 'application'; begin; insert into t values (1)`)
		done := make(chan error, 1)
		go func() { done <- Run(context.Background(), conn, "t", `alter table t add column a int`) }()
		// The application's next statement on the table waits behind the DDL, but not forever.
		for waits := false; !waits; {
			if err := connect(t, dsn).QueryRow(t.Context(), `select exists(select from pg_locks where relation = 't'::regclass and not granted)`).Scan(&waits); err != nil {
				t.Fatal(err)
			}
		}
		run(t, app, `lock table t in access exclusive mode`)
		holders, err := Holders(t.Context(), connect(t, dsn), "public.t")
		if err != nil || len(holders) != 1 || !strings.Contains(List(holders), `"application", a transaction of`) {
			t.Errorf("%d: the holders are %v, %v", major, holders, err)
		}
		run(t, app, `commit`)
		if err := <-done; err != nil {
			t.Errorf("%d: %v", major, err)
		}
		if err := TryMany(t.Context(), conn, `alter table t add column b int; alter table t add column a int`); err == nil || Busy(err) {
			t.Errorf("%d: %v", major, err)
		}
		run(t, conn, `alter table t add column b int`) // nothing was left, and no transaction is open
		if got := pgtest.Query(t, dsn, `show lock_timeout`)[0][0]; got != "0" {
			t.Errorf("%d: lock_timeout %s afterwards", major, got)
		}
	}
}

// An error that time does not fix is not retried forever, whatever its class.
func TestExec_InternalError(t *testing.T) {
	dsn := pgtest.Shared(t, 15).Database(t)
	pgtest.Exec(t, dsn, `create sequence tries`)
	conn := connect(t, dsn)
	const sql = `do $$ begin raise exception 'nextval %', nextval('tries') using errcode = 'XX000'; end $$`
	if err := Exec(t.Context(), conn, sql); !Busy(err) {
		t.Errorf("got %v", err)
	}
	if err := Run(t.Context(), conn, "", sql); !Busy(err) {
		t.Errorf("got %v", err)
	}
	if got := pgtest.Query(t, dsn, `select last_value < 40 from tries`)[0][0]; got != "t" {
		t.Error("it was tried more than forty times")
	}
	// A concurrent replacement of the same function, in whatever language the server reports it.
	run(t, conn, `create function f() returns int language sql as 'select 1'`)
	other := connect(t, dsn)
	run(t, other, `begin; create or replace function f() returns int language sql as 'select 2'`)
	done := make(chan error, 1)
	go func() {
		done <- Exec(context.Background(), conn, `create or replace function f() returns int language sql as 'select 3'`)
	}()
	for waits := false; !waits; {
		if err := connect(t, dsn).QueryRow(t.Context(), `select exists(select from pg_locks where not granted and pid = $1)`, conn.PgConn().PID()).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	run(t, other, `commit`)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := pgtest.Query(t, dsn, `select f()`)[0][0]; got != "3" {
		t.Errorf("f is %s", got)
	}
}

// Event triggers do not fire for a session that may skip them. Those that do fire are the ones that
// match Loud, and an error in one names it.
func TestQuiet(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		server := pgtest.Shared(t, major)
		dsn := server.Database(t)
		pgtest.Exec(t, dsn, `create table fired (name text); grant all on fired to public; do $$ begin create role quiet_plain; exception when duplicate_object then end $$;
do $$ begin execute format('grant create on database %I to quiet_plain', current_database()); end $$`)
		for _, enable := range []string{"enable", "enable replica", "enable always"} {
			name := strings.ReplaceAll(enable, " ", "_")
			pgtest.Exec(t, dsn, `create function note_`+name+`() returns event_trigger language plpgsql as $$ begin insert into public.fired values ('`+name+`'); end $$;
create event trigger `+name+` on ddl_command_end execute procedure note_`+name+`(); alter event trigger `+name+` `+enable)
		}
		for _, superuser := range []bool{true, false} {
			conn := connect(t, dsn)
			if !superuser {
				run(t, conn, `set session authorization quiet_plain`)
			}
			if err := Quiet(t.Context(), conn); err != nil {
				t.Fatal(err)
			}
			pgtest.Exec(t, dsn, `truncate fired`)
			if err := Exec(t.Context(), conn, `create schema if not exists made_by_`+map[bool]string{true: "super", false: "plain"}[superuser]); err != nil {
				t.Fatal(err)
			}
			fired := pgtest.Query(t, dsn, `select coalesce(string_agg(name, ',' order by name), '') from fired`)[0][0]
			var said string
			err := conn.QueryRow(t.Context(), `select coalesce(string_agg(evtname, ',' order by evtname), '') from pg_event_trigger t where `+Loud(major, superuser)).Scan(&said)
			if err != nil || said != fired {
				t.Errorf("%d, superuser %v: %q fired, Loud says %q, %v", major, superuser, fired, said, err)
			}
			if superuser && strings.Contains(fired, "enable,") || major >= 17 && superuser && fired != "" {
				t.Errorf("%d: %q fired for a superuser", major, fired)
			}
		}
		pgtest.Exec(t, dsn, `create function "No!"() returns event_trigger language plpgsql as $$ begin raise exception 'not here'; end $$; create event trigger "No!" on sql_drop execute procedure "No!"()`)
		conn := connect(t, dsn)
		run(t, conn, `create table gone (); set search_path = ''`)
		err := Try(t.Context(), conn, `drop table public.gone`)
		var named *EventTriggerError
		if !errors.As(err, &named) || named.Name != "No!" || !strings.Contains(named.Hint(), `alter event trigger "No!" disable`) || Busy(err) {
			t.Errorf("%d: %v", major, err)
		}
		pgtest.Exec(t, dsn, `alter event trigger "No!" disable; drop owned by quiet_plain; drop role quiet_plain`)
	}
}

// An attempt in progress when its time ends gets a few more seconds, and the connection survives.
func TestRun_OutOfTime(t *testing.T) {
	dsn := pgtest.Shared(t, 15).Database(t)
	pgtest.Exec(t, dsn, `create table t (id int)`)
	conn, app := connect(t, dsn), connect(t, dsn)
	run(t, app, `begin; lock table t in access share mode`)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := Run(ctx, conn, "t", `alter table t add column a int`); !Busy(err) || conn.IsClosed() {
		t.Errorf("%v, closed %v", err, conn.IsClosed())
	}
}

// Who is in the way at two looks in a row is named to people once; others come and go. What is kept is all of
// them, at each look.
func TestLooks(t *testing.T) {
	var said, kept []string
	seen := looks{}
	look := func(pids ...int32) {
		var holders []Holder
		for _, pid := range pids {
			holders = append(holders, Holder{PID: pid})
		}
		seen.tell(holders, "", func(w Wait, say bool) {
			text := ""
			for _, h := range w.Holders {
				text += fmt.Sprint(" ", h.PID)
			}
			if say {
				said = append(said, text)
			} else {
				kept = append(kept, text)
			}
		})
	}
	look(1, 2)
	look(1)       // 2 was passing
	look(1, 2, 3) // 2 may be passing again
	look(1, 3)
	look(3)
	look(1, 3) // known already
	if got, want := fmt.Sprint(said), "[ 1  3]"; got != want {
		t.Errorf("people were told of %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(kept), "[ 1  1  1 3  3  1 3]"; got != want {
		t.Errorf("kept were %s, want %s", got, want)
	}
}
