package snapshot

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// readBuffer is the buffer for what a server sends in many small messages.
const readBuffer = 256 << 10

// openSource connects to the source and enters the snapshot. The transaction exports it again, for
// workers that lose theirs: a snapshot is only gone once the last session that has it is.
func (c *Copier) openSource(ctx context.Context) (*pgx.Conn, error) {
	cfg, err := session.Config{DSN: c.config.Source, Application: c.application()}.Parse()
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	cfg.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(r, readBuffer), w)
	}
	conn, err := session.OpenConfig(ctx, cfg)
	if err != nil {
		return nil, onSource(err)
	}
	if err := session.TablesOnly(ctx, conn.PgConn()); err != nil {
		closeConn(ctx, conn)
		return nil, onSource(err)
	}
	if err := c.enterSnapshot(ctx, conn); err != nil {
		closeConn(ctx, conn)
		return nil, err
	}
	return conn, nil
}

func (c *Copier) enterSnapshot(ctx context.Context, conn *pgx.Conn) error {
	var refused error
	for _, name := range c.exports() {
		_, err := conn.PgConn().Exec(ctx, "begin isolation level repeatable read read only; set transaction snapshot "+catalog.Literal(name)).ReadAll()
		if err == nil {
			var again string
			if err := conn.QueryRow(ctx, "select pg_export_snapshot()").Scan(&again); err != nil {
				return onSource(fmt.Errorf("export the snapshot again: %w", err))
			}
			if _, err := conn.PgConn().Exec(ctx, "savepoint piece").ReadAll(); err != nil {
				return onSource(err)
			}
			c.addExport(again)
			return nil
		}
		if !snapshotGone(err) {
			return onSource(fmt.Errorf("import snapshot %s: %w", name, err))
		}
		if refused == nil {
			refused = err
		}
		if _, err := conn.PgConn().Exec(ctx, "rollback").ReadAll(); err != nil {
			return onSource(err)
		}
	}
	return &SnapshotLostError{Snapshot: c.config.Snapshot, Err: refused}
}

// snapshotGone reports whether a snapshot no longer exists: its file is missing (22023 until 15,
// then 42704), or the transaction that exported it has ended (55000).
func snapshotGone(err error) bool {
	return slices.Contains([]string{catalog.InvalidParameterValue, catalog.UndefinedObject, catalog.ObjectNotInRequiredState}, catalog.State(err))
}

func (c *Copier) exports() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string{c.config.Snapshot}, c.exported...)
}

func (c *Copier) addExport(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exported = append(c.exported, name)
}

// leavePiece ends the reading of a piece: it releases the lock on the table and keeps the snapshot.
// It returns where COPY found the table's rows, read while the lock still protects the table; 0:
// there is no such table.
func leavePiece(ctx context.Context, conn *pgx.Conn, m *matched) (filenode string, err error) {
	results, err := conn.PgConn().Exec(ctx, "select coalesce(pg_relation_filenode(to_regclass("+catalog.Literal(m.source.String())+")), 0);"+
		"rollback to savepoint piece").ReadAll()
	if err != nil {
		return "", err
	}
	return string(results[0].Rows[0][0]), nil
}

// selectVersion changes with every ALTER TABLE that can rewrite rows: it gives every column
// concerned, or the table, a new row in the catalogue.
const selectVersion = `
select concat_ws(' ', c.oid, c.relpersistence, c.relam,
       (select string_agg(concat(a.attnum, ':', a.xmin), ' ' order by a.attnum)
          from pg_attribute a where a.attrelid = c.oid and a.attnum > 0))
  from pg_class c where c.oid = to_regclass($1)`

// changed decides what it means that a table is not stored where it was when the snapshot was
// taken. The cause is a TRUNCATE, VACUUM FULL, CLUSTER or ALTER TABLE.
//
// If the caller can take a later snapshot, tables that remain the same are put aside. Otherwise:
// after VACUUM FULL and CLUSTER a snapshot sees the same rows as before, in other places. After
// TRUNCATE it sees none, which is fine, as the slot has the TRUNCATE. After ALTER TABLE it sees
// none either (https://www.postgresql.org/docs/current/mvcc-caveats.html), and they are lost. The
// same is true of REPACK (CONCURRENTLY) of version 19, which cannot be distinguished from TRUNCATE.
func (c *Copier) changed(ctx context.Context, conn *pgx.Conn, m *matched, pieces int) error {
	now, err := session.Open(ctx, session.Config{DSN: c.config.Source, Application: c.application()})
	if err != nil {
		return onSource(err)
	}
	defer closeConn(ctx, now)
	var before, after *string
	name := m.source.String()
	// A scalar subquery is null where there is no such table.
	query := "select (" + selectVersion + ")"
	if err := conn.QueryRow(ctx, query, name).Scan(&before); err != nil {
		return onSource(fmt.Errorf("read the version of the table: %w", err))
	}
	if err := now.QueryRow(ctx, query, name).Scan(&after); err != nil {
		return onSource(fmt.Errorf("read the version of the table: %w", err))
	}
	switch {
	case after == nil:
		return &ChangedError{Table: m.Table.String(), How: "it was dropped or renamed"}
	case before == nil || *before != *after:
		return &ChangedError{Table: m.Table.String(), How: "it was altered or replaced"}
	case c.config.PutAside:
		return errRewritten
	case session.Major(conn.PgConn()) >= 19:
		return &ChangedError{Table: m.Table.String(), How: "it was rewritten by TRUNCATE, VACUUM FULL, CLUSTER or REPACK before it was read"}
	case pieces > 1 && c.byPage:
		return &ChangedError{Table: m.Table.String(), How: "it was rewritten by TRUNCATE, VACUUM FULL or CLUSTER while it was copied in pieces"}
	}
	c.config.Logger.Warn("table was rewritten after the snapshot was taken, by TRUNCATE, VACUUM FULL or CLUSTER", "table", m.Table.String())
	return nil
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	conn.Close(ctx)
	select {
	case <-conn.PgConn().CleanupDone(): // after the end of a context it is closed in the background
	case <-ctx.Done():
	}
}
