package applier

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
)

// How much is sent before the server is asked for the results, and how many such bursts may be in
// flight: neither side has to buffer much, as a result takes some 30 bytes.
const (
	burstStatements = 256
	burstBytes      = 128 << 10
	burstsMax       = 8
)

// pipe sends statements to the target without waiting for their results. A goroutine reads and
// checks the results in order. The pipe owns the session's connection until its end.
//
// The protocol is https://www.postgresql.org/docs/current/protocol-flow.html, extended query: after
// an error the server skips everything up to the next Sync.
type pipe struct {
	session *session // without its connection meanwhile
	conn    *pgx.Conn
	wire    net.Conn
	front   *pgproto3.Frontend

	burst []awaited // sent or buffered, and not yet handed to receive
	bytes int       // of burst
	open  bool      // something was sent since the last Sync
	syncs int64     // sent

	bursts chan []awaited
	synced atomic.Int64  // Syncs answered so far, with everything before them successful
	news   chan struct{} // of capacity 1: synced has grown
	failed chan struct{} // closed with the first error
	done   chan struct{} // closed when all is read
	err    error         // of the first result that was not as expected
	lost   bool          // the connection, not a statement, has failed
	absent []awaited     // whose rows are to be read from the source

	unwatch func() // ctx
}

// awaited is a result that has not been read yet.
type awaited struct {
	what    string // of a statement of our own, for errors
	rows    int64  // that the statement must affect; -1: any number
	tx      *decoder.Tx
	change  *decoder.Change // nil: not a change
	table   *table          // nil for TRUNCATE
	many    *table          // of synthetic changes: all that is known is that they failed
	absent  absence         // when a row has to be read from the source
	claim   bool            // it is of the progress row
	commit  bool            // it is COMMIT
	prepare bool            // not a statement: the answer to Parse or Close
	sync    bool            // not a statement: ReadyForQuery
}

// errMoved is the error of a claim: the progress row is not where this Applier left it.
var errMoved = errors.New("the progress row has moved")

// pipe takes the connection away from the session until pipe.end. If ctx ends first the connection
// is lost.
func (s *session) pipe(ctx context.Context) *pipe {
	conn := s.conn
	s.conn = nil
	p := &pipe{
		session: s, conn: conn, wire: conn.PgConn().Conn(), front: conn.PgConn().Frontend(),
		bursts: make(chan []awaited, burstsMax), news: make(chan struct{}, 1),
		failed: make(chan struct{}), done: make(chan struct{}),
	}
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		p.wire.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // it is already lost
		close(expired)
	})
	p.unwatch = func() {
		if !stop() {
			<-expired
			p.wire.SetDeadline(time.Time{}) //nolint:errcheck // as above
		}
	}
	go p.receive()
	return p
}

