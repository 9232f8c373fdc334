package decoder

import (
	"net"
	"time"
)

// The walsender sends each message on its own. As long as the socket's window is open at the
// receiver, each of them travels alone, through the kernels of both sides: four fifths of the cost
// of a small message. If it is full, sending merely appends to the socket's queue, and the kernel
// moves large chunks of that later. So a receiver that is behind lets it fill, and then reads
// everything at once; one that is not reads immediately. Measured in docs/lab/measurements.md, S0.
const (
	paceBuffer = 256 << 10             // read at a time, at most
	paceNap    = 30 * time.Millisecond // from one drain of a backlog to the next
	paceWindow = 64 << 10              // the socket's receive buffer, of which the kernel gives about half to data
	paceMore   = 24 << 10              // a read of this much is followed immediately by another

	// A unix socket accounts for the overhead of each message: small messages fill it long before
	// 30 ms are over (S0u: six times the time). It has no low-water mark either.
	paceUnixNap = time.Millisecond

	// So many bytes or reads a second mean that there is a backlog. A source that is followed live
	// sends less, and its changes must not wait.
	paceBytes = 3 << 20
	paceReads = 8000
	paceStay  = 1 << 20 // and this many that there still is one

	// A small socket's window limits the throughput of a long path: this one to about 100 MB/s.
	paceRTT = 500 * time.Microsecond
)

// pacedConn is a connection that reads a backlog in large chunks.
type pacedConn struct {
	net.Conn
	nap      time.Duration
	full     *net.TCPConn // whose kernel is told to report nothing less than a full socket's window during a nap; nil: it is not
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
			tcp.SetReadBuffer(paceWindow) //nolint:errcheck // it only makes reading slower
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

// pause lets a backlog fill the socket's window.
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

// sleep lets the socket's window fill. Without the low-water mark each message would wake Go's
// poller, which costs both sides more than the message.
func (c *pacedConn) sleep(d time.Duration) {
	if c.full != nil {
		lowWater(c.full, paceWindow)
		defer lowWater(c.full, 1)
	}
	time.Sleep(d)
}
