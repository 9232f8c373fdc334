package cutover

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/online"
)

// A cutover whose time is over while it waited names who was in the way. Any other error, and one
// that names somebody, is left as it is.
func TestSourceWay_End(t *testing.T) {
	repack := online.Holder{PID: 7, User: "admin", Application: "psql", Seconds: 60, Query: "REPACK (CONCURRENTLY)"}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	late := errors.New("list triggers: deadline exceeded")
	for _, c := range []struct {
		name string
		ctx  context.Context
		last []online.Holder
		err  error
		says string // of a gate; empty: the error is left as it is
	}{
		{"late", over, []online.Holder{repack}, late, `list triggers: deadline exceeded; it waits for a lock on the source, held by pid 7 (admin, "psql", a transaction of 60 s, REPACK (CONCURRENTLY))`},
		{"nobody", over, nil, late, ""},
		{"in time", t.Context(), []online.Holder{repack}, late, ""},
		{"named", over, []online.Holder{repack}, &WaitError{Problem: "somebody"}, ""},
		{"done", over, []online.Holder{repack}, nil, ""},
	} {
		done := make(chan struct{})
		close(done)
		w := &sourceWay{stop: func() {}, done: done, last: c.last}
		got := w.end(c.ctx, c.err)
		gate := fail.Find(got, fail.Gate)
		switch {
		case c.says == "" && got != c.err: //nolint:errorlint // the very same
			t.Errorf("%s: got %v, want %v", c.name, got, c.err)
		case c.says != "" && (gate == nil || gate.Problem != c.says || !strings.Contains(gate.Advice, "pg_terminate_backend(7)")):
			t.Errorf("%s: got %#v, want a gate: %s", c.name, got, c.says)
		}
	}
}
