package identity

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/internal/state"
)

// ExplainDrift adds to an error about altered columns the DDL for the target. It is text for the
// operator: none of it is ever run.
func (t *Tables) ExplainDrift(ctx context.Context, err error) error {
	var drift *applier.SchemaError
	if !errors.As(err, &drift) || len(drift.Columns) == 0 {
		return err
	}
	var m schema.Repair
	explained := t.From.Do(ctx, func(conn *pgx.Conn) (err error) {
		m, err = t.repair(ctx, conn, drift)
		return err
	})
	switch {
	case explained != nil:
		return err
	case m.Gone:
		return &fail.Error{Kind: fail.Run, Advice: "both sides have dropped the column, and this is from before: the target's had to be there until it was applied; start over: " + sides.StartOver, Err: err}
	case len(m.SQL) == 0:
		return err
	case m.Again:
		return &fail.Error{Kind: fail.Run, Advice: "the last column was dropped and added again: what was written to the new one before this cannot be told from what was in the old one; start over: " + sides.StartOver, Err: err}
	}
	advice := "on the target: " + strings.Join(m.SQL, " ")
	if m.Back {
		advice += " Both sides have dropped it, and this is from before; drop it again once it is applied;"
	}
	if m.Rewritten {
		advice += " But the source has rewritten the rows of this table, for a default or an expression that is not constant: those values do not arrive on their own. " +
			"Bring them over by hand (`walferry verify --table` names the rows), or start over;"
	}
	return &fail.Error{Kind: fail.Run, Advice: advice + " then run the same command: it resumes where it stopped", Err: err}
}

// repair returns the DDL for the columns of a drift.
func (t *Tables) repair(ctx context.Context, conn *pgx.Conn, drift *applier.SchemaError) (m schema.Repair, err error) {
	tables := t.Remembered()
	i := slices.IndexFunc(tables, func(was state.Table) bool { return was.Plain() == drift.Table })
	if i < 0 {
		return m, nil
	}
	was := tables[i]
	var filenode string
	err = t.To.Row(ctx, `select coalesce(max(filenode), '') from walferry.copy_plan where migration = $1 and schema_name = $2 and table_name = $3`,
		[]any{t.Store.Name(), was.Schema, was.Name.Name}, &filenode)
	if err != nil {
		return m, err
	}
	return schema.RepairColumns(ctx, conn, t.To, was, drift.Columns, filenode)
}
