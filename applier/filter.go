package applier

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
)

// NotOpen is a FilterConfig.Start that is not known yet: all that others write is stray.
const NotOpen decoder.LSN = math.MaxUint64

// FilterConfig configures a Filter.
type FilterConfig struct {
	// Stream is the Name of the Applier in the other direction: whose transactions are left out.
	Stream string

	// Start is the position before which nobody but that Applier writes to the tables that are
	// read. A transaction of somebody else that commits before it is a [Stray]. Zero: there are
	// none. NotOpen: until [Filter.Begin] all of them are.
	Start decoder.LSN

	// Interval is the shortest time between two positions that are delivered of transactions that
	// were left out. Zero: 10 s.
	Interval time.Duration
}

// Filter is a Source without the transactions of the Applier that goes in the other direction:
// between two servers of which each is written to what that one applies would come back, as a
// change of this side.
//
// They are recognized by their first change, as every transaction of an Applier begins with the
// update of its row in walferry.progress. So that table has to be in a publication that the source
// reads, from before its slot on. A transaction of another stream, whose row has another name, is
// no echo: what that has applied is passed on.
//
// What is left out still moves the position, or the slot would keep the WAL. But a position that is
// stored changes walferry.progress, which is an echo for the other direction, and so on: that comes
// at most once per Interval, unless [Filter.Drain] asks for it or it is Awaited, and never between two pieces of a
// transaction. The same holds for positions of the source and for transactions that have changed
// nothing but the positions of other streams.
type Filter struct {
	src    Source
	config FilterConfig

	// They belong to Next.
	verdict verdict // of the transaction whose pieces are coming
	inside  bool    // it passes, and its last piece has not

	mu      sync.Mutex
	start   decoder.LSN
	counts  FilterCounts
	pending decoder.LSN // up to here all is delivered or left out; 0: delivered
	wanted  decoder.LSN // Drain waits for it; 0: nobody does
	awaited bool        // the source waits for it
	last    time.Time   // when a position was delivered
	wake    func()      // ends the wait of Next, if it waits for the source and pending is not 0
}

// FilterCounts is what a Filter has left out.
type FilterCounts struct {
	Echoes int64 // transactions of the other direction's Applier
	Strays int64
	First  *Stray // nil: there was none
	Last   *Stray
}

// Stray is a transaction that somebody has written before FilterConfig.Start.
type Stray struct {
	XID        uint32
	LSN        decoder.LSN // where its commit record starts
	CommitTime time.Time
	Table      decoder.Name // one that it has changed
}

func (s *Stray) String() string {
	return fmt.Sprintf("transaction %d, which changed %s and committed at %s", s.XID, s.Table, s.LSN)
}

// verdict is what becomes of a transaction. It is that of its first piece.
type verdict byte

const (
	passes verdict = iota
	echo           // of the other direction
	stray          // somebody else's, and too early
	idle           // there is nothing in it but a position
)

// NewFilter makes a Filter of a Source.
func NewFilter(src Source, c FilterConfig) *Filter {
	if c.Interval == 0 {
		c.Interval = 10 * time.Second
	}
	return &Filter{src: src, config: c, start: c.Start}
}

// Ack implements Source.
func (f *Filter) Ack(lsn decoder.LSN) { f.src.Ack(lsn) }

// Counts returns what was left out so far.
func (f *Filter) Counts() FilterCounts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts
}

// Begin ends the time of NotOpen: from lsn on whatever others commit passes. The error means that
// something at or past lsn was left out already, by somebody who was not to write yet; then Start
// stays NotOpen, and a later position is to be tried.
func (f *Filter) Begin(lsn decoder.LSN) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.counts.Last; s != nil && s.LSN >= lsn {
		return fmt.Errorf("begin at %s: left out already: %s", lsn, s)
	}
	f.start = lsn
	return nil
}

// Drain asks for the position of what is left out up to lsn: Next delivers one that is there, or
// past it, at once, and only once.
func (f *Filter) Drain(lsn decoder.LSN) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wanted = lsn
	if f.wake != nil && f.pending >= lsn {
		f.wake()
	}
}

// errDue ends a wait for the source because a position is to be delivered.
var errDue = errors.New("a position is due")

// Next implements Source.
func (f *Filter) Next(ctx context.Context) (*decoder.Tx, error) {
	for {
		position, wait, end := f.due(ctx)
		if position != nil {
			return position, nil
		}
		tx, err := f.src.Next(wait)
		end()
		if err != nil {
			if wait.Err() != nil && ctx.Err() == nil && (errors.Is(err, context.Cause(wait)) || errors.Is(err, wait.Err())) {
				continue
			}
			return nil, err
		}
		if f.passes(tx) {
			return tx, nil
		}
	}
}

