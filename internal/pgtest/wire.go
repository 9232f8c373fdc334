package pgtest

import (
	"encoding/binary"
	"io"
	"net"
	"regexp"
	"strings"
	"time"
)

// Step is something that a client asks of a server: a statement, the end of a COPY, or a status
// update of a replication connection.
type Step struct {
	Application string // application_name of the session
	Statement   string // its beginning, without what differs from run to run
}

// Fault is what happens to a step. The zero value: nothing.
type Fault struct {
	Hold  time.Duration // it waits so long
	Cut   bool          // the server never gets it: the connection is cut instead
	After func()        // called when the server has answered; the answer is lost, and the connection cut
}

// Watch lets f look at every step of connections made from now on, and decide what happens to it.
// Sessions must not be encrypted. Nil: nothing is watched.
func (p *Proxy) Watch(f func(Step) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watch = f
}

const (
	sslRequest    = 80877103
	gssRequest    = 80877104
	cancelRequest = 80877102
)

// wire follows what a client sends.
type wire struct {
	watch       func(Step) Fault
	client      io.Reader
	server      net.Conn
	after       chan<- func()
	application string
	statements  map[string]string // prepared, by name
	portals     map[string]string
}

// follow forwards messages from the client to the server until one of them ends the connection.
func (w *wire) follow() error {
	w.statements, w.portals = map[string]string{}, map[string]string{}
	for {
		packet, code, err := w.startup()
		if err != nil {
			return err
		}
		if _, err := w.server.Write(packet); err != nil || code == cancelRequest {
			return err
		}
		if code != sslRequest && code != gssRequest {
			break
		}
	}
	header := make([]byte, 5)
	for {
		if _, err := io.ReadFull(w.client, header); err != nil {
			return err
		}
		size := int(binary.BigEndian.Uint32(header[1:]))
		if size < 4 {
			return io.ErrUnexpectedEOF
		}
		message := make([]byte, size+1)
		copy(message, header)
		if _, err := io.ReadFull(w.client, message[5:]); err != nil {
			return err
		}
		if statement := w.step(header[0], message[5:]); statement != "" {
			fault := w.watch(Step{w.application, statement})
			time.Sleep(fault.Hold)
			if fault.Cut {
				return io.ErrClosedPipe
			}
			if fault.After != nil {
				w.after <- fault.After
			}
		}
		if _, err := w.server.Write(message); err != nil {
			return err
		}
	}
}

// startup reads a packet without a type.
func (w *wire) startup() (packet []byte, code uint32, err error) {
	head := make([]byte, 8)
	if _, err := io.ReadFull(w.client, head); err != nil {
		return nil, 0, err
	}
	size := int(binary.BigEndian.Uint32(head))
	if size < 8 || size > 1<<16 {
		return nil, 0, io.ErrUnexpectedEOF
	}
	packet = append(head, make([]byte, size-8)...)
	if _, err := io.ReadFull(w.client, packet[8:]); err != nil {
		return nil, 0, err
	}
	fields := strings.Split(string(packet[8:]), "\x00")
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i] == "application_name" {
			w.application = general(fields[i+1])
		}
	}
	return packet, binary.BigEndian.Uint32(head[4:]), nil
}

// step is what a message asks for; empty: nothing by itself.
func (w *wire) step(kind byte, body []byte) string {
	text := func() string {
		s, rest, _ := strings.Cut(string(body), "\x00")
		body = []byte(rest)
		return s
	}
	switch kind {
	case 'Q':
		return general(text())
	case 'P':
		name := text()
		w.statements[name] = general(text())
	case 'B':
		portal := text()
		w.portals[portal] = w.statements[text()]
	case 'E':
		return w.portals[text()]
	case 'c':
		return "(end of copy)"
	case 'd':
		if len(body) == 34 && body[0] == 'r' {
			return "(status update)"
		}
	}
	return ""
}

var (
	spaces = regexp.MustCompile(`\s+`)
	// Settings for the rest of a transaction, and the weak lock that ends an autovacuum where one
	// is in the way.
	before  = regexp.MustCompile(`^((select pg_catalog\.set_config\(.*?, true\)|lock table only [^;]* in share update exclusive mode); ?)+`)
	differs = regexp.MustCompile(`'[^']*'|\b[0-9a-fA-F]{6,}\b|_[0-9a-f]{6,}(?:\b|_\d*)|\b\d+\b`)
)

// general is the beginning of a statement without names and numbers of one run.
func general(sql string) string {
	sql = spaces.ReplaceAllString(strings.TrimSpace(sql), " ")
	sql = before.ReplaceAllString(sql, "")
	sql = differs.ReplaceAllString(sql, "?")
	return sql[:min(len(sql), 90)]
}
