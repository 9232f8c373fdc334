package applier

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/decoder"
)

// What is sent before results are looked at. Two such parts are on their way at
// most, so that a slow answer does not stop the sending, and neither side has to
// keep much: a result takes some 30 bytes.
const (
	flushStatements = 256
	flushBytes      = 128 << 10
)

// pipe sends statements to the target without waiting for their results, reads
// these in order as it goes, and checks them.
type pipe struct {
	session  *session
	pipeline *pgconn.Pipeline
	awaited  []awaited // what the results to come are of, oldest first
	flushed  int       // of them, those that had been sent by the flush before
	bytes    int       // not flushed
	count    int       // statements not flushed
	shape    shape     // buffers for one change
	values   [][]byte
}

// awaited is a result that has not been read.
type awaited struct {
	what    string // of a statement of our own, for errors
	rows    int64  // that it must have touched; -1: any number
	tx      *decoder.Tx
	change  *decoder.Change // nil: not a change
	table   *table          // nil for TRUNCATE
	many    *table          // of changes that were made up: their error is only that they failed
	fence   bool            // it is the progress row
	prepare bool            // not a statement: the answer to Parse or Close
}

// fenced means that the progress row has moved.
var errFenced = errors.New("the progress row has moved")

func (s *session) pipe(ctx context.Context) *pipe {
	return &pipe{session: s, pipeline: s.conn.PgConn().StartPipeline(ctx)}
}

// exec sends a statement of our own.
func (p *pipe) exec(what, sql string, values ...[]byte) error {
	p.pipeline.SendQueryParams(sql, values, nil, nil, nil)
	return p.sent(awaited{what: what, rows: -1}, len(sql))
}

// fence sends one of the statements that move or hold the progress row.
func (p *pipe) fence(sql string, values ...[]byte) error {
	p.pipeline.SendQueryParams(sql, values, nil, nil, nil)
	return p.sent(awaited{what: "move progress", rows: 1, fence: true}, len(sql))
}

// change sends what applies one change of the source.
func (p *pipe) change(tx *decoder.Tx, c *decoder.Change) error {
	if c.Op == decoder.Truncate {
		return p.truncate(tx, c)
	}
	t := p.session.of(c.Relation)
	if t == nil {
		return &inputError{fmt.Sprintf("apply transaction %d: a change of no known relation", tx.XID)}
	}
	if t.left {
		return nil
	}
	s, err := t.statement(c, &p.shape)
	if err != nil {
		return located(err, tx, c, t)
	}
	return p.row(s, c, awaited{tx: tx, change: c, table: t, rows: 1})
}

// row sends the statement of one change.
func (p *pipe) row(s *statement, c *decoder.Change, a awaited) error {
	if err := p.prepared(s, a); err != nil {
		return err
	}
	p.values = s.parameters(c, p.values[:0])
	p.pipeline.SendQueryPrepared(s.name, p.values, nil, nil)
	size := 0
	for _, value := range p.values {
		size += len(value)
	}
	return p.sent(a, size)
}

func (p *pipe) truncate(tx *decoder.Tx, c *decoder.Change) error {
	var tables []*table
	for _, r := range c.Truncated {
		if t := p.session.of(r); t != nil && !t.left {
			tables = append(tables, t)
		}
	}
	if len(tables) == 0 {
		return nil
	}
	sql := truncate(tables, c.Restart)
	p.pipeline.SendQueryParams(sql, nil, nil, nil, nil)
	return p.sent(awaited{tx: tx, change: c, rows: -1}, len(sql))
}

// prepared makes sure that the server has the statement of a change, and gives up
// those that have not been used for longest.
func (p *pipe) prepared(s *statement, a awaited) error {
	cache := p.session
	if element := cache.prepared[s]; element != nil {
		cache.used.MoveToFront(element)
		return nil
	}
	for cache.used.Len() >= preparedMax {
		last := cache.used.Remove(cache.used.Back()).(*statement)
		delete(cache.prepared, last)
		p.pipeline.SendDeallocate(last.name)
		if err := p.sent(awaited{what: "deallocate a statement", prepare: true}, 0); err != nil {
			return err
		}
	}
	cache.names++
	s.name = fmt.Sprintf("walferry_%d", cache.names)
	p.pipeline.SendPrepare(s.name, s.sql, nil)
	cache.prepared[s] = cache.used.PushFront(s)
	a.prepare = true
	return p.sent(a, len(s.sql))
}

