// Package initial brings a target to where it can follow: its definitions, the publications and the slot, the copy and its indexes, and
// the rest of the schema; or, for a one-time copy, to its end.
package initial

import (
	"context"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cleanup"
	"github.com/walferry/walferry/internal/config"
	"github.com/walferry/walferry/internal/copying"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/definitions"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/opening"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// Copy is the way of a target from nothing to where it can follow. Each of its steps is harmless to repeat.
type Copy struct {
	Config      config.Migration
	Flow        *flow.Flow
	Store       *state.Store
	Record      *state.Record    // which gets the slot's consistent point
	Tables      *identity.Tables // that are copied
	Definitions *definitions.Carrier
	Opening     *opening.Target
	Sequences   *cutover.Carrier
	Rows        *copying.Copy
	Guard       flow.Helper  // that of the migration's lock
	Step        func(string) // is told what is done

	Carried int // sequences that End has set
}

// Begin runs in phase Prepared. A run that was stopped since has lost the snapshot; then the
// slot is created again.
func (c *Copy) Begin(ctx context.Context) error {
	if c.Rows.Holds() {
		return nil
	}
	return c.export(ctx)
}

// Run copies every table, and builds the indexes of each as soon as it is complete.
func (c *Copy) Run(ctx context.Context) error {
	if err := c.Rows.Read(ctx); err != nil {
		return err
	}
	// With --schema none the target has its triggers and rules already.
	if _, err := c.Opening.Hold(ctx); err != nil {
		return err
	}
	return c.Rows.Run(ctx, c.Record.ConsistentPoint)
}

// Complete completes the schema: whatever index an interrupted run left out, foreign
// keys, triggers and the rest, statistics. Everything in it may run twice.
func (c *Copy) Complete(ctx context.Context) error {
	if err := c.Rows.Read(ctx); err != nil {
		return err
	}
	// If an earlier run created triggers and did not get as far as holding them, they must not act
	// on what converge applies.
	if _, err := c.Opening.Hold(ctx); err != nil {
		return err
	}
	if err := c.Rows.Build(ctx, false, func(t *catalog.Table) bool { return !c.Rows.Mixed(t.Name) }); err != nil {
		return err
	}
	if err := c.converge(ctx); err != nil {
		return err
	}
	if err := c.Rows.Build(ctx, true, func(t *catalog.Table) bool { return c.Rows.Mixed(t.Name) }); err != nil {
		return err
	}
	if err := c.Definitions.Complete(ctx); err != nil {
		return err
	}
	if _, err := c.Opening.Hold(ctx); err != nil {
		return err
	}
	c.Step("gather statistics")
	return schema.Analyze(ctx, c.Config.Target, namesOf(c.Tables.Selected()), c.Rows.Analyzed(), c.Config.Jobs)
}

// converge applies the changes that bring all tables to one commit, if they were copied under
// several snapshots.
func (c *Copy) converge(ctx context.Context) error {
	tell := func() { c.Step("bring all tables to one commit") }
	return c.Flow.Converge(ctx, c.Record.ConsistentPoint, c.Rows.Windows(), flow.OriginalsOf(c.Tables.Remembered()), tell, c.Guard)
}

// End is the end of a one-time copy: the target gets what a cutover would bring otherwise, to
// be used, and the source has nothing of ours any more. Sequences are read once the rows are there:
// each row's number was drawn before.
func (c *Copy) End(ctx context.Context, ended *cleanup.Ended) error {
	step := func(text string) { c.Config.Logger.Info(text) }
	c.Step("set sequences, create late foreign keys, enable triggers")
	if err := c.Sequences.Gate(ctx, config.Cutover{}.Fill().Timeout/4, false, step); err != nil {
		return err
	}
	conn, err := online.Open(ctx, session.Config{DSN: c.Config.Source, Application: c.Config.Name + " sequences"})
	if err != nil {
		return err
	}
	c.Carried, err = c.Sequences.Set(ctx, conn)
	conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing was written
	if err == nil {
		err = c.Definitions.CreateKeys(ctx, step)
	}
	if err == nil {
		err = c.Definitions.Pending().Validate(ctx, step)
	}
	if err == nil {
		_, err = c.Opening.EnableRest(ctx, time.Minute)
	}
	if err != nil {
		return err
	}
	return ended.RemoveFromSource(ctx)
}
