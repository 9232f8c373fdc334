package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// setup is what the statements of an archive rely on; pg_restore begins with much the same. The
// archive's own STDSTRINGS is added, as its strings are written the way the source reads them.
const setup = `
set local search_path = '';
set local check_function_bodies = off;
set local client_min_messages = warning;
set local row_security = off;
set local xmloption = content;
set local default_tablespace = '';
`

// Report is what a step left out.
type Report struct {
	Skipped []Skipped
	Refused []Refused // objects that the target does not take, and what depends on them
}

// Skipped is an object, an owner or a privilege that the target does not have
// afterwards, and why.
type Skipped struct {
	Object string // as in "TABLE public.orders: owner alice"
	Why    string
}

func (s Skipped) String() string { return s.Object + ": " + s.Why }

func (r *Report) skip(object, why string) {
	r.Skipped = append(r.Skipped, Skipped{Object: object, Why: why})
}

// ObjectError says which object could not be created on the target.
type ObjectError struct {
	Object string // as in "INDEX public.orders_customer_idx"
	SQL    string // the statement, from the source
	Err    error  // mostly a *pgconn.PgError
	name   string // see Refused
}

func objectError(e *entry, sql string, err error) *ObjectError {
	return &ObjectError{Object: e.String(), SQL: sql, Err: err, name: e.name()}
}

func (e *ObjectError) Error() string { return fmt.Sprintf("create %s: %s", e.Object, e.why()) }

// why is the server's message, with its detail.
func (e *ObjectError) why() string {
	text := e.Err.Error()
	var pg *pgconn.PgError
	if errors.As(e.Err, &pg) && session.Detail(pg) != "" {
		text += ": " + session.Detail(pg)
	}
	return text
}

func (e *ObjectError) Unwrap() error { return e.Err }

// Hint returns what the operator can do.
func (e *ObjectError) Hint() string {
	const byHand = "create it on the target by hand, in a form that its version takes, and run the same command again"
	switch code := catalog.State(e.Err); {
	case code == "" || strings.HasPrefix(code, "57"):
		return "run the same command again"
	case strings.HasPrefix(e.Object, "EXTENSION ") && (code == catalog.UndefinedFile || code == catalog.FeatureNotSupported || code == catalog.InvalidParameterValue):
		return "install the extension's package on the target's server, or drop the extension on the source; on RDS see rds.extensions and the list of supported versions"
	case strings.HasPrefix(e.Object, "EXTENSION "):
		return "have a superuser of the target (rds_superuser) create the extension, then run the same command again"
	case code == catalog.OutOfMemory:
		return "raise max_locks_per_transaction on the target: all tables are created in one transaction"
	case code == catalog.InsufficientPrivilege && (strings.HasPrefix(e.Object, "INDEX ") || strings.HasPrefix(e.Object, "CONSTRAINT ")):
		return "expressions of an index run with the rights of the table's owner: grant the owner on the target what its functions need, or " + byHand
	case code == catalog.InsufficientPrivilege:
		return "grant the target's role what is missing (create on the database and its schemas), or " + byHand
	case code == catalog.DuplicateTable || code == catalog.DuplicateObject || code == catalog.DuplicateFunction:
		return "the target has an object of that name already: drop it, or migrate into an empty database"
	case strings.HasPrefix(code, "23"):
		return "the rows of the source do not satisfy it either, or the copy is not complete: run walferry verify"
	case code == catalog.UndefinedTable || code == catalog.UndefinedObject || code == catalog.UndefinedFunction:
		return "an object it needs is missing on the target, or is not found with the empty search_path under which walferry, as pg_restore, creates things: " +
			"alter function ... set search_path, on the source, or qualify the names in its body; run the same command again"
	}
	return "change the object on the source, or " + byHand
}

// present reports whether an error says that the object exists already.
func present(err error) bool {
	code := catalog.State(err)
	return code == catalog.DuplicateObject || code == catalog.DuplicateTable
}

// tolerable reports whether an error is about a role or a right: then the object is reported and
// the rest continues.
func tolerable(err error) bool {
	code := catalog.State(err)
	var pg *pgconn.PgError
	missingRole := errors.As(err, &pg) && code == catalog.UndefinedObject && strings.Contains(pg.Message, "role")
	return code == catalog.InsufficientPrivilege || code == catalog.InvalidGrantOperation || missingRole
}

