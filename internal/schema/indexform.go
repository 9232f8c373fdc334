package schema

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// IndexForm is what an index is, apart from its name and from where and how it is stored.
type IndexForm struct {
	OID        uint32 // of the table
	Name       string // as SQL
	Definition string // for people
	// Form has the method, columns, operator classes, order, uniqueness and predicate. It is
	// the same on two servers where the indexes are; of different majors only with Plain, as each
	// writes expressions in its own way.
	Form  string
	Plain bool // without expressions and predicate
}

// IndexForms lists the indexes that pg_dump considers to be there. The connection needs the settings of package session.
func IndexForms(ctx context.Context, q catalog.Querier) ([]IndexForm, error) {
	major, err := catalog.Major(ctx, q)
	if err != nil {
		return nil, err
	}
	s := server{major: major}
	// The type name has had the collation "C" since 12, and none before, which orders it the same.
	rows, err := q.Query(ctx, `
select x.indrelid, quote_ident(n.nspname) || '.' || quote_ident(c.relname), pg_catalog.pg_get_indexdef(x.indexrelid),
       concat_ws(' ', m.amname, case when x.indisunique then 'unique' end, case when `+s.since(15, "x.indnullsnotdistinct", "false")+` then 'nulls not distinct' end,
         case when not x.indimmediate then 'deferrable' end,
         (select string_agg(concat_ws(' ', pg_catalog.pg_get_indexdef(x.indexrelid, k, false), o.opcname, case when o.opcname !~ '^name_' then l.collname end, x.indoption[k - 1]), ', ' order by k)
            from generate_series(1, `+s.since(11, "x.indnkeyatts", "x.indnatts")+`) k
            left join pg_catalog.pg_opclass o on o.oid = x.indclass[k - 1] left join pg_catalog.pg_collation l on l.oid = x.indcollation[k - 1]),
         'include ' || (select string_agg(pg_catalog.pg_get_indexdef(x.indexrelid, k, false), ', ' order by k)
            from generate_series(`+s.since(11, "x.indnkeyatts", "x.indnatts")+` + 1, x.indnatts) k),
         'where ' || pg_catalog.pg_get_expr(x.indpred, x.indrelid)),
       x.indexprs is null and x.indpred is null
  from pg_catalog.pg_index x join pg_catalog.pg_class c on c.oid = x.indexrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_am m on m.oid = c.relam
 where x.indisready and (x.indisvalid or c.relkind = 'I') and c.relpersistence <> 't' and `+catalog.NotOurs)
	if err != nil {
		return nil, fmt.Errorf("list indexes: %w", err)
	}
	forms, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f IndexForm, err error) {
		err = row.Scan(&f.OID, &f.Name, &f.Definition, &f.Form, &f.Plain)
		f.Form = normalize(f.Form)
		return f, err
	})
	if err != nil {
		return nil, fmt.Errorf("list indexes: %w", err)
	}
	return forms, nil
}

// SameDefinition reports whether two servers mean the same by what each has written: expressions,
// bounds and keys of partitions. A difference shows nothing if the servers are of different majors.
func SameDefinition(a, b string) bool { return a == b || normalize(a) == normalize(b) }

// Sum is as much of an index's form as shows that it is another one.
func (f IndexForm) Sum() string {
	sum := fnv.New64a()
	io.WriteString(sum, f.Form) //nolint:errcheck // a hash takes everything
	return strconv.FormatUint(sum.Sum64(), 36)
}
