package applier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/progress"
)

// Progress is the row in walferry.progress: where the target is, and what was applied so far. It is
// the truth; all else is a hint.
type Progress struct {
	// Applied is the position before which every commit record of the source starts whose
	// transaction is durable on the target.
	Applied decoder.LSN
	// CommitTime of the last transaction, by the source's clock. Zero: none yet.
	CommitTime time.Time
	// Transactions applied, empty ones not counted.
	Transactions int64
	// Changes in them: rows and TRUNCATEs.
	Changes int64
}

// add counts a whole transaction, or the last piece of one together with the changes of all its
// pieces.
func (p *Progress) add(tx *decoder.Tx, changes int) {
	p.Applied = max(p.Applied, tx.EndLSN)
	if tx.XID == 0 {
		return
	}
	p.CommitTime = tx.CommitTime
	if changes > 0 {
		p.Transactions++
		p.Changes += int64(changes)
	}
}

// ProgressTable is the table of positions.
const ProgressTable = progress.Table

// ProgressTableSQL makes that table.
const ProgressTableSQL = progress.TableSQL

// The progress row is locked when it is read: if a backend that this Applier lost is still
// committing, this waits for its end.
const readProgress = `
select applied::text, commit_time, transactions, changes from walferry.progress where stream = $1 for update`

// The condition is the claim: an applier that was presumed dead finds that the row has moved, and
// nothing of its transaction remains. The statement is sent in the form that assert gives it.
const moveProgress = `
update walferry.progress
   set applied = $3, commit_time = coalesce($4, commit_time), transactions = $5, changes = $6, applied_at = clock_timestamp()
 where stream = $1 and applied = $2`

// claimProgress makes the claim while the position that the transaction leads to is not known yet.
const claimProgress = `
update walferry.progress set applied = applied where stream = $1 and applied = $2`

// loadProgress reads the stream's row.
func loadProgress(ctx context.Context, conn *pgx.Conn, stream string) (p Progress, found bool, err error) {
	var commitTime *time.Time
	err = conn.QueryRow(ctx, readProgress, pgx.QueryExecModeExec, stream).Scan(&p.Applied, &commitTime, &p.Transactions, &p.Changes)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, false, nil
	}
	if err != nil {
		return p, false, fmt.Errorf("read progress of stream %q: %w", stream, err)
	}
	if commitTime != nil {
		p.CommitTime = *commitTime
	}
	return p, true, nil
}

// moveParameters are those of moveProgress.
func moveParameters(stream string, from, to Progress) [][]byte {
	return [][]byte{
		[]byte(stream), []byte(from.Applied.String()), []byte(to.Applied.String()), timeParameter(to.CommitTime),
		fmt.Append(nil, to.Transactions), fmt.Append(nil, to.Changes),
	}
}

// timeParameter is a time as the server reads it; nil for the zero time.
func timeParameter(t time.Time) []byte {
	if t.IsZero() {
		return nil
	}
	return t.UTC().AppendFormat(nil, "2006-01-02 15:04:05.999999Z07:00")
}
