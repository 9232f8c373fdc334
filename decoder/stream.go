package decoder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/walferry/walferry/internal/wait"
)

// Config configures a Stream.
type Config struct {
	// Slot is a permanent logical slot of pgoutput. It must exist; it is never created here,
	// because a new slot would hide that changes are missing.
	Slot string

	// Publications are the names of the publications to read, at least one. They must exist and
	// have been committed before the slot was created.
	Publications []string

	// Start is the position up to which everything is durable at the consumer: the EndLSN that it
	// stored last. Transactions that commit before it are not delivered. Zero: the slot's own
	// confirmed position, for consumers that store none.
	Start LSN

	// Expect is the identity that the source must have. Zero fields are not compared; what Open
	// finds is compared on every reconnect in any case.
	Expect Identity

	// Truncations is the table, as schema.table, whose rows stand for TRUNCATE on a source of
	// version 10: TruncationTable. Empty: none.
	Truncations string

	// Messages reports whether logical messages with a prefix are delivered, with their transaction
	// or in a Tx of their own; see Message. Nil: none are requested. Otherwise the source sends all
	// of them, and the others are discarded.
	Messages func(prefix string) bool

	// Empty reports whether a transaction without changes is delivered as a Tx nevertheless. It is
	// called for each one that the source sends, as it does up to version 14, by the receiving
	// goroutine. Nil: none is.
	Empty func(xid uint32) bool

	// PieceBytes is approximately how much memory one Tx takes before a transaction is delivered in
	// pieces. Zero: 1 MiB.
	PieceBytes int

	// QueueBytes bounds the memory of what was received and not yet taken by Next; one Tx is always
	// allowed. When it is used up the source has to wait. Zero: 16 MiB.
	QueueBytes int

	// StatusInterval is how often a status is sent to the source, and how often a position is
	// delivered while nothing else is. It must stay well below the source's wal_sender_timeout: if
	// that is less than 30 s, a third of it is used. Zero: 10 s.
	StatusInterval time.Duration

	// SilenceTimeout is how long the source may send nothing, despite requests, before the
	// connection counts as lost. Zero: 60 s, or wal_sender_timeout if longer.
	SilenceTimeout time.Duration

	// WaitActive is how long Open waits for another connection that is still reading the slot, such
	// as one of ours whose end the source has not noticed. A reconnect waits as long as it takes.
	// Zero: 90 s. Negative: not at all.
	WaitActive time.Duration

	// Logger logs reconnects (Info) and other events of the connection (Debug). Nil: nothing is
	// logged.
	Logger *slog.Logger
}

