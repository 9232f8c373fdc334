package flow

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/snapshot"
)

// errSettled ends the applying of the changes that bring all tables to one commit.
var errSettled = errors.New("all tables are as of one commit")

// Converge applies the changes that bring all tables to one commit after they were copied under
// several snapshots: windows says as of when each was copied, and begin is the stream's first
// position. Until then unique indexes and foreign keys may not hold. tell is called if there is
// something to apply.
func (f *Flow) Converge(ctx context.Context, begin decoder.LSN, windows map[catalog.Name]decoder.Window, originals map[catalog.Name]applier.Original, tell func(), beside ...Helper) error {
	var until decoder.LSN
	for _, one := range windows {
		until = max(until, one.To)
	}
	if until <= begin {
		return nil
	}
	r, err := f.Start(ctx, Followed{Originals: originals, Windows: &applier.Windows{Tables: windows, Read: f.readRow}})
	if err != nil {
		return err
	}
	defer r.Close(ctx)
	if r.applier.Applied() >= until {
		return nil
	}
	f.Logger.Info("tables were copied under several snapshots: applying the changes between them", "applied", r.applier.Applied(), "until", until)
	tell()
	err = r.Run(ctx, append(beside, r.settle)...)
	if errors.Is(err, errSettled) {
		return nil
	}
	return err
}

// settle stops the run once all tables are as of one commit.
func (r *Running) settle(ctx context.Context, stop context.CancelCauseFunc) {
	for {
		until := r.applier.Settled()
		_, err := r.applier.Pause(ctx, until)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && r.applier.Settled() == until, // what comes next commits later
			r.applier.Applied() >= r.applier.Settled(): // a Pause that came too late
			stop(errSettled)
			return
		case err != nil:
			stop(fmt.Errorf("bring all tables to one commit: %w", err))
			return
		}
	}
}

// readRow is applier.Windows.Read.
func (f *Flow) readRow(ctx context.Context, rel *decoder.Relation, key []decoder.Value) (row []decoder.Value, at decoder.LSN, err error) {
	var columns, conditions []string
	var params [][]byte
	for i, c := range rel.Columns {
		columns = append(columns, catalog.Quote(c.Name))
		if c.Key {
			params = append(params, key[i].Data)
			conditions = append(conditions, fmt.Sprintf("%s = $%d", catalog.Quote(c.Name), len(params)))
		}
	}
	sql := "select " + strings.Join(columns, ", ") + " from only " + rel.Table().String() + " where " + strings.Join(conditions, " and ")
	err = f.From.Link.Do(ctx, func(conn *pgx.Conn) error {
		result := conn.PgConn().ExecParams(ctx, sql, params, nil, nil, nil).Read()
		if result.Err != nil {
			return result.Err
		}
		for _, values := range result.Rows {
			row = nil
			for _, v := range values {
				value := decoder.Value{Kind: decoder.Null}
				if v != nil {
					value = decoder.Value{Kind: decoder.Text, Data: v}
				}
				row = append(row, value)
			}
		}
		// Whatever the query has seen had committed before this position.
		return conn.QueryRow(ctx, `select pg_current_wal_insert_lsn()::text`).Scan(&at)
	})
	if err == nil {
		err = f.To.Link.Do(ctx, func(conn *pgx.Conn) error {
			return snapshot.Extend(ctx, conn, f.Name.Migration, snapshot.Table{Schema: rel.Namespace, Name: rel.Name}, at)
		})
	}
	return row, at, err
}
