package pgtest

import (
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Network is what happens between a client and a server. The zero value: nothing.
type Network struct {
	Delay time.Duration // that every byte takes in each direction
	Rate  int           // bytes per second in each direction; 0: no limit
	Slice int           // bytes that pass at a time, at most; 0: no limit
	Hole  bool          // nothing passes, and nobody is told
	Down  bool          // new connections are closed at once
}

// Proxy forwards connections to a server over a network that tests can make worse. Its methods may
// be called by several goroutines.
type Proxy struct {
	listener net.Listener
	accepted atomic.Int64
	refused  atomic.Int64

	mu      sync.Mutex
	server  string // host and port
	network Network
	changed chan struct{} // closed with the next change of network
	conns   map[*net.TCPConn]struct{}
	watch   func(Step) Fault
	limit   int64 // bytes that new connections get from the server before they are cut; 0: no limit
}

// NewProxy listens on a port of its own for the server of a DSN that is a URI.
func NewProxy(dsn string) (*Proxy, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: listener, server: u.Host, changed: make(chan struct{}), conns: map[*net.TCPConn]struct{}{}}
	go p.serve()
	return p, nil
}

// ProxyFor is NewProxy until the end of a test.
func ProxyFor(t testing.TB, dsn string) *Proxy {
	t.Helper()
	p, err := NewProxy(dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// Through is a DSN that leads to the same database through the proxy.
func (p *Proxy) Through(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		return dsn
	}
	u.Host = p.listener.Addr().String()
	return u.String()
}

// Redirect leads new connections to the server of another DSN, and ends those that there are.
func (p *Proxy) Redirect(dsn string) error {
	u, err := url.Parse(dsn)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.server = u.Host
	p.mu.Unlock()
	p.Reset()
	return nil
}

// Set changes the network, also for what is on its way.
func (p *Proxy) Set(n Network) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.network = n
	close(p.changed)
	p.changed = make(chan struct{})
}

// CutAfter ends each new connection after so many bytes from the server. Zero: none is ended.
func (p *Proxy) CutAfter(bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = bytes
}

// Accepted is how many connections were led to the server.
func (p *Proxy) Accepted() int64 { return p.accepted.Load() }

// Refused is how many connections were closed at once, as the network was down.
func (p *Proxy) Refused() int64 { return p.refused.Load() }

// Reset ends all connections the hard way: both ends see a reset.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.SetLinger(0) //nolint:errcheck // it may be closed
		c.Close()      //nolint:errcheck // as above
	}
	clear(p.conns)
}

// Close ends the proxy and all its connections.
func (p *Proxy) Close() {
	p.listener.Close() //nolint:errcheck // thrown away
	p.Set(Network{})
	p.Reset()
}

func (p *Proxy) now() (Network, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.network, p.changed
}

func (p *Proxy) serve() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		client := c.(*net.TCPConn)
		if network, _ := p.now(); network.Down {
			client.Close() //nolint:errcheck // that is the point
			p.refused.Add(1)
			continue
		}
		p.mu.Lock()
		address := p.server
		p.mu.Unlock()
		s, err := net.Dial("tcp", address)
		if err != nil {
			client.Close() //nolint:errcheck // the client sees it
			continue
		}
		server := s.(*net.TCPConn)
		p.accepted.Add(1)
		p.mu.Lock()
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		limit, watch := p.limit, p.watch
		p.mu.Unlock()
		if watch != nil {
			go p.inspect(client, server, watch)
			continue
		}
		go p.forward(client, server, 0)
		go p.forward(server, client, limit)
	}
}

// inspect forwards a connection whose steps are looked at, and does nothing else to it.
func (p *Proxy) inspect(client, server *net.TCPConn, watch func(Step) Fault) {
	after := make(chan func(), 64)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 32<<10)
		for {
			n, err := server.Read(b)
			select {
			case f := <-after:
				time.Sleep(30 * time.Millisecond) // what was read may be the answer to the step before
				f()
				p.end(client, server)
				return
			default:
			}
			if err == nil {
				_, err = client.Write(b[:n])
			}
			if err != nil {
				p.end(client, server)
				return
			}
		}
	}()
	w := &wire{watch: watch, client: client, server: server, after: after}
	w.follow() //nolint:errcheck // however it ends, it is over
	p.end(client, server)
	<-ended
}

func (p *Proxy) end(conns ...*net.TCPConn) {
	for _, c := range conns {
		c.Close() //nolint:errcheck // it is over
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
	}
}

// forward ends with the first connection that does.
func (p *Proxy) forward(from, to *net.TCPConn, limit int64) {
	type part struct {
		at    time.Time
		bytes []byte
	}
	parts := make(chan part, 1024)
	go func() {
		defer close(parts)
		for {
			b := make([]byte, 32<<10)
			n, err := from.Read(b)
			if n > 0 {
				network, _ := p.now()
				parts <- part{time.Now().Add(network.Delay), b[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	passed := int64(0)
	for one := range parts {
		time.Sleep(time.Until(one.at))
		if limit > 0 && passed+int64(len(one.bytes)) > limit {
			p.pass(to, one.bytes[:limit-passed]) //nolint:errcheck // it is cut
			break
		}
		passed += int64(len(one.bytes))
		if p.pass(to, one.bytes) != nil {
			break
		}
	}
	p.end(from, to)
	for range parts {
	}
}

func (p *Proxy) pass(to *net.TCPConn, b []byte) error {
	for len(b) > 0 {
		network, changed := p.now()
		if network.Hole {
			<-changed
			continue
		}
		n := len(b)
		if network.Slice > 0 {
			n = min(n, network.Slice)
		}
		if network.Rate > 0 {
			n = min(n, max(1, network.Rate/100))
			time.Sleep(time.Duration(n) * time.Second / time.Duration(network.Rate))
		}
		if _, err := to.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
