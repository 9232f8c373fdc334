package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/walferry/walferry/internal/ready"
)

// frame is what a page gets whenever the migration was read.
type frame struct {
	Key     string          `json:"key"`
	At      time.Time       `json:"at"`      // when Status was read
	Problem string          `json:"problem"` // why it was not read since
	Status  json.RawMessage `json:"status"`  // null: it was not read yet
	Ready   ready.Report    `json:"ready"`
	CatchUp *float64        `json:"catch_up_seconds"`
	Tables  int             `json:"tables_version"`
}

func (v *view) frame() (f frame, next <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f = frame{Key: v.Key, At: v.at, Problem: v.problem, Status: v.text, Ready: v.ready(), CatchUp: v.history.catchUp(), Tables: v.version}
	if v.text == nil {
		f.Status = json.RawMessage("null")
	}
	return f, v.next
}

// slowest is how long a page may take to accept a frame.
const slowest = 20 * time.Second

// events sends a frame at once, and one whenever the migration was read.
func (s *Server) events(w http.ResponseWriter, r *http.Request, v *view) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		http.Error(w, "too many pages are open", http.StatusServiceUnavailable)
		return
	}
	defer v.watch()()
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	for {
		f, next := v.frame()
		text, err := json.Marshal(f)
		if err != nil {
			return
		}
		out.SetWriteDeadline(time.Now().Add(slowest)) //nolint:errcheck // the write tells
		if _, err := fmt.Fprintf(w, "data: %s\n\n", text); err != nil {
			return
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-next:
		case <-r.Context().Done():
			return
		}
	}
}
