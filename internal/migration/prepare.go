package migration

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/slot"
)

// prepare makes the schema, then the publication, then the slot with its
// snapshot. Run again, it begins anew: nothing has been copied under what an
// earlier try left.
func (r *runner) prepare(ctx context.Context) error {
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

// publish makes the publications, which must be committed
// before the slot is made: a slot decodes with the catalogue of its time.
func (r *runner) publish(ctx context.Context) error {
	r.live.step("create the publication")
	insertOnly, err := insertOnly(r.tables.Selected(), r.c.InsertOnly)
	if err != nil {
		return err
	}
	err = r.source.Do(ctx, func(conn *pgx.Conn) error { return online.Own(ctx, conn, `create schema if not exists walferry`) })
	if err != nil {
		return fmt.Errorf("create the schema walferry on the source: %w", err)
	}
	var marks []pgx.Identifier
	if err := r.source.Do(ctx, func(conn *pgx.Conn) (err error) { marks, err = flow.MakeMark(ctx, conn); return err }); err != nil {
		return err
	}
	states, err := r.tables.Describe(ctx, insertOnly)
	if err != nil {
		return err
	}
	var publications map[string]slot.PublicationIdentity
	err = r.source.Do(ctx, func(conn *pgx.Conn) (err error) {
		if session.Major(conn.PgConn()) == 10 {
			if err := slot.CreateTruncationTriggers(ctx, conn, identifiers(r.tables.WithRows())); err != nil {
				return err
			}
		}
		if r.c.Until != UntilCopied && len(insertOnly) > 0 { // otherwise nothing is followed
			r.live.step("watch the --insert-only tables")
			if err := r.words(insertOnly).Watch(ctx, conn); err != nil {
				return err
			}
		}
		publications, err = slot.Publish(ctx, conn, r.flow.Name.Source(), append(published(states, false), marks...), published(states, true))
		return err
	})
	if err != nil {
		return err
	}
	r.tables.Remember(states)
	return r.store.Values().PutPublished(ctx, states, publications)
}

// insertOnly are those of tables that patterns name and that hold rows.
func insertOnly(all []catalog.Table, patterns []string) (tables []catalog.Table, err error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	only, err := catalog.Select(all, patterns, nil)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(only, func(t catalog.Table) bool { return t.Kind != 'r' }), nil
}

// published are the tables that hold rows, those of --insert-only or the others.
func published(states []state.Table, insertOnly bool) (tables []pgx.Identifier) {
	for i := range states {
		if s := &states[i]; s.Kind == "r" && s.InsertOnly == insertOnly {
			tables = append(tables, pgx.Identifier{s.Schema, s.Name.Name})
		}
	}
	return tables
}

func identifiers(tables []catalog.Table) []pgx.Identifier {
	out := make([]pgx.Identifier, len(tables))
	for i := range tables {
		out[i] = pgx.Identifier{tables[i].Schema, tables[i].Name.Name}
	}
	return out
}

// export makes the slot and holds its snapshot, and sets applied to its
// consistent point. A slot of our name is from a try that copied nothing that
// stays.
func (r *runner) export(ctx context.Context) error {
	r.live.step("create the slot")
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

func (r *runner) exportConfig() slot.ExportConfig {
	return slot.ExportConfig{
		Logger: r.c.Logger,
		OnBlocked: func(blockers []slot.Blocker) {
			for _, b := range blockers {
				r.c.Logger.Warn("creating the slot waits for a transaction that writes: " + b.String())
			}
			r.live.step(fmt.Sprintf("waiting for %d open transactions before the slot can be made", len(blockers)))
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
