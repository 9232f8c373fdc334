package schema

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// RepairColumns returns the DDL for columns of a table that was so when the migration began.
// filenode is where the source stored its rows when they were copied; empty: not known. It is text
// for the operator: none of it is ever run.
func RepairColumns(ctx context.Context, source *pgx.Conn, target *session.Link, was state.Table, columns []string, filenode string) (Repair, error) {
	table := was.String()
	rows, err := source.Query(ctx, `
select a.attnum, a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid, a.atttypmod, a.attnotnull, coalesce(pg_get_expr(d.adbin, d.adrelid), ''),
       coalesce((to_jsonb(a) ->> 'atthasmissing')::bool, false)
  from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where a.attrelid = coalesce(nullif($2::oid, 0), to_regclass($1)) and a.attnum > 0 and not a.attisdropped order by a.attnum`, table, was.OID)
	if err != nil {
		return Repair{}, err
	}
	var now []alteredColumn
	var c alteredColumn
	if _, err := pgx.ForEachRow(rows, []any{&c.number, &c.name, &c.typ, &c.oid, &c.mod, &c.notNull, &c.expression, &c.constant}, func() error { now = append(now, c); return nil }); err != nil {
		return Repair{}, err
	}
	var rewritten string
	if err := source.QueryRow(ctx, `select coalesce(pg_relation_filenode(to_regclass($1))::text, '')`, table).Scan(&rewritten); err != nil {
		return Repair{}, err
	}
	m := repair{table: table, columns: slices.Clone(columns), moved: filenode != "" && filenode != rewritten, target: map[string]string{}, types: map[string]string{}}
	if err := m.read(ctx, source, target, was.Columns); err != nil {
		return Repair{}, err
	}
	if slices.ContainsFunc(was.Columns, func(c state.Column) bool { return c.Number == 0 }) {
		m.byName(was.Columns, now)
	} else {
		m.byNumber(was.Columns, now)
	}
	return m.Repair, nil
}

