package cutover

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
)

// runMark stands in the function of a fence that a run has put up or raised: whose it is. Whoever
// opens it removes the mark.
func runMark(run string) string { return "-- run " + run + "." }

// markIn returns the mark in a function's body; empty: there is none.
func markIn(body string) string {
	_, rest, _ := strings.Cut(body, "-- run ")
	run, _, found := strings.Cut(rest, ".")
	if !found {
		return ""
	}
	return runMark(run)
}

// ErrOtherRun says that another run of the migration has raised the fence since.
var ErrOtherRun = errors.New("another migrate has raised the fence since: it is no longer this one's")

// otherRun is the SQLSTATE of a replacement that this run must not make.
const otherRun = "WF002"

// notUp is the SQLSTATE of a replacement of what this run has not raised, or what no longer stands.
const notUp = "WF003"

// errNotUp is why nothing is raised or sealed: what this run has put up is not there.
var errNotUp = errors.New("the fence is no longer up as this run has put it up: another migrate has taken the migration over, or somebody has un-fenced by hand")

// guarded makes a replacement of the function one that fails if wrong, a condition on the body of
// the function that stands (empty: there is none), holds. The ALTER changes nothing and locks the
// function's row, as the replacement does: whoever else replaces or drops it has done so before the
// look, or waits until this has committed. SELECT FOR UPDATE would need a superuser, and an
// advisory lock would not stop an operator who un-fences by hand.
func guarded(name, wrong, code, problem, replacement string) string {
	return fmt.Sprintf(`do $replace$ declare body text := ''; begin
  if pg_catalog.to_regprocedure(%[1]s) is not null then
    alter function %[2]s() volatile;
    select prosrc into strict body from pg_catalog.pg_proc where oid = pg_catalog.to_regprocedure(%[1]s);
  end if;
  if %[3]s then
    raise exception '%[4]s' using errcode = '%[5]s';
  end if;
  %[6]s;
end $replace$`, catalog.Literal(function(name)+"()"), function(name), wrong, problem, code, replacement)
}

// The conditions on body.
const (
	isUp     = `pg_catalog.strpos(body, 'raise exception') > 0`
	isSealed = `pg_catalog.strpos(body, '` + sealMark + `') > 0`
)

func isOf(run string) string {
	return fmt.Sprintf(`pg_catalog.strpos(body, %s) > 0`, catalog.Literal(runMark(run)))
}

// unlessOthers makes a replacement of the function one that fails if the fence that is up is
// another run's: a process that has stood still for long may not know that another one has taken
// over, and sealed.
func unlessOthers(name, run, replacement string) string {
	if run == "" {
		return replacement
	}
	return guarded(name, isUp+" and not "+isOf(run), otherRun, "the fence is of another run", replacement)
}

// ofOthers names what a guarded replacement has refused.
func ofOthers(err error) error {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		switch server.Code {
		case otherRun:
			return ErrOtherRun
		case notUp:
			return errNotUp
		}
	}
	return err
}

// closeOwn replaces the open function that Prepare has put up by one that refuses. If that was
// opened or taken down since, whoever did it does not know of this run, and of what it would close.
func (f Fence) closeOwn(ctx context.Context, conn *pgx.Conn, first int64, deadline string) error {
	return f.refuseIf(ctx, conn, isOf(f.Run), first, deadline)
}

// replace replaces an earlier function of this run by one that refuses: what was opened meanwhile
// stays open.
func (f Fence) replace(ctx context.Context, conn *pgx.Conn, first int64, deadline string) error {
	return f.refuseIf(ctx, conn, isUp+" and "+isOf(f.Run), first, deadline)
}

func (f Fence) refuseIf(ctx context.Context, conn *pgx.Conn, right string, first int64, deadline string) error {
	return ofOthers(online.Exec(ctx, conn, guarded(f.Name, "not ("+right+")", notUp, "the fence is not up", f.refuseFunction(session.Major(conn.PgConn()), first, deadline))))
}

// openSeen opens a fence as it was seen, if there is one: what was raised since is left closed.
func openSeen(ctx context.Context, conn *pgx.Conn, name string, seen State) error {
	if seen.Triggers == 0 && !seen.Raised {
		return nil
	}
	other := "true" // it was open, and is not any more
	switch {
	case seen.Raised && seen.mark != "":
		other = fmt.Sprintf("pg_catalog.strpos(body, %s) = 0", catalog.Literal(seen.mark))
	case seen.Raised: // by an older version
		other = "pg_catalog.strpos(body, '-- run ') > 0"
	}
	sql := guarded(name, isUp+" and "+other, otherRun, "the fence is of another run", openFunction(name, ""))
	if err := online.Exec(ctx, conn, sql); err != nil {
		return fmt.Errorf("open fence: %w", ofOthers(err))
	}
	return nil
}

// openLeft opens what an overtaken run has raised, which nobody else would open before its
// deadline. A sealed fence belongs to the run that has taken over, and what another run has put up
// is left alone.
func openLeft(ctx context.Context, conn *pgx.Conn, name, run string) (opened bool, err error) {
	sql := guarded(name, fmt.Sprintf("not (%s and %s) or %s", isUp, isOf(run), isSealed), notUp, "the fence is not up", openFunction(name, ""))
	err = ofOthers(online.Exec(ctx, conn, sql))
	if errors.Is(err, errNotUp) {
		return false, nil
	}
	return err == nil, err
}

// Adopt makes a sealed fence that another run has left this run's: that one, should it be alive
// after all, no longer opens it. It fails if the fence is not sealed.
func (f Fence) Adopt(ctx context.Context, conn *pgx.Conn) error {
	sql := guarded(f.Name, "not ("+isSealed+")", "P0001", "it is not sealed any more", f.refuseFunction(session.Major(conn.PgConn()), 0, sealMark))
	if err := online.Exec(ctx, conn, sql); err != nil {
		return fmt.Errorf("adopt the sealed fence: %w", err)
	}
	return nil
}
