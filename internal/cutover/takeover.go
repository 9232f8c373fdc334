package cutover

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
)

// Stand puts the fence up, closed and sealed, on a server whose applications do not write to the tables. One that stands there
// sealed stays.
func (f Fence) Stand(ctx context.Context, conn *pgx.Conn, life time.Duration) error {
	state, err := Look(ctx, conn, f.Name)
	if err != nil || state.Sealed && state.Covers(f.Tables) {
		return err
	}
	if err := f.Prepare(ctx, conn); err != nil {
		return err
	}
	if _, _, err := f.Raise(ctx, conn, life); err != nil {
		return err
	}
	return f.Seal(ctx, conn)
}

// TakeOver makes a sealed fence of tables on which another one stands, sealed as well: each changes its triggers from the one to the
// other in a transaction, so that it is fenced throughout. It can be run again. Nobody has to wait for longer than a moment behind
// it; it keeps trying until ctx ends.
func (f Fence) TakeOver(ctx context.Context, conn *pgx.Conn) error {
	if err := online.Own(ctx, conn, f.refuseFunction(session.Major(conn.PgConn()), 0, sealMark)); err != nil {
		return fmt.Errorf("create the fence's function: %w", err)
	}
	have, haveRow, err := fenced(ctx, conn, f.Name)
	if err != nil {
		return err
	}
	for i := range f.Tables {
		t := &f.Tables[i]
		row := slices.Contains(f.Fed, t.OID)
		if have[t.OID] && (!row || haveRow[t.OID]) {
			continue
		}
		table := t.String()
		sql := fmt.Sprintf(`drop trigger if exists %[1]s on %[3]s; drop trigger if exists %[2]s on %[3]s; `, triggerName, rowTriggerName, table) +
			f.triggersSQL(table, true, row)
		why := fmt.Sprintf("waiting for a lock of %s, to change its fence; held by ", table)
		if err := online.RunTelling(ctx, conn, table, sql, why, f.Waits); err != nil {
			return fmt.Errorf("change the fence of %s: %w", table, err)
		}
	}
	return nil
}

// Stands reports whether the fence is sealed on all of some tables of the server.
func Stands(ctx context.Context, q catalog.Querier, name string, tables []catalog.Table) (bool, error) {
	state, err := Look(ctx, q, name)
	return state.Sealed && state.Covers(tables), err
}
