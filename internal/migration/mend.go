package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// driftError is a SchemaError with the DDL that mends the target.
type driftError struct {
	error
	advice string
}

func (e *driftError) Unwrap() error { return e.error }

// Hint is what the operator can do.
func (e *driftError) Hint() string { return e.advice }

// explainDrift adds to an error about altered columns the DDL for the target. It is
// text for the operator: nothing here is ever run.
func (r *runner) explainDrift(ctx context.Context, err error) error {
	var drift *applier.SchemaError
	if !errors.As(err, &drift) || len(drift.Columns) == 0 {
		return err
	}
	var m mend
	explained := r.source.Do(ctx, func(conn *pgx.Conn) (err error) {
		m, err = r.mending(ctx, conn, drift)
		return err
	})
	switch {
	case explained != nil:
		return err
	case m.gone:
		return &driftError{err, "both sides have dropped the column, and this is of before: the target's had to be there until it was applied; begin anew: " + anew}
	case len(m.sql) == 0:
		return err
	case m.again:
		return &driftError{err, "the last column was dropped and added again: what was written to the new one before this cannot be told from what was in the old one; begin anew: " + anew}
	}
	advice := "on the target: " + strings.Join(m.sql, " ")
	if m.back {
		advice += " Both sides have dropped it, and this is of before; drop it again once it is applied;"
	}
	if m.rewritten {
		advice += " But the source has written the rows of this table anew, for a default or an expression that is not constant: those values do not come by themselves. " +
			"Bring them over by hand (`walferry verify --table` names the rows), or begin anew;"
	}
	return &driftError{err, advice + " then the same command: it goes on where it stopped"}
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

// mending is the DDL for the columns of a drift, and whether their rows were written anew.
func (r *runner) mending(ctx context.Context, conn *pgx.Conn, drift *applier.SchemaError) (m mend, err error) {
	i := slices.IndexFunc(r.rec.Tables, func(t state.Table) bool { return t.Plain() == drift.Table })
	if i < 0 {
		return m, nil
	}
	was, table := r.rec.Tables[i], r.rec.Tables[i].String()
	rows, err := conn.Query(ctx, `
select a.attnum, a.attname::text, format_type(a.atttypid, a.atttypmod), a.atttypid, a.atttypmod, a.attnotnull, coalesce(pg_get_expr(d.adbin, d.adrelid), ''),
       coalesce((to_jsonb(a) ->> 'atthasmissing')::bool, false)
  from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where a.attrelid = coalesce(nullif($2::oid, 0), to_regclass($1)) and a.attnum > 0 and not a.attisdropped order by a.attnum`, table, was.OID)
	if err != nil {
		return m, err
	}
	var now []alteredColumn
	var c alteredColumn
	if _, err := pgx.ForEachRow(rows, []any{&c.number, &c.name, &c.typ, &c.oid, &c.mod, &c.notNull, &c.expression, &c.constant}, func() error { now = append(now, c); return nil }); err != nil {
		return m, err
	}
	var filenode string
	if err := conn.QueryRow(ctx, `select coalesce(pg_relation_filenode(to_regclass($1))::text, '')`, table).Scan(&filenode); err != nil {
		return m, err
	}
	var copied string
	err = r.target.Row(ctx, `select coalesce(max(filenode), '') from walferry.copy_plan where migration = $1 and schema_name = $2 and table_name = $3`,
		[]any{r.c.Name, was.Schema, was.Name.Name}, &copied)
	if err != nil {
		return m, err
	}
	m = mend{table: table, columns: slices.Clone(drift.Columns), moved: copied != "" && copied != filenode, target: map[string]string{}, types: map[string]string{}}
	err = r.target.Do(ctx, func(conn *pgx.Conn) error {
		m.major = session.Major(conn.PgConn())
		var name, generated string
		rows, err := conn.Query(ctx, `select attname::text, coalesce(to_jsonb(a) ->> 'attgenerated', '') from pg_attribute a where attrelid = to_regclass($1) and attnum > 0 and not attisdropped`, table)
		if err == nil {
			_, err = pgx.ForEachRow(rows, []any{&name, &generated}, func() error { m.target[name] = generated; return nil })
		}
		return err
	})
	if err != nil {
		return m, err
	}
	for _, c := range was.Columns {
		var typ string
		if err := conn.QueryRow(ctx, `select format_type($1, $2)`, c.TypeOID, c.TypeMod).Scan(&typ); err != nil {
			return m, err
		}
		m.types[c.Name] = typ
	}
	if slices.ContainsFunc(was.Columns, func(c state.Column) bool { return c.Number == 0 }) {
		m.byName(was.Columns, now)
	} else {
		m.byNumber(was.Columns, now)
	}
	return m, nil
}

// mend writes the DDL for the columns that a drift is about.
type mend struct {
	table     string // as SQL
	columns   []string
	moved     bool              // the source has written the table's rows anew
	target    map[string]string // pg_attribute.attgenerated of the target's columns
	major     int               // of the target
	types     map[string]string // of the source's columns, as they were
	sql       []string
	rewritten bool // and what it has written is not what the DDL makes of the target's rows
	again     bool // the last column was dropped and added again under its name
	back      bool // the target has dropped a column that it needs for a while
	gone      bool // the same, but where it was can be told
}

func (m *mend) alter(format string, args ...any) {
	m.sql = append(m.sql, "alter table "+m.table+" "+fmt.Sprintf(format, args...)+";")
}

func (m *mend) add(c alteredColumn) {
	add := fmt.Sprintf("add column %s %s", catalog.Quote(c.name), c.typ)
	if c.expression != "" {
		add += " default " + c.expression
		m.rewritten = m.rewritten || m.moved && !c.constant
	}
	if c.notNull {
		add += " not null"
	}
	m.alter("%s", add)
}

func (m *mend) concerns(name string) bool { return slices.Contains(m.columns, name) }

// byNumber knows what became of each column: its number stays with it.
func (m *mend) byNumber(was []state.Column, now []alteredColumn) {
	var renamed [][2]string
	pending := slices.Clone(was)
	for more := true; more; { // who takes a name is as much part of it as who gave it up
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
			} else if last(was, now, w.Number) { // what this has for it is of no use to anybody
				m.alter("add column %s %s", catalog.Quote(w.Name), m.types[w.Name])
				m.back = true
			} else {
				m.gone = true
			}
		}
	}
	m.rename(renamed)
	for _, c := range now {
		i := slices.IndexFunc(was, func(w state.Column) bool { return w.Number == c.number })
		switch {
		case !m.concerns(c.name):
		case i < 0:
			m.again = m.again || slices.ContainsFunc(pending, func(w state.Column) bool { return w.Name == c.name && w.Number != c.number && last(was, now, w.Number) })
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

// last tells whether no column is left of those that stood after another one: the stream does not show then that it was
// made again, so that some rows may have gone into the old one.
func last(was []state.Column, now []alteredColumn, number int16) bool {
	return !slices.ContainsFunc(was, func(w state.Column) bool {
		return w.Number > number && slices.ContainsFunc(now, func(c alteredColumn) bool { return c.number == w.Number })
	})
}

// rename gives columns other names, some of which may be those of others of them.
func (m *mend) rename(pairs [][2]string) {
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

// byName has nothing but the names to go by: a record of an older version.
func (m *mend) byName(was []state.Column, now []alteredColumn) {
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
		m.sql[len(m.sql)-1] += " -- if that is what the source did, or else"
	}
	for _, c := range added {
		m.add(c)
	}
	for _, name := range dropped {
		m.alter("drop column %s", catalog.Quote(name))
	}
}
