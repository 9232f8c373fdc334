package migration

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/walferry/walferry/internal/copying"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/state"
)

// live is what a run shows of itself: its phase, and what it does.
type live struct {
	flow *flow.Flow
	rows *copying.Copy // nil: nobody looks yet
	log  *slog.Logger
	told func() // called when the phase has changed; nil: nobody wants to know

	mu     sync.Mutex
	status Status // as far as it is kept; watch adds the rest
}

// watch returns what the run is doing now.
func (l *live) watch() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.status
	if copied, tables, ok := l.rows.Progress(); ok {
		st.Copy, st.Tables = copied, tables
		l.status.Copy = copied
	}
	if indexes, waiting, ok := l.rows.Indexes(); ok {
		st.Indexes, st.Indexing = indexes, waiting
	}
	if l.flow == nil {
		return st
	}
	if s, ok := l.flow.Status(); ok {
		st.Follow(s)
	}
	return st
}

// phase returns the phase that was recorded last.
func (l *live) phase() Phase {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status.Phase
}

// set changes what is kept.
func (l *live) set(change func(*Status)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.status)
}

// follows notes which flow is followed.
func (l *live) follows(f *flow.Flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flow = f
}

// moved sets the phase, which was recorded.
func (l *live) moved(phase Phase) {
	news := false
	l.set(func(st *Status) {
		news = st.Phase != phase
		if (st.Phase == Switched) != (phase == Switched) { // another flow is followed, whose slot is another one
			st.Source.RetainedLimit, st.Source.RetainedLeft = nil, nil
			l.flow = nil // until that is followed
		}
		st.Enter(phase)
	})
	if news && l.told != nil {
		l.told()
	}
}

// retains notes what the slot of the flow that is followed holds back.
func (l *live) retains(now flow.Retained) {
	l.set(func(st *Status) {
		st.Source.RetainedLimit, st.Source.RetainedLeft = nil, nil
		if now.Limit > 0 {
			st.Source.RetainedLimit = &now.Limit
		}
		if now.Left >= 0 {
			st.Source.RetainedLeft = &now.Left
		}
	})
}

// step says what is being done now.
func (l *live) step(text string) {
	l.set(func(st *Status) { st.Step = text })
	l.log.Debug(text)
}

// keep writes what status shows, now and once a second, until the returned function is called. From
// the first phase of this run on nobody sees what an earlier one has left.
func (l *live) keep(ctx context.Context, store *state.Store) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	host, _ := os.Hostname()
	ended := false
	write := func(ctx context.Context) {
		st := l.watch()
		live := st.Live()
		live.Host, live.PID, live.Goroutines, live.Ended = host, os.Getpid(), runtime.NumGoroutine(), ended
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := store.View().Set(ctx, live); err != nil && ctx.Err() == nil {
			l.log.Debug("write status", "error", err)
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
