package decoder

import (
	"net"
	"time"
)

// The walsender sends each message by itself. As long as the receiver's window is open,
// each of them travels alone, through the kernel of both sides: four fifths of what a
// small message costs. With a window that is full, sending is no more than appending to
// the socket's queue, and the kernel moves large parts of that later. So a receiver that
// is behind lets the window fill, and then takes everything at once; one that is not reads
// at once. Measured in docs/benchmarks.md, S0.
const (
	paceBuffer = 256 << 10             // read at a time, at most
	paceNap    = 30 * time.Millisecond // from one drain of a backlog to the next
	paceWindow = 64 << 10              // the socket's receive buffer, of which the kernel gives about half to data
	paceMore   = 24 << 10              // a read of so much is followed by another one at once

	// What waits in a unix socket is counted with what holds it: it is full of small messages
	// long before 30 ms are over (S0u: six times the time). There is no low water for it either.
	paceUnixNap = time.Millisecond

	// What comes a second when there is a backlog: so many bytes, or reads. A source that
	// is followed live sends less, and its changes must not wait.
	paceBytes = 3 << 20
	paceReads = 8000
	paceStay  = 1 << 20 // as long as there is still one

	// A small window bounds what can come over a long way: this one about 100 MB/s.
	paceRTT = 500 * time.Microsecond
)

// pacedConn is a connection of which a backlog is read in large parts.
type pacedConn struct {
	net.Conn
	nap      time.Duration
	full     *net.TCPConn // its kernel is to report no less than a full window during a nap; nil: it is not asked to
	buf      []byte
	from, to int // buf[from:to] is read and not taken

	since        time.Time // when what follows was begun to be counted
	bytes, reads int
	behind       bool // that was enough
}

// paced wraps a connection to the source, by which way ever it goes.
func paced(c net.Conn) net.Conn {
	p := &pacedConn{Conn: c, nap: paceUnixNap, buf: make([]byte, paceBuffer)}
	if tcp, ok := c.(*net.TCPConn); ok {
		p.nap = paceNap
		if rtt, ok := roundTrip(tcp); ok && rtt <= paceRTT {
			tcp.SetReadBuffer(paceWindow) //nolint:errcheck // slower without
			p.full = tcp
		}
	}
	return p
}

// in is how much of something there is in a nap, of so much a second.
func (c *pacedConn) in(second int) int { return int(c.nap * time.Duration(second) / time.Second) }

func (c *pacedConn) Read(b []byte) (int, error) {
	if c.from == c.to {
		c.pause()
		n, err := c.Conn.Read(c.buf)
		c.from, c.to = 0, n
		c.bytes += n
		c.reads++
		if n == 0 {
			return 0, err
		}
	}
	n := copy(b, c.buf[c.from:c.to])
	c.from += n
	return n, nil
}

// pause waits until a backlog has filled the window.
func (c *pacedConn) pause() {
	if c.to >= paceMore {
		return
	}
	now := time.Now()
	left := c.nap - now.Sub(c.since)
	least := c.in(paceBytes)
	if c.behind {
		least = c.in(paceStay)
	}
	switch {
	case c.bytes >= least || !c.behind && c.reads >= c.in(paceReads):
		c.behind = true
		if left > 0 {
			c.sleep(left)
			now = now.Add(left)
		}
	case left > 0:
		return
	default:
		c.behind = false
	}
	c.since, c.bytes, c.reads = now, 0, 0
}

// sleep lets the window fill. Go's poller would be woken by each message that comes into it,
// which costs both sides more than the message.
func (c *pacedConn) sleep(d time.Duration) {
	if c.full != nil {
		lowWater(c.full, paceWindow)
		defer lowWater(c.full, 1)
	}
	time.Sleep(d)
}