func (c *Config) fill() error {
	if c.Slot == "" {
		return errors.New("no slot given")
	}
	if len(c.Publications) == 0 {
		return errors.New("no publication given")
	}
	if c.PieceBytes < 0 || c.QueueBytes < 0 || c.StatusInterval < 0 || c.SilenceTimeout < 0 {
		return errors.New("negative size or duration")
	}
	if c.PieceBytes == 0 {
		c.PieceBytes = defaultPieceBytes
	}
	if c.QueueBytes == 0 {
		c.QueueBytes = 16 << 20
	}
	if c.StatusInterval == 0 {
		c.StatusInterval = 10 * time.Second
	}
	if c.WaitActive == 0 {
		c.WaitActive = 90 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Publications = slices.Clone(c.Publications)
	return nil
}

// Stream delivers the transactions of a slot in commit order, each once. It survives restarts of
// the source and lost connections.
//
// Next is for one goroutine at a time; Ack, Received, Counts and Identity may be called from any.
type Stream struct {
	config   Config
	dsn      string
	identity Identity
	queue    *queue

	// Positions. Invariant: acked <= delivered <= queued, and queued <= received whenever the
	// source has sent nothing out of order.
	acked     atomic.Uint64 // durable at the consumer
	delivered atomic.Uint64 // end of the last Tx that Next has returned
	received  atomic.Uint64 // seen from the source, transactions and keepalives
	queued    LSN           // end of the last Tx put into the queue; belongs to the owner

	// The rest belongs to the owner too, the goroutine that runs follow.
	decoder Decoder
	status  status
	standby bool   // the source was one when the stream was opened
	pid     uint32 // of our last walsender

	bytes      atomic.Int64 // read from the source
	reconnects atomic.Int64
	lostAt     atomic.Int64 // nanoseconds; 0: never

	refusals  int // of the server, in a row, while
	refusedAt LSN // queued was this

	cancel context.CancelFunc
	done   chan struct{}
}

// Open connects, makes sure that the stream can resume from Start without a gap, and starts it. ctx
// is for Open alone; the stream ends with Close.
//
// Errors that mean that it cannot: *SlotError, *IdentityError, *PublicationError.
func Open(ctx context.Context, dsn string, c Config) (*Stream, error) {
	if err := c.fill(); err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	s := &Stream{
		config: c, dsn: dsn, identity: c.Expect, queue: newQueue(c.QueueBytes), queued: c.Start,
		decoder: Decoder{PieceBytes: c.PieceBytes, Truncations: c.Truncations, Messages: c.Messages, Empty: c.Empty},
		done:    make(chan struct{}),
	}
	first, err := s.openConnection(ctx)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	s.identity, s.standby = first.source.identity, first.source.standby
	for _, p := range []*atomic.Uint64{&s.acked, &s.delivered, &s.received} {
		p.Store(uint64(s.queued))
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	go func() {
		defer close(s.done)
		s.queue.end(s.follow(running, first))
	}()
	return s, nil
}

// openConnection only waits for a slot that is still being read: Open has a caller who can see
// every other error.
func (s *Stream) openConnection(ctx context.Context) (*connection, error) {
	began := time.Now()
	pauses := wait.Pauses{First: 50 * time.Millisecond, Longest: 2 * time.Second}
	for n := 0; ; n++ {
		c, err := s.connect(ctx)
		var active *SlotError
		if !errors.As(err, &active) || active.Reason != SlotActive || time.Since(began) > s.config.WaitActive {
			if judge(err) == doubtful {
				err = &RefusedError{Err: err}
			}
			return c, err
		}
		s.config.Logger.Debug("waiting for the slot", "slot", s.config.Slot, "pid", active.PID, "application", active.Application)
		if wait.Sleep(ctx, pauses.After(n)) != nil {
			return nil, err
		}
	}
}

// Next waits for the next Tx, whole or a piece. ctx bounds the wait and nothing is lost when it
// ends: a later call continues where this one stopped.
//
// Other errors mean the end of the stream, and are returned after everything that was received
// before: *ProtocolError, *SlotError, *IdentityError, *PublicationError, *RefusedError, ErrClosed.
func (s *Stream) Next(ctx context.Context) (*Tx, error) {
	tx, err := s.queue.take(ctx)
	if err != nil {
		return nil, err
	}
	if tx.Last {
		raise(&s.delivered, tx.EndLSN)
	}
	return tx, nil
}

// Ack acknowledges that every transaction that commits before lsn, the EndLSN of a Tx with Last, is
// durable at the consumer. The slot advances there within a second, and what is before it is never
// delivered again. Ack does not block. It never moves back, nor beyond what Next has returned.
func (s *Stream) Ack(lsn LSN) {
	raise(&s.acked, min(lsn, LSN(s.delivered.Load())))
}

func raise(to *atomic.Uint64, lsn LSN) {
	for {
		old := to.Load()
		if uint64(lsn) <= old || to.CompareAndSwap(old, uint64(lsn)) {
			return
		}
	}
}

// Identity returns the identity that Open found.
func (s *Stream) Identity() Identity { return s.identity }

// Received returns the position up to which the source has sent everything.
func (s *Stream) Received() LSN { return LSN(s.received.Load()) }

// Counts is what has become of a Stream's connections since Open.
type Counts struct {
	Bytes      int64     // read from the source, of the replication connections
	Reconnects int64     // after a connection was lost
	FailedAt   time.Time // when a connection was lost, or could not be made again, last; zero: never
}

// Counts returns what was counted so far. It costs the stream nothing.
func (s *Stream) Counts() Counts {
	c := Counts{Bytes: s.bytes.Load(), Reconnects: s.reconnects.Load()}
	if at := s.lostAt.Load(); at != 0 {
		c.FailedAt = time.Unix(0, at)
	}
	return c
}

// Close sends the last acknowledged position to the source and ends the stream. What was not
// acknowledged is delivered again by the next one.
func (s *Stream) Close() error {
	s.cancel()
	<-s.done
	s.queue.clear()
	return nil
}

// follow receives until the context ends or an error is final.
func (s *Stream) follow(ctx context.Context, c *connection) error {
	for {
		err := s.receive(ctx, c)
		s.hangUp(ctx, c)
		if ctx.Err() != nil {
			return ErrClosed
		}
		if c, err = s.reconnect(ctx, err); err != nil {
			return err
		}
	}
}

const (
	firstPause  = time.Second
	longPause   = 30 * time.Second
	mostRefusal = 4 // of a server that refuses, in a row and without any progress
)

// reconnect tries to resume after the last transaction that is in the queue.
func (s *Stream) reconnect(ctx context.Context, cause error) (*connection, error) {
	if s.refusedAt != s.queued {
		s.refusals, s.refusedAt = 0, s.queued
	}
	pauses := wait.Pauses{First: firstPause, Longest: longPause, Random: true}
	for n := 0; ; n++ {
		switch judge(cause) {
		case final:
			return nil, cause
		case doubtful:
			if s.refusals++; s.refusals >= mostRefusal {
				return nil, &RefusedError{Err: cause}
			}
		}
		s.lostAt.Store(time.Now().UnixNano())
		pause := pauses.After(n)
		s.config.Logger.Info("source connection lost, trying again", "cause", cause, "in", pause.Round(time.Millisecond), "lsn", s.queued)
		if wait.Sleep(ctx, pause) != nil {
			return nil, ErrClosed
		}
		c, err := s.connect(ctx)
		if err == nil {
			s.reconnects.Add(1)
			s.config.Logger.Info("source connection is back", "lsn", s.queued)
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, ErrClosed
		}
		cause = err
	}
}
