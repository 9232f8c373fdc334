package flow

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
)

// Watch notes on the source that a row of a table was updated or deleted: a row-level trigger,
// enabled ALWAYS, draws a number from a sequence of that table. Inserts cost nothing, and what
// changes no row is not noted. What was rolled back is noted: no transaction takes a number back.
// Publications of tables contain no sequences.
//
// The trigger on the table itself fires whatever the statement named: a partitioned ancestor, a
// table that it inherits from, one whose foreign key cascades; and also for the changes that a
// subscription applies. TRUNCATE does not fire it.
type Watch struct {
	Name   string          // of the migration
	Tables []catalog.Table // ordinary ones
}

// watchName is the function's name, and the prefix of those of its sequences.
func watchName(name string) string { return "word_" + name }

func watchTrigger(name string) string { return "walferry_word_" + name }

// watchBody is that of the trigger function. It runs with the rights of walferry's role: those of
// the application have none in its schema. If somebody has dropped what it counts with, that is no
// reason to let an application's statement fail: Marks finds it missing.
func watchBody(name string) string {
	return fmt.Sprintf(`
begin
  perform pg_catalog.nextval(pg_catalog.format('walferry.%%I', pg_catalog.concat('%s_', tg_relid))::pg_catalog.regclass);
  return null;
exception when undefined_table or invalid_schema_name or insufficient_privilege or wrong_object_type then
  return null;
end
`, watchName(name))
}

// Marks returns, by table, a text that changes with everything that the watch notes, and with every
// change to the watch itself: a trigger that was switched off for a while is another row of the
// catalogue since. A table that is not watched is not in it.
//
// A mark that is the same as before shows that no transaction that has ended since has updated or
// deleted a row.
func Marks(ctx context.Context, q catalog.Querier, name string, tables []uint32) (map[uint32]string, error) {
	rows, err := q.Query(ctx, `
select t.tgrelid, concat_ws('/', t.oid, t.xmin, p.oid, p.xmin, s.oid, s.relowner, coalesce(s.relacl::text, ''), n.nspowner, coalesce(n.nspacl::text, ''),
                            coalesce(pg_sequence_last_value(s.oid)::text, ''))
  from pg_trigger t
  join pg_proc p on p.oid = t.tgfoid
  join pg_namespace n on n.oid = p.pronamespace
  join pg_class s on s.relnamespace = n.oid and s.relkind = 'S' and s.relname = concat(p.proname, '_', t.tgrelid)
 where t.tgrelid = any($1::oid[]) and t.tgname = $2 and t.tgenabled = 'A' and t.tgtype = 25 and t.tgqual is null and t.tgnargs = 0 -- after update or delete for each row
   and n.nspname = 'walferry' and p.proname = $3 and p.prosrc = $4 and p.prosecdef`,
		tables, watchTrigger(name), watchName(name), watchBody(name))
	if err != nil {
		return nil, fmt.Errorf("read what is noted of updates: %w", err)
	}
	marks := map[uint32]string{}
	var table uint32
	var mark string
	if _, err := pgx.ForEachRow(rows, []any{&table, &mark}, func() error { marks[table] = mark; return nil }); err != nil {
		return nil, fmt.Errorf("read what is noted of updates: %w", err)
	}
	return marks, nil
}

// Set begins to watch the tables that are not watched yet. Each trigger needs SHARE ROW EXCLUSIVE
// on its table for a moment, as those of the fence do. It keeps trying until ctx ends.
func (w Watch) Set(ctx context.Context, conn *pgx.Conn) error {
	oids := make([]uint32, len(w.Tables))
	for i := range w.Tables {
		oids[i] = w.Tables[i].OID
	}
	watched, err := Marks(ctx, conn, w.Name, oids)
	if err != nil {
		return err
	}
	function := "walferry." + catalog.Quote(watchName(w.Name)) + "()"
	var right bool // if it is made again it is another one, and everything noted is void
	err = conn.QueryRow(ctx, `select exists(select from pg_proc where oid = to_regprocedure($1) and prosrc = $2 and prosecdef)`, function, watchBody(w.Name)).Scan(&right)
	if err != nil {
		return fmt.Errorf("look for the function that notes updates: %w", err)
	}
	if !right {
		sql := fmt.Sprintf(`create or replace function %s returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as %s;
revoke all on function %[1]s from public`, function, catalog.Literal(watchBody(w.Name)))
		if err := online.Own(ctx, conn, sql); err != nil {
			return fmt.Errorf("create the function that notes updates: %w", err)
		}
	}
	for i := range w.Tables {
		t := &w.Tables[i]
		if watched[t.OID] != "" {
			continue
		}
		// What has the name and is not right, or was switched off, is dropped first: that waits for
		// readers, too.
		var drop string
		err := conn.QueryRow(ctx, `select coalesce(min(format('drop trigger %I on %s;', tgname, $3::text)), '') from pg_trigger where tgrelid = $1 and tgname = $2`,
			t.OID, watchTrigger(w.Name), t.String()).Scan(&drop)
		if err != nil {
			return fmt.Errorf("look at the triggers of %s: %w", t, err)
		}
		sql := fmt.Sprintf(`create sequence if not exists walferry.%s;
%[5]s
create trigger %[2]s after update or delete on %[3]s for each row execute procedure %[4]s;
alter table only %[3]s enable always trigger %[2]s`,
			catalog.Quote(fmt.Sprintf("%s_%d", watchName(w.Name), t.OID)), catalog.Quote(watchTrigger(w.Name)), t, function, drop)
		if err := online.Run(ctx, conn, t.String(), sql); err != nil {
			return fmt.Errorf("put the trigger that notes updates on %s: %w", t, err)
		}
	}
	return catalog.Own(ctx, conn, "") // the sequences, too
}

// Unwatch drops the triggers, table by table as each has a free moment, and what they wrote to.
// Nothing happens if there are none.
func Unwatch(ctx context.Context, conn *pgx.Conn, name string) error {
	rows, err := conn.Query(ctx, `
select n.nspname::text, c.relname::text from pg_trigger t
  join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
 where t.tgname = $1 and not t.tgisinternal
 order by 1, 2`, watchTrigger(name))
	if err != nil {
		return fmt.Errorf("list the triggers that note updates: %w", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[catalog.Name])
	if err != nil {
		return fmt.Errorf("list the triggers that note updates: %w", err)
	}
	for _, t := range tables {
		table := t.String()
		sql := fmt.Sprintf(`drop trigger if exists %s on %s`, catalog.Quote(watchTrigger(name)), table)
		if err := online.Run(ctx, conn, table, sql); err != nil {
			return fmt.Errorf("drop the trigger that notes updates of %s: %w", table, err)
		}
	}
	rows, err = conn.Query(ctx, `
select 'function ' || p.oid::regprocedure from pg_proc p join pg_namespace n on n.oid = p.pronamespace where n.nspname = 'walferry' and p.proname = $1
union all
select 'sequence ' || c.oid::regclass from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = 'walferry' and c.relkind = 'S' and c.relname ~ ('^' || $1 || '_[0-9]+$')`, watchName(name))
	if err != nil {
		return fmt.Errorf("look for what notes updates: %w", err)
	}
	objects, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for what notes updates: %w", err)
	}
	for _, object := range objects {
		if err := online.Run(ctx, conn, "", "drop "+object); err != nil {
			return fmt.Errorf("drop %s: %w", object, err)
		}
	}
	return nil
}
