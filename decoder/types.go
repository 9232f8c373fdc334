package decoder

import (
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/walferry/walferry/internal/catalog"
)

// LSN is a position in the source's WAL. Its zero value is before everything.
type LSN = pglogrepl.LSN

// Name is the schema and name of a table, unquoted; its String method quotes it for SQL. It is a
// comparable struct with the fields Schema and Name, so that callers can key maps by it. Lists of
// tables are pgx.Identifier.
type Name = catalog.Name

// Op is the kind of a change.
type Op byte

// The operations, by the letter of their pgoutput message.
const (
	Insert   Op = 'I'
	Update   Op = 'U'
	Delete   Op = 'D'
	Truncate Op = 'T'
)

// Replica identities, as in pg_class.relreplident.
const (
	IdentityDefault = 'd'
	IdentityNothing = 'n'
	IdentityFull    = 'f'
	IdentityIndex   = 'i'
)

// Relation is a table of the source as the transaction saw it. It is immutable: when the table
// changes, the changes after it point to another Relation.
type Relation struct {
	OID             uint32
	Namespace, Name string // "pg_catalog" where the protocol has an empty namespace
	ReplicaIdentity byte   // d, n, f or i
	Columns         []Column
}

// Table returns the relation's name as one value.
func (r *Relation) Table() Name { return Name{Schema: r.Namespace, Name: r.Name} }

// Column is a column of a Relation, in the source's order without dropped and generated ones.
type Column struct {
	Name    string
	Key     bool // part of the replica identity; with FULL every column is
	TypeOID uint32
	TypeMod int32
}

// ValueKind is the kind of a Value.
type ValueKind byte

// The kinds of a value, by their letter in pgoutput's TupleData.
const (
	Null      ValueKind = 'n'
	Unchanged ValueKind = 'u' // an out-of-line value that the UPDATE did not touch; it was not sent
	Text      ValueKind = 't'
)

// Value is one column of a row, as the source's output function wrote it under the pinned settings.
// Data is empty unless Kind is Text, never parsed, and shares memory with its neighbours: do not
// write to it.
type Value struct {
	Kind ValueKind
	Data []byte
}

// Change is one row, or one TRUNCATE.
type Change struct {
	Op       Op
	Relation *Relation // nil for Truncate

	// Old is the old row (OldFull) or, in the columns of the key only, the old key; the other
	// columns of a key tuple are meaningless. It is nil for INSERT, and for an UPDATE that left the
	// key unchanged.
	Old     []Value
	OldFull bool
	// New is the new row of INSERT and UPDATE.
	New []Value

	Truncated []*Relation // for Truncate: all tables of the one statement
	Cascade   bool        // for Truncate: with CASCADE
	Restart   bool        // for Truncate: with RESTART IDENTITY
}

// Message is a logical message, written into the WAL with pg_logical_emit_message. Servers before
// 14 do not send any.
type Message struct {
	Prefix  string
	Content []byte
	LSN     LSN // end of its record: what pg_logical_emit_message returned

	// Transactional messages are part of their transaction and are delivered with it. Others are
	// delivered in a Tx of their own, which is a position, whether their transaction commits or
	// not.
	Transactional bool

	// Before is the index in Changes of the change that follows the message; len(Changes) if none
	// does.
	Before int
}

// Tx is a committed transaction of the source or, when it is larger than Config.PieceBytes, the
// next piece of one.
//
// A transaction in one piece has First and Last. The pieces of a larger one follow each other with
// nothing in between; CommitLSN and XID are set from the first on, EndLSN only in the last (it is 0
// before). If the connection is lost half-way the transaction starts over: a Tx with First after
// one without Last means that the earlier pieces of the unfinished transaction are void.
//
// A Tx with XID 0 and no changes is not a transaction but a position: every transaction that
// committed before EndLSN (= CommitLSN) has been delivered. The consumer stores it like a
// transaction's end and acknowledges it, so that a slot advances while only other databases, or
// unpublished tables, are written. A logical message outside of transactions comes with such a
// position.
//
// Changes is also empty if a transaction has nothing but Messages, or was requested by
// Config.Empty.
type Tx struct {
	XID        uint32
	CommitLSN  LSN       // start of the commit record: decides what comes before what
	EndLSN     LSN       // end of the commit record: what to store and to acknowledge
	CommitTime time.Time // of the source's clock, or of the origin's
	Origin     string    // replication origin of the commit; empty when it has none
	First      bool
	Last       bool
	Changes    []Change
	Messages   []Message // those that were requested

	// Awaited marks a position that the source waits for, as it does before it shuts down: it is
	// to be stored and acknowledged without delay. It may be that of the position before.
	Awaited bool

	size int // approximate memory in bytes
}
