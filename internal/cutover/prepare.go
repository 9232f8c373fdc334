package cutover

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
)

// Prepare puts the triggers on the tables, still open: nobody is refused. Each needs SHARE ROW
// EXCLUSIVE on its table for a moment, and only on that one, so that it cannot cause a deadlock; if
// the lock cannot be had in a fraction of a second the writers behind it are let through first. It
// keeps trying until ctx ends.
func (f Fence) Prepare(ctx context.Context, conn *pgx.Conn) error {
	if err := online.Own(ctx, conn, unlessOthers(f.Name, f.Run, openFunction(f.Name, runMark(f.Run)))); err != nil {
		return fmt.Errorf("create the fence's function: %w", ofOthers(err))
	}
	if err := f.revive(ctx, conn); err != nil {
		return err
	}
	have, haveRow, err := fenced(ctx, conn, f.Name)
	if err != nil {
		return err
	}
	for i := range f.Tables {
		t := &f.Tables[i]
		row := slices.Contains(f.Fed, t.OID)
		err := f.put(ctx, conn, t.String(), t.String(), !have[t.OID], row && !haveRow[t.OID])
		if err != nil {
			return err
		}
	}
	for _, p := range f.Parents {
		lock := p.String()
		if p.Kind == 'f' {
			lock = "" // LOCK TABLE does not take a foreign table
		}
		if err := f.put(ctx, conn, p.String(), lock, !have[p.OID], false); err != nil {
			return err
		}
	}
	return nil
}

// revive enables triggers of an earlier fence that a long reader kept from being dropped, and that
// somebody has enabled or disabled since with all others of their table.
func (f Fence) revive(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `
select quote_ident(tn.nspname) || '.' || quote_ident(c.relname), t.tgname::text
  from pg_trigger t join pg_proc p on p.oid = t.tgfoid join pg_namespace n on n.oid = p.pronamespace
  join pg_class c on c.oid = t.tgrelid join pg_namespace tn on tn.oid = c.relnamespace
 where n.nspname = 'walferry' and p.proname = $1 and t.tgname in ($2, $3) and t.tgenabled <> 'A'`, "fence_"+f.Name, triggerName, rowTriggerName)
	if err != nil {
		return fmt.Errorf("list the fence's triggers: %w", err)
	}
	left, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Table, Trigger string }])
	if err != nil {
		return fmt.Errorf("list the fence's triggers: %w", err)
	}
	for _, l := range left {
		if err := online.Run(ctx, conn, l.Table, fmt.Sprintf(`alter table only %s enable always trigger %s`, l.Table, l.Trigger)); err != nil {
			return fmt.Errorf("enable the fence's trigger on %s: %w", l.Table, err)
		}
	}
	return nil
}

// put creates the triggers that a table lacks.
func (f Fence) put(ctx context.Context, conn *pgx.Conn, table, lock string, statement, row bool) error {
	sql := f.triggersSQL(table, statement, row)
	if sql == "" {
		return nil
	}
	why := fmt.Sprintf("waiting for a lock of %s on the %s; held by ", table, f.Sides.From())
	err := online.RunTelling(ctx, conn, lock, sql, why, f.Waits)
	if err == nil {
		return nil
	}
	if online.Busy(err) {
		ask, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if holders, _ := online.Holders(ask, conn, table); len(holders) > 0 {
			problem := fmt.Sprintf("put the fence's trigger on %s, which %s prevents", table, online.List(holders))
			return &WaitError{problem, f.Sides, holders, err}
		}
	}
	return fmt.Errorf("put the fence's trigger on %s: %w", table, err)
}

// triggersSQL creates triggers of a table: for statements, and for each row.
func (f Fence) triggersSQL(table string, statement, row bool) string {
	sql := ""
	if statement {
		sql += fmt.Sprintf(`create trigger %[1]s before insert or update or delete or truncate on %[2]s for each statement execute procedure %[3]s();
alter table only %[2]s enable always trigger %[1]s;`, triggerName, table, function(f.Name))
	}
	if row {
		sql += fmt.Sprintf(`create trigger %[1]s before insert or update or delete on %[2]s for each row execute procedure %[3]s();
alter table only %[2]s enable always trigger %[1]s;`, rowTriggerName, table, function(f.Name))
	}
	return sql
}

// fenced returns the tables that have an enabled trigger of the fence: for statements, and
// for rows.
func fenced(ctx context.Context, q catalog.Querier, name string) (statement, row map[uint32]bool, err error) {
	rows, err := q.Query(ctx, `
select t.tgrelid, t.tgname = $3 from pg_trigger t join pg_proc p on p.oid = t.tgfoid join pg_namespace n on n.oid = p.pronamespace
 where n.nspname = 'walferry' and p.proname = $1 and t.tgname in ($2, $3) and t.tgenabled = 'A'`, "fence_"+name, triggerName, rowTriggerName)
	if err != nil {
		return nil, nil, fmt.Errorf("list the fence's triggers: %w", err)
	}
	statement, row = map[uint32]bool{}, map[uint32]bool{}
	var oid uint32
	var each bool
	_, err = pgx.ForEachRow(rows, []any{&oid, &each}, func() error {
		if each {
			row[oid] = true
		} else {
			statement[oid] = true
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list the fence's triggers: %w", err)
	}
	return statement, row, nil
}
