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
	var sql []string
	rewritten := false
	explained := r.source.do(ctx, func(conn *pgx.Conn) (err error) {
		sql, rewritten, err = r.mending(ctx, conn, drift)
		return err
	})
	if explained != nil || len(sql) == 0 {
		return err
	}
	advice := "on the target: " + strings.Join(sql, " ")
	if rewritten {
		advice += " But the source has written the rows of this table anew, for a default or an expression that is not constant: those values do not come by themselves. " +
			"Bring them over by hand (`walferry verify --table` names the rows), or begin anew;"
	}
	return &driftError{err, advice + " then the same command: it goes on where it stopped"}
}

// alteredColumn is a column of the source as it is now.
type alteredColumn struct {
	name, typ  string
	notNull    bool
	expression string // the default; empty: none
	constant   bool   // every row that was there has the default, which was kept once for all
}

// mending is the DDL for the columns of a drift, and whether their rows were written anew.
func (r *runner) mending(ctx context.Context, conn *pgx.Conn, drift *applier.SchemaError) (sql []string, rewritten bool, err error) {
	i := slices.IndexFunc(r.rec.Tables, func(t tableState) bool { return t.Schema+"."+t.Name == drift.Table })
	if i < 0 {
		return nil, false, nil
	}
	was, table := r.rec.Tables[i], catalog.Name(r.rec.Tables[i].Schema, r.rec.Tables[i].Name)
	rows, err := conn.Query(ctx, `
select a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, coalesce(pg_get_expr(d.adbin, d.adrelid), ''),
       coalesce((to_jsonb(a) ->> 'atthasmissing')::bool, false)
  from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped`, table)
	if err != nil {
		return nil, false, err
	}
	now := map[string]alteredColumn{}
	var c alteredColumn
	if _, err := pgx.ForEachRow(rows, []any{&c.name, &c.typ, &c.notNull, &c.expression, &c.constant}, func() error { now[c.name] = c; return nil }); err != nil {
		return nil, false, err
	}
	var filenode string
	if err := conn.QueryRow(ctx, `select coalesce(pg_relation_filenode(to_regclass($1))::text, '')`, table).Scan(&filenode); err != nil {
		return nil, false, err
	}
	var copied string
	err = r.store.row(ctx, `select coalesce(max(filenode), '') from walferry.copy_plan where migration = $1 and schema_name = $2 and table_name = $3`,
		[]any{r.c.Name, was.Schema, was.Name}, &copied)
	if err != nil {
		return nil, false, err
	}
	moved := copied != "" && copied != filenode

	var added, dropped []string
	for _, name := range drift.Columns {
		c, there := now[name]
		known := slices.ContainsFunc(was.Columns, func(c columnState) bool { return c.Name == name })
		switch {
		case there && !known:
			add := fmt.Sprintf("alter table %s add column %s %s", table, catalog.Quote(name), c.typ)
			if c.expression != "" {
				add += " default " + c.expression
				rewritten = rewritten || moved && !c.constant
			}
			if c.notNull {
				add += " not null"
			}
			added = append(added, add+";")
		case there:
			sql = append(sql, fmt.Sprintf("alter table %s alter column %s type %s;", table, catalog.Quote(name), c.typ))
		default:
			dropped = append(dropped, name)
		}
	}
	if len(added) == 1 && len(dropped) == 1 {
		to := drift.Columns[slices.IndexFunc(drift.Columns, func(name string) bool { return name != dropped[0] })]
		sql = append(sql, fmt.Sprintf("alter table %s rename column %s to %s; -- if that is what the source did, or else", table, catalog.Quote(dropped[0]), catalog.Quote(to)))
	}
	sql = append(sql, added...)
	for _, name := range dropped {
		sql = append(sql, fmt.Sprintf("alter table %s drop column %s;", table, catalog.Quote(name)))
	}
	return sql, rewritten, nil
}
