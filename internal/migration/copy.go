package migration

import (
	"context"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/copying"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/schema"
)

// newCopy returns the copy of the migration's tables.
func (r *runner) newCopy() *copying.Copy {
	c := &copying.Copy{
		Flow: r.flow, Tables: r.tables.WithRows, Archive: r.definitions.Archive, Jobs: r.c.Jobs, IndexJobs: r.c.IndexJobs, PieceBytes: r.c.PieceBytes,
		Export: r.exportConfig(), Step: r.live.Step,
	}
	if r.definitions.Brought {
		c.Archive = nil
	}
	return c
}

// beginCopy runs in phase Prepared. A run that was stopped since has lost the snapshot; then the
// slot is created again.
func (r *runner) beginCopy(ctx context.Context) error {
	if r.rows.Holds() {
		return nil
	}
	return r.export(ctx)
}

// copy copies every table, and builds the indexes of each as soon as it is complete.
func (r *runner) copy(ctx context.Context) error {
	if err := r.rows.Read(ctx); err != nil {
		return err
	}
	// With --schema none the target has its triggers and rules already.
	if _, err := r.opening.Hold(ctx); err != nil {
		return err
	}
	return r.rows.Run(ctx, r.rec.ConsistentPoint)
}

// index completes the schema: whatever index an interrupted run left out, foreign
// keys, triggers and the rest, statistics. Everything in it may run twice.
func (r *runner) index(ctx context.Context) error {
	if err := r.rows.Read(ctx); err != nil {
		return err
	}
	// If an earlier run created triggers and did not get as far as holding them, they must not act
	// on what converge applies.
	if _, err := r.opening.Hold(ctx); err != nil {
		return err
	}
	if err := r.rows.Build(ctx, false, func(t *catalog.Table) bool { return !r.rows.Mixed(t.Name) }); err != nil {
		return err
	}
	if err := r.converge(ctx); err != nil {
		return err
	}
	if err := r.rows.Build(ctx, true, func(t *catalog.Table) bool { return r.rows.Mixed(t.Name) }); err != nil {
		return err
	}
	if err := r.definitions.Complete(ctx); err != nil {
		return err
	}
	if _, err := r.opening.Hold(ctx); err != nil {
		return err
	}
	r.live.Step("gather statistics")
	return schema.Analyze(ctx, r.c.Target, namesOf(r.tables.Selected()), r.rows.Analyzed(), r.c.Jobs)
}

// converge applies the changes that bring all tables to one commit, if they were copied under
// several snapshots.
func (r *runner) converge(ctx context.Context) error {
	tell := func() { r.live.Step("bring all tables to one commit") }
	return r.flow.Converge(ctx, r.rec.ConsistentPoint, r.rows.Windows(), flow.OriginalsOf(r.tables.Remembered()), tell, r.lock.Guard)
}
