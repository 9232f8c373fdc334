package decoder

import (
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/walferry/walferry/internal/catalog"
)

// LSN is a position in the source's WAL. Its zero value is before everything.
type LSN = pglogrepl.LSN

// Name is the schema and name of a table, unquoted; its String is SQL. It is a comparable
// struct of two texts, Schema and Name: what maps are keyed by where a caller says something
// of tables. Lists of tables are pgx.Identifier.
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

// Relation is a table of the source as the transaction saw it. It is immutable:
// when the table changes, the changes after it point to another Relation.
type Relation struct {
	OID             uint32
	Namespace, Name string // "pg_catalog" where the wire has an empty namespace
	ReplicaIdentity byte   // d, n, f or i
	Columns         []Column
}

// Table is the relation's name, as one value.
func (r *Relation) Table() Name { return Name{Schema: r.Namespace, Name: r.Name} }

// Column is a column of a Relation, in the source's order without dropped and
// generated ones.
type Column struct {
	Name    string
	Key     bool // part of the replica identity; with FULL every column is
	TypeOID uint32
	TypeMod int32
}

// ValueKind says what a Value is.
type ValueKind byte

// The kinds of a value, by their letter in pgoutput's TupleData.
const (
	Null      ValueKind = 'n'
	Unchanged ValueKind = 'u' // an out-of-line value that the UPDATE did not touch; it was not sent
	Text      ValueKind = 't'
)

// Value is one column of a row, as the source's output function wrote it under
// the pinned settings. Data is empty unless Kind is Text, never parsed, and
// shares memory with its neighbours: do not write to it.
type Value struct {
	Kind ValueKind
	Data []byte
}

// Change is one row, or one TRUNCATE.
type Change struct {
	Op       Op
	Relation *Relation // nil for Truncate

	// Old holds the old row (OldFull) or, in the columns of the key only, the old
	// key; the other columns of a key tuple say nothing. It is nil for INSERT, and
	// for an UPDATE that left the key as it was.
	Old     []Value
	OldFull bool
	// New is the new row of INSERT and UPDATE.
	New []Value

	Truncated []*Relation // for Truncate: all tables of the one statement
	Cascade   bool        // for Truncate: CASCADE was said
	Restart   bool        // for Truncate: RESTART IDENTITY was said
}

// Message is a logical message: what somebody wrote into the WAL with
// pg_logical_emit_message. Servers before 14 do not send any.
type Message struct {
	Prefix  string
	Content []byte
	LSN     LSN // end of its record: what pg_logical_emit_message returned

	// Transactional: it is part of its transaction and came with the commit. Others come
	// in a Tx of their own, which is a position, whatever becomes of the transaction.
	Transactional bool

	// Before is the index, in Changes, of the change that it comes before; their number
	// where it comes after all of them.
	Before int
}

// Tx is a committed transaction of the source or, when it is larger than
// Config.PieceBytes, the next piece of one.
//
// A transaction in one piece has First and Last. The pieces of a larger one come
// one after the other, nothing between them; CommitLSN and XID are known from the
// first, EndLSN only from the last (it is 0 before). When the connection was lost
// half-way the transaction begins again: a Tx with First after one without Last
// means that what came of the unfinished one is void.
//
// A Tx with XID 0 and no changes is not a transaction but a position: every
// transaction that committed before EndLSN (= CommitLSN) has been delivered. The
// consumer stores it like a transaction's end and acknowledges it, so that a slot
// advances while only other databases, or unpublished tables, are written. A logical
// message of no transaction comes with such a position.
//
// Changes is empty also where a transaction has nothing but Messages, or is one that
// Config.Empty has asked for.
type Tx struct {
	XID        uint32
	CommitLSN  LSN       // start of the commit record: decides what comes before what
	EndLSN     LSN       // end of the commit record: what to store and to acknowledge
	CommitTime time.Time // of the source's clock, or of the origin's
	Origin     string    // replication origin of the commit; empty when it has none
	First      bool
	Last       bool
	Changes    []Change
	Messages   []Message // those that were asked for

	size int // bytes of memory that it holds, about
}
