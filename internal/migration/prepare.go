package migration

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cleanup"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
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
	if err := r.makeSchema(ctx); err != nil {
		return err
	}
	if err := r.publish(ctx); err != nil {
		return err
	}
	return r.export(ctx)
}

// makeSchema brings tables, types and functions to the target, without indexes.
// That, and the archive they came from, is one transaction: the archive is there
// when the tables are. It stays on the target, so that a run on another machine
// has it.
func (r *runner) makeSchema(ctx context.Context) error {
	if r.c.Schema == "none" {
		return nil
	}
	if made, err := r.store.Values().HasDump(ctx); made || err != nil {
		return err
	}
	r.step("dump the schema")
	tools, err := r.tools(ctx)
	if err != nil {
		return err
	}
	options, err := r.schemaOptions(ctx)
	if err != nil {
		return err
	}
	dump, err := tools.Dump(ctx, r.c.Source, options)
	if err != nil {
		return err
	}
	r.step("create the schema, without indexes")
	return r.target.Do(ctx, func(conn *pgx.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // the error before it is told
		report, err := dump.PreData(ctx, tx)
		if err != nil {
			return err
		}
		if err := r.keepRefused(ctx, tx, report.Refused); err != nil {
			return err
		}
		if err := r.store.Values().PutDumpIn(ctx, tx, dump.Archive); err != nil {
			return err
		}
		r.tell(report)
		return tx.Commit(ctx)
	})
}

// tell logs what the schema tools left out.
func (r *runner) tell(report schema.Report) {
	for _, line := range report.Skipped {
		r.c.Logger.Warn("schema: left out: " + line.String())
	}
}

func (r *runner) tools(ctx context.Context) (schema.Tools, error) {
	var from, to int
	err := r.source.Do(ctx, func(conn *pgx.Conn) error { from = session.Major(conn.PgConn()); return nil })
	if err == nil {
		err = r.target.Do(ctx, func(conn *pgx.Conn) error { to = session.Major(conn.PgConn()); return nil })
	}
	if err != nil {
		return schema.Tools{}, err
	}
	return schema.Find(ctx, from, to)
}

// archive returns the dump that is kept on the target.
func (r *runner) archive(ctx context.Context) (*schema.Dump, error) {
	archive, err := r.store.Values().Dump(ctx)
	if err != nil {
		return nil, err
	}
	options, err := r.schemaOptions(ctx)
	if err != nil {
		return nil, err
	}
	refused, err := refused(ctx, r.store)
	if err != nil {
		return nil, err
	}
	options.Refused = refusedNames(refused)
	return schema.Open(archive, options)
}

// schemaOptions leave out the tables that the patterns leave out, and those that came later.
func (r *runner) schemaOptions(ctx context.Context) (o schema.Options, err error) {
	in := make(map[uint32]bool, len(r.tables))
	for i := range r.tables {
		in[r.tables[i].OID] = true
	}
	err = r.source.Do(ctx, func(conn *pgx.Conn) error {
		all, err := catalog.Tables(ctx, conn)
		for i := range all {
			if t := &all[i]; !in[t.OID] && t.Extension == "" && t.Persistence == 'p' {
				o.Exclude = append(o.Exclude, t.Name)
			}
		}
		return err
	})
	return o, err
}

// publish makes the publications, which must be committed
// before the slot is made: a slot decodes with the catalogue of its time.
func (r *runner) publish(ctx context.Context) error {
	r.step("create the publication")
	insertOnly, err := r.insertOnlyTables()
	if err != nil {
		return err
	}
	err = r.source.Do(ctx, func(conn *pgx.Conn) error { return online.Own(ctx, conn, `create schema if not exists walferry`) })
	if err != nil {
		return fmt.Errorf("create the schema walferry on the source: %w", err)
	}
	states, err := r.tableStates(ctx, insertOnly)
	if err != nil {
		return err
	}
	var publications map[string]slot.PublicationIdentity
	err = r.source.Do(ctx, func(conn *pgx.Conn) (err error) {
		if session.Major(conn.PgConn()) == 10 {
			if err := slot.CreateTruncationTriggers(ctx, conn, identifiers(r.ordinary())); err != nil {
				return err
			}
		}
		if r.c.Until != UntilCopied && len(insertOnly) > 0 { // otherwise nothing is followed
			r.step("watch the --insert-only tables")
			if err := r.wordsOf(insertOnly).Watch(ctx, conn); err != nil {
				return err
			}
		}
		publications, err = slot.Publish(ctx, conn, r.flow.Name.Source(), published(states, false), published(states, true))
		return err
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.rec.Tables = states
	r.mu.Unlock()
	return r.store.Values().PutPublished(ctx, states, publications)
}

// insertOnlyTables are those of --insert-only that hold rows.
func (r *runner) insertOnlyTables() (tables []catalog.Table, err error) {
	if len(r.c.InsertOnly) == 0 {
		return nil, nil
	}
	only, err := catalog.Select(r.tables, r.c.InsertOnly, nil)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(only, func(t catalog.Table) bool { return t.Kind != 'r' }), nil
}

// tableStates are the tables as they are now on both sides, as they will be remembered.
func (r *runner) tableStates(ctx context.Context, insertOnly []catalog.Table) (states []state.Table, err error) {
	now, err := identity.Read(ctx, r.source, r.target)
	if err != nil {
		return nil, err
	}
	for i := range r.tables {
		t := &r.tables[i]
		table := state.Table{OID: t.OID, Name: t.Name, Kind: string(t.Kind)}
		if t.Kind == 'r' {
			table.Columns = identity.Columns(t)
			table.InsertOnly = slices.ContainsFunc(insertOnly, func(only catalog.Table) bool { return only.OID == t.OID })
		}
		states = append(states, table)
	}
	return states, r.source.Do(ctx, func(conn *pgx.Conn) error { return identity.Describe(ctx, conn, states, now) })
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
	r.step("create the slot")
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
	r.mu.Lock()
	r.rec.ConsistentPoint = exported.ConsistentPoint
	r.mu.Unlock()
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
			r.step(fmt.Sprintf("waiting for %d open transactions before the slot can be made", len(blockers)))
		},
	}
}

// dropSource removes what the source has of this migration, the schema walferry
// when no other migration uses it.
func (r *runner) dropSource(ctx context.Context) error {
	return r.source.Do(ctx, func(conn *pgx.Conn) error { return cleanup.Source(ctx, conn, r.c.Name) })
}

func namesOf(tables []catalog.Table) []catalog.Name {
	names := make([]catalog.Name, len(tables))
	for i := range tables {
		names[i] = tables[i].Name
	}
	return names
}
