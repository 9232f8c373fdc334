package schema

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// Stricter lists the unique indexes and the unique and exclusion constraints of the target by which
// it may refuse rows that the source takes: those that the source lacks, and those that the source
// checks at the end of a transaction and the target with each row. A primary key that the source
// lacks is one of [Compare]. tables are those of the source.
func Stricter(ctx context.Context, source, target catalog.Querier, tables []catalog.Table) ([]Difference, error) {
	from, err := uniques(ctx, source)
	if err != nil {
		return nil, fmt.Errorf("compare unique indexes: source: %w", err)
	}
	to, err := uniques(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("compare unique indexes: target: %w", err)
	}
	var found []Difference
	for i := range tables {
		table := tables[i].String()
		later := map[string]bool{} // by definition: whether the source checks at the end
		for _, u := range from[table] {
			known, there := later[u.definition]
			later[u.definition] = u.deferrable && (known || !there)
		}
		for _, u := range to[table] {
			atEnd, there := later[u.definition]
			problem := "is on the target only: it may refuse rows that the source takes"
			switch {
			case there && atEnd && !u.deferrable:
				problem = "is checked with each row on the target, and at the end of a transaction on the source, which may hold rows for a moment that the target refuses"
			case there, u.primary:
				continue
			}
			drop := "drop index " + u.index
			kind := "the unique index "
			if u.constraint != "" {
				drop, kind = "alter table "+table+" drop constraint "+u.constraint, "the constraint of "
			}
			found = append(found, Difference{Table: table, Problem: kind + u.index + " " + problem, SQL: drop})
		}
	}
	return found, nil
}

// uniqueIndex is an index that refuses rows because of others.
type uniqueIndex struct {
	index, constraint   string // as SQL; constraint is empty where there is none
	definition          string // what it covers, to be compared
	primary, deferrable bool
}

// included are columns that an index only carries.
var included = regexp.MustCompile(`INCLUDE ?\([^)]*\)`)

// uniques returns those of all tables, by the table's name as SQL.
func uniques(ctx context.Context, q catalog.Querier) (map[string][]uniqueIndex, error) {
	rows, err := q.Query(ctx, `
select `+quoted("n.nspname", "c.relname")+`, `+quoted("n.nspname", "x.relname")+`,
       coalesce((select '"' || replace(k.conname, '"', '""') || '"' from pg_catalog.pg_constraint k where k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x')), ''),
       substr(pg_catalog.pg_get_indexdef(i.indexrelid), strpos(pg_catalog.pg_get_indexdef(i.indexrelid), ' USING ')), i.indisexclusion,
       coalesce((select array_agg(op::regoperator::text order by n) from pg_catalog.pg_constraint k cross join unnest(k.conexclop) with ordinality o(op, n)
                  where k.conindid = i.indexrelid and k.contype = 'x'), '{}'),
       i.indisprimary, not i.indimmediate
  from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indrelid join pg_catalog.pg_class x on x.oid = i.indexrelid
  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where (i.indisunique or i.indisexclusion) and i.indisready and c.relkind in ('r', 'p') and `+catalog.NotOurs+`
 order by 1, 2`)
	if err != nil {
		return nil, err
	}
	found := map[string][]uniqueIndex{}
	var table string
	var u uniqueIndex
	var exclusion bool
	var operators []string
	_, err = pgx.ForEachRow(rows, []any{&table, &u.index, &u.constraint, &u.definition, &exclusion, &operators, &u.primary, &u.deferrable}, func() error {
		one := u
		one.definition = normalize(included.ReplaceAllString(u.definition, ""))
		if exclusion {
			one.definition += " by " + strings.Join(operators, " ")
		}
		found[table] = append(found[table], one)
		return nil
	})
	return found, err
}

// StricterChecks lists the CHECK constraints that only the target has: by name, as each version prints them otherwise. tables are
// those of the source.
func StricterChecks(ctx context.Context, source, target catalog.Querier, tables []catalog.Table) (found []Difference, err error) {
	read := func(q catalog.Querier) (checks map[string][][2]string, err error) {
		rows, err := q.Query(ctx, `
select `+quoted("n.nspname", "c.relname")+`, k.conname::text, pg_catalog.pg_get_constraintdef(k.oid)
  from pg_catalog.pg_constraint k join pg_catalog.pg_class c on c.oid = k.conrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where k.contype = 'c' and c.relkind in ('r', 'p') and `+catalog.NotOurs+` order by 1, 2`)
		if err != nil {
			return nil, err
		}
		checks = map[string][][2]string{}
		var table string
		var check [2]string
		_, err = pgx.ForEachRow(rows, []any{&table, &check[0], &check[1]}, func() error {
			checks[table] = append(checks[table], check)
			return nil
		})
		return checks, err
	}
	from, err := read(source)
	if err != nil {
		return nil, fmt.Errorf("compare checks: source: %w", err)
	}
	to, err := read(target)
	if err != nil {
		return nil, fmt.Errorf("compare checks: target: %w", err)
	}
	for i := range tables {
		table := tables[i].String()
	each:
		for _, k := range to[table] {
			for _, have := range from[table] {
				if have[0] == k[0] || have[1] == k[1] {
					continue each
				}
			}
			found = append(found, Difference{
				Table: table, Problem: fmt.Sprintf("the check %s (%s) is on the target only: it may refuse rows that the source takes", catalog.Quote(k[0]), k[1]),
				SQL: "alter table " + table + " drop constraint " + catalog.Quote(k[0]),
			})
		}
	}
	return found, nil
}
