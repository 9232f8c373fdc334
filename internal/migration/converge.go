package migration

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/snapshot"
)

// errSettled ends the applying of what brings all tables to one commit.
var errSettled = errors.New("all tables are as of one commit")

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
// several snapshots. Until then unique indexes and foreign keys may not hold.
func (r *runner) converge(ctx context.Context) error {
	var until decoder.LSN
	for _, one := range r.windows {
		until = max(until, one.To)
	}
	if until <= r.rec.ConsistentPoint {
		return nil
	}
	f, err := r.startFollowing(ctx, &applier.Windows{Tables: r.windows, Read: r.readRow})
	if err != nil {
		return err
	}
	defer r.stopFollowing(ctx, f)
	if f.applier.Applied() >= until {
		return nil
	}
	r.c.Logger.Info("tables were copied under several snapshots: applying the changes between them", "applied", f.applier.Applied(), "until", until)
	r.step("bring all tables to one commit")
	err = f.run(ctx, func(helpers context.Context, stop context.CancelCauseFunc) {
		for {
			until := f.applier.Settled()
			_, err := f.applier.Pause(helpers, until)
			switch {
			case helpers.Err() != nil:
				return
			case err == nil && f.applier.Settled() == until, // what comes next commits later
				f.applier.Applied() >= f.applier.Settled(): // a Pause that came too late
				stop(errSettled)
				return
			case err != nil:
				stop(fmt.Errorf("bring all tables to one commit: %w", err))
				return
			}
		}
	})
	if errors.Is(err, errSettled) {
		return nil
	}
	return err
}

// readRow is applier.Windows.Read.
func (r *runner) readRow(ctx context.Context, rel *decoder.Relation, key []decoder.Value) (row []decoder.Value, at decoder.LSN, err error) {
	var columns, conditions []string
	var params [][]byte
	for i, c := range rel.Columns {
		columns = append(columns, catalog.Quote(c.Name))
		if c.Key {
			params = append(params, key[i].Data)
			conditions = append(conditions, fmt.Sprintf("%s = $%d", catalog.Quote(c.Name), len(params)))
		}
	}
	sql := "select " + strings.Join(columns, ", ") + " from only " + rel.Table().String() + " where " + strings.Join(conditions, " and ")
	err = r.source.Do(ctx, func(conn *pgx.Conn) error {
		result := conn.PgConn().ExecParams(ctx, sql, params, nil, nil, nil).Read()
		if result.Err != nil {
			return result.Err
		}
		for _, values := range result.Rows {
			row = nil
			for _, v := range values {
				value := decoder.Value{Kind: decoder.Null}
				if v != nil {
					value = decoder.Value{Kind: decoder.Text, Data: v}
				}
				row = append(row, value)
			}
		}
		// Whatever the query has seen committed before this position.
		return conn.QueryRow(ctx, `select pg_current_wal_insert_lsn()::text`).Scan(&at)
	})
	if err == nil {
		err = r.target.Do(ctx, func(conn *pgx.Conn) error {
			return snapshot.Extend(ctx, conn, r.c.Name, snapshot.Table{Schema: rel.Namespace, Name: rel.Name}, at)
		})
	}
	return row, at, err
}
