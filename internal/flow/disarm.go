package flow

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/slot"
)

// Disarm removes what Arm has made on both servers. That there is nothing, or only a part of it, is
// fine.
func (f *Flow) Disarm(ctx context.Context) error {
	err := f.From.Link.Do(ctx, func(conn *pgx.Conn) error { return DisarmFrom(ctx, conn, f.Name) })
	if err != nil {
		return err
	}
	return f.To.Link.Do(ctx, func(conn *pgx.Conn) error { return DisarmTo(ctx, conn, f.Name) })
}

// DisarmFrom removes what a flow that was armed has on the server that it comes from. A migration
// of an older version may have that name: its publication has no mark, and it is left alone.
func DisarmFrom(ctx context.Context, conn *pgx.Conn, n Name) error {
	names := n.Source()
	rows, err := conn.Query(ctx, `
select pubname::text from pg_publication p where pubname in ($1, $2)
   and exists(select from pg_publication_rel r join pg_publication m on m.oid = r.prpubid where m.pubname = $1 and r.prrelid = to_regclass($3))`,
		names.Publication, names.Inserts, applier.ProgressTable)
	if err != nil {
		return fmt.Errorf("look for the flow %s: %w", n, err)
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for the flow %s: %w", n, err)
	}
	if len(there) == 0 {
		return nil
	}
	if err := slot.Drop(ctx, conn, names.Slot); err != nil {
		return err
	}
	slices.Sort(there)
	slices.Reverse(there) // the one by which it is known is the last
	for _, p := range there {
		if err := slot.DropPublication(ctx, conn, p); err != nil {
			return err
		}
	}
	return nil
}

// DisarmTo removes what a flow that was armed has on the server that it goes to: its position, the
// table of positions if nobody else uses that, and the replication origin.
func DisarmTo(ctx context.Context, conn *pgx.Conn, n Name) error {
	if err := forgetPosition(ctx, conn, n); err != nil {
		return fmt.Errorf("forget the position of the flow %s: %w", n, err)
	}
	_, err := DropOrigin(ctx, conn, n)
	return err
}

func forgetPosition(ctx context.Context, conn *pgx.Conn, n Name) error {
	var progress, migration bool
	err := conn.QueryRow(ctx, `select to_regclass($1) is not null, to_regclass('walferry.migration') is not null`, applier.ProgressTable).Scan(&progress, &migration)
	if err != nil || !progress {
		return err
	}
	if err := catalog.Trust(ctx, conn); err != nil { // it may be a view that a user has created
		return err
	}
	if migration { // this server may be the target of one, of an older version, that has this name
		var other bool
		if err := conn.QueryRow(ctx, `select exists(select from walferry.migration where name = $1)`, n.String()).Scan(&other); err != nil || other {
			return err
		}
	}
	if _, err := conn.Exec(ctx, `delete from walferry.progress where stream = $1`, n.String()); err != nil {
		return err
	}
	var unused bool
	err = conn.QueryRow(ctx, `
select not exists(select from walferry.progress) and not exists(select from pg_publication_rel where prrelid = $1::regclass)`, applier.ProgressTable).Scan(&unused)
	if err != nil || !unused || migration {
		return err
	}
	return online.Run(ctx, conn, "", `drop table if exists `+applier.ProgressTable)
}

// DropOrigin drops the replication origin of the session that applies a flow, if the role may and
// there is one. Origins belong to the server: one in use is shared with a flow of the same name to
// another database, and stays.
func DropOrigin(ctx context.Context, conn *pgx.Conn, n Name) (inUse bool, err error) {
	origin := "walferry_" + n.String()
	var there, may bool
	err = conn.QueryRow(ctx, `select exists(select from pg_replication_origin where roname = $1),
  has_function_privilege('pg_replication_origin_drop(text)', 'EXECUTE')
  and (current_setting('server_version_num')::int >= 140000 or (select rolsuper from pg_roles where rolname = current_user))`, origin).Scan(&there, &may)
	if err != nil {
		return false, fmt.Errorf("look for the replication origin: %w", err)
	}
	if !there || !may {
		return false, nil
	}
	_, err = conn.Exec(ctx, `select pg_replication_origin_drop($1)`, origin)
	if catalog.State(err) == catalog.ObjectInUse {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("drop the replication origin: %w", err)
	}
	return false, nil
}
