package applier

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	pinning "github.com/walferry/walferry/internal/session"
)

// Kind is what a ConflictError is about.
type Kind string

// The kinds of a conflict.
const (
	// MissingRow: an UPDATE or DELETE found no row.
	MissingRow Kind = "no such row"
	// SeveralRows: the columns that identify a row on the source found several on the target.
	SeveralRows Kind = "several such rows"
	// NotInserted: the server took an INSERT and stored nothing, or more than one row.
	NotInserted Kind = "not one row inserted"
	// UnknownKey: the source did not say which row it changed.
	UnknownKey Kind = "key not sent"
	// Refused: the server refused the change; SQLState and Constraint say why.
	Refused Kind = "refused"
)

// Place says which change of the source an error is about.
type Place struct {
	Table string     // on the target, schema.table; empty: not one table
	Op    decoder.Op // 0: found when the transaction was to be committed
	XID   uint32     // of the source's transaction
	LSN   decoder.LSN
}

func (p Place) String() string {
	var b strings.Builder
	switch p.Op {
	case decoder.Insert:
		b.WriteString("apply INSERT into ")
	case decoder.Update:
		b.WriteString("apply UPDATE of ")
	case decoder.Delete:
		b.WriteString("apply DELETE from ")
	case decoder.Truncate:
		b.WriteString("apply TRUNCATE of ")
	default:
		b.WriteString("commit")
		if p.Table != "" {
			b.WriteString(" changes of ")
		}
	}
	b.WriteString(p.Table)
	if p.XID != 0 {
		fmt.Fprintf(&b, " of transaction %d (commit at %s)", p.XID, p.LSN)
	}
	return b.String()
}

// ConflictError means that a change of the source cannot be made to the target: the two have
// diverged, or the target refuses the row. Nothing of the source's transaction was applied. Once
// the target has been repaired, applying resumes where it stopped.
//
// It names columns and constraints, never the values in them; those may be in Detail of the
// [pgconn.PgError] that it may wrap.
type ConflictError struct {
	Place
	Kind       Kind
	Key        []string // the columns that identify the row; nil: all of them, or none is needed
	SQLState   string   // of the server's error, if there was one
	Constraint string   // that was violated
	Column     string   // that must not be null
	err        *pgconn.PgError
}

func (e *ConflictError) Error() string {
	var b strings.Builder
	b.WriteString(e.Place.String())
	if len(e.Key) > 0 {
		fmt.Fprintf(&b, ", key (%s)", strings.Join(e.Key, ", "))
	}
	if e.err != nil {
		fmt.Fprintf(&b, ": %s", pinning.Describe(e.err))
	} else {
		fmt.Fprintf(&b, ": %s", e.Kind)
	}
	return b.String()
}

// Unwrap returns the server's error, if there was one.
func (e *ConflictError) Unwrap() error {
	if e.err == nil {
		return nil
	}
	return e.err
}

// Hint says what the operator can do.
func (e *ConflictError) Hint() string {
	const again = "then start again: it resumes where it stopped"
	switch e.Kind {
	case MissingRow, SeveralRows:
		return "something else wrote to " + e.Table + " on the target, or a trigger or rule there did: make the row what it is on the source, " + again
	case NotInserted:
		return "a rule, or a trigger that is enabled ALWAYS or REPLICA, changed the INSERT: disable it on " + e.Table + ", " + again
	case UnknownKey:
		return "the source is older than the minor releases of May 2022, which send a key that is stored out of line: " +
			"upgrade it to its last minor release, or give the table REPLICA IDENTITY FULL, and copy the table again"
	}
	switch {
	case e.err != nil && e.err.Routine == "enum_in":
		return "the target's type lacks a label of the source's: add it with ALTER TYPE ... ADD VALUE, " + again
	case e.err != nil && e.err.Routine == "check_enable_rls":
		return "row security of the target's table binds walferry's role: alter role ... bypassrls, " + again
	case e.Constraint != "":
		return "find the row on the target that violates " + e.Constraint + " and repair it, or drop the constraint if the source has none, " + again
	case strings.HasPrefix(e.SQLState, "22"):
		return "the target's column cannot hold the source's value: compare the types of the columns of " + e.Table + ", " + again
	}
	return "remove what makes the target refuse the change, " + again
}

