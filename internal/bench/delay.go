package main

import (
	"net"
	"net/url"
	"time"
)

// delayed forwards connections to a server as a network would that is far away: every byte
// takes half of the round trip in each direction.
type delayed struct {
	listener  net.Listener
	server    string
	roundTrip time.Duration
}

// delay listens on a port of its own, and returns the DSN that leads through it.
func delay(dsn string, roundTrip time.Duration) (*delayed, string, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, "", err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	d := &delayed{listener: listener, server: u.Host, roundTrip: roundTrip}
	go d.serve()
	u.Host = listener.Addr().String()
	return d, u.String(), nil
}

func (d *delayed) close() { d.listener.Close() } //nolint:errcheck // thrown away

func (d *delayed) serve() {
	for {
		client, err := d.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", d.server)
		if err != nil {
			client.Close() //nolint:errcheck // the client sees it
			continue
		}
		go d.forward(client, server)
		go d.forward(server, client)
	}
}

// forward ends with the first connection that does.
func (d *delayed) forward(from, to net.Conn) {
	type part struct {
		at    time.Time
		bytes []byte
	}
	parts := make(chan part, 4096)
	go func() {
		defer close(parts)
		for {
			b := make([]byte, 32<<10)
			n, err := from.Read(b)
			if n > 0 {
				parts <- part{time.Now().Add(d.roundTrip / 2), b[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range parts {
		time.Sleep(time.Until(p.at))
		if _, err := to.Write(p.bytes); err != nil {
			break
		}
	}
	from.Close() //nolint:errcheck // it is over
	to.Close()   //nolint:errcheck // as above
	for range parts {
	}
}
