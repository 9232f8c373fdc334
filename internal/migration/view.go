package migration

import (
	"context"
	"os"
	"runtime"
	"time"
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
		st.Follow(s)
	}
	return st
}

func (r *runner) step(text string) {
	r.mu.Lock()
	r.status.Step = text
	r.mu.Unlock()
	r.c.Logger.Debug(text)
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
		live := st.Live()
		live.Host, live.PID, live.Goroutines, live.Ended = host, os.Getpid(), runtime.NumGoroutine(), ended
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := r.store.View().Set(ctx, live); err != nil && ctx.Err() == nil {
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
