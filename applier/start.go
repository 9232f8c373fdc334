package applier

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/progress"
)

// The condition leaves alone a stream that has begun.
const startProgress = `
update walferry.progress set applied = $2::text::pg_lsn, applied_at = clock_timestamp() where stream = $1 and applied = '0/0'`

// begin makes the stream's row where there is none, at the position at which the stream begins, and
// returns what it has.
func begin(ctx context.Context, conn *pgx.Conn, stream string, start decoder.LSN) (Progress, error) {
	if err := progress.Ensure(ctx, conn, stream); err != nil {
		return Progress{}, err
	}
	if start != 0 {
		if _, err := conn.Exec(ctx, startProgress, pgx.QueryExecModeExec, stream, start.String()); err != nil {
			return Progress{}, fmt.Errorf("begin stream %q at %s: %w", stream, start, err)
		}
	}
	p, found, err := loadProgress(ctx, conn, stream)
	switch {
	case err != nil:
		return p, err
	case !found:
		return p, &ProgressError{Stream: stream, Missing: true}
	case p.Applied < start:
		return p, &StartError{Stream: stream, Start: start, Applied: p.Applied}
	}
	return p, nil
}

// StartError means that a stream cannot begin at Config.Start: its row is of an earlier copy, and
// the tables were copied again since, at a later position.
type StartError struct {
	Stream  string      // Config.Name
	Start   decoder.LSN // Config.Start
	Applied decoder.LSN // what the stream's row says
}

func (e *StartError) Error() string {
	return fmt.Sprintf("begin stream %q at %s: its row in walferry.progress is of an earlier copy, at %s", e.Stream, e.Start, e.Applied)
}

// Hint says what the caller can do.
func (e *StartError) Hint() string {
	return "if the tables were copied anew, delete the row first: applier.Forget, or delete from walferry.progress where stream = '...'"
}

// Forget deletes the row of a stream, so that New begins at Config.Start again. It is for when the
// tables of the target are emptied, before they are copied again: nothing else knows what they
// have. An Applier of the stream that still runs stops with a [ProgressError]. There need not be
// such a row.
func Forget(ctx context.Context, conn *pgx.Conn, stream string) error {
	var there bool
	err := conn.QueryRow(ctx, `select to_regclass('walferry.progress') is not null`, pgx.QueryExecModeExec).Scan(&there)
	if err == nil && there {
		_, err = conn.Exec(ctx, `delete from walferry.progress where stream = $1`, pgx.QueryExecModeExec, stream)
	}
	if err != nil {
		return fmt.Errorf("forget stream %q: %w", stream, err)
	}
	return nil
}
