package snapshot

import (
	"context"
	"errors"
	"fmt"

	"github.com/walferry/walferry/internal/session"
)

// Help copies pieces of the copy that Run of another process, perhaps on another host, has begun under the same snapshot (see [Offered]),
// until there are none left that nobody has. It decides nothing: what it cannot copy, as a table that was rewritten since, is left to that
// one. Config needs Source, Target, Migration, Snapshot, AsOf and Worker; what it says of tables and pieces comes from the target.
//
// Each piece is copied in a transaction that claims it. If Help fails, or ctx ends, what it has claimed is free again; if the other
// process ends, Help goes on, for the snapshot exists as long as anybody has it. A snapshot that is gone is a *SnapshotLostError. Help
// must be called only once, and not together with Run.
func (c *Copier) Help(ctx context.Context) error {
	if c.config.Worker == "" {
		return errors.New("to help a copy needs the name of who does")
	}
	c.config.PutAside = true
	workers, err := c.hire(ctx)
	defer func() {
		for _, w := range workers {
			w.close(ctx)
		}
	}()
	if err == nil {
		err = c.learn(ctx, workers[0])
	}
	if err != nil {
		return c.failed(ctx, err)
	}
	if err := c.work(ctx, workers); err != nil {
		return c.failed(ctx, err)
	}
	return nil
}

// Copied returns what this process has copied so far. It may be called at any time, from any goroutine.
func (c *Copier) Copied() (pieces int, rows, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.own.pieces, c.own.rows, c.own.bytes
}

// learn reads what was planned, and what of it is not to be copied here: that whose rows are not stored where they were.
func (c *Copier) learn(ctx context.Context, w *worker) error {
	c.byPage = session.Major(w.source.PgConn()) >= 14
	state, err := openState(ctx, w.target, c.config.Migration, 0)
	if err != nil {
		return onTarget(err)
	}
	var tables []Table
	for name, p := range state.plan {
		tables = append(tables, Table{Schema: name.Schema, Name: name.Name, TargetSchema: p.schema, TargetName: p.name})
	}
	all, err := match(ctx, w.source, w.target, tables)
	if err != nil {
		return err
	}
	if _, err := w.source.PgConn().Exec(ctx, "rollback to savepoint piece").ReadAll(); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	var copies []*tableCopy
	for _, m := range all {
		t := &tableCopy{matched: m, running: map[*pipe]struct{}{}}
		p := state.plan[t.key()]
		t.bytes, t.bounds, t.mixedBy = p.bytes, p.bounds, p.mixedBy
		copies = append(copies, t)
		if p.filenode != m.filenode() {
			c.putAside(t)
		}
	}
	c.setTables(copies)
	c.missing(state)
	return nil
}