func why(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Message
	}
	return err.Error()
}

// execute runs SQL of one or more statements in the simple protocol.
func execute(ctx context.Context, conn *pgx.Conn, sql string) error {
	_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// do runs an entry's SQL as one transaction.
func (d *Dump) do(ctx context.Context, conn *pgx.Conn, sql string) error {
	err := execute(ctx, conn, "begin;"+d.setup+sql+"\n;commit")
	if err != nil && !conn.IsClosed() {
		// The error ended the batch before its commit.
		if rollback := execute(ctx, conn, "rollback"); rollback != nil {
			return errors.Join(err, rollback)
		}
	}
	return err
}

// PreData creates what must be there before the rows: schemas, extensions, types, functions, tables
// with their defaults and checks, sequences, views. It does so in the caller's transaction, so that
// all of it is there or nothing, and the caller can record in the same transaction that it is.
// Everything belongs to the connected role until Finish, or to its owner at once if the role is a
// superuser. Schemas and extensions that exist are used. What the target refuses and tables can be
// without is left out, with what depends on it, and is in the report. After an error, an
// *ObjectError, the transaction is aborted.
func (d *Dump) PreData(ctx context.Context, tx pgx.Tx) (Report, error) {
	report := Report{Skipped: append([]Skipped(nil), d.left...)}
	conn := tx.Conn()
	if err := execute(ctx, conn, d.setup); err != nil {
		return report, fmt.Errorf("prepare session for schema: %w", err)
	}
	present, err := presentExtensions(ctx, tx)
	if err != nil {
		return report, err
	}
	var method string
	needed, out := d.needed(), map[int]bool{}
	for _, e := range d.entries {
		if e.section != sectionPreData || out[e.id] {
			continue
		}
		sql := e.sql
		switch e.kind {
		case "SCHEMA":
			rest, ok := strings.CutPrefix(sql, "CREATE SCHEMA ")
			if !ok {
				continue // public, "not creating schema, since initdb creates it"
			}
			sql = "CREATE SCHEMA IF NOT EXISTS " + rest
		case "EXTENSION":
			if present[e.tag] {
				continue
			}
		case "USER MAPPING", "SECURITY LABEL":
			if err := d.attempt(ctx, conn, e, &report); err != nil {
				return report, err
			}
			continue
		}
		if e.method != "" && e.method != method {
			// Version 12 and newer know the setting; older targets have heap only,
			// as has every archive of an older pg_dump.
			if e.method != "heap" || method != "" {
				sql = "set local default_table_access_method = " + catalog.Quote(e.method) + ";\n" + sql
			}
			method = e.method
		}
		if needed[e.id] {
			err = execute(ctx, conn, sql)
		} else {
			var refused bool
			if refused, err = d.try(ctx, conn, e, sql); refused {
				report.Refused = append(report.Refused, d.leave(out, e, objectError(e, sql, err).why())...)
				continue
			}
		}
		if err != nil {
			return report, objectError(e, e.sql, err)
		}
	}
	if err := d.ownersEarly(ctx, conn, tx, out); err != nil {
		return report, err
	}
	// The rest of the transaction is the caller's again.
	if err := execute(ctx, conn, "set local standard_conforming_strings = on"); err != nil {
		return report, fmt.Errorf("reset session after schema: %w", err)
	}
	return report, nil
}

// attempt runs an entry under a savepoint and reports an error about roles.
func (d *Dump) attempt(ctx context.Context, conn *pgx.Conn, e *entry, report *Report) error {
	if err := execute(ctx, conn, "savepoint entry"); err != nil {
		return err
	}
	err := execute(ctx, conn, e.sql)
	if err == nil {
		return execute(ctx, conn, "release savepoint entry")
	}
	if !tolerable(err) {
		return objectError(e, e.sql, err)
	}
	report.skip(e.String(), why(err))
	return execute(ctx, conn, "rollback to savepoint entry")
}

func presentExtensions(ctx context.Context, q catalog.Querier) (map[string]bool, error) {
	rows, err := q.Query(ctx, `select extname::text from pg_catalog.pg_extension`)
	if err != nil {
		return nil, fmt.Errorf("list extensions: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list extensions: %w", err)
	}
	present := make(map[string]bool, len(names))
	for _, name := range names {
		present[name] = true
	}
	return present, nil
}
