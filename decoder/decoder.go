package decoder

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
	"unsafe"
)

// Decoder turns the messages of one slot into transactions. It does no I/O: Stream feeds it from a
// connection, and it can be fed with the rows of pg_logical_slot_get_binary_changes as well. The
// zero value is ready to use.
type Decoder struct {
	// PieceBytes is approximately how much memory one Tx may take before a transaction is cut into
	// pieces. Zero: 1 MiB.
	PieceBytes int

	// Truncations names the table, as schema.table, whose inserted rows stand for TRUNCATE, which
	// version 10 does not decode; see CreateTruncationTriggers. Other changes of that table are
	// left out. Empty: there is none.
	Truncations string

	// Messages and Empty are as in Config.
	Messages func(prefix string) bool
	Empty    func(xid uint32) bool

	relations map[uint32]relation
	session   int // the current one; only its relations may be used

	end    LSN // of the last complete transaction
	inTx   bool
	tx     Tx // what is known of the transaction in progress
	size   int
	origin string // of the last transaction that had one: most transactions of a stream have the same

	slab     slab
	messages []Message // of the piece in progress
	changes  []Change  // chunk; from index from on they are those of the piece in progress
	from     int
	turn     int // of the slab, when the chunk was begun

	err error
}

// relation is a Relation as announced in a session: after START_REPLICATION the server announces
// all of them again, most of them unchanged.
type relation struct {
	*Relation
	session int
}

const (
	defaultPieceBytes = 1 << 20
	changesChunk      = 256
	changeSize        = int(unsafe.Sizeof(Change{}))
	valueSize         = int(unsafe.Sizeof(Value{}))
	messageSize       = int(unsafe.Sizeof(Message{}))
)

// Decode decodes the next message. It returns a Tx if the message ends one or starts its next
// piece; a message never yields more than one. msg is not retained. After an error, which is always
// a *ProtocolError, every call returns that error until Reset.
func (d *Decoder) Decode(msg []byte) (*Tx, error) {
	if d.err != nil {
		return nil, d.err
	}
	tx, err := d.decode(msg)
	d.err = err
	return tx, err
}

// End returns the end of the last complete transaction, including those without a Tx because they
// have no changes. Zero: none yet.
func (d *Decoder) End() LSN { return d.end }

// InTransaction reports whether a transaction has begun and not ended.
func (d *Decoder) InTransaction() bool { return d.inTx }

// Reset discards an unfinished transaction and clears an error. It is for a new connection, whose
// messages start with the first transaction that commits at or after end.
func (d *Decoder) Reset(end LSN) {
	d.end, d.err, d.inTx = end, nil, false
	d.session++
	d.discard()
}

func (d *Decoder) discard() {
	clear(d.changes[d.from:])
	d.changes = d.changes[:d.from]
	d.messages = nil
	d.size = 0
}

func (d *Decoder) decode(msg []byte) (*Tx, error) {
	r := reader{msg: msg}
	switch kind := r.byte(); {
	case r.err != nil:
	case kind == 'B':
		d.begin(&r)
	case kind == 'C':
		return d.commit(&r)
	case kind == 'O':
		d.setOrigin(&r)
	case kind == 'R':
		d.announce(&r)
	case kind == 'Y':
		r.userType()
	case kind == 'M':
		return d.message(&r)
	case kind == 'I', kind == 'U', kind == 'D':
		return d.row(&r)
	case kind == 'T':
		return d.truncate(&r)
	default:
		r.at = 0
		r.fail("unknown kind")
	}
	return nil, r.done()
}

func (d *Decoder) begin(r *reader) {
	m := r.begin()
	if d.inTx {
		r.fail("transaction %d begins inside of transaction %d", m.xid, d.tx.XID)
	}
	// Transactions come in the order of their commit records, starting at the requested position.
	if m.commit < d.end {
		r.fail("transaction %d commits at %s, before %s", m.xid, m.commit, d.end)
	}
	if r.err == nil {
		d.inTx = true
		d.tx = Tx{XID: m.xid, CommitLSN: m.commit, CommitTime: m.time, First: true}
	}
}

