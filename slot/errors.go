package slot

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/walferry/walferry/internal/catalog"
)

// Reason says why a slot cannot be used.
type Reason string

// The reasons of an Error.
const (
	Missing Reason = "missing" // there is no slot of that name
	Lost    Reason = "lost"    // invalidated: WAL that it needs is gone
	Ahead   Reason = "ahead"   // its confirmed position is after what the consumer has
	Active  Reason = "active"  // another connection reads it
	Foreign Reason = "foreign" // not a permanent logical slot of pgoutput in this database
	Pending Reason = "pending" // it is still being created
)

// Error says why a slot cannot be used, or why a stream cannot continue with it.
type Error struct {
	Slot   string
	Reason Reason
	Detail string // what was seen, as a clause

	PID         int32         // Active: the walsender that reads it
	Application string        // Active: its application_name, where we may see it
	Confirmed   pglogrepl.LSN // Ahead: the slot's confirmed position
	Start       pglogrepl.LSN // Ahead: where the stream had to start
}

func (e *Error) Error() string {
	return fmt.Sprintf("replication slot %q is %s: %s", e.Slot, e.Reason, e.Detail)
}

// Hint tells the operator what to do.
func (e *Error) Hint() string {
	switch e.Reason {
	case Missing:
		return "gap: changes made while there was no slot are not kept anywhere; copy again with a new slot"
	case Lost:
		return "gap: the source has removed WAL that was still needed; copy again with a new slot, and raise max_slot_wal_keep_size (-1: no limit) before"
	case Ahead:
		return "gap: the slot has moved past what the target has; copy again"
	case Active:
		return "only one consumer may read a slot: stop the other one, or wait until the source notices that it is gone (wal_sender_timeout)"
	case Pending:
		return "a slot is created once all older writing transactions of the server have ended; end them, or drop the slot"
	default:
		return "the slot belongs to something else; choose another name, or drop it if nobody needs it: select pg_drop_replication_slot(" + catalog.Literal(e.Slot) + ")"
	}
}

// PublicationError says that a publication does not exist, or is not what it was. Changes made
// since then may be missing in the stream for ever.
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

// BlockedError means that no slot could be created in the time given, because transactions that had
// written before did not end. No slot is left.
type BlockedError struct {
	Slot     string
	Waited   time.Duration
	Blockers []Blocker // those that held up the last attempt, the oldest first; none if they ended meanwhile
}

func (e *BlockedError) Error() string {
	var names []string
	for _, b := range e.Blockers {
		names = append(names, b.String())
	}
	return fmt.Sprintf("create slot %s: after %s still waiting for transactions to end: %s",
		e.Slot, e.Waited.Round(time.Second), strings.Join(names, "; "))
}

// Hint returns the SQL that ends the blockers.
func (e *BlockedError) Hint() string {
	var sql []string
	for _, b := range e.Blockers {
		sql = append(sql, b.End())
	}
	return "let them end or end them, then try again: " + strings.Join(sql, " ")
}

// ExistsError means that there is a slot of that name already. It was left alone.
type ExistsError struct{ Slot string }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("create slot %s: a slot of this name exists already", e.Slot)
}

// Hint returns how to get rid of the slot.
func (e *ExistsError) Hint() string {
	return fmt.Sprintf("choose another name, or if nothing uses the slot: select pg_drop_replication_slot('%s');", e.Slot)
}
