package status

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// ReadProgress takes what is durable from the tables of applier and snapshot.
func (st *Status) ReadProgress(ctx context.Context, target *session.Link, s *state.Store) error {
	var err error
	if _, err = s.Values().Get(ctx, state.Refused, &st.Refused); err != nil {
		return err
	}
	if st.LastComparison, err = Compared(ctx, s); err != nil {
		return err
	}
	return target.Do(ctx, func(conn *pgx.Conn) error {
		progress, err := s.Has(ctx, conn, "progress")
		if err != nil {
			return fmt.Errorf("ask the target: %w", err)
		}
		copied, err := s.Has(ctx, conn, "copy_state")
		if err != nil {
			return fmt.Errorf("ask the target: %w", err)
		}
		if progress {
			var applied decoder.LSN
			err := conn.QueryRow(ctx, `select applied::text, transactions, changes from walferry.progress where stream = $1`, st.Name).
				Scan(&applied, &st.Stream.Transactions, &st.Stream.Changes)
			if err == nil {
				st.Stream.AppliedLSN = applied.String()
			}
			if err != nil && err != pgx.ErrNoRows {
				return fmt.Errorf("read the progress: %w", err)
			}
		}
		if copied {
			err := conn.QueryRow(ctx, `select count(*), coalesce(sum(rows), 0)::int8 from walferry.copy_state where migration = $1`, st.Name).
				Scan(&st.Copy.PiecesDone, &st.Copy.Rows)
			if err != nil {
				return fmt.Errorf("read the copy's state: %w", err)
			}
		}
		queue, err := s.Has(ctx, conn, "copy_piece")
		if err != nil || !queue {
			return err
		}
		st.CopyWorkers, err = copyWorkers(ctx, conn, st.Name)
		return err
	})
}
