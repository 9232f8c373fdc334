package pgtest

import (
	"bytes"
	"io"
	"os"
	"time"
)

// Log returns the server's log so far, over all its starts.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.logPath)
	if err != nil {
		return ""
	}
	return string(text)
}

// logEnd is the part of the log that tells why a server did not start.
func (s *Server) logEnd() []byte {
	text := []byte(s.Log())
	const most = 2000
	if len(text) > most {
		text = text[len(text)-most:]
	}
	return bytes.TrimSpace(text)
}

// follow copies what is appended to a log until done. It reads the file, since a pipe would make a
// server wait for a slow reader.
func follow(path string, to io.Writer, done <-chan struct{}) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close()
	if _, err := file.Seek(0, io.SeekEnd); err != nil {
		return
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-tick.C:
		case <-done:
			last = true
		}
		if _, err := io.Copy(to, file); err != nil {
			return
		}
	}
}
