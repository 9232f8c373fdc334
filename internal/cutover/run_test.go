package cutover

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

// twoRuns is a source whose fence two runs of the same migration have a hand in.
type twoRuns struct {
	*testing.T
	old, next Fence // of the run that stood still, and of the one that has taken over
	app       *pgx.Conn
	oldConn   *pgx.Conn
	nextConn  *pgx.Conn
}

func newTwoRuns(t *testing.T, major int) *twoRuns {
	t.Helper()
	dsn, _ := pgtest.Pair(t, major, major)
	pgtest.Exec(t, dsn, `create schema walferry; create table t (id int)`)
	r := &twoRuns{T: t, app: connect(t, dsn), oldConn: connect(t, dsn), nextConn: connect(t, dsn)}
	r.old = raised(t, dsn, false, "t")
	r.next = r.old
	r.old.Run, r.next.Run = "a1", "b2"
	r.must(r.old.Prepare(t.Context(), r.oldConn))
	return r
}

func (r *twoRuns) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// raise raises the fence of a run.
func (r *twoRuns) raise(f Fence, conn *pgx.Conn) {
	r.Helper()
	_, _, err := f.Raise(r.Context(), conn, time.Hour)
	r.must(err)
}

func (r *twoRuns) body() (body string) {
	r.Helper()
	r.must(r.app.QueryRow(r.Context(), `select coalesce((select prosrc from pg_proc where proname = 'fence_x'), '')`).Scan(&body))
	return body
}

// waitForLock waits until a connection waits for a lock.
func (r *twoRuns) waitForLock(conn *pgx.Conn) {
	r.Helper()
	for n := 0; ; n++ {
		var waits bool
		r.must(r.app.QueryRow(r.Context(), `select exists(select from pg_stat_activity where pid = $1 and wait_event_type = 'Lock')`, conn.PgConn().PID()).Scan(&waits))
		if waits {
			return
		}
		if n > 10000 {
			r.Fatal("nothing waits for a lock")
		}
		time.Sleep(time.Millisecond)
	}
}

// takeovers are what may have become of a run's fence when it wakes up: done by another run, or by
// hand.
var takeovers = map[string]func(r *twoRuns){
	"opened": func(r *twoRuns) { r.must(Open(r.Context(), r.nextConn, "x", "")) },
	"taken down": func(r *twoRuns) {
		r.must(Open(r.Context(), r.nextConn, "x", ""))
		_, err := r.nextConn.Exec(r.Context(), `drop function walferry.fence_x() cascade`)
		r.must(err)
	},
	"put up by the other": func(r *twoRuns) {
		r.must(Open(r.Context(), r.nextConn, "x", ""))
		r.must(r.next.Prepare(r.Context(), r.nextConn))
	},
	"raised by the other": func(r *twoRuns) {
		r.must(Open(r.Context(), r.nextConn, "x", ""))
		r.must(r.next.Prepare(r.Context(), r.nextConn))
		r.raise(r.next, r.nextConn)
	},
	"sealed by the other": func(r *twoRuns) {
		r.must(Open(r.Context(), r.nextConn, "x", ""))
		r.must(r.next.Prepare(r.Context(), r.nextConn))
		r.raise(r.next, r.nextConn)
		r.must(r.next.Seal(r.Context(), r.nextConn))
	},
}

// A run stands still inside its fence, before any of the four replacements of the function, until
// another one has taken over: it no longer replaces anything.
func TestFence_TakenOver(t *testing.T) {
	for _, major := range []int{10, 18} {
		for name, takeOver := range takeovers {
			t.Run(fmt.Sprintf("%d %s", major, name), func(t *testing.T) {
				r := newTwoRuns(t, major)
				r.raise(r.old, r.oldConn)
				takeOver(r)
				before := r.body()
				if _, _, err := r.old.Raise(t.Context(), r.oldConn, time.Hour); err == nil {
					t.Error("raised")
				}
				if err := r.old.Seal(t.Context(), r.oldConn); !errors.Is(err, errNotUp) {
					t.Errorf("seal: %v, want that it is not up", err)
				}
				// As when it stands still after Seal's own look, or between the steps of Raise.
				for _, deadline := range []string{"", sealMark} {
					if err := r.old.replace(t.Context(), r.oldConn, 0, deadline); !errors.Is(err, errNotUp) {
						t.Errorf("replace: %v, want that it is not up", err)
					}
				}
				if opened, err := openLeft(t.Context(), r.oldConn, "x", r.old.Run); opened || err != nil {
					t.Errorf("it has opened what is not its own: %v, %v", opened, err)
				}
				if after := r.body(); after != before {
					t.Errorf("the function is %q, want it as it was: %q", after, before)
				}
			})
		}
	}
}

