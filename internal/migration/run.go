package migration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
)

// errOvertaken ends what a process does that stood still while another one took the
// migration over: its lock was gone, as after a restart of the target, and it did not know.
var errOvertaken = &GateError{
	"another process has taken this migration over meanwhile: this one leaves everything as that one has it",
	"`walferry status` shows where it stands",
}

// take makes the migration this process's, which has the lock: whoever had it before, and
// wakes up later, finds that here and by the source's fence, and changes nothing any more.
func (s *store) take(ctx context.Context) error {
	if err := s.upgrade(ctx); err != nil {
		return err
	}
	run := fmt.Sprintf("%016x", rand.Uint64())
	if err := s.Exec(ctx, `update walferry.migration set run = $2 where name = $1`, s.name, run); err != nil {
		return fmt.Errorf("take the migration over: %w", err)
	}
	s.run = run
	return nil
}

// mine tells whether nobody has taken the migration over since take; otherwise it is errOvertaken.
func (s *store) mine(ctx context.Context) error {
	var run string
	err := s.Row(ctx, `select run from walferry.migration where name = $1`, []any{s.name}, &run)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && run != s.run {
		return errOvertaken
	}
	return err
}
