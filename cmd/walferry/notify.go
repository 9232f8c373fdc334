package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/walferry/walferry/internal/migration"
)

// notifyEvery is how often the supervisor is told where the migration stands.
const notifyEvery = 5 * time.Second

// supervisor is systemd, or whoever else has given the socket of sd_notify(3): a unit of Type=notify is up when READY=1 comes.
type supervisor struct {
	conn net.Conn
	stop chan struct{}
	over sync.WaitGroup
}

// newSupervisor returns nil where there is none, or it cannot be reached.
func newSupervisor() *supervisor {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if strings.HasPrefix(path, "@") { // a name that is no file
		path = "\x00" + path[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil
	}
	return &supervisor{conn: conn, stop: make(chan struct{})}
}

// begin says that the migration runs, and from then on where it stands. s may be nil.
func (s *supervisor) begin(watch func() migration.Status) {
	if s == nil {
		return
	}
	s.tell("READY=1\n" + standing(watch()))
	s.over.Go(func() {
		for {
			select {
			case <-s.stop:
				return
			case <-time.After(notifyEvery):
				s.tell(standing(watch()))
			}
		}
	})
}

// end says that the process ends. s may be nil.
func (s *supervisor) end() {
	if s == nil {
		return
	}
	close(s.stop)
	s.over.Wait()
	s.tell("STOPPING=1")
	s.conn.Close()
}

func (s *supervisor) tell(text string) {
	s.conn.Write([]byte(text)) //nolint:errcheck // the migration does not depend on it
}

func standing(st migration.Status) string {
	text := "phase " + string(st.Phase)
	if st.Stream.LagSeconds != nil {
		text += fmt.Sprintf(", %.1f s behind", *st.Stream.LagSeconds)
	}
	return "STATUS=" + clean(text)
}
