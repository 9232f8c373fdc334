package check

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/walferry/walferry/internal/pgtest"
)

// A pooler gives every client a made-up process id.
func TestRun_Pooler(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	u := mustParse(t, source)
	u.Host = pooler(t, u.Host)
	u.RawQuery = "sslmode=disable"
	report := check(t, Config{SourceDSN: u.String(), TargetDSN: target})
	if found := find(report, "pooler", "source"); len(found) != 1 || found[0].Severity != Block {
		t.Errorf("got:\n%s", summary(report))
	}
}

// pooler forwards connections to a server, under another process id.
func pooler(t *testing.T, server string) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	serve := func(client net.Conn) {
		defer all.Done()
		defer client.Close()
		backend, err := net.Dial("tcp4", server)
		if err != nil {
			return
		}
		defer backend.Close()
		all.Add(1)
		go func() {
			defer all.Done()
			defer backend.Close()
			io.Copy(backend, client) //nolint:errcheck // ends with the client
		}()
		pass(client, backend)
	}
	all.Add(1)
	go func() {
		defer all.Done()
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			all.Add(1)
			go serve(client)
		}
	}()
	t.Cleanup(func() { listener.Close(); all.Wait() })
	return listener.Addr().String()
}

// pass copies the server's messages and alters BackendKeyData.
func pass(client io.Writer, server io.Reader) {
	header := make([]byte, 5)
	for {
		if _, err := io.ReadFull(server, header); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(header[1:])-4)
		if _, err := io.ReadFull(server, body); err != nil {
			return
		}
		if header[0] == 'K' {
			body[0] ^= 1
		}
		if _, err := client.Write(append(slices.Clone(header), body...)); err != nil {
			return
		}
	}
}
