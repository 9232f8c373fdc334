package decoder

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
)

// ErrClosed is what Next returns after Close.
var ErrClosed = errors.New("stream is closed")

// ProtocolError says that the source sent something that pgoutput's protocol 1
// does not allow. Nothing after it can be trusted: the stream ends.
type ProtocolError struct {
	Kind   byte // the message's first byte; 0 when it was empty
	Offset int  // where in the message reading stopped, the kind included
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

// SlotReason says why a slot cannot be used.
type SlotReason string

// The reasons of a SlotError.
const (
	SlotMissing SlotReason = "missing" // there is no slot of that name
	SlotLost    SlotReason = "lost"    // invalidated: WAL that it needs is gone
	SlotAhead   SlotReason = "ahead"   // its confirmed position is after what the consumer has
	SlotActive  SlotReason = "active"  // another connection reads it
	SlotForeign SlotReason = "foreign" // not a permanent logical slot of pgoutput in this database
	SlotPending SlotReason = "pending" // it is still being created
)

// SlotError says why the stream cannot go on with its slot.
type SlotError struct {
	Slot   string
	Reason SlotReason
	Detail string // what was seen, as a clause

	PID         int32  // SlotActive: the walsender that reads it
	Application string // SlotActive: its application_name, where we may see it
	Confirmed   LSN    // SlotAhead: the slot's confirmed position
	Start       LSN    // SlotAhead: where the stream had to start
}

func (e *SlotError) Error() string {
	return fmt.Sprintf("replication slot %q is %s: %s", e.Slot, e.Reason, e.Detail)
}

// Hint tells the operator what to do.
func (e *SlotError) Hint() string {
	switch e.Reason {
	case SlotMissing:
		return "gap: changes made while there was no slot are not kept anywhere; copy again with a new slot"
	case SlotLost:
		return "gap: the source has removed WAL that was still needed; copy again with a new slot, and raise max_slot_wal_keep_size (-1: no limit) before"
	case SlotAhead:
		return "gap: the slot has moved past what the target has; copy again"
	case SlotActive:
		return "only one consumer may read a slot: stop the other one, or wait until the source notices that it is gone (wal_sender_timeout)"
	case SlotPending:
		return "a slot is created once all older writing transactions of the server have ended; end them, or drop the slot"
	default:
		return "the slot belongs to something else; choose another name, or drop it if nobody needs it: select pg_drop_replication_slot(" + catalog.Literal(e.Slot) + ")"
	}
}

// IdentityError says that the server is not the one that the stream belongs to.
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
		return "the source was restored to an older state, or another server answers: the target has transactions that it has not; copy again"
	case "timeline":
		return "a standby was promoted or the server was restored: transactions may be missing on it; copy again"
	default:
		return "another server answers at this address; check host, port, DNS and database"
	}
}

// PublicationError says that a publication is not there, or not what it was.
// Changes made since then may be missing in the stream for ever.
type PublicationError struct {
	Name    string
	Reason  string // a clause
	Exists  bool   // CreatePublication found one of that name
	Renamed bool   // a table of it has another name, and nothing else has changed
}

func (e *PublicationError) Error() string {
	return fmt.Sprintf("publication %q %s", e.Name, e.Reason)
}

// Hint tells the operator what to do.
func (e *PublicationError) Hint() string {
	if e.Exists {
		return "a publication is never altered or taken over; drop it if nobody needs it, or choose another name"
	}
	if e.Renamed {
		return "give the table its old name back; what is written meanwhile comes under the other one"
	}
	return "gap: a publication must stay as it was when the slot was created, or changes get lost without an error; copy again with a new publication and slot"
}

// RefusedError says that the source refused, in a way that waiting does not mend.
type RefusedError struct {
	Err error // holds a *pgconn.PgError
}

func (e *RefusedError) Error() string { return e.Err.Error() }

func (e *RefusedError) Unwrap() error { return e.Err }

// Hint tells the operator what to do; empty when the server's words must do.
func (e *RefusedError) Hint() string {
	var pgErr *pgconn.PgError
	if !errors.As(e.Err, &pgErr) {
		return ""
	}
	switch {
	case strings.HasPrefix(pgErr.Code, "28"):
		return "check user and password, and that pg_hba.conf lets the role in (a replication connection matches its database's name)"
	case pgErr.Code == "3D000":
		return "check the database's name"
	case pgErr.Code == "22021":
		return "a text in the next transaction is not valid UTF-8, and stays so in the WAL: mend the row on the source, see to it that no more of the kind are written, and begin the migration anew"
	case strings.Contains(pgErr.Message, "memory alloc request size"), strings.Contains(pgErr.Message, "enlarge string buffer"):
		return "a value or a row of the next transaction has more than 1 GB as text (a bytea twice its size), which the source cannot send, and stays so in the WAL: " +
			"see to it that no more of the kind are written, and begin the migration anew; the copy, in binary, can move what the stream cannot"
	case pgErr.Code == "42501":
		return "the role must be allowed to replicate: alter role NAME replication, or on RDS: grant rds_replication to NAME"
	}
	return pgErr.Hint
}
