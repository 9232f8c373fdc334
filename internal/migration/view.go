package migration

import (
	"context"
	"os"
	"runtime"
	"time"

	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/snapshot"
)

// View is what a running migrate does now, for drawing.
type View struct {
	state.Live
	Phase        state.Phase
	Step         string // what is done within the phase
	Running      []snapshot.TableProgress
	Applied      string
	Transactions int64
	Changes      int64
	LagBytes     int64
	ByItself     bool // when it has caught up it ends, or cuts over, unasked
}

// Watch returns what the runner does now.
func (r *runner) Watch() View {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.view
	v.Phase = r.rec.Phase
	if len(r.copiers) > 0 {
		var p snapshot.Progress
		for _, c := range r.copiers {
			one := c.Progress()
			p.Tables, p.TablesDone = p.Tables+one.Tables, p.TablesDone+one.TablesDone
			p.Pieces, p.PiecesDone = p.Pieces+one.Pieces, p.PiecesDone+one.PiecesDone
			p.Rows, p.Bytes, p.BytesTotal = p.Rows+one.Rows, p.Bytes+one.Bytes, p.BytesTotal+one.BytesTotal
			p.Running = append(p.Running, one.Running...)
		}
		v.Copy = copyStatus(p, time.Since(r.copyBegan))
		v.Running = p.Running
		r.view.Copy = v.Copy
	}
	if r.follow != nil {
		r.follow.fill(&v)
	}
	return v
}

func copyStatus(p snapshot.Progress, elapsed time.Duration) state.CopyStatus {
	s := state.CopyStatus{
		Tables: p.Tables, TablesDone: p.TablesDone, Pieces: p.Pieces, PiecesDone: p.PiecesDone,
		Rows: p.Rows, Bytes: p.Bytes, BytesTotal: p.BytesTotal,
	}
	if left := s.BytesTotal - s.Bytes; s.TablesDone < s.Tables && s.Bytes > 0 && left > 0 {
		s.ETASeconds = elapsed.Seconds() * float64(left) / float64(s.Bytes)
	}
	return s
}

func (r *runner) step(text string) {
	r.mu.Lock()
	r.view.Step = text
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
		view := r.Watch()
		live := view.Live
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
