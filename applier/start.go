package applier

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
)

const setProgress = `
update walferry.progress
   set applied = $2::text::pg_lsn, commit_time = null, transactions = 0, changes = 0, applied_at = clock_timestamp()
 where stream = $1`

// SetProgress sets the position of a stream, whatever it was: the target's tables have been emptied
// and are being filled from a snapshot of the source at that position. Nothing guards it: moving a
// stream whose target has changes loses them.
func SetProgress(ctx context.Context, conn *pgx.Conn, stream string, at decoder.LSN) error {
	if err := ensureProgress(ctx, conn, stream); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, setProgress, pgx.QueryExecModeExec, stream, at.String()); err != nil {
		return fmt.Errorf("set progress of stream %q to %s: %w", stream, at, err)
	}
	return nil
}
