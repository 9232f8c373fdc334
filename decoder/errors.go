package decoder

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
)

// ErrClosed is returned by Next after Close.
var ErrClosed = errors.New("stream is closed")

// ProtocolError means that the source sent something that pgoutput's protocol 1 does not allow.
// Nothing after it can be trusted: the stream ends.
type ProtocolError struct {
	Kind   byte // the message's first byte; 0 when it was empty
	Offset int  // where in the message reading stopped, including the kind
	Length int  // of the whole message
	Reason string
}

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("decode message %q: %s (at byte %d of %d)", e.Kind, e.Reason, e.Offset, e.Length)
}

// Hint tells the operator what to do.
func (e *ProtocolError) Hint() string {
	return "nothing of this transaction was delivered to its end; start again, and if it comes back report it with the versions of the source and of walferry"
}

// IdentityError means that the server is not the one that the stream belongs to.
type IdentityError struct {
	What      string // "system identifier", "timeline", "database", "WAL position"
	Want, Got string
}

func (e *IdentityError) Error() string {
	return fmt.Sprintf("source has another %s: want %s, got %s", e.What, e.Want, e.Got)
}

// Hint tells the operator what to do.
func (e *IdentityError) Hint() string {
	switch e.What {
	case "WAL position":
		return "the source was restored to an older state, or another server answers: the target has transactions that it does not have; copy again"
	case "timeline":
		return "a standby was promoted or the server was restored: transactions may be missing on it; copy again"
	default:
		return "another server answers at this address; check host, port, DNS and database"
	}
}

// RefusedError means that the source refused, in a way that waiting does not fix.
type RefusedError struct {
	Err error // holds a *pgconn.PgError
}

func (e *RefusedError) Error() string { return e.Err.Error() }

func (e *RefusedError) Unwrap() error { return e.Err }

// Hint tells the operator what to do; empty if there is only the server's message.
func (e *RefusedError) Hint() string {
	var pgErr *pgconn.PgError
	if !errors.As(e.Err, &pgErr) {
		return ""
	}
	switch {
	case strings.HasPrefix(pgErr.Code, "28"):
		return "check user and password, and that pg_hba.conf lets the role in (a replication connection matches its database's name)"
	case pgErr.Code == catalog.InvalidCatalogName:
		return "check the database's name"
	case pgErr.Code == catalog.CharacterNotInRepertoire:
		return "a text in the next transaction is not valid UTF-8, and remains in the WAL: fix the row on the source, make sure that no more of the kind are written, and start the migration over"
	case strings.Contains(pgErr.Message, "memory alloc request size"), strings.Contains(pgErr.Message, "enlarge string buffer"):
		return "a value or a row of the next transaction has more than 1 GB as text (a bytea twice its size), which the source cannot send, and which remains in the WAL: " +
			"make sure that no more of the kind are written, and start the migration over; the copy, in binary, can move what the stream cannot"
	case pgErr.Code == catalog.InsufficientPrivilege:
		return "the role must be allowed to replicate: alter role NAME replication, or on RDS: grant rds_replication to NAME"
	}
	return pgErr.Hint
}
