package cutover

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
)

// runMark stands in the function of a fence that is up: whose it is.
func runMark(run string) string { return "-- run " + run + "." }

// ErrOtherRun says that another run of the migration has raised the fence since.
var ErrOtherRun = errors.New("another migrate has raised the fence since: it is not for this one any more")

// otherRun is the SQLSTATE of a replacement that was not for this run.
const otherRun = "WF002"

// unlessOthers makes a replacement of the function one that fails where a fence is up that
// is of another run: a process that has stood still for long may not know that another one
// has gone on in its place, and sealed.
func unlessOthers(name, run, replacement string) string {
	if run == "" {
		return replacement
	}
	return fmt.Sprintf(`do $replace$ begin
  if exists(select from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
             where n.nspname = 'walferry' and p.proname = %s and pg_catalog.strpos(p.prosrc, 'raise exception') > 0 and pg_catalog.strpos(p.prosrc, %s) = 0) then
    raise exception 'the fence is of another run' using errcode = '%s';
  end if;
  %s;
end $replace$`, catalog.Literal("fence_"+name), catalog.Literal(runMark(run)), otherRun, replacement)
}

// ofOthers names what unlessOthers has refused.
func ofOthers(err error) error {
	var server *pgconn.PgError
	if errors.As(err, &server) && server.Code == otherRun {
		return ErrOtherRun
	}
	return err
}

// replace writes the function that refuses.
func (f Fence) replace(ctx context.Context, conn *pgx.Conn, first int64, deadline string) error {
	return ofOthers(online.Exec(ctx, conn, unlessOthers(f.Name, f.Run, refuseFunction(f.Name, f.Run, first, deadline))))
}

// Adopt makes a sealed fence that another run has left this run's: that one, should it live
// after all, does not open it any more. It fails where the fence is not sealed.
func (f Fence) Adopt(ctx context.Context, conn *pgx.Conn) error {
	sql := fmt.Sprintf(`do $replace$ begin
  if not exists(select from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
                 where n.nspname = 'walferry' and p.proname = %s and pg_catalog.strpos(p.prosrc, '%s') > 0) then
    raise exception 'it is not sealed any more';
  end if;
  %s;
end $replace$`, catalog.Literal("fence_"+f.Name), sealMark, refuseFunction(f.Name, f.Run, 0, sealMark))
	if err := online.Exec(ctx, conn, sql); err != nil {
		return fmt.Errorf("adopt the sealed fence: %w", err)
	}
	return nil
}
