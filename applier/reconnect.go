package applier

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// moved returns the error that explains why the progress row could not be moved from where we left
// it.
func (a *Applier) moved(ctx context.Context) error {
	have, found, err := loadProgress(ctx, a.session.conn, a.config.Name)
	if err != nil {
		return err
	}
	return &ProgressError{Stream: a.config.Name, Want: a.Applied(), Have: have.Applied, Missing: !found}
}

// ready makes sure that there is a session, and after the loss of one that the target still is
// where we left it.
func (a *Applier) ready(ctx context.Context) error {
	if a.closed {
		return errClosed
	}
	if a.session != nil && !a.session.conn.IsClosed() {
		return nil
	}
	a.drop(ctx)
	conn, err := a.config.Connect(ctx)
	if err != nil {
		return fmt.Errorf("connect to target: %w", err)
	}
	s, err := a.reopen(ctx, conn)
	if err != nil {
		conn.Close(ctx)
		return err
	}
	a.use(s)
	a.counts.reconnects.Add(1)
	a.log.Info("connected to target again", "applied", a.Applied())
	return nil
}

// reopen opens a session after one was lost, and reads the progress row.
func (a *Applier) reopen(ctx context.Context, conn *pgx.Conn) (*session, error) {
	if err := a.last.end(ctx, conn); err != nil {
		return nil, err
	}
	s, err := a.openSession(ctx, conn)
	if err != nil {
		return nil, err
	}
	have, found, err := loadProgress(ctx, conn, a.config.Name)
	if err != nil {
		return nil, err
	}
	switch want := a.Applied(); {
	case !found:
		return nil, &ProgressError{Stream: a.config.Name, Want: want, Missing: true}
	case have.Applied == want || slices.Contains(a.doubts, have.Applied):
		a.doubts = nil
		a.setProgress(have)
		return s, nil
	default:
		return nil, &ProgressError{Stream: a.config.Name, Want: want, Have: have.Applied}
	}
}

// drop gives up the session.
func (a *Applier) drop(ctx context.Context) {
	if a.session == nil {
		return
	}
	a.session.conn.Close(ctx) //nolint:errcheck // it is lost or of no use
	a.last, a.session = a.session.backend, nil
}

func (a *Applier) use(s *session) {
	a.session = s
	a.mu.Lock()
	defer a.mu.Unlock()
	a.replica, a.origin = s.facts.replica, s.facts.origin
}
