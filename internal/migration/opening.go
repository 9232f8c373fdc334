package migration

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
)

// replicaRole tells whether the target's role may set session_replication_role,
// so that neither ordinary triggers nor foreign keys act on what is applied.
func (r *runner) replicaRole(ctx context.Context) (may bool, err error) {
	err = r.store.do(ctx, func(conn *pgx.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // that is the point
		_, err = tx.Exec(ctx, `set local session_replication_role = replica`)
		may = err == nil
		return nil
	})
	return may, err
}

// postData brings foreign keys, triggers and the rest of the schema. A role that
// may not set session_replication_role gets its foreign keys in the cutover: their
// cascades would act on what the stream brings as well.
func (r *runner) postData(ctx context.Context) error {
	dump, err := r.archive(ctx)
	if err != nil {
		return err
	}
	may, err := r.replicaRole(ctx)
	if err != nil {
		return err
	}
	var refused []schema.Refused
	if may {
		r.step("create and validate the foreign keys")
		if refused, err = schema.Refusals(dump.ForeignKeys(ctx, r.c.Target, r.c.Jobs)); err != nil {
			return err
		}
	}
	r.step("create triggers, policies, privileges and the rest; fill materialized views")
	conn, err := session.Open(ctx, session.Config{DSN: r.c.Target, Application: r.c.Name + " schema"})
	if err != nil {
		return err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	report, err := dump.Finish(ctx, conn)
	r.tell(report)
	more, err := schema.Refusals(err)
	if err != nil {
		return err
	}
	return r.keepRefused(ctx, conn, distinctRefused(slices.Concat(report.Refused, refused, more)))
}

// holdTriggers disables, until the target opens, what would act on the rows that
// are applied: triggers and rules that are enabled ALWAYS or REPLICA and, where the
// role may not set session_replication_role, every trigger of a user. What enables
// them again is recorded in the same transaction.
func (r *runner) holdTriggers(ctx context.Context) error {
	may, err := r.replicaRole(ctx)
	if err != nil {
		return err
	}
	names := make([]string, len(r.tables))
	for i := range r.tables {
		names[i] = r.tables[i].String()
	}
	return r.store.do(ctx, func(conn *pgx.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // the error before it is told
		rows, err := tx.Query(ctx, `
with ours as (select to_regclass(t.name) as oid, t.name from unnest($1::text[]) as t(name))
select format('alter table %s disable trigger %I', o.name, g.tgname),
       format('alter table %s enable %s trigger %I', o.name, case g.tgenabled when 'A' then 'always' when 'R' then 'replica' else '' end, g.tgname)
  from pg_trigger g join ours o on o.oid = g.tgrelid
 where not g.tgisinternal and (g.tgenabled in ('A', 'R') or g.tgenabled = 'O' and not $2)
   and (current_setting('server_version_num')::int < 130000
        or not exists (select from pg_trigger p where p.oid = (to_jsonb(g) ->> 'tgparentid')::oid))
union all
select format('alter table %s disable rule %I', o.name, w.rulename),
       format('alter table %s enable %s rule %I', o.name, case w.ev_enabled when 'A' then 'always' else 'replica' end, w.rulename)
  from pg_rewrite w join ours o on o.oid = w.ev_class
 where w.ev_enabled in ('A', 'R')`, names, may)
		if err != nil {
			return fmt.Errorf("look for triggers on the target: %w", err)
		}
		type hold struct{ Off, On string }
		holds, err := pgx.CollectRows(rows, pgx.RowToStructByPos[hold])
		if err != nil {
			return fmt.Errorf("look for triggers on the target: %w", err)
		}
		var on []string
		for _, h := range holds {
			if _, err := tx.Exec(ctx, h.Off); err != nil {
				return fmt.Errorf("hold a trigger until the cutover: %s: %w", h.Off, err)
			}
			on = append(on, h.On)
		}
		if _, err := tx.Exec(ctx, `update walferry.migration set on_open = on_open || $2::text[] where name = $1`, r.c.Name, on); err != nil {
			return fmt.Errorf("record the held triggers: %w", err)
		}
		if len(on) > 0 {
			r.c.Logger.Info("triggers are held until the cutover", "count", len(on))
		}
		return tx.Commit(ctx)
	})
}

// dropLateForeignKeys undoes lateForeignKeys, for a cutover that was not finished.
func (r *runner) dropLateForeignKeys(ctx context.Context) error {
	if r.c.Schema == "none" {
		return nil
	}
	may, err := r.replicaRole(ctx)
	if err != nil || may {
		return err
	}
	names := make([]string, len(r.tables))
	for i := range r.tables {
		names[i] = r.tables[i].String()
	}
	list, _, err := r.unvalidated(ctx)
	if err == nil && len(list) > 0 {
		err = r.store.exec(ctx, `delete from walferry.validation where migration = $1`, r.c.Name)
	}
	if err != nil {
		return err
	}
	return r.store.do(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `
select format('alter table %s drop constraint if exists %I', t.name, c.conname)
  from unnest($1::text[]) as t(name) join pg_constraint c on c.conrelid = to_regclass(t.name)
 where c.contype = 'f' and c.coninhcount = 0`, names)
		if err != nil {
			return fmt.Errorf("look for foreign keys on the target: %w", err)
		}
		drops, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("look for foreign keys on the target: %w", err)
		}
		for _, sql := range drops {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("drop a foreign key until the next cutover: %w", err)
			}
		}
		return nil
	})
}

// enableHeld enables what holdTriggers has disabled.
func (r *runner) enableHeld(ctx context.Context) error {
	return r.store.do(ctx, func(conn *pgx.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // the error before it is told
		var on []string
		if err := tx.QueryRow(ctx, `select on_open from walferry.migration where name = $1`, r.c.Name).Scan(&on); err != nil {
			return fmt.Errorf("read the held triggers: %w", err)
		}
		for _, sql := range on {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("enable a held trigger: %s: %w", sql, err)
			}
		}
		if _, err := tx.Exec(ctx, `update walferry.migration set on_open = '{}' where name = $1`, r.c.Name); err != nil {
			return fmt.Errorf("record that no trigger is held: %w", err)
		}
		return tx.Commit(ctx)
	})
}

// afterOpen does what may take its time: the target is in use. What fails here
// takes nothing of the cutover back.
func (r *runner) afterOpen(ctx context.Context, result *CutoverResult, step func(string)) {
	r.prover.compareSmall(ctx)
	if r.c.Schema != "none" {
		n, err := r.refreshViews(ctx)
		if n > 0 {
			step(fmt.Sprintf("refreshed %d materialized views", n))
		}
		if err != nil {
			step("materialized views that are as they were after the copy; refresh them by hand: " + err.Error())
		}
	}
	if r.prover != nil {
		r.prove(ctx, result, step)
	}
	r.late = r.validateKeys(ctx, step)
}

func (r *runner) refreshViews(ctx context.Context) (int, error) {
	conn, err := session.Open(ctx, session.Config{DSN: r.c.Target, Application: r.c.Name + " schema"})
	if err != nil {
		return 0, err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	return schema.RefreshViews(ctx, conn)
}
