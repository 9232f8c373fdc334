// Package copying copies the rows of a flow's tables to the server that it goes to, as of one
// moment or of several, each of which is known, and builds the indexes of each table as soon as it
// is complete.
package copying

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
	"github.com/walferry/walferry/slot"
	"github.com/walferry/walferry/snapshot"
)

// Copy is the copy of a migration's tables. Its fields do not change once it is in use.
type Copy struct {
	Flow *flow.Flow
	// Tables returns those that hold rows. It is called whenever something is done with them.
	Tables func() []catalog.Table
	// Archive reads the dump that the indexes are made of; nil: the target has them already.
	Archive func(context.Context) (*schema.Dump, error)

	Jobs       int   // how many tables or pieces are copied at a time
	IndexJobs  int   // how many indexes are built at a time
	PieceBytes int64 // see snapshot.Config

	Export slot.ExportConfig // of snapshots after the first
	Step   func(string)      // is told what is done

	exported *slot.Exported // the snapshot that there is; nil: there is none

	mu       sync.Mutex
	windows  map[catalog.Name]decoder.Window // as of when tables were copied
	copiers  []*snapshot.Copier              // one for each snapshot; each has what those before have put aside
	began    time.Time
	indexes  *state.IndexStatus                // nil: nothing was built in this run
	indexing []catalog.Name                    // tables that are copied and have no indexes yet, in their order
	times    map[catalog.Name][2]time.Duration // that indexes and statistics took, until it is recorded
	analyzed []catalog.Name                    // tables whose statistics were gathered beside the copy
}

// Hold sets the snapshot of the copy, and closes the one before; nil: there is none any more.
func (c *Copy) Hold(ctx context.Context, exported *slot.Exported) {
	if c.exported != nil {
		c.exported.Close(ctx) //nolint:errcheck // it is no longer needed; a permanent slot stays whatever the connection says
	}
	c.exported = exported
}

// Holds reports whether there is a snapshot.
func (c *Copy) Holds() bool { return c.exported != nil }

func (c *Copy) tables() (list []snapshot.Table) {
	for _, t := range c.Tables() {
		list = append(list, snapshot.Table{Schema: t.Schema, Name: t.Name.Name})
	}
	return list
}

// mostRounds is how often tables that the application rewrites meanwhile are put aside, to be
// copied under a later snapshot.
const mostRounds = 5

// snapshotPatience is how long a source that cannot be reached is asked for another snapshot.
const snapshotPatience = 10 * time.Minute

// Run copies every table and builds the indexes of each as soon as it is complete.
//
// The slot's snapshot ends with the process that holds it. What is missing then, and tables that
// were rewritten before they were read, are copied under later ones, whose positions are known as
// well: flow.Converge brings all of it to one commit. The stream still begins at the slot's first
// position, begin.
func (c *Copy) Run(ctx context.Context, begin decoder.LSN) error {
	resumes := c.exported == nil
	if resumes {
		// Otherwise there would be no point in continuing the copy.
		if err := c.Flow.Continuous(ctx, begin); err != nil {
			return err
		}
	}
	tables, jobs := c.tables(), c.Jobs
	for round := 1; ; round++ {
		if c.exported == nil {
			if err := c.exportAgain(ctx); err != nil {
				return err
			}
		}
		err := c.copyUnder(ctx, tables, jobs, resumes, round < mostRounds)
		var rewritten *snapshot.RewrittenError
		var lost *snapshot.SnapshotLostError
		switch {
		case errors.As(err, &rewritten):
			c.Flow.Logger.Info("tables are copied again under a later snapshot", "tables", rewritten.Error(), "round", round)
			tables, jobs = rewritten.Tables, 1 // and so fast that it is not rewritten again
		case errors.As(err, &lost):
			c.Flow.Logger.Warn("the snapshot is lost, for the source has ended every session that had it: the copy resumes under another one")
			c.mu.Lock()
			c.copiers = c.copiers[:len(c.copiers)-1] // the next one takes over what it has finished
			c.mu.Unlock()
		default:
			return err
		}
		c.Hold(ctx, nil)
		resumes = true
	}
}

// Read creates the tables that the copy is recorded in, and notes as of when tables were copied so
// far.
func (c *Copy) Read(ctx context.Context) error {
	err := c.Flow.To.Link.Do(ctx, func(conn *pgx.Conn) error { return snapshot.Prepare(ctx, conn) })
	if err != nil {
		return err
	}
	return c.readWindows(ctx)
}

// exportAgain makes a later snapshot whose position is known: that of a slot that ends with it.
func (c *Copy) exportAgain(ctx context.Context) (err error) {
	c.Step("take another snapshot")
	began := time.Now()
	err = wait.Again(ctx, wait.Pauses{First: time.Second, Longest: 30 * time.Second}, func() (err error) {
		c.exported, err = slot.ExportTemporary(ctx, c.Flow.From.DSN, "copy", c.Export)
		return err
	}, func(err error) bool {
		var blocked *slot.BlockedError
		return !errors.As(err, &blocked) && catalog.Passes(err) && time.Since(began) <= snapshotPatience
	}, func(err error, pause time.Duration) {
		c.Flow.Logger.Warn("the source gives no snapshot; trying again", "error", err, "in", pause)
	})
	if err != nil {
		return fmt.Errorf("take another snapshot for the rest of the copy: %w", err)
	}
	c.Flow.Logger.Info("the copy resumes under another snapshot", "consistent_point", c.exported.ConsistentPoint)
	return nil
}

// copyUnder copies what is missing under the snapshot that there is.
func (c *Copy) copyUnder(ctx context.Context, tables []snapshot.Table, jobs int, resume, putAside bool) error {
	c.Step("copy the tables")
	indexes, err := c.builder(ctx, true, len(tables) < len(c.tables()))
	if err != nil {
		return err
	}
	copier, err := snapshot.New(snapshot.Config{
		Source: c.Flow.From.DSN, Target: c.Flow.To.DSN, Migration: c.Flow.Name.Migration,
		Snapshot: c.exported.Name, AsOf: c.exported.ConsistentPoint,
		Resume: resume, OnResume: c.onResume, PutAside: putAside,
		Tables: tables, Jobs: jobs, PieceBytes: c.PieceBytes, Logger: c.Flow.Logger,
		OnTable: func(_ context.Context, t snapshot.Table) error {
			if c.Mixed(catalog.Name{Schema: t.Schema, Name: t.Name}) {
				return nil
			}
			return c.index(indexes, catalog.Name{Schema: t.Schema, Name: t.Name})
		},
	})
	if err != nil {
		return errors.Join(err, indexes.Wait(true))
	}
	c.mu.Lock()
	if len(c.copiers) == 0 {
		c.began = time.Now()
	}
	c.copiers = append(c.copiers, copier)
	c.mu.Unlock()
	err = copier.Run(ctx)
	c.Step("build the indexes")
	var rewritten *snapshot.RewrittenError
	failed := err != nil && !errors.As(err, &rewritten)
	indexErr := indexes.Wait(failed)
	if !failed {
		indexErr = errors.Join(indexErr, c.keepTook(ctx))
	}
	if indexErr != nil && !failed {
		err = indexErr
	}
	if err != nil {
		return err
	}
	c.Hold(ctx, nil) // every worker has imported the snapshot, and is done with it
	return nil
}