// send sends batches.
func (p *pipe) send(batches ...*batch) error {
	for _, b := range batches {
		for i := range b.commands {
			if err := p.command(&b.commands[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pipe) command(c *command) error {
	s := c.statement
	if s == nil {
		p.front.SendParse(&pgproto3.Parse{Query: c.sql})
		s = &unnamed
	} else if err := p.prepared(s, c.awaited); err != nil {
		return err
	}
	p.front.SendBind(&pgproto3.Bind{PreparedStatement: s.name, ParameterFormatCodes: s.formats, Parameters: c.values})
	p.front.SendExecute(&pgproto3.Execute{})
	if c.copied != nil { // the server need not ask for the rows; after an error it skips them, too
		p.front.Send(&pgproto3.CopyData{Data: c.copied})
		p.front.Send(&pgproto3.CopyDone{})
	}
	return p.sent(c.awaited, c.size)
}

var unnamed statement

// prepared makes sure that the server has a statement, and deallocates the least recently used ones
// if there are too many.
func (p *pipe) prepared(s *statement, a awaited) error {
	known := &p.session.prepared
	if known.has(s) {
		return nil
	}
	for last := known.surplus(); last != nil; last = known.surplus() {
		p.front.SendClose(&pgproto3.Close{ObjectType: 'S', Name: last.name})
		if err := p.sent(awaited{what: "deallocate a statement", prepare: true}, 0); err != nil {
			return err
		}
	}
	known.add(s)
	p.front.SendParse(&pgproto3.Parse{Name: s.name, Query: s.sql})
	a.prepare = true
	return p.sent(a, len(s.sql))
}

// sent records what was buffered and flushes it once it is enough.
func (p *pipe) sent(a awaited, size int) error {
	p.open = true
	p.burst = append(p.burst, a)
	p.bytes += size
	if len(p.burst) < burstStatements && p.bytes < burstBytes {
		return nil
	}
	return p.push()
}

// push flushes what is buffered with a Flush, not a Sync: after an error the server must skip what
// follows.
func (p *pipe) push() error {
	if len(p.burst) == 0 {
		return p.failure()
	}
	p.front.Send(&pgproto3.Flush{})
	return p.flush()
}

// sync sends a Sync: after an error the server skips no further than that.
func (p *pipe) sync() error {
	p.front.SendSync(&pgproto3.Sync{})
	p.burst = append(p.burst, awaited{sync: true})
	p.open = false
	p.syncs++
	return p.flush()
}

// flush hands the burst to the receiver and sends it. It waits while many bursts are in flight.
func (p *pipe) flush() error {
	p.bursts <- p.burst
	p.burst, p.bytes = nil, 0
	if err := p.front.Flush(); err != nil {
		p.wire.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // the receiver must not wait for what was not sent
		return fmt.Errorf("send to target: %w", err)
	}
	return p.failure()
}

// failure returns the first error so far.
func (p *pipe) failure() error {
	select {
	case <-p.failed:
		return p.err
	default:
		return nil
	}
}

// settle waits until all that was sent has succeeded.
func (p *pipe) settle() error {
	if p.open {
		if err := p.sync(); err != nil {
			return err
		}
	}
	for p.synced.Load() < p.syncs {
		select {
		case <-p.news:
		case <-p.failed:
			return p.err
		}
	}
	return nil
}

// end reads the remaining results and gives the connection back, closed if it was lost. It returns
// the first error.
func (p *pipe) end() error {
	var err error
	if p.open {
		err = p.sync()
	}
	close(p.bursts)
	<-p.done
	p.unwatch()
	if p.err != nil {
		err = p.err
	}
	if p.lost || err != nil && p.err == nil {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		p.conn.PgConn().Close(over) //nolint:errcheck // it is of no use
	}
	p.session.conn = p.conn
	return err
}

// receive reads the results of all bursts. After an error it only looks for the answers to Syncs.
func (p *pipe) receive() {
	defer close(p.done)
	fail := func(err error) {
		if p.err == nil {
			p.err = err
			close(p.failed)
		}
	}
	for burst := range p.bursts {
		for i := range burst {
			a := &burst[i]
			if p.lost || p.err != nil && !a.sync {
				continue
			}
			err := p.result(a)
			if errors.Is(err, errLost) {
				p.lost = true
			}
			switch {
			case err != nil:
				fail(err)
			case a.sync && p.err == nil:
				p.synced.Add(1)
				select {
				case p.news <- struct{}{}:
				default:
				}
			}
		}
	}
}

// errLost marks an error of the connection.
var errLost = errors.New("connection to target lost")

// lostError is an error of the connection; it wraps the cause.
type lostError struct{ err error }

func (e *lostError) Error() string        { return "read results from target: " + e.err.Error() }
func (e *lostError) Unwrap() error        { return e.err }
func (e *lostError) Is(target error) bool { return target == errLost }

// result reads one result and checks it. Ahead of the answer to a Sync it skips what belongs to a
// known error.
func (p *pipe) result(a *awaited) error {
	for {
		message, err := p.front.Receive()
		if err != nil {
			return &lostError{err}
		}
		switch m := message.(type) {
		case *pgproto3.ErrorResponse:
			server := pgconn.ErrorResponseToPgError(m)
			if catalog.Closed(server) {
				return &lostError{server}
			}
			if !a.sync {
				return a.failed(server)
			}
		case *pgproto3.ReadyForQuery:
			if !a.sync {
				return &lostError{fmt.Errorf("no result of %q", a.what)}
			}
			return nil
		case *pgproto3.ParseComplete, *pgproto3.CloseComplete:
			if a.prepare {
				return nil
			}
		case *pgproto3.CommandComplete:
			if !a.sync {
				if a.absent == always || a.absent == ifNone && pgconn.NewCommandTag(string(m.CommandTag)).RowsAffected() == 0 {
					p.absent = append(p.absent, *a)
				}
				return a.complete(m.CommandTag)
			}
		case *pgproto3.EmptyQueryResponse:
			if !a.sync {
				return &lostError{errors.New("the server got an empty statement")}
			}
		}
	}
}

// complete checks the result of a statement that the server has finished.
func (a *awaited) complete(text []byte) error {
	if a.commit && string(text) != "COMMIT" {
		return fmt.Errorf("commit on target: the server answered %s", text)
	}
	if a.rows < 0 {
		return nil
	}
	rows := pgconn.NewCommandTag(string(text)).RowsAffected()
	switch {
	case rows == a.rows:
		return nil
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
func (a *awaited) failed(server *pgconn.PgError) error {
	switch {
	case a.claim && server.Code == catalog.DivisionByZero:
		return errMoved
	case a.many != nil && catalog.Passes(server):
		return fmt.Errorf("apply changes of %s: %w", a.many.label(), server)
	case a.many != nil:
		return &foldError{server}
	case a.change == nil:
		return fmt.Errorf("%s on target: %w", a.what, server)
	case catalog.Passes(server):
		return fmt.Errorf("%s: %w", placeOf(a.tx, a.change, a.table), server)
	}
	return located(refused(server), a.tx, a.change, a.table)
}

// refused returns the error for a change that the server rejected.
func refused(err *pgconn.PgError) error {
	if strings.HasPrefix(err.Code, "42") && err.Code != catalog.InsufficientPrivilege {
		return &SchemaError{SQLState: err.Code, err: err}
	}
	return &ConflictError{Kind: Refused, SQLState: err.Code, Constraint: err.ConstraintName, Column: err.ColumnName, err: err}
}

// located adds to an error the change that it is about.
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
