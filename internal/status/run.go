package status

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
	"github.com/walferry/walferry/internal/tally"
)

// Live is what a run shows of itself: its phase, and what it does.
type Live struct {
	Rows   *copying.Copy                  // nil: nobody looks yet
	Hooks  func() map[string]tally.Spread // how long their calls have taken; nil: there are none
	Told   func()                         // called when the phase has changed; nil: nobody wants to know
	Logger *slog.Logger

	mu     sync.Mutex
	flow   *flow.Flow
	status Status                // as far as it is kept; Watch adds the rest
	write  func(context.Context) // what others see of it; nil: it is not kept
}

// Watch returns what the run is doing now.
func (l *Live) Watch() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.status
	if copied, tables, ok := l.Rows.Progress(); ok {
		st.Copy, st.Tables = copied, tables
		l.status.Copy = copied
	}
	if indexes, waiting, ok := l.Rows.Indexes(); ok {
		st.Indexes, st.Indexing = indexes, waiting
	}
	if l.Hooks != nil {
		st.Hooks = l.Hooks()
	}
	if l.flow == nil {
		return st
	}
	if s, ok := l.flow.Status(); ok {
		st.Follow(s)
	}
	return st
}

// Phase returns the phase that was recorded last.
func (l *Live) Phase() state.Phase {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status.Phase
}

// Set changes what is kept.
func (l *Live) Set(change func(*Status)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.status)
}

// Follows notes which flow is followed.
func (l *Live) Follows(f *flow.Flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flow = f
}

// Moved sets the phase, which was recorded.
func (l *Live) Moved(phase state.Phase) {
	news := false
	l.Set(func(st *Status) {
		news = st.Phase != phase
		if (st.Phase == state.Switched) != (phase == state.Switched) { // another flow is followed, whose slot is another one
			st.Source.RetainedLimit, st.Source.RetainedLeft = nil, nil
			l.flow = nil // until that is followed
		}
		st.Enter(phase)
	})
	if news && l.Told != nil {
		l.Told()
	}
}

// Retains notes what the slot of the flow that is followed holds back.
func (l *Live) Retains(now flow.Retained) {
	l.Set(func(st *Status) {
		st.Source.RetainedLimit, st.Source.RetainedLeft = nil, nil
		if now.Limit > 0 {
			st.Source.RetainedLimit = &now.Limit
		}
		if now.Left >= 0 {
			st.Source.RetainedLeft = &now.Left
		}
	})
}

// Step says what is being done now.
func (l *Live) Step(text string) {
	l.Set(func(st *Status) { st.Step = text })
	l.Logger.Debug(text)
}

// Keep writes what status shows, now and once a second, until the returned function is called. From
// the first phase of this run on nobody sees what an earlier one has left.
func (l *Live) Keep(ctx context.Context, store *state.Store) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	host, _ := os.Hostname()
	ended := false
	var one sync.Mutex // writes at a time, so that none writes what was before
	write := func(ctx context.Context) {
		one.Lock()
		defer one.Unlock()
		st := l.Watch()
		live := st.Live()
		live.Host, live.PID, live.Goroutines, live.Ended = host, os.Getpid(), runtime.NumGoroutine(), ended
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := store.View().Set(ctx, live); err != nil && ctx.Err() == nil {
			l.Logger.Debug("write status", "error", err)
		}
	}
	l.mu.Lock()
	l.write = write
	l.mu.Unlock()
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
		l.mu.Lock()
		l.write = nil
		l.mu.Unlock()
		one.Lock()
		ended = true
		one.Unlock()
		write(context.Background())
	}
}

// Show writes what status shows now, before something is done that others would find without knowing why.
func (l *Live) Show(ctx context.Context) {
	l.mu.Lock()
	write := l.write
	l.mu.Unlock()
	if write != nil {
		write(ctx)
	}
}
