package snapshot

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// SnapshotLostError means that the snapshot can no longer be imported: the session that exported it
// is gone, and no worker still had it.
type SnapshotLostError struct {
	Snapshot string
	Err      error // what the server said
}

func (e *SnapshotLostError) Error() string {
	return fmt.Sprintf("import snapshot %s: it is gone: %v", e.Snapshot, e.Err)
}

func (e *SnapshotLostError) Unwrap() error { return e.Err }

// Hint tells the operator what to do.
func (e *SnapshotLostError) Hint() string {
	return "export another one and continue with Config.Resume, or empty the target's tables and start over"
}

// StateError means that the target has pieces that were copied under another snapshot. Nothing was
// copied; see [Reset].
type StateError struct {
	Migration string
	Found     decoder.LSN // consistent point of the snapshot of the earlier run
	Want      decoder.LSN // Config.AsOf
}

func (e *StateError) Error() string {
	return fmt.Sprintf("resume copy of migration %s: the target holds rows as of %s, the snapshot is as of %s", e.Migration, e.Found, e.Want)
}

// Hint tells the operator what to do.
func (e *StateError) Hint() string {
	return "continue with Config.Resume, or empty the target's tables and start over"
}

// SchemaError lists what the two sides do not have in common. Nothing was copied.
type SchemaError struct{ Differences []string }

func (e *SchemaError) Error() string {
	return "compare tables of source and target: " + strings.Join(e.Differences, "; ")
}

// ChangedError means that a table of the source was altered or rewritten after the snapshot was
// taken, so that its rows can no longer be read as they were.
type ChangedError struct {
	Table string
	How   string
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("table %s of the source was changed after the snapshot was taken: %s", e.Table, e.How)
}

// Hint tells the operator what to do.
func (e *ChangedError) Hint() string {
	return "start over with a new snapshot, and do not alter or rewrite tables while it runs"
}

// errRewritten makes the caller put a table aside.
var errRewritten = errors.New("the table was rewritten")

// RewrittenError means that tables were rewritten after the snapshot was taken, by TRUNCATE, VACUUM
// FULL or CLUSTER, before all of their rows were read. They have to be copied again, by a Run under
// a later snapshot with Resume. All other tables are done.
type RewrittenError struct{ Tables []Table }

func (e *RewrittenError) Error() string {
	names := make([]string, len(e.Tables))
	for i, t := range e.Tables {
		names[i] = t.String()
	}
	return "rewritten after the snapshot was taken, by TRUNCATE, VACUUM FULL or CLUSTER: " + strings.Join(names, ", ")
}

// RowCountError means that the target stored a different number of rows than the source sent. They
// were rolled back.
type RowCountError struct {
	Sent, Stored int64
}

func (e *RowCountError) Error() string {
	return fmt.Sprintf("the source sent %d rows, the target stored %d", e.Sent, e.Stored)
}

// Hint tells the operator what to look for.
func (e *RowCountError) Hint() string {
	return "look for triggers of the target's table that are enabled ALWAYS or REPLICA, or disable its triggers for the copy"
}

// sideError is an error of a server, or of the connection to it, from a statement of a worker.
type sideError struct {
	side string // source or target
	err  error
}

func (e *sideError) Error() string {
	if server, ok := e.err.(*pgconn.PgError); ok { // an error with added context is not about a row
		return e.side + ": " + session.Describe(server)
	}
	return e.side + ": " + e.err.Error()
}

func (e *sideError) Unwrap() error { return e.err }

// Hint tells the operator what to do about what the target refuses.
func (e *sideError) Hint() string {
	server, ok := e.err.(*pgconn.PgError)
	if !ok || e.side != "target" {
		return ""
	}
	const again = ", and run the same command again"
	table := pgx.Identifier{server.SchemaName, server.TableName}.Sanitize()
	switch {
	case server.Code == catalog.CheckViolation && server.ConstraintName != "" && server.TableName != "":
		return "the source holds rows that its own check would refuse now: on the target, alter table " + table + " drop constraint " + pgx.Identifier{server.ConstraintName}.Sanitize() +
			again + "; create it again before the cutover, NOT VALID where rows break it"
	case server.Code == catalog.CheckViolation:
		return "the source holds values that the domain's own check would refuse now: repair them there, or drop the constraint of the target's domain until the cutover" + again
	case server.Code == catalog.UndefinedFunction || server.Code == catalog.UndefinedTable || server.Code == catalog.UndefinedObject || server.Code == catalog.InvalidSchemaName:
		return "a generated column, a check or a domain uses a function that relies on a search_path, which is empty here as under pg_restore: alter function ... set search_path on both sides" + again
	case server.Routine == "check_enable_rls":
		return "row security of the target's table is forced on its owner: alter role ... bypassrls" + again
	}
	return ""
}

func onSource(err error) error { return &sideError{side: "source", err: err} }
func onTarget(err error) error { return &sideError{side: "target", err: err} }

// passing reports whether what failed on a server may succeed on a second try.
func passing(err error) bool {
	var side *sideError
	return errors.As(err, &side) && catalog.Passes(err)
}
