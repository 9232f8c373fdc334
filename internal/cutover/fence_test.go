package cutover

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
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

func refused(t *testing.T, conn *pgx.Conn, sql string) bool {
	t.Helper()
	_, err := conn.Exec(t.Context(), sql)
	var pgErr *pgconn.PgError
	if err != nil && (!errors.As(err, &pgErr) || pgErr.Code != SQLState) {
		t.Fatalf("%s: %v", sql, err)
	}
	return err != nil
}

// drop takes the fence x down.
func drop(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	if err := Open(t.Context(), conn, "x", ""); err != nil {
		t.Fatal(err)
	}
	if left, err := Remove(t.Context(), conn, "x"); err != nil || len(left) > 0 {
		t.Fatalf("left: %v, %v", left, err)
	}
}

// A transaction that has written before completes, and the fence waits for it; every kind of write
// that begins later is refused; the fence opens on its own at its deadline, after which it cannot
// be sealed; nothing is left when it is dropped.
func TestFence(t *testing.T) {
	for _, major := range []int{10, 18} {
		dsn, _ := pgtest.Pair(t, major, major)
		pgtest.Exec(t, dsn, `create schema walferry; create table t (id int primary key); create table u (id int); insert into t values (1)`)
		conn, app, old := connect(t, dsn), connect(t, dsn), connect(t, dsn)
		tables, err := catalog.Tables(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		fence := Fence{Name: "x", Tables: tables}
		if err := fence.Prepare(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		if refused(t, app, `insert into t values (2)`) {
			t.Errorf("%d: refused before the fence was raised", major)
		}
		if _, err := old.Exec(t.Context(), `begin; insert into t values (3)`); err != nil {
			t.Fatal(err)
		}
		raised := make(chan error, 1)
		go func() {
			_, _, err := fence.Raise(context.Background(), conn, time.Hour)
			raised <- err
		}()
		for n := 100; !refused(t, app, `insert into u values (1)`); n++ {
			if n > 10000 {
				t.Fatalf("%d: never refused", major)
			}
			time.Sleep(time.Millisecond)
		}
		select {
		case err := <-raised:
			t.Fatalf("%d: raised, though a transaction that had written was open: %v", major, err)
		default:
		}
		if refused(t, old, `insert into u values (3)`) {
			t.Errorf("%d: a transaction that had written before was refused", major)
		}
		if _, err := old.Exec(t.Context(), `commit`); err != nil {
			t.Fatal(err)
		}
		if err := <-raised; err != nil {
			t.Fatalf("%d: %v", major, err)
		}
		for _, sql := range []string{
			`insert into t values (9)`, `update t set id = id`, `delete from t`, `truncate t`,
			`set session_replication_role = replica; delete from t`, `begin; select txid_current(); insert into t values (9)`,
		} {
			fresh := connect(t, dsn)
			if _, err := fresh.PgConn().Exec(t.Context(), sql).ReadAll(); err == nil {
				t.Errorf("%d: passed the fence: %s", major, sql)
			}
			fresh.Close(context.Background())
		}
		if err := fence.Seal(t.Context(), conn); err != nil {
			t.Errorf("%d: seal: %v", major, err)
		}
		if state, err := Look(t.Context(), conn, "x"); err != nil || !state.Sealed || state.Triggers != 2 {
			t.Errorf("%d: sealed fence looks like %+v, %v", major, state, err)
		}

		// The same with a deadline that passes.
		drop(t, conn)
		if err := fence.Prepare(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		if _, _, err := fence.Raise(t.Context(), conn, 50*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		for n := 0; refused(t, app, `insert into t values (4)`); n++ {
			if n > 10000 {
				t.Fatalf("%d: the fence did not open on its own", major)
			}
			time.Sleep(5 * time.Millisecond)
		}
		if err := fence.Seal(t.Context(), conn); err == nil {
			t.Errorf("%d: sealed after its deadline", major)
		}
		drop(t, conn)
		if got, want := pgtest.Query(t, dsn, `select (select count(*) from pg_trigger where tgname ~ 'walferry') + (select count(*) from pg_proc where proname ~ '^fence_')`)[0][0], "0"; got != want {
			t.Errorf("%d: %s objects are left, want %s", major, got, want)
		}
	}
}

// A session with the secret passes a fence, for as long as the setting lasts, and nobody else; the
// catalogue does not show the secret, and a sealed fence that another run adopts keeps it.
func TestFence_Pass(t *testing.T) {
	for _, major := range []int{10, 11, 18} {
		dsn, _ := pgtest.Pair(t, major, major)
		pgtest.Exec(t, dsn, `create schema walferry; create table t (id int)`)
		conn := connect(t, dsn)
		tables, err := catalog.Tables(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		const secret = "5f1d0e'\\ü"
		fence := Fence{Name: "x", Tables: tables, Pass: secret}
		if err := fence.Prepare(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		look := func(when string) {
			t.Helper()
			passes := func(sql string) bool {
				app := connect(t, dsn)
				defer app.Close(context.Background())
				if _, err := app.Exec(t.Context(), `set standard_conforming_strings = off`); err != nil {
					t.Fatal(err)
				}
				for _, held := range []string{"x", "", secret + " ", pgtest.Query(t, dsn, `select prosrc from pg_proc where proname = 'fence_x'`)[0][0]} {
					if _, err := app.Exec(t.Context(), `select set_config('walferry.pass', $1, false)`, held); err != nil {
						t.Fatal(err)
					}
					if !refused(t, app, sql) {
						t.Errorf("%d, %s: %q passes", major, when, held)
					}
				}
				if _, err := app.Exec(t.Context(), `select set_config('walferry.pass', $1, false)`, secret); err != nil {
					t.Fatal(err)
				}
				return !refused(t, app, sql)
			}
			for _, sql := range []string{`insert into t values (1)`, `truncate t`, `set session_replication_role = replica; insert into t values (1)`} {
				if !passes(sql) {
					t.Errorf("%d, %s: the secret does not pass for %s", major, when, sql)
				}
			}
			if body := pgtest.Query(t, dsn, `select prosrc from pg_proc where proname = 'fence_x'`)[0][0]; strings.Contains(body, "5f1d0e") {
				t.Errorf("%d, %s: the secret is in the function: %s", major, when, body)
			}
		}
		if _, _, err := fence.Raise(t.Context(), conn, time.Hour); err != nil {
			t.Fatal(err)
		}
		look("raised")
		if err := fence.Seal(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		look("sealed")
		fence.Run = "another"
		if err := fence.Adopt(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		look("adopted")
	}
}

// A trigger of the fence's name that is somebody else's is left alone: no fence is put up.
func TestFence_ForeignTrigger(t *testing.T) {
	dsn, _ := pgtest.Pair(t, 15, 15)
	pgtest.Exec(t, dsn, `create schema walferry; create table t (id int primary key);
create function f() returns trigger language plpgsql as 'begin return new; end';
create trigger walferry_fence before insert on t for each row execute function f()`)
	conn := connect(t, dsn)
	tables, err := catalog.Tables(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	err = Fence{Name: "x", Tables: tables}.Prepare(t.Context(), conn)
	if err == nil || !strings.Contains(err.Error(), `put the fence's trigger on "public"."t"`) || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("got %v", err)
	}
	drop(t, conn)
	if got := pgtest.Query(t, dsn, `select tgfoid::regproc from pg_trigger where tgname = 'walferry_fence'`); len(got) != 1 || got[0][0] != "f" {
		t.Errorf("the trigger is %v", got)
	}
}

// A walferry that dies while the server has its seal in hand leaves a fence that is sealed after
// its deadline, when writes have gone through: that is no seal.
func TestSealInHandOfTheDead(t *testing.T) {
	dsn, _ := pgtest.Pair(t, 15, 15)
	pgtest.Exec(t, dsn, `create schema walferry; create table t (id int primary key)`)
	// Through the proxy, which ends with the client: a client that only loses its connection would
	// open another one to cancel its statement.
	proxy := pgtest.ProxyFor(t, dsn)
	conn, app, other := connect(t, proxy.Through(dsn)), connect(t, dsn), connect(t, dsn)
	tables, err := catalog.Tables(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	fence := Fence{Name: "x", Tables: tables}
	if err := fence.Prepare(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if _, _, err := fence.Raise(t.Context(), conn, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	until := func(what string, holds func() bool) {
		t.Helper()
		for n := 0; !holds(); n++ {
			if n > 10000 {
				t.Fatalf("waited in vain for %s", what)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	backend := func(condition string) func() bool {
		return func() (yes bool) {
			err := app.QueryRow(t.Context(), `select exists(select from pg_stat_activity where pid = $1 and `+condition+`)`, conn.PgConn().PID()).Scan(&yes)
			if err != nil {
				t.Fatal(err)
			}
			return yes
		}
	}
	if _, err := other.Exec(t.Context(), `begin; select 1 from pg_proc where proname = 'fence_x' for update`); err != nil {
		t.Fatal(err)
	}
	sealed := make(chan error, 1)
	go func() { sealed <- fence.Seal(context.Background(), conn) }()
	until("the seal to be in the server's hand", backend(`wait_event_type = 'Lock'`))
	until("the fence to open on its own", func() bool { return !refused(t, app, `insert into t select count(*) from t`) })
	proxy.Close() // as a process that is killed
	if err := <-sealed; err == nil {
		t.Fatal("sealed, though the connection is gone")
	}
	if _, err := other.Exec(t.Context(), `commit`); err != nil {
		t.Fatal(err)
	}
	here := backend(`true`)
	until("the server to be done with it", func() bool { return !here() })
	if !refused(t, app, `insert into t values (-1)`) {
		t.Error("the server has not carried out the seal: this tests nothing")
	}
	if state, err := Look(t.Context(), app, "x"); err != nil || state.Sealed {
		t.Errorf("the fence looks like %+v, %v; want that it is not sealed, as a write has passed it", state, err)
	}
}

// Sequences never go back, in the direction they count; a CYCLE sequence is set as it is.
func TestSetSequences(t *testing.T) {
	source, target := pgtest.Pair(t, 10, 18)
	const ddl = `create sequence up; create sequence down increment -1; create sequence round maxvalue 3 cycle; create sequence fresh; create sequence ahead`
	pgtest.Exec(t, source, ddl+`; select setval('up', 5), setval('down', -7), setval('round', 2, false), setval('ahead', 3)`)
	pgtest.Exec(t, target, ddl+`; select setval('round', 3), setval('ahead', 90)`)
	list, err := catalog.Sequences(t.Context(), connect(t, source))
	if err != nil {
		t.Fatal(err)
	}
	sequences, err := ReadSequences(t.Context(), connect(t, source), list)
	if err != nil {
		t.Fatal(err)
	}
	if err := SetSequences(t.Context(), connect(t, target), sequences); err != nil {
		t.Fatal(err)
	}
	got := pgtest.Query(t, target, `select nextval('up') || ' ' || nextval('down') || ' ' || nextval('round') || ' ' || nextval('fresh') || ' ' || nextval('ahead')`)[0][0]
	if want := "6 -8 2 1 91"; got != want {
		t.Errorf("next values on the target: %s, want %s", got, want)
	}
}
