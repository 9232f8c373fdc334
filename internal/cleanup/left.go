package cleanup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// Left is an object of walferry's that a server still has.
type Left struct {
	On        string `json:"on"`
	Object    string `json:"object"`
	Migration string `json:"migration,omitempty"` // another migration, which needs it
}

// split separates what should be gone from what other migrations need.
func split(left []Left) (mine, others []Left) {
	for _, l := range left {
		if l.Migration == "" {
			mine = append(mine, l)
		} else {
			others = append(others, l)
		}
	}
	return mine, others
}

// LeftError reports that something of a finished migration could not be removed.
type LeftError struct{ Left []Left }

// NewLeftError returns nil if everything that is left belongs to other migrations.
func NewLeftError(left []Left) error {
	if mine, _ := split(left); len(mine) > 0 {
		return &LeftError{mine}
	}
	return nil
}

func (e *LeftError) Error() string {
	objects := make([]string, len(e.Left))
	for i, l := range e.Left {
		objects[i] = l.Object + " on the " + l.On
	}
	return fmt.Sprintf("%d objects of walferry are left: %s", len(objects), catalog.List(objects))
}

// Hint returns what the operator can do.
func (e *LeftError) Hint() string {
	return "drop them by hand; a schema walferry that is left contains objects that are not walferry's"
}

// leftoversSQL lists objects with their migrations: $1 is the migration whose source the server is,
// $2 the one whose target it is. What all share has a null. Replication origins belong to a server
// and not to a database, so only the one with this name can be attributed. A temporary slot goes
// away on its own.
const leftoversSQL = `
select 'schema walferry', null from pg_namespace where nspname = 'walferry'
union all select 'publication ' || pubname, case when $1 <> '' and pubname in ('walferry_' || $1, 'walferry_' || $1 || '_insert')
   or $2 <> '' and pubname in ('walferry_' || $2 || '_back', 'walferry_' || $2 || '_back_insert') then ''
   else regexp_replace(substr(pubname::text, 10), '(_back)?(_insert)?$', '') end from pg_publication where pubname ~ '^walferry_'
union all select 'slot ' || slot_name, case when slot_name in ('walferry_' || $1, 'walferry_' || $2 || '_back') then '' else regexp_replace(substr(slot_name::text, 10), '_back$', '') end
  from pg_replication_slots where slot_name ~ '^walferry_' and not temporary and (database is null or database = current_database())
union all select 'trigger ' || t.tgname || ' on ' || t.tgrelid::regclass,
   case when p.proname in ('fence_' || $1, 'word_' || $1) then '' when p.proname ~ '^(fence|word)_' then regexp_replace(p.proname::text, '^(fence|word)_', '') end
  from pg_trigger t join pg_proc p on p.oid = t.tgfoid where t.tgname ~ '^walferry_'
union all select 'function walferry.' || proname,
   case when proname in ('fence_' || $1, 'word_' || $1) then '' else regexp_replace(proname::text, '^(fence|word)_', '') end
  from pg_proc where pronamespace = to_regnamespace('walferry') and proname ~ '^(fence|word)_'
union all select 'sequence walferry.' || relname,
   case when relname ~ ('^word_' || $1 || '_[0-9]+$') then '' else regexp_replace(relname::text, '^word_(.*)_[0-9]+$', '\1') end
  from pg_class where relnamespace = to_regnamespace('walferry') and relkind = 'S' and relname ~ '^word_.*_[0-9]+$'
union all select 'table walferry.' || relname, null from pg_class where relnamespace = to_regnamespace('walferry') and relkind in ('r', 'p', 'v', 'm', 'f')
union all select 'replication origin ' || roname, '' from pg_replication_origin where roname in ('walferry_' || $2, 'walferry_' || $1 || '_back')
order by 1`

// leftovers lists what a server has of walferry's, of any migration.
func leftovers(ctx context.Context, conn *pgx.Conn, on, asSource, asTarget string) (left []Left, err error) {
	others, err := otherMigrations(ctx, conn, asSource, asTarget)
	if err != nil {
		return nil, fmt.Errorf("look for what is left on the %s: %w", on, err)
	}
	rows, err := conn.Query(ctx, leftoversSQL, asSource, asTarget)
	if err != nil {
		return nil, fmt.Errorf("look for what is left on the %s: %w", on, err)
	}
	left, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Left, error) {
		l := Left{On: on}
		var migration *string
		err := row.Scan(&l.Object, &migration)
		if migration != nil {
			l.Migration = *migration
		} else {
			l.Migration = strings.Join(others, ", ")
		}
		return l, err
	})
	if err != nil {
		return nil, fmt.Errorf("look for what is left on the %s: %w", on, err)
	}
	return left, nil
}

// otherMigrations names the migrations that a database takes part in, other than the one it is the
// source of and the one it is the target of; either may be empty.
func otherMigrations(ctx context.Context, conn *pgx.Conn, asSource, asTarget string) ([]string, error) {
	others, err := column(ctx, conn, `
select regexp_replace(substr(slot_name::text, 10), '_back$', '') from pg_replication_slots
 where slot_name ~ '^walferry_' and not temporary and database = current_database() and slot_name not in ('walferry_' || $1, 'walferry_' || $2 || '_back')
union
select regexp_replace(substr(pubname::text, 10), '(_back)?(_insert)?$', '') from pg_publication
 where pubname ~ '^walferry_' and ($1 = '' or pubname not in ('walferry_' || $1, 'walferry_' || $1 || '_insert'))
   and ($2 = '' or pubname not in ('walferry_' || $2 || '_back', 'walferry_' || $2 || '_back_insert'))
union
select regexp_replace(proname::text, '^(fence|word)_', '') from pg_proc
 where pronamespace = to_regnamespace('walferry') and proname ~ '^(fence|word)_' and proname not in ('fence_' || $1, 'word_' || $1)`, asSource, asTarget)
	if err != nil {
		return nil, fmt.Errorf("look for other migrations: %w", err)
	}
	for _, t := range []struct{ table, column string }{{"migration", "name"}, {"progress", "stream"}} {
		var there bool
		if err := conn.QueryRow(ctx, `select to_regclass('walferry.' || $1) is not null`, t.table).Scan(&there); err != nil {
			return nil, fmt.Errorf("look for other migrations: %w", err)
		}
		if !there {
			continue
		}
		if err := catalog.Trust(ctx, conn); err != nil { // it may be a view that a user has created
			return nil, err
		}
		more, err := column(ctx, conn, `select regexp_replace(`+t.column+`, '_back$', '') from walferry.`+t.table+` where `+t.column+` not in ($1, $2 || '_back')`, asTarget, asSource)
		if err != nil {
			return nil, fmt.Errorf("look for other migrations: %w", err)
		}
		others = append(others, more...)
	}
	slices.Sort(others)
	return slices.Compact(others), nil
}

func column(ctx context.Context, conn *pgx.Conn, sql string, args ...any) ([]string, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