// read reads what the target has, and the types that the source's columns had.
func (m *repair) read(ctx context.Context, source *pgx.Conn, target *session.Link, was []state.Column) error {
	err := target.Do(ctx, func(conn *pgx.Conn) error {
		m.major = session.Major(conn.PgConn())
		var name, generated string
		rows, err := conn.Query(ctx, `select attname::text, coalesce(to_jsonb(a) ->> 'attgenerated', '') from pg_attribute a where attrelid = to_regclass($1) and attnum > 0 and not attisdropped`, m.table)
		if err == nil {
			_, err = pgx.ForEachRow(rows, []any{&name, &generated}, func() error { m.target[name] = generated; return nil })
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, c := range was {
		var typ string
		if err := source.QueryRow(ctx, `select format_type($1, $2)`, c.TypeOID, c.TypeMod).Scan(&typ); err != nil {
			return err
		}
		m.types[c.Name] = typ
	}
	return nil
}

// alteredColumn is a column of the source as it is now.
type alteredColumn struct {
	number     int16
	name, typ  string
	oid        uint32 // of the type
	mod        int32
	notNull    bool
	expression string // the default; empty: none
	constant   bool   // every row that was there has the default, which was kept once for all
}

// Repair is the DDL that gives the target's table the columns that the source's has now.
type Repair struct {
	SQL       []string // none: there is nothing to do
	Rewritten bool     // and the source has written something else than the DDL makes of the target's rows
	Again     bool     // the last column was dropped and added again under its name
	Back      bool     // the target has dropped a column that it needs for a while
	Gone      bool     // the same, but where it was is known
}

// repair writes it, for the columns that a drift is about.
type repair struct {
	Repair
	table   string // as SQL
	columns []string
	moved   bool              // the source has rewritten the table's rows
	target  map[string]string // pg_attribute.attgenerated of the target's columns
	major   int               // of the target
	types   map[string]string // of the source's columns, as they were
}

func (m *repair) alter(format string, args ...any) {
	m.SQL = append(m.SQL, "alter table "+m.table+" "+fmt.Sprintf(format, args...)+";")
}

func (m *repair) add(c alteredColumn) {
	add := fmt.Sprintf("add column %s %s", catalog.Quote(c.name), c.typ)
	if c.expression != "" {
		add += " default " + c.expression
		m.Rewritten = m.Rewritten || m.moved && !c.constant
	}
	if c.notNull {
		add += " not null"
	}
	m.alter("%s", add)
}

func (m *repair) concerns(name string) bool { return slices.Contains(m.columns, name) }

// byNumber knows what became of each column: its number stays with it.
func (m *repair) byNumber(was []state.Column, now []alteredColumn) {
	var renamed [][2]string
	pending := slices.Clone(was)
	for more := true; more; { // the column that takes a name is as much part of it as the one that gave it up
		more = false
		pending = slices.DeleteFunc(pending, func(w state.Column) bool {
			i := slices.IndexFunc(now, func(c alteredColumn) bool { return c.number == w.Number })
			if i < 0 || now[i].name == w.Name || !m.concerns(w.Name) && !m.concerns(now[i].name) {
				return false
			}
			renamed = append(renamed, [2]string{w.Name, now[i].name})
			m.columns, more = append(m.columns, w.Name, now[i].name), true
			return true
		})
	}
	for _, w := range pending {
		if m.concerns(w.Name) && !slices.ContainsFunc(now, func(c alteredColumn) bool { return c.number == w.Number }) {
			if _, there := m.target[w.Name]; there || m.target == nil {
				m.alter("drop column %s", catalog.Quote(w.Name))
			} else if last(was, now, w.Number) { // its values are of no use to anybody
				m.alter("add column %s %s", catalog.Quote(w.Name), m.types[w.Name])
				m.Back = true
			} else {
				m.Gone = true
			}
		}
	}
	m.rename(renamed)
	for _, c := range now {
		i := slices.IndexFunc(was, func(w state.Column) bool { return w.Number == c.number })
		switch {
		case !m.concerns(c.name):
		case i < 0:
			m.Again = m.Again || slices.ContainsFunc(pending, func(w state.Column) bool { return w.Name == c.name && w.Number != c.number && last(was, now, w.Number) })
			if generated := m.target[c.name]; generated == "s" && m.major >= 13 {
				m.alter("alter column %s drop expression", catalog.Quote(c.name))
				continue
			} else if generated != "" {
				m.alter("drop column %s", catalog.Quote(c.name))
			}
			m.add(c)
		case was[i].TypeOID != c.oid || was[i].TypeMod != c.mod:
			m.alter("alter column %s type %s", catalog.Quote(c.name), c.typ)
		}
	}
}

// last reports whether no column is left of those that stood after another one: then the stream
// does not show that it was created again, so that some rows may have gone into the old one.
func last(was []state.Column, now []alteredColumn, number int16) bool {
	return !slices.ContainsFunc(was, func(w state.Column) bool {
		return w.Number > number && slices.ContainsFunc(now, func(c alteredColumn) bool { return c.number == w.Number })
	})
}

// rename gives columns other names, some of which may be those of others of them.
func (m *repair) rename(pairs [][2]string) {
	pairs = slices.Clone(pairs)
	for n := 1; len(pairs) > 0; {
		i := slices.IndexFunc(pairs, func(to [2]string) bool {
			return !slices.ContainsFunc(pairs, func(from [2]string) bool { return from[0] == to[1] })
		})
		if i < 0 { // each waits for another's name
			aside := fmt.Sprintf("walferry_%d", n)
			m.alter("rename column %s to %s", catalog.Quote(pairs[0][0]), catalog.Quote(aside))
			pairs[0][0] = aside
			n++
			continue
		}
		m.alter("rename column %s to %s", catalog.Quote(pairs[i][0]), catalog.Quote(pairs[i][1]))
		pairs = slices.Delete(pairs, i, i+1)
	}
}

// byName has only the names to go by: a record of an older version.
func (m *repair) byName(was []state.Column, now []alteredColumn) {
	var added []alteredColumn
	var dropped []string
	for _, name := range m.columns {
		i := slices.IndexFunc(now, func(c alteredColumn) bool { return c.name == name })
		known := slices.ContainsFunc(was, func(c state.Column) bool { return c.Name == name })
		switch {
		case i >= 0 && !known:
			added = append(added, now[i])
		case i >= 0:
			m.alter("alter column %s type %s", catalog.Quote(name), now[i].typ)
		default:
			dropped = append(dropped, name)
		}
	}
	if len(added) == 1 && len(dropped) == 1 {
		m.alter("rename column %s to %s", catalog.Quote(dropped[0]), catalog.Quote(added[0].name))
		m.SQL[len(m.SQL)-1] += " -- if that is what the source did, or else"
	}
	for _, c := range added {
		m.add(c)
	}
	for _, name := range dropped {
		m.alter("drop column %s", catalog.Quote(name))
	}
}