func (d *Decoder) commit(r *reader) (*Tx, error) {
	m := r.commit()
	if !d.inTx {
		r.fail("commit without a transaction")
	} else if m.commit != d.tx.CommitLSN {
		r.fail("commit at %s of a transaction that commits at %s", m.commit, d.tx.CommitLSN)
	}
	if r.err != nil {
		return nil, r.err
	}
	d.inTx = false
	d.end = m.end
	if d.from == len(d.changes) && len(d.messages) == 0 && (d.Empty == nil || !d.Empty(d.tx.XID)) {
		return nil, nil
	}
	d.tx.EndLSN, d.tx.Last = m.end, true
	return d.cut(), nil
}

func (d *Decoder) setOrigin(r *reader) {
	name := r.origin()
	if !d.inTx || d.tx.Origin != "" || !d.tx.First || d.from < len(d.changes) || len(d.messages) > 0 {
		r.fail("origin at another place than after begin")
	}
	if r.err != nil {
		return
	}
	if d.origin != string(name) {
		d.origin = string(name)
	}
	d.tx.Origin = d.origin
}

func (d *Decoder) announce(r *reader) {
	rel := r.relation()
	if r.err != nil {
		return
	}
	if old, ok := d.relations[rel.OID]; ok && old.equal(rel) {
		rel = old.Relation // so that what a consumer keeps by pointer stays valid
	}
	if d.relations == nil {
		d.relations = map[uint32]relation{}
	}
	d.relations[rel.OID] = relation{rel, d.session}
}

func (rel *Relation) equal(other *Relation) bool {
	return rel.OID == other.OID && rel.Namespace == other.Namespace && rel.Name == other.Name &&
		rel.ReplicaIdentity == other.ReplicaIdentity && slices.Equal(rel.Columns, other.Columns)
}

func (d *Decoder) lookup(r *reader, oid uint32) *Relation {
	rel, ok := d.relations[oid]
	if !ok || rel.session != d.session {
		r.fail("unknown relation %d", oid)
		return nil
	}
	return rel.Relation
}

func (d *Decoder) row(r *reader) (*Tx, error) {
	if !d.inTx {
		r.fail("change outside of a transaction")
		return nil, r.err
	}
	rel := d.lookup(r, r.uint32())
	if r.err != nil {
		return nil, r.err
	}
	r.msg = d.slab.copy(r.msg)
	var c Change
	switch r.msg[0] {
	case 'I':
		c = r.insert(rel, &d.slab)
	case 'U':
		c = r.update(rel, &d.slab)
	case 'D':
		c = r.delete(rel, &d.slab)
	}
	if r.err != nil {
		return nil, r.err
	}
	if d.marks(rel) {
		return d.marker(r, c)
	}
	return d.add(c, len(r.msg)), nil
}

func (d *Decoder) truncate(r *reader) (*Tx, error) {
	if !d.inTx {
		r.fail("change outside of a transaction")
	}
	m := r.truncate()
	if r.err != nil {
		return nil, r.err
	}
	c := Change{Op: Truncate, Cascade: m.cascade, Restart: m.restart}
	for oids := m.oids; len(oids) > 0; oids = oids[4:] {
		rel := d.lookup(r, binary.BigEndian.Uint32(oids))
		if r.err != nil {
			return nil, r.err
		}
		if !d.marks(rel) {
			c.Truncated = append(c.Truncated, rel)
		}
	}
	if len(c.Truncated) == 0 {
		return nil, nil
	}
	return d.add(c, len(r.msg)), nil
}

// marks reports whether rel is the table of Truncations.
func (d *Decoder) marks(rel *Relation) bool {
	n := len(rel.Namespace)
	return len(d.Truncations) == n+1+len(rel.Name) &&
		d.Truncations[:n] == rel.Namespace && d.Truncations[n] == '.' && d.Truncations[n+1:] == rel.Name
}

