package copying

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/snapshot"
)

// readWindows notes as of when each table was copied.
func (c *Copy) readWindows(ctx context.Context) error {
	return c.Flow.To.Link.Do(ctx, func(conn *pgx.Conn) error {
		windows, err := snapshot.Windows(ctx, conn, c.Flow.Name.Migration)
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.windows = windows
		return nil
	})
}

// Mixed reports whether a table has, or had for a while, rows of several snapshots. It gets no
// unique index but that of its key before they are rows of one commit.
func (c *Copy) Mixed(table catalog.Name) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.windows[table].Mixed()
}

// onResume is called before a table gets rows of another snapshot: it builds the index of
// the replica identity.
func (c *Copy) onResume(ctx context.Context, t snapshot.Table) error {
	c.mu.Lock()
	name := catalog.Name{Schema: t.Schema, Name: t.Name}
	w := c.windows[name]
	w.To++ // for Mixed; its value is read when the copy is done
	c.windows[name] = w
	c.mu.Unlock()
	if c.Archive == nil {
		return nil
	}
	var index string
	err := c.Flow.From.Link.Row(ctx, `
select coalesce(min(x.relname::text), '') from pg_class c join pg_index i on i.indrelid = c.oid join pg_class x on x.oid = i.indexrelid
 where c.oid = to_regclass($1) and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end`,
		[]any{name.String()}, &index)
	if err != nil {
		return fmt.Errorf("look for the replica identity: %w", err)
	}
	dump, err := c.Archive(ctx)
	if err != nil {
		return err
	}
	conn, err := online.Open(ctx, session.Config{DSN: c.Flow.To.DSN, Application: c.Flow.Name.String() + " index"})
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := schema.Tune(ctx, conn, 1); err != nil {
		return err
	}
	present, err := schema.LoadPresent(ctx, conn)
	if err != nil {
		return err
	}
	for _, x := range dump.Indexes(name) {
		if x.Name == index {
			return schema.Build(ctx, conn, present, x)
		}
	}
	return nil // then the target has no such index, and the table is copied again
}

// Windows returns as of when each table was copied.
func (c *Copy) Windows() map[catalog.Name]decoder.Window {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.windows
}
