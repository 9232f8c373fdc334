package decoder_test

import (
	"io"
	"net"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy stands between a stream and its source. What it forwards to the stream may
// be cut into slices with a pause after each, or be swallowed.
type proxy struct {
	listener net.Listener
	source   string
	slice    atomic.Int64 // bytes; 0: as they come
	pause    atomic.Int64 // nanoseconds after each slice
	hole     atomic.Bool  // for the connections that are there: nothing passes to the stream any more
	accepted atomic.Int64

	mu    sync.Mutex
	conns []net.Conn
}

// through puts a proxy before the source and returns it.
func (s *source) through() *proxy {
	u, err := url.Parse(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	p := &proxy{listener: listener, source: u.Host}
	u.Host = listener.Addr().String()
	s.url = u.String()
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp4", p.source)
			if err != nil {
				client.Close()
				continue
			}
			p.accepted.Add(1)
			p.mu.Lock()
			p.conns = append(p.conns, client, server)
			p.mu.Unlock()
			hole := new(atomic.Bool)
			running.Go(func() { io.Copy(server, client); server.Close() })
			running.Go(func() { p.forward(client, server, hole); client.Close() })
		}
	})
	s.t.Cleanup(func() {
		listener.Close()
		p.mu.Lock()
		for _, conn := range p.conns {
			conn.Close()
		}
		p.mu.Unlock()
		running.Wait()
	})
	return p
}

// forward passes on what the source sends. A connection that has lost something
// stays a hole.
func (p *proxy) forward(client, server net.Conn, hole *atomic.Bool) {
	buf := make([]byte, 32<<10)
	for {
		size := int64(len(buf))
		if slice := p.slice.Load(); slice > 0 {
			size = slice
		}
		n, err := server.Read(buf[:size])
		if err != nil {
			return
		}
		if p.hole.Load() {
			hole.Store(true)
		}
		if hole.Load() {
			continue
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
		time.Sleep(time.Duration(p.pause.Load()))
	}
}

// Messages arrive a few bytes at a time, slower than the deadlines that the owner
// of the connection sets to look after other things: reading goes on in the middle
// of a message where it was.
func TestStream_MessagesInSlices(t *testing.T) {
	s := newPlain(t)
	direct := *s
	p := s.through()
	stream := s.open()
	opened := p.accepted.Load() // may be two: one for TLS, which the server has not
	p.slice.Store(7)
	p.pause.Store(int64(20 * time.Millisecond)) // a row takes several settleTimes
	for i := range 3 {
		direct.exec(`insert into t values (` + strconv.Itoa(i) + `, 'some text that makes it longer than a slice by far')`)
		expect(t, stream, `{"op":"insert","schema":"public","table":"t","new":{"id":"`+strconv.Itoa(i)+`","note":"some text that makes it longer than a slice by far"}}`)
	}
	if n := p.accepted.Load(); n != opened {
		t.Errorf("%d more connections", n-opened)
	}
}

// A connection goes dead without a word: the source's packets get lost. The
// stream asks, hears nothing, and connects again, although the source still
// believes in the old walsender.
func TestStream_SourceSilent(t *testing.T) {
	s := newPlain(t)
	direct := *s
	p := s.through()
	s.config.StatusInterval, s.config.SilenceTimeout = 200*time.Millisecond, time.Second
	stream := s.open()
	opened := p.accepted.Load()
	direct.exec(`insert into t values (1, 'a')`)
	expect(t, stream, `{"op":"insert","schema":"public","table":"t","new":{"id":"1","note":"a"}}`)
	p.hole.Store(true)
	direct.exec(`insert into t values (2, 'lost on the way')`)
	time.Sleep(500 * time.Millisecond) // the packet is swallowed; the deadline is a second
	p.hole.Store(false)
	expect(t, stream, `{"op":"insert","schema":"public","table":"t","new":{"id":"2","note":"lost on the way"}}`)
	if n := p.accepted.Load(); n == opened {
		t.Error("no new connection was made")
	}
}
