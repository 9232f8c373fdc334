package snapshot

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// SnapshotLostError means that the snapshot can no longer be imported: whoever
// exported it is gone, and no worker that still had it was left.
type SnapshotLostError struct {
	Snapshot string
	Err      error // what the server said
}

func (e *SnapshotLostError) Error() string {
	return fmt.Sprintf("import snapshot %s: it is gone: %v", e.Snapshot, e.Err)
}

func (e *SnapshotLostError) Unwrap() error { return e.Err }

// Hint says what follows from the loss.
func (e *SnapshotLostError) Hint() string {
	return "export another one and go on with Config.Resume, or empty the target's tables and start over"
}

// StateError means that the target holds pieces that were copied under another
// snapshot. Nothing was copied; see [Reset].
type StateError struct {
	Migration string
	Found     pglogrepl.LSN // consistent point of the snapshot of the earlier run
	Want      pglogrepl.LSN // Config.AsOf
}

func (e *StateError) Error() string {
	return fmt.Sprintf("resume copy of migration %s: the target holds rows as of %s, the snapshot is as of %s", e.Migration, e.Found, e.Want)
}

// Hint says how to get out of it.
func (e *StateError) Hint() string {
	return "go on with Config.Resume, or empty the target's tables and start the copy again"
}

// SchemaError lists what the two sides do not have in common. Nothing was copied.
type SchemaError struct{ Differences []string }

func (e *SchemaError) Error() string {
	return "compare tables of source and target: " + strings.Join(e.Differences, "; ")
}

// ChangedError means that a table of the source was altered or rewritten after
// the snapshot was taken, so that its rows can no longer be read as they were.
type ChangedError struct {
	Table string
	How   string
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("table %s of the source was changed after the snapshot was taken: %s", e.Table, e.How)
}

// Hint says what follows from it.
func (e *ChangedError) Hint() string {
	return "start the copy again with a new snapshot, and let tables be neither altered nor rewritten while it runs"
}

// errRewritten makes a table be put aside.
var errRewritten = errors.New("the table was rewritten")

// RewrittenError means that tables were rewritten after the snapshot was taken, by TRUNCATE,
// VACUUM FULL or CLUSTER, before all of them was read. What of them has been copied is to be
// copied again: by a Run under a later snapshot, with Resume. All other tables are done.
type RewrittenError struct{ Tables []Table }

func (e *RewrittenError) Error() string {
	names := make([]string, len(e.Tables))
	for i, t := range e.Tables {
		names[i] = t.String()
	}
	return "rewritten after the snapshot was taken, by TRUNCATE, VACUUM FULL or CLUSTER: " + strings.Join(names, ", ")
}

// RowCountError means that the target took another number of rows than the
// source sent. They were rolled back.
type RowCountError struct {
	Sent, Stored int64
}

func (e *RowCountError) Error() string {
	return fmt.Sprintf("the source sent %d rows, the target stored %d", e.Sent, e.Stored)
}

// Hint names the usual cause.
func (e *RowCountError) Hint() string {
	return "look for triggers of the target's table that are enabled ALWAYS or REPLICA, or disable its triggers for the copy"
}

// sideError is what a server, or the way to it, answered to a statement of a worker.
type sideError struct {
	side string // source or target
	err  error
}

func (e *sideError) Error() string {
	if server, ok := e.err.(*pgconn.PgError); ok { // one that something was added to is not about a row
		return e.side + ": " + session.Describe(server)
	}
	return e.side + ": " + e.err.Error()
}

func (e *sideError) Unwrap() error { return e.err }

// Hint is what can be done about what the target refuses.
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
