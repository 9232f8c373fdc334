package decoder

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// The bodies of pgoutput's messages, protocol 1:
// https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html

// reader splits a message into fields. The first field that is missing or invalid sets err;
// everything read after that is zero.
type reader struct {
	msg []byte // including the kind
	at  int
	err *ProtocolError
}

func (r *reader) fail(reason string, args ...any) {
	if r.err != nil {
		return
	}
	r.err = &ProtocolError{Offset: r.at, Length: len(r.msg), Reason: fmt.Sprintf(reason, args...)}
	if len(r.msg) > 0 {
		r.err.Kind = r.msg[0]
	}
}

// bytes returns the next n bytes, or fails and returns nil.
func (r *reader) bytes(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.msg)-r.at {
		r.fail("ends in the middle of a field of %d bytes", n)
		return nil
	}
	field := r.msg[r.at : r.at+n : r.at+n]
	r.at += n
	return field
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) lsn() LSN { return LSN(r.uint64()) }

// epoch is 2000-01-01 UTC in microseconds of Unix time; the server counts from it.
const epoch = 946684800000000

func (r *reader) time() time.Time { return time.UnixMicro(int64(r.uint64()) + epoch).UTC() }

// string returns a zero-terminated text, without the zero byte.
func (r *reader) string() []byte {
	if r.err != nil {
		return nil
	}
	for i := r.at; i < len(r.msg); i++ {
		if r.msg[i] == 0 {
			text := r.msg[r.at:i:i]
			r.at = i + 1
			return text
		}
	}
	r.fail("ends in the middle of a text")
	return nil
}

// end fails when something is left over.
func (r *reader) end() {
	if r.err == nil && r.at < len(r.msg) {
		r.fail("has %d more bytes than it should", len(r.msg)-r.at)
	}
}

// done returns err as an error that is nil if there is none.
func (r *reader) done() error {
	if r.err != nil {
		return r.err
	}
	return nil
}

type beginMessage struct {
	commit LSN
	time   time.Time
	xid    uint32
}

func (r *reader) begin() (m beginMessage) {
	m.commit, m.time, m.xid = r.lsn(), r.time(), r.uint32()
	if m.commit == 0 {
		r.fail("commit position is zero")
	}
	if m.xid == 0 {
		r.fail("transaction id is zero")
	}
	r.end()
	return m
}

type commitMessage struct {
	commit, end LSN
	time        time.Time
}

func (r *reader) commit() (m commitMessage) {
	if flags := r.byte(); flags != 0 {
		r.fail("unknown flags %#x", flags)
	}
	m.commit, m.end, m.time = r.lsn(), r.lsn(), r.time()
	if m.end <= m.commit {
		r.fail("commit record starts at %s and ends at %s", m.commit, m.end)
	}
	r.end()
	return m
}

// origin returns the name; the position on the origin is not used.
func (r *reader) origin() []byte {
	r.lsn()
	name := r.string()
	r.end()
	return name
}

func (r *reader) relation() *Relation {
	rel := &Relation{OID: r.uint32(), Namespace: string(r.string()), Name: string(r.string()), ReplicaIdentity: r.byte()}
	if rel.Namespace == "" {
		rel.Namespace = "pg_catalog"
	}
	if r.err == nil && strings.IndexByte("dnfi", rel.ReplicaIdentity) < 0 {
		r.fail("unknown replica identity %q", rel.ReplicaIdentity)
	}
	n := int(r.uint16())
	const least = 1 + 1 + 4 + 4 // flags, empty name, type, modifier
	if r.err == nil && n > (len(r.msg)-r.at)/least {
		r.fail("is too short for %d columns", n)
	}
	if r.err != nil {
		return nil
	}
	rel.Columns = make([]Column, n)
	for i := range rel.Columns {
		flags := r.byte()
		if flags > 1 {
			r.fail("unknown flags %#x of column %d", flags, i+1)
		}
		rel.Columns[i] = Column{Key: flags == 1, Name: string(r.string()), TypeOID: r.uint32(), TypeMod: int32(r.uint32())}
	}
	r.end()
	return rel
}

// userType only validates: a domain is sent with the name of its base type, so columns are better
// looked up in the target's own catalogue.
func (r *reader) userType() {
	r.uint32()
	r.string()
	r.string()
	r.end()
}

// tuple reads a row with as many columns as the relation has. The bytes of its values are not
// copied.
func (r *reader) tuple(rel *Relation, s *slab, unchanged bool) []Value {
	n := int(r.uint16())
	if r.err == nil && n != len(rel.Columns) {
		r.fail("row of %d columns, %s.%s has %d", n, rel.Namespace, rel.Name, len(rel.Columns))
	}
	if r.err == nil && n > len(r.msg)-r.at {
		r.fail("is too short for %d columns", n)
	}
	if r.err != nil {
		return nil
	}
	values := s.values(n)
	for i := range values {
		switch kind := ValueKind(r.byte()); {
		case kind == Null, kind == Unchanged && unchanged:
			values[i] = Value{Kind: kind}
		case kind == Unchanged:
			r.fail("value of column %d was not sent", i+1)
		case kind == Text:
			values[i] = Value{Kind: Text, Data: r.bytes(int(r.uint32()))}
		default:
			r.fail("unknown kind %q of column %d", byte(kind), i+1)
		}
		if r.err != nil {
			return nil
		}
	}
	return values
}

// row reads the marker 'N' and the new row after it.
func (r *reader) row(rel *Relation, s *slab, unchanged bool) []Value {
	if marker := r.byte(); marker != 'N' {
		r.fail("expected the new row, found %q", marker)
	}
	values := r.tuple(rel, s, unchanged)
	r.end()
	return values
}

func (r *reader) insert(rel *Relation, s *slab) Change {
	return Change{Op: Insert, Relation: rel, New: r.row(rel, s, false)}
}

func (r *reader) update(rel *Relation, s *slab) Change {
	c := Change{Op: Update, Relation: rel}
	if r.at < len(r.msg) && r.msg[r.at] != 'N' {
		c.Old, c.OldFull = r.old(rel, s)
	}
	c.New = r.row(rel, s, true)
	return c
}

func (r *reader) delete(rel *Relation, s *slab) Change {
	c := Change{Op: Delete, Relation: rel}
	c.Old, c.OldFull = r.old(rel, s)
	r.end()
	return c
}

func (r *reader) old(rel *Relation, s *slab) ([]Value, bool) {
	marker := r.byte()
	if marker != 'K' && marker != 'O' {
		r.fail("expected the old row or key, found %q", marker)
	}
	return r.tuple(rel, s, false), marker == 'O'
}

type logicalMessage struct {
	transactional   bool
	lsn             LSN
	prefix, content []byte
}

func (r *reader) message() (m logicalMessage) {
	flags := r.byte()
	if flags > 1 {
		r.fail("unknown flags %#x", flags)
	}
	m.transactional = flags == 1
	m.lsn, m.prefix = r.lsn(), r.string()
	m.content = r.bytes(int(r.uint32()))
	r.end()
	return m
}

type truncateMessage struct {
	cascade, restart bool
	oids             []byte // four bytes each
}

func (r *reader) truncate() (m truncateMessage) {
	n := int(r.uint32())
	flags := r.byte()
	if flags > 3 {
		r.fail("unknown flags %#x", flags)
	}
	m.cascade, m.restart = flags&1 != 0, flags&2 != 0
	if r.err == nil && (n < 0 || n > (len(r.msg)-r.at)/4) { // negative if int has 32 bits
		r.fail("is too short for %d relations", n)
	}
	m.oids = r.bytes(4 * n)
	r.end()
	return m
}
