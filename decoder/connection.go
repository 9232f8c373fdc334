package decoder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/slot"
)

// connection is one START_REPLICATION. One goroutine reads and writes it, with deadlines on the
// socket: a context would interrupt a write in the middle, while a read that hits a deadline can
// resume later (pgproto3 keeps what it has).
type connection struct {
	source   source
	socket   net.Conn
	frontend *pgproto3.Frontend

	interval time.Duration // of the status
	silence  time.Duration // after which the connection counts as lost

	sent       time.Time // when the last status was sent
	heard      time.Time // when the last message arrived
	positioned time.Time // when the last position was put into the queue
	seen       LSN       // the source has sent everything before it, on this connection
	asked      bool      // the source has requested a status
	hurry      bool      // it has requested one since the last position: it may be waiting to shut down
	brisk      bool      // the read deadline is short, as something is not settled
	told       LSN       // the last status said that it has been received
	parting    parting
	buf        []byte
}

const (
	settleTime   = 100 * time.Millisecond // how soon an Ack is passed on
	replyGap     = 20 * time.Millisecond  // between two answers; a source that is shutting down asks without pause
	writeTimeout = 30 * time.Second
	dialTimeout  = 2 * time.Minute
)

// connect opens a connection, checks that the stream can resume after what is in the queue, and
// starts it there.
func (s *Stream) connect(ctx context.Context) (_ *connection, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := dial(ctx, s.dsn, &s.bytes)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			conn.Close(context.WithoutCancel(ctx))
		}
	}()
	src, err := inspect(ctx, conn, s.config.Slot, s.config.Publications)
	if err != nil {
		return nil, err
	}
	if s.queued == 0 {
		s.queued = src.slot.Confirmed
	}
	if err := s.check(src); err != nil {
		if active := (*SlotError)(nil); errors.As(err, &active) && s.pid != 0 && uint32(active.PID) == s.pid {
			// The source has not noticed yet that our previous connection is gone.
			return nil, errors.Join(err, slot.Terminate(ctx, conn, active.PID))
		}
		return nil, err
	}
	if err := tune(ctx, conn); err != nil {
		return nil, err
	}
	if err := startReplication(ctx, conn, startSQL(s.config.Slot, s.queued, s.config.Publications, s.config.Messages != nil && session.Major(conn) >= 14)); err != nil {
		switch catalog.State(err) {
		case catalog.ObjectInUse:
			return nil, &SlotError{Slot: s.config.Slot, Reason: SlotActive, Detail: err.Error()}
		case catalog.UndefinedObject:
			return nil, &SlotError{Slot: s.config.Slot, Reason: SlotMissing, Detail: err.Error()}
		}
		return nil, err
	}
	hijacked, err := conn.Hijack()
	if err != nil {
		return nil, err
	}
	s.pid = hijacked.PID
	s.decoder.Reset(s.queued)
	c := &connection{source: src, socket: hijacked.Conn, frontend: hijacked.Frontend, seen: s.queued, heard: time.Now()}
	c.interval, c.silence = s.config.StatusInterval, s.config.SilenceTimeout
	if t := src.senderTimeout; t > 0 && t < 30*time.Second {
		c.interval = min(c.interval, t/3)
	}
	if c.silence == 0 {
		c.silence = max(time.Minute, src.senderTimeout)
	}
	c.silence = max(c.silence, 2*c.interval)
	return c, nil
}

// check returns why the stream must not resume with this source.
func (s *Stream) check(src source) error {
	if src.standby && s.pid != 0 && !s.standby {
		return errStandby
	}
	if err := src.identity.check(s.identity); err != nil {
		return err
	}
	if s.queued > src.flushed {
		return &IdentityError{What: "WAL position", Want: "at least " + s.queued.String(), Got: src.flushed.String()}
	}
	return src.slot.Usable(s.queued)
}

