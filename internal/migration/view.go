package migration

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/state"
)

// Watch returns what the runner does now.
func (r *runner) Watch() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.status
	st.Phase = r.rec.Phase
	if copied, tables, ok := r.rows.Progress(); ok {
		st.Copy, st.Tables = copied, tables
		r.status.Copy = copied
	}
	if indexes, ok := r.rows.Indexes(); ok {
		st.Indexes = indexes
	}
	if s, ok := r.flow.Status(); ok {
		st.follow(s)
	}
	return st
}

// follow adds what is known of the flow.
func (st *Status) follow(s flow.Status) {
	st.Stream.AppliedLSN, st.Stream.Transactions, st.Stream.Changes = s.Applied.String(), s.Transactions, s.Changes
	st.Stream.LagBytes = &s.LagBytes
	if s.LagKnown {
		seconds := s.Lag.Seconds()
		st.Stream.LagSeconds = &seconds
	}
	if s.Received != 0 {
		st.Stream.ReceivedLSN = s.Received.String()
	}
	st.Note = s.Note
}

func (r *runner) step(text string) {
	r.mu.Lock()
	r.status.Step = text
	r.mu.Unlock()
	r.c.Logger.Debug(text)
}

// live is what of a status other processes cannot find out for themselves.
func (st *Status) live() state.Live {
	l := state.Live{
		Copy: st.Copy, Indexes: st.Indexes, Received: st.Stream.ReceivedLSN, Note: st.Note, NewTables: st.NewTables, Steps: st.Cutover.Steps,
		LagUnknown: st.Stream.LagSeconds == nil, RetainedLeft: -1,
	}
	if !l.LagUnknown {
		l.LagSeconds = *st.Stream.LagSeconds
	}
	if st.Source.RetainedLimit != nil {
		l.RetainedLimit = *st.Source.RetainedLimit
	}
	if st.Source.RetainedLeft != nil {
		l.RetainedLeft = *st.Source.RetainedLeft
	}
	return l
}

// fromLive is the opposite of live.
func (st *Status) fromLive(l *state.Live) {
	st.Copy, st.Indexes, st.Note, st.NewTables = l.Copy, l.Indexes, l.Note, l.NewTables
	st.Stream.ReceivedLSN, st.Cutover.Steps = l.Received, l.Steps
	st.Runner = fmt.Sprintf("%s, pid %d", l.Host, l.PID)
	if !l.LagUnknown {
		st.Stream.LagSeconds = &l.LagSeconds
	}
	if l.RetainedLimit > 0 {
		st.Source.RetainedLimit = &l.RetainedLimit
	}
	if l.RetainedLeft >= 0 {
		st.Source.RetainedLeft = &l.RetainedLeft
	}
}

// liveLoop writes what status shows, now and once a second, until the returned function
// is called. From the first phase of this run on nobody sees what an earlier one has left.
func (r *runner) liveLoop(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	host, _ := os.Hostname()
	ended := false
	write := func(ctx context.Context) {
		st := r.Watch()
		live := st.live()
		live.Host, live.PID, live.Goroutines, live.Ended = host, os.Getpid(), runtime.NumGoroutine(), ended
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := r.store.SetLive(ctx, live); err != nil && ctx.Err() == nil {
			r.c.Logger.Debug("write status", "error", err)
		}
	}
	write(ctx)
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				write(ctx)
			}
		}
	}()
	return func() {
		cancel()
		<-done
		ended = true
		write(context.Background())
	}
}
