package state

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// Lock makes a process the only runner of a migration: an advisory lock on the home, held by a
// session of its own.
type Lock struct {
	store *Store
	dsn   string
	conn  *pgx.Conn
}

// LockPatience is how long to wait for a lock whose holder may have ended: a busy server takes its
// time to end the session of a process that is gone.
const LockPatience = 5 * time.Second

// Lock takes the lock, retrying for as long as patience, not counting how long the attempts take.
// It changes nothing else. dsn is that of the home. If another process has the lock, the error is a
// gate's.
func (s *Store) Lock(ctx context.Context, dsn string, patience time.Duration) (*Lock, error) {
	const pause = 200 * time.Millisecond
	l := &Lock{store: s, dsn: dsn}
	left := patience / pause
	err := wait.Again(ctx, wait.Every(pause), func() error { return l.take(ctx) }, func(err error) bool {
		left--
		return fail.Is(err, fail.Gate) && left >= 0
	}, nil)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// take tries once. If it fails, l.conn stays what it was.
func (l *Lock) take(ctx context.Context) error {
	name := l.store.name
	conn, err := session.Open(ctx, session.Config{DSN: l.dsn, Application: name + " lock"})
	if err != nil {
		return err
	}
	var ok bool
	err = conn.QueryRow(ctx, `select pg_try_advisory_lock(`+lockKey+`)`, name).Scan(&ok)
	switch {
	case err != nil:
		err = fmt.Errorf("lock migration %q: %w", name, err)
	case !ok:
		err = &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("another migrate is running migration %q (it holds the lock on the target)", name), Advice: "watch it with `walferry status`; for a second migration between the same servers give another --name"}
	}
	if err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return err
	}
	l.conn = conn
	return nil
}

// Held reports whether the session that holds the lock still answers.
func (l *Lock) Held(ctx context.Context) bool {
	// A look that is given up halfway would close the session, and the lock would be lost by looking.
	look, cancel := wait.Lingering(ctx)
	defer cancel()
	return l.conn.Ping(look) == nil
}

// Guard takes the lock again if it is lost, and calls stop if somebody else has it by then: another
// process is at work.
func (l *Lock) Guard(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for wait.Tick(ctx, tick); ctx.Err() == nil; wait.Tick(ctx, tick) {
		if gate := l.keep(ctx); gate != nil {
			stop(gate)
			return
		}
	}
}

// keep takes the lock again if it is lost. It returns an error if somebody else has it, or has had
// it meanwhile; a home that cannot be reached is tried again the next time.
func (l *Lock) keep(ctx context.Context) *fail.Error {
	if l.Held(ctx) || ctx.Err() != nil {
		return nil
	}
	l.conn.Close(ctx)
	err := l.take(ctx)
	if err == nil {
		err = l.store.Mine(ctx)
	}
	return fail.Find(err, fail.Gate)
}

// Close releases the lock.
func (l *Lock) Close(ctx context.Context) { l.conn.Close(context.WithoutCancel(ctx)) }
