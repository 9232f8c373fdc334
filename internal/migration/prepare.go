package migration

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/slot"
)

// prepare creates the schema, then the publication, then the slot with its snapshot. Run again, it
// starts over: nothing has been copied under what an earlier attempt left.
func (r *runner) prepare(ctx context.Context) error {
	ctx = online.Telling(ctx, func(w online.Wait, say bool) {
		r.live.Step(w.String())
		if say {
			r.c.Logger.Warn(w.String())
		}
	})
	if err := r.carrier().Remember(ctx); err != nil {
		return err
	}
	if err := r.definitions.Create(ctx); err != nil {
		return err
	}
	if err := r.publish(ctx); err != nil {
		return err
	}
	return r.export(ctx)
}

// publish creates the publications, before the slot.
func (r *runner) publish(ctx context.Context) error {
	r.live.Step("create the publication")
	states, err := r.tables.Describe(ctx, r.c.InsertOnly)
	if err != nil {
		return err
	}
	var words *flow.Words
	if only := state.InsertOnly(states); r.c.Until != UntilCopied && len(only) > 0 { // otherwise nothing is followed
		words = r.words(only)
	}
	publications, err := r.flow.Publish(ctx, states, words, r.live.Step)
	if err != nil {
		return err
	}
	r.tables.Remember(states)
	return r.store.Values().PutPublished(ctx, states, publications)
}

// export creates the slot and its snapshot, and sets applied to its consistent point. A slot of our
// name is from an attempt that copied nothing that is kept.
func (r *runner) export(ctx context.Context) error {
	r.live.Step("create the slot")
	r.rows.Hold(ctx, nil)
	exported, err := r.flow.MakeSlot(ctx, r.exportConfig())
	if err != nil {
		return err
	}
	r.rows.Hold(ctx, exported)
	err = r.target.Do(ctx, func(conn *pgx.Conn) error {
		if err := r.flow.Begin(ctx, conn, exported.ConsistentPoint); err != nil {
			return err
		}
		return r.store.SetConsistentPoint(ctx, conn, exported.ConsistentPoint)
	})
	if err != nil {
		return fmt.Errorf("record the slot's consistent point: %w", err)
	}
	r.rec.ConsistentPoint = exported.ConsistentPoint
	r.c.Logger.Info("slot created", "slot", exported.Slot, "consistent_point", exported.ConsistentPoint)
	return nil
}

func (e *ends) exportConfig() slot.ExportConfig {
	return slot.ExportConfig{
		Logger: e.c.Logger,
		OnBlocked: func(blockers []slot.Blocker) {
			var names []string
			for _, b := range blockers {
				e.c.Logger.Warn("creating the slot waits for a transaction that writes: " + b.String())
				names = append(names, b.String())
			}
			e.live.Step(fmt.Sprintf("waiting for %d open transactions before the slot can be created: %s", len(blockers), catalog.List(names)))
		},
	}
}

func namesOf(tables []catalog.Table) []catalog.Name {
	names := make([]catalog.Name, len(tables))
	for i := range tables {
		names[i] = tables[i].Name
	}
	return names
}
