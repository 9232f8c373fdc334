package migration

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/verify"
	"github.com/walferry/walferry/snapshot"
)

// recopy copies again, inside the fence, each --insert-only table that the source
// has updated or deleted from since: the publication did not carry that.
func (r *runner) recopy(ctx context.Context, conn *pgx.Conn, step func(string)) (names []string, err error) {
	broken, err := r.brokenWords(ctx)
	if err != nil {
		return nil, err
	}
	// A backend reports its counters when it likes (pgstat_report_stat), so that they
	// prove a breach but never its absence. Inside the fence both sides stand still.
	if broken, err = r.compareWords(ctx, broken); err != nil || len(broken) == 0 {
		return nil, err
	}
	tables := make([]snapshot.Table, len(broken))
	for i, t := range broken {
		tables[i] = snapshot.Table{Schema: t.Schema, Name: t.Name}
		names = append(names, catalog.Name(t.Schema, t.Name))
	}
	step("copying again, as they were updated in spite of --insert-only: " + list(names))
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return names, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	var id, position string
	if err := tx.QueryRow(ctx, `select pg_export_snapshot(), pg_current_wal_insert_lsn()::text`).Scan(&id, &position); err != nil {
		return names, fmt.Errorf("export a snapshot of the fenced source: %w", err)
	}
	again := r.c.Name + "/again"
	if err := r.empty(ctx, again, broken); err != nil {
		return names, err
	}
	copier, err := snapshot.New(snapshot.Config{
		Source: r.c.Source, Target: r.c.Target, Migration: again, Snapshot: id, AsOf: parseLSN(position),
		Tables: tables, Jobs: r.c.Jobs, Logger: r.c.Logger,
	})
	if err != nil {
		return names, err
	}
	if err := copier.Run(ctx); err != nil {
		return names, err
	}
	return names, r.forgetCopy(ctx, again)
}

// empty empties tables of the target and forgets an earlier try of the same copy.
func (r *runner) empty(ctx context.Context, copyName string, tables []tableState) error {
	if err := r.forgetCopy(ctx, copyName); err != nil {
		return err
	}
	var names []string
	for _, t := range tables {
		names = append(names, "only "+catalog.Name(t.Schema, t.Name))
	}
	err := r.store.do(ctx, func(conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return snapshot.Truncate(ctx, tx, names...) })
	})
	if err != nil {
		return fmt.Errorf("empty the tables that are to be copied again: %w", err)
	}
	return nil
}

func (r *runner) forgetCopy(ctx context.Context, copyName string) error {
	for _, table := range []string{"copy_state", "copy_plan"} {
		if err := r.store.exec(ctx, `delete from walferry.`+table+` where migration = $1`, copyName); err != nil {
			return fmt.Errorf("forget the state of copy %s: %w", copyName, err)
		}
	}
	return nil
}

// compareWords adds to the tables that are known to be broken those --insert-only
// ones of which the sides differ.
func (r *runner) compareWords(ctx context.Context, broken []tableState) ([]tableState, error) {
	states := map[[2]string]tableState{}
	for _, t := range r.rec.Tables {
		if t.InsertOnly && !slices.ContainsFunc(broken, func(b tableState) bool { return b.Schema == t.Schema && b.Name == t.Name }) {
			states[[2]string{t.Schema, t.Name}] = t
		}
	}
	if len(states) == 0 {
		return broken, nil
	}
	var tables []catalog.Table
	for i := range r.tables {
		if _, ok := states[[2]string{r.tables[i].Schema, r.tables[i].Name}]; ok {
			tables = append(tables, r.tables[i])
		}
	}
	report, err := verify.Run(ctx, verify.Config{Source: r.c.Source, Target: r.c.Target, Tables: tables, Jobs: r.c.Jobs, MaxRows: 1, Logger: r.c.Logger})
	if err != nil {
		return nil, fmt.Errorf("compare the --insert-only tables: %w", err)
	}
	for _, t := range report.Tables {
		if !t.Equal {
			broken = append(broken, states[[2]string{t.Schema, t.Name}])
		}
	}
	return broken, nil
}

// brokenWords are the --insert-only tables whose counters of updates and deletes
// have moved, or were reset, since the slot was made.
func (r *runner) brokenWords(ctx context.Context) (broken []tableState, err error) {
	for _, t := range r.rec.Tables {
		if !t.InsertOnly {
			continue
		}
		var updated, deleted int64
		err := r.source.row(ctx, `select pg_stat_get_tuples_updated(c.oid), pg_stat_get_tuples_deleted(c.oid)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2`,
			[]any{t.Schema, t.Name}, &updated, &deleted)
		if err != nil {
			return nil, fmt.Errorf("read the counters of %s: %w", catalog.Name(t.Schema, t.Name), err)
		}
		if updated != t.Updated || deleted != t.Deleted {
			broken = append(broken, t)
		}
	}
	return broken, nil
}
