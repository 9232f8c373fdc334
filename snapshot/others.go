package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// count counts a piece that this process has copied.
func (c *Copier) count(p piece, rows, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.table.put(p.number, rows, bytes)
	c.own.pieces, c.own.rows, c.own.bytes = c.own.pieces+1, c.own.rows+rows, c.own.bytes+bytes
}

func (c *Copier) setTables(tables []*tableCopy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tables, c.byName = tables, map[catalog.Name]*tableCopy{}
	for _, t := range tables {
		c.byName[t.key()] = t
	}
}

// table returns what is known of a table; nil: it is not copied.
func (c *Copier) table(name catalog.Name) *tableCopy {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byName[name]
}

// announceComplete announces those of some tables that are complete, each once.
func (c *Copier) announceComplete(ctx context.Context, tables ...*tableCopy) error {
	for _, t := range tables {
		c.mu.Lock()
		now := t.complete() && !t.announced
		t.announced = t.announced || now
		c.mu.Unlock()
		if !now || c.config.OnTable == nil {
			continue
		}
		if err := c.config.OnTable(ctx, t.Table); err != nil {
			return fmt.Errorf("after the copy of table %s: %w", t.Table, err)
		}
	}
	return nil
}

// othersPatience is how long others are waited for before that is told: a process that was stopped, or whose host was cut off, keeps what it
// has claimed until its session ends.
const othersPatience = 10 * time.Second

// waits tells once that nothing but pieces of others is left. Those who help say nothing.
func (c *Copier) waits(since time.Time, left int) {
	if c.config.Worker != "" || time.Since(since) < othersPatience || c.told.Swap(true) {
		return
	}
	c.config.Logger.Warn("waits for pieces that other processes copy: "+endOthers, "pieces", left)
}

// endOthers is what to do about one that does not end.
const endOthers = "`walferry status` names them; one that hangs gives its piece up when its session on the target ends (pg_terminate_backend)"

// othersInterval is how often the target is asked what others have copied.
const othersInterval = 2 * time.Second

// selectOthers has an index of its own, which only has what others have copied.
const selectOthers = `
select schema_name, table_name, piece, as_of::text, rows, bytes from walferry.copy_state where migration = $1 and worker <> ''`

// watchOthers counts what other processes copy, and announces the tables that they complete, until ctx ends. Its error is one of OnTable:
// while the target cannot be asked there is nothing to count.
func (c *Copier) watchOthers(ctx context.Context) error {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			closeConn(ctx, conn)
		}
	}()
	tick := time.NewTicker(othersInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if conn != nil && conn.IsClosed() {
			conn = nil
		}
		if conn == nil {
			var err error
			if conn, err = c.openTarget(ctx); err != nil {
				continue
			}
		}
		sql := selectOthers
		unsure := c.unsure.Swap(false)
		if unsure {
			sql = selectState
		}
		pieces, err := readPieces(ctx, conn, sql, c.config.Migration, 0)
		if err != nil {
			if unsure {
				c.unsure.Store(true)
			}
			continue
		}
		c.mu.Lock()
		tables := c.tables
		for name, done := range pieces {
			if t := c.byName[name]; t != nil {
				for number, f := range done {
					t.put(number, f.rows, f.bytes)
				}
			}
		}
		c.mu.Unlock()
		if err := c.announceComplete(ctx, tables...); err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
}
