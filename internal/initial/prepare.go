package initial

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/config"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/state"
)

// Prepare creates the schema, then the publication, then the slot with its snapshot. Run again, it
// starts over: nothing has been copied under what an earlier attempt left.
func (c *Copy) Prepare(ctx context.Context) error {
	ctx = online.Telling(ctx, func(w online.Wait, say bool) {
		c.Step(w.String())
		if say {
			c.Config.Logger.Warn(w.String())
		}
	})
	if err := c.Sequences.Remember(ctx); err != nil {
		return err
	}
	if err := c.Definitions.Create(ctx); err != nil {
		return err
	}
	if err := c.publish(ctx); err != nil {
		return err
	}
	return c.export(ctx)
}

// publish creates the publications, before the slot.
func (c *Copy) publish(ctx context.Context) error {
	c.Step("create the publication")
	states, err := c.Tables.Describe(ctx, c.Config.InsertOnly)
	if err != nil {
		return err
	}
	var words *flow.Words
	if only := state.InsertOnly(states); c.Config.Until != config.UntilCopied && len(only) > 0 { // otherwise nothing is followed
		words = flow.WordsOf(c.Flow.Name, c.Flow.From.Link, c.Flow.To.Link, c.Store, only)
	}
	publications, err := c.Flow.Publish(ctx, states, words, c.Step)
	if err != nil {
		return err
	}
	c.Tables.Remember(states)
	return c.Store.Values().PutPublished(ctx, states, publications)
}

// export creates the slot and its snapshot, and sets applied to its consistent point. A slot of our
// name is from an attempt that copied nothing that is kept.
func (c *Copy) export(ctx context.Context) error {
	c.Step("create the slot")
	c.Rows.Hold(ctx, nil)
	exported, err := c.Flow.MakeSlot(ctx, c.Rows.Export)
	if err != nil {
		return err
	}
	c.Rows.Hold(ctx, exported)
	err = c.Flow.To.Link.Do(ctx, func(conn *pgx.Conn) error {
		if err := c.Flow.Begin(ctx, conn, exported.ConsistentPoint); err != nil {
			return err
		}
		return c.Store.SetConsistentPoint(ctx, conn, exported.ConsistentPoint)
	})
	if err != nil {
		return fmt.Errorf("record the slot's consistent point: %w", err)
	}
	c.Record.ConsistentPoint = exported.ConsistentPoint
	c.Config.Logger.Info("slot created", "slot", exported.Slot, "consistent_point", exported.ConsistentPoint)
	return nil
}

func namesOf(tables []catalog.Table) []catalog.Name {
	names := make([]catalog.Name, len(tables))
	for i := range tables {
		names[i] = tables[i].Name
	}
	return names
}
