package state

import (
	"context"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
)

// One process has the lock; the next one gets it when that has ended, and is told who has it until then.
func TestLock(t *testing.T) {
	t.Parallel()
	s, target := newStore(t)
	begin(t, s)
	lock, err := s.Lock(t.Context(), target, 0)
	if err != nil {
		t.Fatal(err)
	}
	other := At(s.home, "test")
	if _, err := other.Lock(t.Context(), target, 0); !fail.Is(err, fail.Gate) {
		t.Errorf("a second process, while the first has the lock: %v", err)
	}
	if another, err := At(s.home, "another").Lock(t.Context(), target, 0); err != nil {
		t.Errorf("another migration: %v", err)
	} else {
		another.Close(t.Context())
	}
	if r, err := s.Load(t.Context()); err != nil || !r.Alive {
		t.Errorf("the record while somebody has the lock: %+v, %v", r, err)
	}
	lock.Close(t.Context())
	next, err := other.Lock(t.Context(), target, LockPatience)
	if err != nil {
		t.Fatalf("a second process, when the first has ended: %v", err)
	}
	next.Close(t.Context())
}

// A lock whose session was ended is taken again, unless somebody has come between.
func TestLock_Lost(t *testing.T) {
	t.Parallel()
	s, target := newStore(t)
	begin(t, s)
	lock, err := s.Lock(t.Context(), target, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { lock.Close(t.Context()) }()
	lost := func() {
		t.Helper()
		pgtest.Exec(t, target, `select pg_terminate_backend(pid, 60000) from pg_stat_activity where application_name = 'walferry test lock' and datname = current_database()`)
		if lock.Held(t.Context()) {
			t.Fatal("the lock is still held")
		}
	}
	lost()
	if gate := lock.keep(t.Context()); gate != nil || !lock.Held(t.Context()) {
		t.Errorf("nobody has come between: %v", gate)
	}

	lost()
	other := At(s.home, "test")
	others, err := other.Lock(t.Context(), target, LockPatience)
	if err != nil {
		t.Fatal(err)
	}
	if gate := lock.keep(t.Context()); gate == nil {
		t.Error("somebody else has the lock, and nothing was said")
	}
	if err := other.Take(t.Context()); err != nil {
		t.Fatal(err)
	}
	others.Close(t.Context())
	if gate := lock.keep(t.Context()); gate != ErrOvertaken { //nolint:errorlint // it is that one
		t.Errorf("somebody else has had the lock: %v", gate)
	}
}

// A look at the lock that is given up halfway does not lose it: whoever looks every few seconds ends
// with what it is done beside.
func TestLock_LookGivenUp(t *testing.T) {
	t.Parallel()
	s, target := newStore(t)
	begin(t, s)
	p := pgtest.ProxyFor(t, target)
	lock, err := s.Lock(t.Context(), p.Through(target), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close(t.Context())
	p.Set(pgtest.Network{Delay: 300 * time.Millisecond})
	halfway, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	lock.Held(halfway)
	if !lock.Held(t.Context()) {
		t.Error("the lock is lost")
	}
}