// receive handles messages until the connection or the context ends.
func (s *Stream) receive(ctx context.Context, c *connection) error {
	// Interrupts a Receive; a later one sees the context.
	stop := context.AfterFunc(ctx, func() { c.socket.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.settle(ctx, c); err != nil {
		return err
	}
	for {
		message, err := c.frontend.Receive()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if err := s.settle(ctx, c); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("receive from source: %w", err)
		}
		switch message := message.(type) {
		case *pgproto3.CopyData:
			err = s.handle(ctx, c, message.Data)
		case *pgproto3.ErrorResponse:
			err = s.explain(pgconn.ErrorResponseToPgError(message))
		case *pgproto3.NoticeResponse:
			err = s.notice(pgconn.ErrorResponseToPgError((*pgproto3.ErrorResponse)(message)))
		case *pgproto3.CopyDone, *pgproto3.CommandComplete:
			err = errEnded
		}
		if err != nil {
			return err
		}
	}
}

var (
	errEnded  = errors.New("source has ended the stream")
	errSilent = errors.New("source does not answer")
)

// handle handles the contents of a CopyData:
// https://www.postgresql.org/docs/current/protocol-replication.html
func (s *Stream) handle(ctx context.Context, c *connection, data []byte) error {
	c.heard = time.Time{} // settle sets the time: reading the clock for each message would cost more than the message
	r := reader{msg: data}
	switch kind := r.byte(); {
	case r.err != nil:
		return r.err
	case kind == 'w':
		c.parting.asked = 0
		// Not the positions: they are zero for all but the last message of a group.
		r.bytes(3 * 8)
		if r.err != nil {
			return r.err
		}
		tx, err := s.decoder.Decode(data[r.at:])
		if err != nil {
			return err
		}
		if tx != nil {
			return s.deliver(ctx, c, tx)
		}
		if end := s.decoder.End(); end > c.seen && !s.decoder.InTransaction() {
			c.seen = end // of a transaction without changes
		}
		return nil
	case kind == 'k':
		position, _, reply := r.lsn(), r.uint64(), r.byte()
		r.end()
		if r.err != nil {
			return r.err
		}
		c.seen = max(c.seen, position)
		if reply != 0 {
			c.asked, c.hurry = true, true
			c.parting.asks(position, position <= c.told && position > s.status.flush)
		}
		return s.settle(ctx, c)
	default:
		r.fail("unknown kind inside of CopyData")
		return r.err
	}
}

// deliver puts a Tx into the queue. It waits for the consumer if need be, and keeps sending status
// updates meanwhile.
func (s *Stream) deliver(ctx context.Context, c *connection, tx *Tx) error {
	if tx.Last {
		// Before waiting, so that no position can overtake it.
		s.queued = max(s.queued, tx.EndLSN)
		raise(&s.received, tx.EndLSN)
	}
	var lost error
	err := s.queue.put(ctx, tx, settleTime, func() {
		if lost == nil {
			lost = s.report(c, time.Now())
		}
	})
	if err != nil {
		return err
	}
	if lost != nil {
		return lost
	}
	if !c.brisk {
		// An Ack will follow, and should be passed on soon.
		c.brisk = true
		return c.wake(ctx, time.Now().Add(settleTime))
	}
	return nil
}

// settle does what is due: a position for the consumer, a status for the source. It sets the read
// deadline to when something is due next.
func (s *Stream) settle(ctx context.Context, c *connection) error {
	now := time.Now()
	if c.heard.IsZero() {
		c.heard = now
	}
	if now.Sub(c.heard) > c.silence {
		return errSilent
	}
	raise(&s.received, c.seen)
	if s.idle() && c.seen > s.queued && !now.Before(c.nextPosition()) {
		c.positioned, c.hurry = now, false
		if err := s.deliver(ctx, c, position(c.seen)); err != nil {
			return err
		}
	}
	if err := s.part(c, now); err != nil {
		return err
	}
	if err := s.report(c, now); err != nil {
		return err
	}

	next := c.sent.Add(c.interval)
	switch {
	case c.asked:
		next = c.sent.Add(replyGap)
	case c.parting.waits():
		next = earlier(next, now.Add(replyGap))
	case !s.idle():
		next = earlier(next, now.Add(settleTime))
	case c.seen > s.queued:
		next = earlier(next, c.nextPosition())
	}
	c.brisk = !s.idle()
	return c.wake(ctx, next)
}

// idle reports whether everything that was received completely is durable at the consumer, and no
// transaction is in progress. Only then is the position of a keepalive meaningful for the consumer,
// which receives it first and acknowledges it, so that the slot is never ahead of what it has
// stored.
func (s *Stream) idle() bool {
	return LSN(s.acked.Load()) >= s.queued && !s.decoder.InTransaction()
}

func (c *connection) nextPosition() time.Time {
	if c.hurry {
		return c.positioned.Add(settleTime)
	}
	return c.positioned.Add(c.interval)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// wake sets the read deadline.
func (c *connection) wake(ctx context.Context, at time.Time) error {
	if err := c.socket.SetReadDeadline(at); err != nil {
		return fmt.Errorf("receive from source: %w", err)
	}
	return context.Cause(ctx) // if it ended just before, its deadline has been overwritten
}

// report sends a status if one is due: the interval is over, the source has requested one, or there
// is more to confirm.
func (s *Stream) report(c *connection, now time.Time) error {
	acked := LSN(s.acked.Load())
	since := now.Sub(c.sent)
	if since < c.interval && acked <= s.status.flush && (!c.asked || since < replyGap) {
		return nil
	}
	s.status.advance(LSN(s.received.Load()), acked)
	silent := !c.heard.IsZero() && now.Sub(c.heard) >= c.interval
	c.sent, c.asked, c.told = now, false, s.status.write
	return c.write(s.status.appendTo(c.buf[:0], now, silent))
}

func (c *connection) write(message []byte) error {
	c.buf = message
	if err := c.socket.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("send status to source: %w", err)
	}
	if _, err := c.socket.Write(message); err != nil {
		return fmt.Errorf("send status to source: %w", err)
	}
	return nil
}

// notice looks for the one warning that means loss: from version 18 on the server skips a missing
// publication, and its changes with it. That warning is the only one of this SQLSTATE in pgoutput;
// its wording depends on lc_messages.
func (s *Stream) notice(notice *pgconn.PgError) error {
	if notice.SeverityUnlocalized == "WARNING" && notice.Code == catalog.ObjectNotInRequiredState {
		return s.publicationError(notice.Message)
	}
	s.config.Logger.Debug("notice of the source", "severity", notice.Severity, "code", notice.Code, "message", notice.Message)
	return nil
}

// explain converts an error of the running stream to its type.
func (s *Stream) explain(err *pgconn.PgError) error {
	switch err.Code {
	case catalog.UndefinedObject: // until 17: publication "p" does not exist as of the change
		return s.publicationError(err.Message)
	case catalog.UndefinedFile:
		return &SlotError{Slot: s.config.Slot, Reason: SlotLost, Detail: err.Message}
	}
	return fmt.Errorf("source has ended the stream: %w", err)
}

func (s *Stream) publicationError(message string) error {
	for _, name := range s.config.Publications {
		if strings.Contains(message, `"`+name+`"`) {
			return &PublicationError{Name: name, Reason: "was not there when a change was made: " + message}
		}
	}
	return &PublicationError{Name: strings.Join(s.config.Publications, ", "), Reason: "was not there when a change was made: " + message}
}

// partingTime is how long hangUp waits for the source's answer.
const partingTime = time.Second

// hangUp ends the connection. If the stream is being closed, it sends the last position to the
// source and waits for the answer: closing a socket with unread data may discard what was sent.
func (s *Stream) hangUp(ctx context.Context, c *connection) {
	defer c.socket.Close()
	acked := LSN(s.acked.Load())
	if ctx.Err() == nil {
		return
	}
	if acked > s.status.flush {
		s.status.advance(LSN(s.received.Load()), acked)
		if c.write(s.status.appendTo(c.buf[:0], time.Now(), true)) == nil {
			c.awaitKeepalive()
		}
	}
	c.write(append(c.buf[:0], 'X', 0, 0, 0, 4)) // Terminate; if it fails, closing has the same effect
}

func (c *connection) awaitKeepalive() {
	if c.socket.SetReadDeadline(time.Now().Add(partingTime)) != nil {
		return
	}
	for {
		message, err := c.frontend.Receive()
		if err != nil {
			return
		}
		if data, ok := message.(*pgproto3.CopyData); ok && len(data.Data) > 0 && data.Data[0] == 'k' {
			return
		}
	}
}
