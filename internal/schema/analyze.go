package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// AnalyzeTable gathers the statistics of one table.
func AnalyzeTable(ctx context.Context, conn *pgx.Conn, table catalog.Name) error {
	return analyze(ctx, conn, "analyze "+table.String())
}

func analyze(ctx context.Context, conn *pgx.Conn, sql string) error {
	if err := execute(ctx, conn, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// Analyze gathers statistics of tables of the target, jobs at a time, the largest first.
// Partitioned tables, which autovacuum never analyzes, should be among those given. Before version
// 18 analyzing them includes their partitions, which are then left out of the list. So are those of
// done, for which AnalyzeTable was called when they had their rows and indexes, except for what
// they lacked then: statistics objects, and the rows of children.
func Analyze(ctx context.Context, targetDSN string, tables, done []catalog.Name, jobs int) error {
	if len(tables) == 0 {
		return nil
	}
	statements, err := analyzeStatements(ctx, targetDSN, tables, done)
	if err != nil || len(statements) == 0 {
		return err
	}
	queue := make(chan string, len(statements))
	for _, sql := range statements {
		queue <- sql
	}
	close(queue)
	g, ctx := errgroup.WithContext(ctx)
	for range min(max(jobs, 1), len(statements)) {
		g.Go(func() error {
			conn, err := session.Open(ctx, session.Config{DSN: targetDSN, Application: "analyze"})
			if err != nil {
				return err
			}
			defer conn.Close(context.WithoutCancel(ctx))
			for sql := range queue {
				if err := analyze(ctx, conn, sql); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func analyzeStatements(ctx context.Context, targetDSN string, tables, done []catalog.Name) ([]string, error) {
	conn, err := session.Open(ctx, session.Config{DSN: targetDSN, Application: "analyze"})
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	namespaces, names := parts(tables)
	doneNamespaces, doneNames := parts(done)
	// A parent's statistics need a look at all its partitions, so that it counts as large as they
	// are together.
	rows, err := conn.Query(ctx, `
with recursive
wanted as (
  select c.oid, c.relkind, c.relispartition, format('%I.%I', n.nspname, c.relname) as name
    from unnest($1::text[], $2::text[]) w(namespace, name)
    join pg_catalog.pg_namespace n on n.nspname = w.namespace
    join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = w.name
    left join unnest($4::text[], $5::text[]) d(namespace, name) on d.namespace = w.namespace and d.name = w.name
   where d.name is null or exists(select from pg_catalog.pg_statistic_ext s where s.stxrelid = c.oid)
      or exists(select from pg_catalog.pg_inherits h where h.inhparent = c.oid)),
below as (
  select oid as root, oid from wanted where relkind = 'p'
  union all select below.root, h.inhrelid from below join pg_catalog.pg_inherits h on h.inhparent = below.oid)
select case when w.relkind = 'p' and $3 then 'analyze only ' else 'analyze ' end || w.name
  from wanted w
 where $3 or not exists(select from below b where b.oid = w.oid and b.root <> w.oid)
 order by coalesce((select sum(pg_catalog.pg_relation_size(b.oid)) from below b where b.root = w.oid), pg_catalog.pg_relation_size(w.oid)) desc`,
		namespaces, names, session.Major(conn.PgConn()) >= 18, doneNamespaces, doneNames)
	if err != nil {
		return nil, fmt.Errorf("list tables to analyze: %w", err)
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list tables to analyze: %w", err)
	}
	return statements, nil
}

// parts returns the schemas and the names of tables.
func parts(tables []catalog.Name) (namespaces, names []string) {
	namespaces, names = make([]string, len(tables)), make([]string, len(tables))
	for i, t := range tables {
		namespaces[i], names[i] = t.Schema, t.Name
	}
	return namespaces, names
}