// SchemaError means that the target does not have the columns, or the table, that the source's
// changes are for. Nothing of the transaction was applied.
type SchemaError struct {
	Place
	Columns  []string // that one side lacks or defines differently, if that is the reason
	Reason   string
	SQLState string // of the server's error, if there was one
	advice   string // what the operator can do, if it is not the usual
	err      *pgconn.PgError
}

func (e *SchemaError) Error() string {
	if e.err != nil {
		return fmt.Sprintf("%s: %s", e.Place, pinning.Describe(e.err))
	}
	return fmt.Sprintf("%s: %s", e.Place, e.Reason)
}

// Unwrap returns the server's error, if there was one.
func (e *SchemaError) Unwrap() error {
	if e.err == nil {
		return nil
	}
	return e.err
}

// Hint says what the operator can do.
func (e *SchemaError) Hint() string {
	if e.advice != "" {
		return e.advice
	}
	if len(e.Columns) > 0 {
		return "the source's table has changed: make the same ALTER TABLE on the target (columns: " + strings.Join(e.Columns, ", ") +
			"), then start again: it resumes where it stopped"
	}
	return "make " + e.Table + " on the target as it is on the source, then start again: it resumes where it stopped"
}

// ProgressError means that the row in walferry.progress is not what this Applier left there. It
// stops, because it no longer knows what the target holds.
type ProgressError struct {
	Stream string      // Config.Name
	Want   decoder.LSN // what the row was expected to say
	Have   decoder.LSN // what it says; 0 with Missing
	// Missing: there is no row any more.
	Missing bool
}

func (e *ProgressError) Error() string {
	switch {
	case e.Missing:
		return fmt.Sprintf("check progress of stream %q: its row in walferry.progress is gone", e.Stream)
	case e.Lost():
		return fmt.Sprintf("check progress of stream %q: the target is back at %s, after %s was durable", e.Stream, e.Have, e.Want)
	}
	return fmt.Sprintf("check progress of stream %q: another applier has moved it from %s to %s", e.Stream, e.Want, e.Have)
}

// Lost reports whether the target has lost transactions that were durable on it: it was restored
// from a backup, or failed over to a server that lagged behind.
func (e *ProgressError) Lost() bool { return !e.Missing && e.Have < e.Want }

// Hint says what the operator can do.
func (e *ProgressError) Hint() string {
	if e.Lost() || e.Missing {
		return "the source may have dropped the WAL of what the target lost: start the migration again from a new copy"
	}
	return "only one process may apply a stream: end the other one"
}

// RestartError means that a transaction in pieces met a transient error, or could not be applied by
// its net effect and will be row by row, after its first pieces had been released. The target is as
// it was before that transaction. Open a new stream at [Applier.Applied] and call Run again.
type RestartError struct {
	XID     uint32
	LSN     decoder.LSN // of the commit
	Applied decoder.LSN // where the new stream has to start
	err     error
}

func (e *RestartError) Error() string {
	return fmt.Sprintf("apply transaction %d (commit at %s) in pieces: %v", e.XID, e.LSN, e.err)
}

// Unwrap returns what interrupted the transaction.
func (e *RestartError) Unwrap() error { return e.err }

// Hint says what the caller can do.
func (e *RestartError) Hint() string {
	return fmt.Sprintf("open a new stream at %s and run again", e.Applied)
}

var (
	errBusy   = errors.New("apply: this Applier is in use by Run or Apply")
	errClosed = errors.New("apply: this Applier is closed")
)

// inputError is a Tx that no decoder.Stream would make.
type inputError struct{ text string }

func (e *inputError) Error() string { return e.text }

// transient reports whether the same group may succeed when it is retried: the error is neither one
// of ours nor a permanent one of the server.
func transient(err error) bool {
	var (
		conflict *ConflictError
		schema   *SchemaError
		progress *ProgressError
		start    *StartError
		restart  *RestartError
		input    *inputError
	)
	switch {
	case errors.As(err, &conflict), errors.As(err, &schema), errors.As(err, &progress), errors.As(err, &start), errors.As(err, &restart),
		errors.As(err, &input), errors.Is(err, errClosed):
		return false
	}
	return catalog.Passes(err)
}

// onStandby reports whether the connection leads to a server that takes no writes: the primary is
// elsewhere by now.
func onStandby(err error) bool { return catalog.State(err) == catalog.ReadOnlyTransaction }
