// Package definitions carries the definitions of a database over to another server: tables before
// their rows, the rest after them, and inside the fence the foreign keys that had to wait for it. It keeps
// what the other server refuses, and reports what that lacks by the time it is to be used.
package definitions

import (
	"context"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// Carrier carries the definitions of the source's tables, and of what belongs to them, over to the target.
type Carrier struct {
	From, To session.End
	Store    *state.Store // of the migration
	// Tables are those of From that are migrated. It is asked whenever something is done with them.
	Tables func() []catalog.Table
	// Brought: somebody else has made the definitions of To; they are only compared.
	Brought bool
	Jobs    int          // how many foreign keys are created or validated at a time
	Step    func(string) // is told what is done
	Logger  *slog.Logger
}

// Create brings tables, types and functions to the target, without indexes.
// That, and the archive they came from, is one transaction: the archive is there
// when the tables are. It stays on the target, so that a run on another machine
// has it.
func (c *Carrier) Create(ctx context.Context) error {
	if c.Brought {
		return nil
	}
	if made, err := c.Store.Values().HasDump(ctx); made || err != nil {
		return err
	}
	c.Step("dump the schema")
	tools, err := c.tools(ctx)
	if err != nil {
		return err
	}
	options, err := c.options(ctx)
	if err != nil {
		return err
	}
	dump, err := tools.Dump(ctx, c.From.DSN, options)
	if err != nil {
		return err
	}
	c.Step("create the schema, without indexes")
	return c.To.Link.Do(ctx, func(conn *pgx.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // the error before it is told
		report, err := dump.PreData(ctx, tx)
		if err != nil {
			return err
		}
		if err := c.keepRefused(ctx, tx, report.Refused); err != nil {
			return err
		}
		if err := c.Store.Values().PutDumpIn(ctx, tx, dump.Archive); err != nil {
			return err
		}
		c.tell(report)
		return tx.Commit(ctx)
	})
}

// tell logs what the schema tools left out.
func (c *Carrier) tell(report schema.Report) {
	for _, line := range report.Skipped {
		c.Logger.Warn("schema: left out: " + line.String())
	}
}

func (c *Carrier) tools(ctx context.Context) (schema.Tools, error) {
	var from, to int
	err := c.From.Link.Do(ctx, func(conn *pgx.Conn) error { from = session.Major(conn.PgConn()); return nil })
	if err == nil {
		err = c.To.Link.Do(ctx, func(conn *pgx.Conn) error { to = session.Major(conn.PgConn()); return nil })
	}
	if err != nil {
		return schema.Tools{}, err
	}
	return schema.Find(ctx, from, to)
}

// Archive returns the dump that is kept on the target.
func (c *Carrier) Archive(ctx context.Context) (*schema.Dump, error) {
	archive, err := c.Store.Values().Dump(ctx)
	if err != nil {
		return nil, err
	}
	options, err := c.options(ctx)
	if err != nil {
		return nil, err
	}
	refused, err := refused(ctx, c.Store)
	if err != nil {
		return nil, err
	}
	options.Refused = refusedNames(refused)
	return schema.Open(archive, options)
}

// options leave out the tables that the patterns leave out, and those that came later.
func (c *Carrier) options(ctx context.Context) (o schema.Options, err error) {
	tables := c.Tables()
	in := make(map[uint32]bool, len(tables))
	for i := range tables {
		in[tables[i].OID] = true
	}
	err = c.From.Link.Do(ctx, func(conn *pgx.Conn) error {
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