// The same between the two steps in which a fence is raised: the first one is up, and waits for a
// writer.
func TestRaise_TakenOver(t *testing.T) {
	r := newTwoRuns(t, 15)
	writer := connect(t, r.app.Config().ConnString())
	_, err := writer.Exec(t.Context(), `begin; insert into t values (1)`)
	r.must(err)
	raised := make(chan error, 1)
	go func() {
		_, _, err := r.old.Raise(context.Background(), r.oldConn, time.Hour)
		raised <- err
	}()
	for n := 0; !refused(t, r.app, `insert into t values (2)`); n++ {
		if n > 10000 {
			t.Fatal("never refused")
		}
		time.Sleep(time.Millisecond)
	}
	r.must(Open(t.Context(), r.nextConn, "x", ""))
	_, err = writer.Exec(t.Context(), `commit`)
	r.must(err)
	if err := <-raised; !errors.Is(err, errNotUp) {
		t.Errorf("raise: %v, want that it is not up", err)
	}
	if refused(t, r.app, `insert into t values (3)`) {
		t.Error("the fence that was opened is up again")
	}
}

// Another run opens the fence while the server has the seal in hand, and came first: the seal waits
// for it, and looks after it.
func TestSeal_After(t *testing.T) {
	for _, major := range []int{10, 18} {
		r := newTwoRuns(t, major)
		r.raise(r.old, r.oldConn)
		_, err := r.nextConn.Exec(t.Context(), `begin`)
		r.must(err)
		_, err = r.nextConn.Exec(t.Context(), openFunction("x", ""))
		r.must(err)
		sealed := make(chan error, 1)
		go func() { sealed <- r.old.Seal(context.Background(), r.oldConn) }()
		r.waitForLock(r.oldConn)
		_, err = r.nextConn.Exec(t.Context(), `commit`)
		r.must(err)
		if err := <-sealed; !errors.Is(err, errNotUp) {
			t.Errorf("%d: seal: %v, want that it is not up", major, err)
		}
		if refused(t, r.app, `insert into t values (1)`) {
			t.Errorf("%d: the fence that was opened is sealed", major)
		}
	}
}

// Another run opens the fence when the seal has looked, and has not replaced the function yet: it
// waits, and opens the fence afterwards.
func TestSeal_Before(t *testing.T) {
	for _, major := range []int{10, 18} {
		r := newTwoRuns(t, major)
		r.raise(r.old, r.oldConn)
		_, err := r.app.Exec(t.Context(), `create function pause() returns event_trigger language plpgsql as $$ begin
  if current_setting('test.pause', true) = 'on' then perform pg_advisory_xact_lock(1); end if; end $$;
create event trigger pause on ddl_command_start when tag in ('CREATE FUNCTION') execute procedure pause();
select pg_advisory_lock(1)`)
		r.must(err)
		_, err = r.oldConn.Exec(t.Context(), `set test.pause = 'on'`)
		r.must(err)
		sealed, opened := make(chan error, 1), make(chan error, 1)
		go func() { sealed <- r.old.Seal(context.Background(), r.oldConn) }()
		r.waitForLock(r.oldConn)
		go func() { opened <- Open(context.Background(), r.nextConn, "x", "") }()
		r.waitForLock(r.nextConn)
		_, err = r.app.Exec(t.Context(), `select pg_advisory_unlock(1)`)
		r.must(err)
		// It may still get to its second replacement before the other one tries again.
		if err := <-sealed; err != nil && !errors.Is(err, errNotUp) {
			t.Errorf("%d: seal: %v", major, err)
		}
		r.must(<-opened)
		if refused(t, r.app, `insert into t values (1)`) {
			t.Errorf("%d: the fence that was opened is sealed", major)
		}
	}
}

// A run raises and seals what it has put up itself; overtaken it opens what it has raised, but
// leaves what it has sealed to the run that finishes it.
func TestFence_Own(t *testing.T) {
	r := newTwoRuns(t, 15)
	r.raise(r.old, r.oldConn)
	if opened, err := openLeft(t.Context(), r.oldConn, "x", r.old.Run); !opened || err != nil || refused(t, r.app, `insert into t values (1)`) {
		t.Errorf("its own fence was not opened: %v, %v", opened, err)
	}
	r.must(r.old.Prepare(t.Context(), r.oldConn))
	r.raise(r.old, r.oldConn)
	r.must(r.old.Seal(t.Context(), r.oldConn))
	r.must(r.old.Seal(t.Context(), r.oldConn)) // asked again
	if opened, err := openLeft(t.Context(), r.oldConn, "x", r.old.Run); opened || err != nil || !refused(t, r.app, `insert into t values (2)`) {
		t.Errorf("its sealed fence was opened: %v, %v", opened, err)
	}
	r.must(r.next.Adopt(t.Context(), r.nextConn))
	if err := Open(t.Context(), r.oldConn, "x", r.old.Run); !errors.Is(err, ErrOtherRun) || !refused(t, r.app, `insert into t values (3)`) {
		t.Errorf("open the other's sealed fence: %v", err)
	}
}