// due returns the position that is to be delivered now, or for how long the source may be waited
// for.
func (f *Filter) due(ctx context.Context) (position *decoder.Tx, wait context.Context, end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending == 0 || f.inside {
		return nil, ctx, func() {}
	}
	at := f.last.Add(f.config.Interval)
	if now := time.Now(); !now.Before(at) || f.awaited || f.wanted != 0 && f.pending >= f.wanted {
		tx := &decoder.Tx{CommitLSN: f.pending, EndLSN: f.pending, First: true, Last: true}
		f.delivered(tx)
		f.last = now
		return tx, nil, nil
	}
	wait, cancel := context.WithCancelCause(ctx)
	f.wake = func() { cancel(errDue) }
	timer := time.AfterFunc(time.Until(at), f.wake)
	return nil, wait, func() {
		timer.Stop()
		cancel(errDue)
		f.mu.Lock()
		f.wake = nil
		f.mu.Unlock()
	}
}

// delivered is called with the mutex, with the end of what Next returns.
func (f *Filter) delivered(tx *decoder.Tx) {
	f.pending, f.awaited = 0, false
	if tx.EndLSN >= f.wanted {
		f.wanted = 0
	}
}

// passes reports whether a Tx is to be delivered; if not, its position is, sometime.
func (f *Filter) passes(tx *decoder.Tx) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if tx.First {
		f.verdict = f.judge(tx)
		f.inside = false // of one that starts over
	}
	if f.verdict == passes {
		f.inside = !tx.Last
		if tx.Last {
			f.delivered(tx)
		}
		return true
	}
	if !tx.Last {
		return false
	}
	f.pending = max(f.pending, tx.EndLSN)
	f.awaited = f.awaited || tx.Awaited
	switch f.verdict {
	case echo:
		f.counts.Echoes++
	case stray:
		f.counts.Strays++
	}
	return false
}

// judge decides by the first piece of a transaction.
func (f *Filter) judge(tx *decoder.Tx) verdict {
	changed, any := changedTable(tx)
	switch {
	case marked(tx, f.config.Stream):
		return echo
	case len(tx.Messages) > 0, !tx.Last:
	case tx.XID == 0, len(tx.Changes) > 0 && !any:
		return idle
	}
	if any && tx.CommitLSN < f.start {
		f.counts.Last = &Stray{XID: tx.XID, LSN: tx.CommitLSN, CommitTime: tx.CommitTime, Table: changed}
		f.counts.First = cmp.Or(f.counts.First, f.counts.Last)
		return stray
	}
	return passes
}

// changedTable returns a table that a Tx changes and that is not walferry's own.
func changedTable(tx *decoder.Tx) (name decoder.Name, any bool) {
	for i := range tx.Changes {
		c := &tx.Changes[i]
		r := c.Relation
		if c.Op == decoder.Truncate && len(c.Truncated) > 0 {
			r = c.Truncated[0]
		}
		if r != nil && r.Namespace != "walferry" {
			return r.Table(), true
		}
	}
	return name, false
}

// marked reports whether a transaction whose first piece is tx begins with the mark of a stream: a
// change of its row in walferry.progress, or of one that [Mark] has made.
func marked(tx *decoder.Tx, stream string) bool {
	if len(tx.Changes) == 0 {
		return false
	}
	c := &tx.Changes[0]
	if c.Op != decoder.Update && c.Op != decoder.Insert || c.Relation.Namespace != "walferry" || c.Relation.Name != "progress" {
		return false
	}
	for i, column := range c.Relation.Columns {
		if column.Name == "stream" && i < len(c.New) {
			rest, ok := bytes.CutPrefix(c.New[i].Data, []byte(stream))
			return ok && (len(rest) == 0 || rest[0] == besides)
		}
	}
	return false
}

// besides comes after the stream's name in the rows that Mark makes. No stream's name has it.
const besides = '\x1f'

const markSQL = `
insert into walferry.progress (stream, applied) values ($1 || chr(31) || pg_backend_pid(), '0/0')`

const unmarkSQL = `
delete from walferry.progress where stream = $1 || chr(31) || pg_backend_pid()`

// Mark makes the transaction that conn is in one of a stream's, for a Filter in the other
// direction: it is for those that write to the stream's tables beside its Applier, and has to come
// before anything else that they change. Nothing of it stays, and the Applier does not wait for it.
func Mark(ctx context.Context, conn *pgx.Conn, stream string) error {
	for _, sql := range []string{markSQL, unmarkSQL} {
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeExec, stream); err != nil {
			return fmt.Errorf("mark the transaction as one of stream %q: %w", stream, err)
		}
	}
	return nil
}
