// Package definitions carries the definitions of a database over to another server: the tables
// before their rows, the rest after them, and inside the fence the foreign keys that had to wait
// for it. It records what the other server refuses, and reports what is missing there before the
// cutover.
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

// Carrier carries the definitions of the source's tables, and of what belongs to them, over to the
// target.
type Carrier struct {
	From, To session.End
	Store    *state.Store // of the migration
	// Tables returns the tables of From that are migrated. It is called whenever they are needed.
	Tables func() []catalog.Table
	// Brought means that the definitions of To were not created by walferry: they are only
	// compared.
	Brought bool
	// Reopens reports whether To has been open before: its foreign keys are its own then, and are put aside while it
	// follows. nil: it has not.
	Reopens func() bool
	Jobs    int          // how many foreign keys are created or validated at a time
	Step    func(string) // is told what is done
	Logger  *slog.Logger
}

// Create creates tables, types and functions on the target, without indexes. The archive that they
// come from is kept there in the same transaction: it is there when the tables are, and a run on
// another machine has it too.
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

// tell logs what was left out.
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

// options returns the options that leave out the tables which are not migrated: those that the
// patterns leave out, and those that came later.
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
