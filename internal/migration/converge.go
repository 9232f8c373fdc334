package migration

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/snapshot"
)

// readWindows notes as of when each table was copied.
func (r *runner) readWindows(ctx context.Context) error {
	return r.target.Do(ctx, func(conn *pgx.Conn) error {
		windows, err := snapshot.Windows(ctx, conn, r.c.Name)
		if err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.windows = windows
		return nil
	})
}

// mixed tells whether a table has, or had for a while, rows of several snapshots. It gets no
// unique index but that of its key before they are rows of one commit.
func (r *runner) mixed(table catalog.Name) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.windows[table].Mixed()
}

// onResume is called before a table gets rows of another snapshot: it builds the index of
// the replica identity.
func (r *runner) onResume(ctx context.Context, t snapshot.Table) error {
	r.mu.Lock()
	name := catalog.Name{Schema: t.Schema, Name: t.Name}
	w := r.windows[name]
	w.To++ // for mixed; what it will be is read when the copy is done
	r.windows[name] = w
	r.mu.Unlock()
	if r.c.Schema == "none" {
		return nil
	}
	var index string
	err := r.source.Row(ctx, `
select coalesce(min(x.relname::text), '') from pg_class c join pg_index i on i.indrelid = c.oid join pg_class x on x.oid = i.indexrelid
 where c.oid = to_regclass($1) and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end`,
		[]any{name.String()}, &index)
	if err != nil {
		return fmt.Errorf("look for the replica identity: %w", err)
	}
	dump, err := r.archive(ctx)
	if err != nil {
		return err
	}
	conn, err := online.Open(ctx, session.Config{DSN: r.c.Target, Application: r.c.Name + " index"})
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
	return nil // then the target has no such index, and the table is copied anew
}

// converge applies the changes that bring all tables to one commit, when they were copied under
// several snapshots.
func (r *runner) converge(ctx context.Context) error {
	tell := func() { r.step("bring all tables to one commit") }
	return r.flow.Converge(ctx, r.rec.ConsistentPoint, r.windows, r.originals(), tell, r.guardLock)
}
