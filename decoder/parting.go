package decoder

import (
	"errors"
	"time"
)

// parting is how it is seen that the source wants to shut down. It does so when everything that it
// has sent is confirmed, and until then asks again after each answer: WalSndDone in
// https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/replication/walsender.c.
// Otherwise it does not ask for what it knows to have been received.
type parting struct {
	asked int // in a row, for the same position, though it knows that this has been received
	at    LSN // that position

	delivered LSN       // the last position that the consumer was given as Awaited
	acked     LSN       // at the consumer
	since     time.Time // when that came, or the waiting began
}

const (
	// An answer that crosses the question makes one of them.
	partingAsks = 3

	// partingPatience is how long a source that wants to shut down is held up by a consumer of which
	// nothing more comes. Its slot has what that does not have yet.
	partingPatience = 3 * time.Second
)

// asks notes a request for a status. known: the source knows that what is before the position has
// been received, and not that it is durable.
func (p *parting) asks(position LSN, known bool) {
	switch {
	case !known:
		*p = parting{delivered: p.delivered}
	case position != p.at:
		*p = parting{asked: 1, at: position, delivered: p.delivered}
	default:
		p.asked++
	}
}

// waits reports whether the source waits to shut down.
func (p *parting) waits() bool { return p.asked >= partingAsks }

var errHeldUp = errors.New("source is shutting down, and does not wait for the consumer any longer")

// part gives the consumer the position that a source which wants to shut down waits for, behind
// everything that comes before it. It is acknowledged by the consumer or not at all.
func (s *Stream) part(c *connection, now time.Time) error {
	p := &c.parting
	if !p.waits() || s.decoder.InTransaction() {
		return nil
	}
	if acked := LSN(s.acked.Load()); p.since.IsZero() || acked > p.acked {
		p.acked, p.since = acked, now
	}
	if p.acked < p.at && now.Sub(p.since) > partingPatience {
		return errHeldUp
	}
	if p.delivered >= p.at || p.at < s.queued {
		return nil
	}
	tx := position(p.at)
	tx.Awaited = true
	if s.queue.tryPut(tx) { // of a full one much is to come before it
		p.delivered = p.at
		s.queued = max(s.queued, p.at)
		raise(&s.received, p.at)
	}
	return nil
}
