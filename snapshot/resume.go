package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// Windows reads, from the target, the windows of the tables that a migration's copy has finished or
// begun, by the source's table. Changes of a table before From are in its rows; if From and To
// differ, the rows become those of the source only after the changes in between are applied so that
// they converge. The windows of a copy under one snapshot are all at the snapshot's position.
func Windows(ctx context.Context, conn *pgx.Conn, migration string) (map[decoder.Name]decoder.Window, error) {
	// There is no min and max of pg_lsn before version 13.
	rows, err := conn.Query(ctx, `
select distinct s.schema_name, s.table_name, s.as_of::text, greatest(s.as_of, p.converge_until)::text
  from walferry.copy_state s join walferry.copy_plan p using (migration, schema_name, table_name)
 where s.migration = $1`, migration)
	all := map[decoder.Name]decoder.Window{}
	if err == nil {
		var t decoder.Name
		var one decoder.Window
		_, err = pgx.ForEachRow(rows, []any{&t.Schema, &t.Name, &one.From, &one.To}, func() error {
			if w, ok := all[t]; ok {
				one = decoder.Window{From: min(w.From, one.From), To: max(w.To, one.To)}
			}
			all[t] = one
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read as of when the tables were copied: %w", err)
	}
	return all, nil
}

// Extend records that a table's window extends to at least a position.
func Extend(ctx context.Context, conn *pgx.Conn, migration string, t Table, to decoder.LSN) error {
	_, err := conn.Exec(ctx, `
update walferry.copy_plan set converge_until = greatest(converge_until, $4::text::pg_lsn)
 where migration = $1 and schema_name = $2 and table_name = $3`, migration, t.Schema, t.Name, to.String())
	if err != nil {
		return fmt.Errorf("record how far the rows of %s reach: %w", t, err)
	}
	return nil
}

// resume decides what remains of the work of earlier runs under other snapshots. A complete table
// does. The pieces of an incomplete one do if its rows are identified by a key and are still stored
// where they were cut; otherwise the table is emptied, and its state is deleted.
func (c *Copier) resume(ctx context.Context, w *worker, state state, tables []*matched) error {
	var again []Table
	var identities map[catalog.Name][]string
	for _, m := range tables {
		key := catalog.Name{Schema: m.Schema, Name: m.Name}
		p, ok := state.plan[key]
		done := state.pieces[key]
		if !ok || len(done) == len(p.bounds) {
			continue
		}
		others := false // pieces of other snapshots
		for _, f := range done {
			others = others || f.asOf != c.config.AsOf
		}
		same := p.filenode == m.filenode()
		why := "its rows were rewritten"
		if same && !others && (len(done) > 0 || p.asOf == c.config.AsOf) {
			continue
		}
		if same && len(done) > 0 {
			var err error
			if identities == nil {
				if identities, err = w.identities(ctx); err != nil {
					return err
				}
			}
			if m.mixedBy, why, err = c.mixable(ctx, w, m, identities[key]); err != nil {
				return err
			}
			if m.mixedBy != nil {
				c.config.Logger.Info("copy of a table continues under another snapshot", "table", m.Table.String(), "pieces", len(p.bounds), "done", len(done))
				continue
			}
		}
		if len(done) > 0 {
			c.config.Logger.Warn("copy of a table starts over", "table", m.Table.String(), "done", len(done), "why", why)
		}
		again = append(again, m.Table)
		delete(state.plan, key)
		delete(state.pieces, key)
	}
	if len(again) == 0 {
		return nil
	}
	return pgx.BeginFunc(ctx, w.target, func(tx pgx.Tx) error { return empty(ctx, tx, c.config.Migration, again) })
}

// mixable reports whether pieces of a table may have been read under different snapshots, and which
// quoted columns identify its rows. why is the reason if not.
//
// They may because everything that moves or changes a row between the snapshots is in the stream. A
// row that does not change stays in its place, in exactly one piece; any other one may be in
// several pieces or in none, and is corrected by its changes, for which its key must identify it.
// Until then other unique indexes could reject transitional rows.
func (c *Copier) mixable(ctx context.Context, w *worker, m *matched, identity []string) (key []string, why string, err error) {
	if len(identity) == 0 {
		return nil, "it has no replica identity but its whole rows", nil
	}
	if c.config.OnResume != nil {
		if err := c.config.OnResume(ctx, m.Table); err != nil {
			return nil, "", fmt.Errorf("before resuming the copy of table %s: %w", m.Table, err)
		}
	}
	keyColumns := "i.indnkeyatts"
	if session.Major(w.target.PgConn()) < 11 {
		keyColumns = "i.indnatts"
	}
	schema, name := m.Table.target()
	var own, others, always int
	err = w.target.QueryRow(ctx, `
with uniques as (
select i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null and not i.indisexclusion
       and (select array_agg(a.attname::text order by a.attname::text) from pg_attribute a
             where a.attrelid = i.indrelid and a.attnum = any ((i.indkey::int2[])[0:`+keyColumns+` - 1]))
           = (select array_agg(k order by k) from unnest($2::text[]) k) as own
  from pg_index i where i.indrelid = $1::text::regclass and (i.indisunique or i.indisexclusion))
select count(*) filter (where own), count(*) filter (where not own),
       (select count(*) from pg_attribute where attrelid = $1::text::regclass and attnum > 0 and attidentity = 'a' and attname::text <> all ($2::text[]))
  from uniques`, catalog.Name{Schema: schema, Name: name}.String(), identity).Scan(&own, &others, &always)
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("target: look for keys of table %s: %w", m.Table, err)
	case own == 0:
		return nil, "the target has no unique index of its key", nil
	case others > 0:
		return nil, "the target has other unique indexes on it", nil
	case always > 0:
		return nil, "it has a column GENERATED ALWAYS AS IDENTITY outside of its key", nil
	}
	for _, name := range identity {
		key = append(key, catalog.Quote(name))
	}
	return key, "", nil
}

// identities returns the columns of the tables' replica identities as of the snapshot; none with
// FULL or NOTHING.
func (w *worker) identities(ctx context.Context) (map[catalog.Name][]string, error) {
	all, err := catalog.Tables(ctx, w.source)
	if err == nil {
		_, err = w.source.PgConn().Exec(ctx, "rollback to savepoint piece").ReadAll()
	}
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	found := map[catalog.Name][]string{}
	for i := range all {
		found[all[i].Name] = all[i].Identity
	}
	return found, nil
}

// empty restores tables to the state before their copy.
func empty(ctx context.Context, tx pgx.Tx, migration string, tables []Table) error {
	schemas, names := make([]string, len(tables)), make([]string, len(tables))
	for i, t := range tables {
		schemas[i], names[i] = t.Schema, t.Name
	}
	rows, err := tx.Query(ctx, `
select n.nspname::text, c.relname::text, c.relkind = 'p'
  from walferry.copy_plan p join unnest($2::text[], $3::text[]) w(schema, name) on p.schema_name = w.schema and p.table_name = w.name
  join pg_namespace n on n.nspname = p.target_schema
  join pg_class c on c.relnamespace = n.oid and c.relname = p.target_name and c.relkind in ('r', 'p')
 where p.migration = $1`, migration, schemas, names)
	var targets []string
	if err == nil {
		var schema, name string
		var partitioned bool
		_, err = pgx.ForEachRow(rows, []any{&schema, &name, &partitioned}, func() error {
			target := catalog.Name{Schema: schema, Name: name}.String()
			if !partitioned {
				target = "only " + target
			}
			targets = append(targets, target)
			return nil
		})
	}
	if err == nil && len(targets) > 0 {
		err = Truncate(ctx, tx, targets...)
	}
	for _, table := range []string{"copy_state", "copy_plan"} {
		if err == nil {
			_, err = tx.Exec(ctx, `delete from walferry.`+table+` where migration = $1
   and (schema_name, table_name) in (select * from unnest($2::text[], $3::text[]))`, migration, schemas, names)
		}
	}
	if err != nil {
		return fmt.Errorf("empty the tables whose copy starts over: %w", err)
	}
	return nil
}

// Truncate empties tables, given by their quoted names, with one statement, as tables that
// reference each other require. If other tables reference them it deletes their rows without firing
// foreign keys: for that the role must be allowed to set session_replication_role.
func Truncate(ctx context.Context, tx pgx.Tx, tables ...string) error {
	err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "truncate table "+strings.Join(tables, ", "))
		return err
	})
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != catalog.FeatureNotSupported {
		return err
	}
	statements := []string{"set local session_replication_role = replica"}
	for _, table := range tables {
		statements = append(statements, "delete from "+table)
	}
	statements = append(statements, "set local session_replication_role to default")
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// stage creates a temporary table for a piece whose rows may be on the target already, to be merged
// from there.
func (m *matched) stage() string {
	return fmt.Sprintf("create temporary table walferry_piece on commit drop as select %s from %s with no data", strings.Join(m.columns, ", "), m.target)
}

// merge inserts from the stage what is not on the target yet. What is there comes from another
// snapshot; it does not matter which of the two rows is kept.
func (m *matched) merge() string {
	columns := strings.Join(m.columns, ", ")
	return fmt.Sprintf("insert into %s (%s) overriding system value select %[2]s from pg_temp.walferry_piece on conflict (%[3]s) do nothing",
		m.target, columns, strings.Join(m.mixedBy, ", "))
}

// putAside records that a table was rewritten by TRUNCATE, VACUUM FULL or CLUSTER since the
// snapshot was taken, and has to be copied under a later one. It reports whether that was not known.
func (c *Copier) putAside(t *tableCopy) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Contains(c.aside, t.Table) {
		return false
	}
	c.aside = append(c.aside, t.Table)
	return true
}

// asideNames returns the names of what is put aside.
func (c *Copier) asideNames() (schemas, names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	schemas, names = make([]string, len(c.aside)), make([]string, len(c.aside))
	for i, t := range c.aside {
		schemas[i], names[i] = t.Schema, t.Name
	}
	return schemas, names
}