// sent notes that something was queued and, when it is enough, sends it on its
// way and reads the results of what went before.
func (p *pipe) sent(a awaited, size int) error {
	p.awaited = append(p.awaited, a)
	p.bytes += size
	p.count++
	if p.count < flushStatements && p.bytes < flushBytes {
		return nil
	}
	// A flush, not a sync: after an error the server must skip what follows.
	p.pipeline.SendFlushRequest()
	if err := p.pipeline.Flush(); err != nil {
		return fmt.Errorf("send to target: %w", err)
	}
	p.count, p.bytes = 0, 0
	for range p.flushed {
		if err := p.read(); err != nil {
			return err
		}
	}
	p.flushed = len(p.awaited)
	return nil
}

// finish sends what is left, reads all results and gives the connection back.
func (p *pipe) finish() error {
	if err := p.pipeline.Sync(); err != nil {
		return fmt.Errorf("send to target: %w", err)
	}
	for len(p.awaited) > 0 {
		if err := p.read(); err != nil {
			p.drain()
			return err
		}
	}
	if err := p.pipeline.Close(); err != nil {
		return fmt.Errorf("read results from target: %w", err)
	}
	return nil
}

// abandon gives the connection back after an error of one of the others.
func (p *pipe) abandon() {
	if p.pipeline.Sync() == nil {
		p.drain()
	}
}

// drain reads what is left. What it meets follows from the error that is known.
func (p *pipe) drain() { p.pipeline.Close() } //nolint:errcheck // see above

// read reads the oldest result and checks it.
func (p *pipe) read() error {
	a := p.awaited[0]
	p.awaited = p.awaited[1:]
	results, err := p.pipeline.GetResults()
	if err != nil {
		return a.failed(err)
	}
	reader, ok := results.(*pgconn.ResultReader)
	if !ok {
		if a.prepare {
			return nil
		}
		return fmt.Errorf("read results from target: got %T for %s", results, a.what)
	}
	tag, err := reader.Close()
	if err != nil {
		return a.failed(err)
	}
	rows := tag.RowsAffected()
	switch {
	case a.rows < 0 || rows == a.rows:
		return nil
	case a.fence:
		return errFenced
	case a.many != nil:
		return &foldError{fmt.Errorf("%d of %d rows of %s", rows, a.rows, a.many.label())}
	case a.change.Op == decoder.Insert:
		return located(&ConflictError{Kind: NotInserted}, a.tx, a.change, a.table)
	case rows == 0:
		return located(&ConflictError{Kind: MissingRow}, a.tx, a.change, a.table)
	}
	return located(&ConflictError{Kind: SeveralRows}, a.tx, a.change, a.table)
}

// failed turns a server's error about a change into ours.
func (a *awaited) failed(err error) error {
	var server *pgconn.PgError
	switch {
	case !errors.As(err, &server) || fatal(server):
		return fmt.Errorf("read results from target: %w", err)
	case a.many != nil && transientState(server):
		return fmt.Errorf("apply changes of %s: %w", a.many.label(), err)
	case a.many != nil:
		return &foldError{err}
	case a.change == nil:
		return fmt.Errorf("%s on target: %w", a.what, err)
	case transientState(server):
		return fmt.Errorf("%s: %w", placeOf(a.tx, a.change, a.table), err)
	}
	return located(refused(server), a.tx, a.change, a.table)
}

// refused is the error of a change that the server did not take.
func refused(err *pgconn.PgError) error {
	if strings.HasPrefix(err.Code, "42") && err.Code != "42501" {
		return &SchemaError{SQLState: err.Code, err: err}
	}
	return &ConflictError{Kind: Refused, SQLState: err.Code, Constraint: err.ConstraintName, Column: err.ColumnName, err: err}
}

// located adds to an error which change it is about.
func located(err error, tx *decoder.Tx, c *decoder.Change, t *table) error {
	var conflict *ConflictError
	var schema *SchemaError
	switch {
	case errors.As(err, &conflict):
		conflict.Place = placeOf(tx, c, t)
		if t != nil && c.Op != decoder.Insert {
			conflict.Key = t.keyNames()
		}
	case errors.As(err, &schema):
		schema.Place = placeOf(tx, c, t)
	}
	return err
}

func placeOf(tx *decoder.Tx, c *decoder.Change, t *table) Place {
	p := Place{Op: c.Op, XID: tx.XID, LSN: tx.CommitLSN}
	switch {
	case t != nil:
		p.Table = t.label()
	case len(c.Truncated) > 0:
		names := make([]string, len(c.Truncated))
		for i, r := range c.Truncated {
			names[i] = r.Namespace + "." + r.Name
		}
		p.Table = strings.Join(names, ", ")
	}
	return p
}