// marker turns a row that a trigger has inserted into a TRUNCATE. One statement that names several
// tables fires several triggers, one after the other; their rows become one change again, because
// tables with foreign keys between them can only be truncated together.
func (d *Decoder) marker(r *reader, c Change) (*Tx, error) {
	if c.Op != Insert {
		return nil, nil
	}
	rel, ok := d.truncated(c)
	if !ok {
		r.fail("row of %s without schema_name and table_name", d.Truncations)
		return nil, r.err
	}
	if n := len(d.changes); n > d.from && d.changes[n-1].Op == Truncate {
		last := &d.changes[n-1]
		same := func(t *Relation) bool { return t.Namespace == rel.Namespace && t.Name == rel.Name }
		if !slices.ContainsFunc(last.Truncated, same) {
			last.Truncated = append(last.Truncated, rel)
		}
		return nil, nil
	}
	return d.add(Change{Op: Truncate, Truncated: []*Relation{rel}}, len(r.msg)), nil
}

// truncated returns the table that a marker row names: as announced in this session, otherwise with
// only its oid and name. Rows of an older version have no oid.
func (d *Decoder) truncated(marker Change) (*Relation, bool) {
	var namespace, name string
	var oid uint64
	for i, column := range marker.Relation.Columns {
		value := string(marker.New[i].Data)
		switch column.Name {
		case "schema_name":
			namespace = value
		case "table_name":
			name = value
		case "relid":
			oid, _ = strconv.ParseUint(value, 10, 32) //nolint:errcheck // null
		}
	}
	if namespace == "" || name == "" {
		return nil, false
	}
	for _, rel := range d.relations {
		// The one that was announced with this name may have another one by now.
		if rel.session == d.session && rel.Namespace == namespace && rel.Name == name && (oid == 0 || rel.OID == uint32(oid)) {
			return rel.Relation, true
		}
	}
	return &Relation{OID: uint32(oid), Namespace: namespace, Name: name}, true
}

// message handles a logical message. One outside of transactions means, like a keepalive, that
// everything that committed before it has been sent.
func (d *Decoder) message(r *reader) (*Tx, error) {
	m := r.message()
	if m.transactional && !d.inTx {
		r.fail("message of a transaction outside of one")
	}
	if r.err != nil {
		return nil, r.err
	}
	if d.Messages == nil || !d.Messages(string(m.prefix)) {
		return nil, nil
	}
	message := Message{Prefix: string(m.prefix), Content: bytes.Clone(m.content), LSN: m.lsn, Transactional: m.transactional}
	if !d.inTx {
		if m.lsn < d.end {
			r.fail("message at %s, before %s", m.lsn, d.end)
			return nil, r.err
		}
		tx := position(m.lsn)
		tx.Messages = []Message{message}
		tx.size += len(r.msg)
		return tx, nil
	}
	piece := d.full()
	message.Before = len(d.changes) - d.from
	d.messages = append(d.messages, message)
	d.size += len(r.msg) + messageSize
	return piece, nil
}

// full returns the piece in progress if it has reached its size. It is cut before more is added, so
// that the last piece is never empty.
func (d *Decoder) full() *Tx {
	limit := d.PieceBytes
	if limit == 0 {
		limit = defaultPieceBytes
	}
	if d.size >= limit {
		return d.cut()
	}
	return nil
}

// add appends a change.
func (d *Decoder) add(c Change, bytes int) *Tx {
	piece := d.full()
	d.size += bytes + changeSize + valueSize*(len(c.Old)+len(c.New))
	if len(d.changes) == cap(d.changes) {
		// The changes of a Tx are contiguous: the current ones move to the new chunk.
		held := d.changes[d.from:]
		d.changes = append(make([]Change, 0, max(changesChunk, 2*len(held))), held...)
		d.from, d.turn = 0, d.slab.turn
	}
	d.changes = append(d.changes, c)
	return piece
}

// cut ends the piece in progress.
func (d *Decoder) cut() *Tx {
	tx := d.tx
	n := len(d.changes)
	tx.Changes = d.changes[d.from:n:n]
	tx.Messages = d.messages
	tx.size = d.size + int(unsafe.Sizeof(tx))
	d.tx.First, d.messages = false, nil
	d.from, d.size = n, 0
	if d.turn != d.slab.turn {
		// As in slab: the chunk must not keep alive what others have released.
		d.changes, d.from, d.turn = nil, 0, d.slab.turn
	}
	return &tx
}

// position returns the Tx that means that everything before lsn has been delivered.
func position(lsn LSN) *Tx {
	return &Tx{CommitLSN: lsn, EndLSN: lsn, First: true, Last: true, size: int(unsafe.Sizeof(Tx{}))}
}
