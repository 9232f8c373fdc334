package migration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
)

// inApplierWay are those whose locks on the target the applier waits for now, also when the time is over.
func (r *runner) inApplierWay(ctx context.Context) (holders []online.Holder) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := r.target.Do(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `
select `+online.HolderColumns+`
  from pg_stat_activity w cross join lateral unnest(pg_blocking_pids(w.pid)) as l(pid) left join pg_stat_activity a on a.pid = l.pid
 where w.datname = current_database() and w.application_name = $1
 group by l.pid order by 4 desc`, "walferry "+r.c.Name+" apply")
		if err != nil {
			return err
		}
		holders, err = pgx.CollectRows(rows, pgx.RowToStructByPos[online.Holder])
		return err
	})
	if err != nil {
		r.c.Logger.Debug("look who is in the applier's way", "error", err)
	}
	return holders
}

// noPrepared: the source has no prepared transaction.
func noPrepared(ctx context.Context, conn *pgx.Conn) error {
	var prepared []string
	if err := conn.QueryRow(ctx, `select coalesce(array_agg(gid order by prepared), '{}') from pg_prepared_xacts where database = current_database()`).Scan(&prepared); err != nil {
		return fmt.Errorf("look for prepared transactions: %w", err)
	}
	if len(prepared) > 0 {
		return &GateError{Problem: "the source has prepared transactions: " + list(prepared), Advice: "COMMIT PREPARED or ROLLBACK PREPARED them"}
	}
	return nil
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	if len(names) > 10 {
		return strings.Join(names[:10], ", ") + fmt.Sprintf(" and %d more", len(names)-10)
	}
	return strings.Join(names, ", ")
}

// statisticsGate: the target has statistics of every table that has rows. Those that
// are missing, as after a crash of the target, are gathered.
func (r *runner) statisticsGate(ctx context.Context, step func(string)) error {
	bare, err := r.withoutStatistics(ctx)
	if err == nil && len(bare) > 0 {
		var tables []catalog.Table
		for _, t := range r.ordinary() {
			if slices.Contains(bare, t.String()) {
				tables = append(tables, t)
			}
		}
		step("the target has no statistics of some tables, as after a crash; gathering them: " + list(bare))
		if err := schema.Analyze(ctx, r.c.Target, namesOf(tables), nil, r.c.Jobs); err != nil {
			return &GateError{Problem: "tables of the target have no statistics, and they could not be gathered: " + err.Error(), Advice: "ANALYZE them on the target: " + list(bare)}
		}
		bare, err = r.withoutStatistics(ctx)
	}
	if err != nil {
		return err
	}
	if len(bare) > 0 {
		return &GateError{Problem: "tables of the target have no statistics: " + list(bare), Advice: "ANALYZE them on the target"}
	}
	return nil
}

// withoutStatistics are the tables of the target that have rows and no statistics.
func (r *runner) withoutStatistics(ctx context.Context) (bare []string, err error) {
	var names []string
	for _, t := range r.ordinary() {
		names = append(names, t.String())
	}
	err = r.target.Row(ctx, `
select coalesce(array_agg(t.name order by t.name), '{}') from unnest($1::text[]) as t(name)
 where pg_relation_size(to_regclass(t.name)) > 0
   and exists (select from pg_attribute a where a.attrelid = to_regclass(t.name) and a.attnum > 0 and not a.attisdropped)
   and pg_stat_get_last_analyze_time(to_regclass(t.name)) is null and pg_stat_get_last_autoanalyze_time(to_regclass(t.name)) is null
   and not exists (select from pg_statistic s where s.starelid = to_regclass(t.name))`, []any{names}, &bare)
	if err != nil {
		// pg_statistic is for superusers; an owner sees only the times.
		err = r.target.Row(ctx, `
select coalesce(array_agg(t.name order by t.name), '{}') from unnest($1::text[]) as t(name)
 where pg_relation_size(to_regclass(t.name)) > 0
   and pg_stat_get_last_analyze_time(to_regclass(t.name)) is null and pg_stat_get_last_autoanalyze_time(to_regclass(t.name)) is null`, []any{names}, &bare)
	}
	if err != nil {
		return nil, fmt.Errorf("look for statistics on the target: %w", err)
	}
	return bare, nil
}
