package snapshot

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// Progress is how far a copy is, without the tables that were put aside.
type Progress struct {
	Tables, TablesDone int
	Pieces, PiecesDone int

	// Rows and StreamBytes are what was read from the source, by finished pieces and by those in
	// progress.
	Rows        int64
	StreamBytes int64

	// BytesTotal is the size of all tables on the source, TOAST included, and Bytes is how much of
	// that is done, by the same measure, so that it reaches BytesTotal when the copy is complete.
	// It is an estimate, and only decreases if a piece is repeated.
	Bytes, BytesTotal int64

	// Running are the tables that are being copied, the largest first.
	Running []TableProgress
}

// TableProgress is how far the copy of a table is; see Progress.
type TableProgress struct {
	Table              Table
	Pieces, PiecesDone int
	Rows               int64
	Bytes, BytesTotal  int64
}

// Progress returns how far Run is. It may be called at any time, from any goroutine.
func (c *Copier) Progress() Progress {
	c.mu.Lock()
	defer c.mu.Unlock()
	var p Progress
	for _, t := range c.tables {
		if slices.Contains(c.aside, t.Table) {
			continue
		}
		one := TableProgress{
			Table: t.Table, Pieces: len(t.bounds), PiecesDone: t.done, Rows: t.rows, BytesTotal: t.bytes,
		}
		stream := t.stream
		share := t.bytes / int64(len(t.bounds))
		one.Bytes = share * int64(t.done)
		for pipe := range t.running {
			rows, bytes := pipe.rows.Load(), pipe.bytes.Load()
			one.Rows += rows
			stream += bytes
			one.Bytes += min(bytes, share)
		}
		if t.done == len(t.bounds) {
			one.Bytes = t.bytes
			p.TablesDone++
		}
		p.Tables++
		p.Pieces += one.Pieces
		p.PiecesDone += one.PiecesDone
		p.Rows += one.Rows
		p.StreamBytes += stream
		p.Bytes += one.Bytes
		p.BytesTotal += one.BytesTotal
		if len(t.running) > 0 {
			p.Running = append(p.Running, one)
		}
	}
	return p
}

const selectProgress = `
select count(*), count(*) filter (where done = pieces), coalesce(sum(pieces), 0), coalesce(sum(done), 0),
       coalesce(sum(rows), 0)::int8, coalesce(sum(stream), 0)::int8,
       coalesce(sum(case when done = pieces then bytes else bytes / pieces * done end), 0)::int8, coalesce(sum(bytes), 0)::int8
  from (select cardinality(p.bounds) as pieces, p.bytes, count(s.piece) as done, sum(s.rows) as rows, sum(s.bytes) as stream
          from walferry.copy_plan p
          left join walferry.copy_state s using (migration, schema_name, table_name)
         where p.migration = $1
         group by p.migration, p.schema_name, p.table_name) t`

// ReadProgress returns how far a migration's copy is by what is committed on the target of conn,
// for processes that do not run it. It does not include the pieces in progress, so Running is
// empty.
func ReadProgress(ctx context.Context, conn *pgx.Conn, migration string) (Progress, error) {
	var p Progress
	var exists bool
	if err := conn.QueryRow(ctx, stateExisted).Scan(&exists); err != nil {
		return p, fmt.Errorf("look for the state of the copy: %w", err)
	}
	if !exists {
		return p, nil
	}
	err := conn.QueryRow(ctx, selectProgress, migration).Scan(&p.Tables, &p.TablesDone, &p.Pieces, &p.PiecesDone,
		&p.Rows, &p.StreamBytes, &p.Bytes, &p.BytesTotal)
	if err != nil {
		return p, fmt.Errorf("read the progress of the copy: %w", err)
	}
	return p, nil
}
