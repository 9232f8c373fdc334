package state

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
)

// newStore is a store whose record, if any, is made by the test.
func newStore(t *testing.T) (*Store, string) {
	t.Helper()
	_, target := pgtest.Pair(t, 15, 18)
	home, err := session.OpenLink(t.Context(), session.Config{DSN: target, Application: "state test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(home.Close)
	return At(home, "test"), target
}

func begin(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Begin(t.Context(), &Record{SystemID: "1", Timeline: 1, Database: "d", Slot: "walferry_test"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Take(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A record of the first version is read as it is, and has what was added since once it is taken
// over: the same columns as a new one.
func TestTake_FirstVersion(t *testing.T) {
	t.Parallel()
	s, target := newStore(t)
	pgtest.Exec(t, target, first)
	pgtest.Exec(t, target, `insert into walferry.migration (name, phase, tool_version, system_id, timeline, database, slot, options)
values ('test', 'following', '1', '1', 1, 'd', 'walferry_test', '{"schema": "dump"}')`)
	r, err := s.Load(t.Context())
	if err != nil || r == nil || r.Phase != Following {
		t.Fatalf("a record of the first version: %+v, %v", r, err)
	}
	for _, v := range []Value{Publications, Refused, Comparison, Proof, Result} {
		var into any
		if _, err := s.Values().Get(t.Context(), v, &into); err != nil {
			t.Errorf("of the first version: %v", err)
		}
	}
	columns := `select string_agg(attrelid::regclass || '.' || attname || ' ' || format_type(atttypid, atttypmod) || attnotnull, ', ' order by attrelid::regclass::text, attname)
from pg_attribute where attrelid in ('walferry.migration'::regclass, 'walferry.request'::regclass) and attnum > 0 and not attisdropped`
	if err := s.Take(t.Context()); err != nil {
		t.Fatal(err)
	}
	upgraded := pgtest.Query(t, target, columns)[0][0]
	pgtest.Exec(t, target, `drop schema walferry cascade`)
	begin(t, s)
	if fresh := pgtest.Query(t, target, columns)[0][0]; upgraded != fresh {
		t.Errorf("a record of the first version, taken over, has\n%s\nand one that is made now\n%s", upgraded, fresh)
	}
}

// A process that stood still while another one took the migration over changes nothing any more.
func TestMine_Overtaken(t *testing.T) {
	t.Parallel()
	s, _ := newStore(t)
	begin(t, s)
	if err := s.Mine(t.Context()); err != nil {
		t.Errorf("the one that has it: %v", err)
	}
	if err := At(s.home, "test").Take(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Mine(t.Context()); !errors.Is(err, ErrOvertaken) {
		t.Errorf("the one that had it before: %v", err)
	}
	if err := s.SetPhase(t.Context(), Copying); !errors.Is(err, ErrOvertaken) {
		t.Errorf("its next phase: %v", err)
	}
}

// runs makes it look as if a migrate were at work, until its lock is released.
func runs(t *testing.T, target string) (end func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `select pg_advisory_lock(`+lockKey+`)`, "test"); err != nil {
		t.Fatal(err)
	}
	return func() { conn.Close(t.Context()) } //nolint:errcheck // the test's server goes with it
}

// An asker learns the steps while they are taken, and the answer; a request that its runner has
// left without a word for long is taken back.
func TestAsk(t *testing.T) {
	t.Parallel()
	s, target := newStore(t)
	begin(t, s)
	if _, err := s.Mailbox().Ask(t.Context(), "hold", Args{}, nil); !errors.Is(err, ErrNoRunner) {
		t.Errorf("nobody runs: %v", err)
	}
	end := runs(t, target)
	asker := newAsker(t, target)
	t.Run("answered", func(t *testing.T) {
		runner := make(chan error, 1)
		go func() {
			q, err := take(t, s)
			if err == nil {
				err = s.Mailbox().AddStep(t.Context(), q.ID, "first")
			}
			if err == nil {
				err = s.Mailbox().Answer(t.Context(), q.ID, false, Answer{Error: "it lags", Gate: true})
			}
			runner <- err
		}()
		var steps []string
		_, err := asker.Mailbox().Ask(t.Context(), "cutover", Args{}, func(step string) { steps = append(steps, step) })
		gate := fail.Find(err, fail.Gate)
		if gate == nil || gate.Problem != "it lags" || fmt.Sprint(steps) != "[first]" {
			t.Errorf("got %v after the steps %v", err, steps)
		}
		if err := <-runner; err != nil {
			t.Error(err)
		}
	})
	t.Run("left", func(t *testing.T) {
		runner := make(chan error, 1)
		go func() {
			_, err := take(t, s)
			if err == nil {
				err = s.View().Set(t.Context(), Live{Ended: true})
			}
			end()
			runner <- err
		}()
		if _, err := asker.Mailbox().Ask(t.Context(), "hold", Args{}, nil); err == nil || err.Error() != "the running migrate ended before it could begin: nothing was changed" {
			t.Errorf("a request that nobody answers: %v", err)
		}
		if err := <-runner; err != nil {
			t.Error(err)
		}
		if open := pgtest.Query(t, target, `select count(*) from walferry.request where answered_at is null`)[0][0]; open != "0" {
			t.Errorf("%s requests are open, which a later run would carry out", open)
		}
	})
}

// newAsker is the store of another process.
func newAsker(t *testing.T, target string) *Store {
	t.Helper()
	home, err := session.OpenLink(t.Context(), session.Config{DSN: target, Application: "asker"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(home.Close)
	return At(home, "test")
}

// take is the next request, once there is one.
func take(t *testing.T, s *Store) (q *Request, err error) {
	for err == nil && q == nil {
		time.Sleep(5 * time.Millisecond)
		q, err = s.Mailbox().Next(t.Context(), "")
	}
	return q, err
}

// A run answers what an earlier one had begun, and nobody waits for: a switch may have been done since. What somebody
// waits for and nobody had begun is its own, whichever run it was asked of.
func TestAnswerOld(t *testing.T) {
	t.Parallel()
	s, target := newStore(t)
	begin(t, s)
	for _, phase := range []Phase{Following, Switched} {
		pgtest.Exec(t, target, `
truncate walferry.request;
insert into walferry.request (migration, kind, requested_at, seen_at, taken_at, withdrawn_at) values
 ('test', 'hold', now(), now(), now(), null),
 ('test', 'fallback', now(), now(), now(), null),
 ('test', 'finish', now() - interval '1 hour', now() - interval '50 minutes', null, null),
 ('test', 'cutover', now(), now(), null, now()),
 ('test', 'abort', now(), now(), null, null),
 ('other', 'hold', now(), now(), now(), null)`)
		if err := s.Mailbox().AnswerOld(t.Context(), phase); err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(pgtest.Query(t, target, `select migration || ' ' || kind, coalesce(answer ->> 'gate', '') from walferry.request where answered_at is not null order by 1`))
		want := map[Phase]string{
			Following: "[[test cutover true] [test finish true] [test hold true]]",
			Switched:  "[[test cutover ] [test fallback ] [test finish true] [test hold true]]",
		}[phase]
		if got != want {
			t.Errorf("in phase %s these were answered: %s, want %s", phase, got, want)
		}
	}
}
