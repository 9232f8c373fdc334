package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/wait"
	"github.com/walferry/walferry/slot"
	"github.com/walferry/walferry/snapshot"
)

// ordinary are the selected tables that hold rows.
func (r *runner) ordinary() []catalog.Table {
	var out []catalog.Table
	for i := range r.tables {
		if r.tables[i].Kind == 'r' {
			out = append(out, r.tables[i])
		}
	}
	return out
}

func (r *runner) copied() []snapshot.Table {
	var out []snapshot.Table
	for _, t := range r.ordinary() {
		out = append(out, snapshot.Table{Schema: t.Schema, Name: t.Name.Name})
	}
	return out
}

// beginCopy is run when the phase is Prepared. A run that was stopped since has
// lost the snapshot; then the slot is made again.
func (r *runner) beginCopy(ctx context.Context) error {
	if r.exported != nil {
		return nil
	}
	return r.export(ctx)
}

// mostRounds is how often tables that the application rewrites meanwhile are put aside, to be
// copied under a later snapshot.
const mostRounds = 5

// snapshotPatience is how long a source that cannot be reached is asked for another snapshot.
const snapshotPatience = 10 * time.Minute

// copy copies every table and builds the indexes of each as soon as it is complete.
//
// The slot's snapshot ends with the process that holds it. What is missing then, and
// tables that were rewritten before they were read, are copied under later ones, of which the position is
// known as well: converge brings all of it to one commit. The stream still begins at the slot's first position.
func (r *runner) copy(ctx context.Context) error {
	if err := r.readCopyState(ctx); err != nil {
		return err
	}
	// With --schema none the target has its triggers and rules already.
	if _, err := r.holdTriggers(ctx); err != nil {
		return err
	}
	resumes := r.exported == nil
	if resumes {
		// Otherwise going on with the copy would be of no use.
		if err := r.flow.Continuous(ctx, r.rec.ConsistentPoint); err != nil {
			return err
		}
	}
	tables, jobs := r.copied(), r.c.Jobs
	for round := 1; ; round++ {
		if r.exported == nil {
			if err := r.exportAgain(ctx); err != nil {
				return err
			}
		}
		err := r.copyUnder(ctx, tables, jobs, resumes, round < mostRounds)
		var rewritten *snapshot.RewrittenError
		var lost *snapshot.SnapshotLostError
		switch {
		case errors.As(err, &rewritten):
			r.c.Logger.Info("tables are copied again under a later snapshot", "tables", rewritten.Error(), "round", round)
			tables, jobs = rewritten.Tables, 1 // and so fast that it is not rewritten again
		case errors.As(err, &lost):
			r.c.Logger.Warn("the snapshot is lost, for the source has ended every session that had it: the copy goes on under another one")
			r.mu.Lock()
			r.copiers = r.copiers[:len(r.copiers)-1] // what it has finished is the next one's, too
			r.mu.Unlock()
		default:
			return err
		}
		r.exported.Close(ctx) //nolint:errcheck // it is not wanted any more
		r.exported, resumes = nil, true
	}
}

// readCopyState makes the tables for it, and notes as of when tables were copied so far.
func (r *runner) readCopyState(ctx context.Context) error {
	err := r.target.Do(ctx, func(conn *pgx.Conn) error { return snapshot.Prepare(ctx, conn) })
	if err != nil {
		return err
	}
	return r.readWindows(ctx)
}

// exportAgain makes a later snapshot whose position is known: that of a slot that ends with it.
func (r *runner) exportAgain(ctx context.Context) (err error) {
	r.step("take another snapshot")
	c := r.exportConfig()
	began := time.Now()
	err = wait.Again(ctx, wait.Pauses{First: time.Second, Longest: 30 * time.Second}, func() (err error) {
		r.exported, err = slot.ExportTemporary(ctx, r.c.Source, "copy", c)
		return err
	}, func(err error) bool {
		var blocked *slot.BlockedError
		return !errors.As(err, &blocked) && catalog.Passes(err) && time.Since(began) <= snapshotPatience
	}, func(err error, pause time.Duration) {
		r.c.Logger.Warn("the source gives no snapshot; trying again", "error", err, "in", pause)
	})
	if err != nil {
		return fmt.Errorf("take another snapshot for the rest of the copy: %w", err)
	}
	r.c.Logger.Info("the copy goes on under another snapshot", "consistent_point", r.exported.ConsistentPoint)
	return nil
}

// copyUnder copies what is missing under the snapshot that there is.
func (r *runner) copyUnder(ctx context.Context, tables []snapshot.Table, jobs int, resume, putAside bool) error {
	r.step("copy the tables")
	indexes, err := r.buildIndexes(ctx, true, len(tables) < len(r.copied()))
	if err != nil {
		return err
	}
	copier, err := snapshot.New(snapshot.Config{
		Source: r.c.Source, Target: r.c.Target, Migration: r.c.Name,
		Snapshot: r.exported.Name, AsOf: r.exported.ConsistentPoint,
		Resume: resume, OnResume: r.onResume, PutAside: putAside,
		Tables: tables, Jobs: jobs, PieceBytes: r.c.PieceBytes, Logger: r.c.Logger,
		OnTable: func(_ context.Context, t snapshot.Table) error {
			if r.mixed(catalog.Name{Schema: t.Schema, Name: t.Name}) {
				return nil
			}
			return indexes.Table(catalog.Name{Schema: t.Schema, Name: t.Name})
		},
	})
	if err != nil {
		return errors.Join(err, indexes.Wait(true))
	}
	r.mu.Lock()
	if len(r.copiers) == 0 {
		r.copyBegan = time.Now()
	}
	r.copiers = append(r.copiers, copier)
	r.mu.Unlock()
	err = copier.Run(ctx)
	r.step("build the indexes")
	var rewritten *snapshot.RewrittenError
	failed := err != nil && !errors.As(err, &rewritten)
	if indexErr := indexes.Wait(failed); indexErr != nil && !failed {
		err = indexErr
	}
	if err != nil {
		return err
	}
	r.exported.Close(ctx) //nolint:errcheck // every worker has imported the snapshot, and is done with it
	r.exported = nil
	return nil
}
