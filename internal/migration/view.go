package migration

import (
	"context"
	"os"
	"runtime"
	"time"

	"github.com/walferry/walferry/snapshot"
)

// Live is what a running migrate writes on the target for status.
type Live struct {
	Host    string      `json:"host,omitempty"`
	PID     int         `json:"pid,omitempty"`
	Copy    CopyStatus  `json:"copy"`
	Indexes IndexStatus `json:"indexes"`
	// LagSeconds is the age of the oldest heartbeat that has not come back.
	LagSeconds float64 `json:"lag_seconds"`
	LagUnknown bool    `json:"lag_unknown,omitempty"` // none has come back in this run, nor is one under way for a second
	Received   string  `json:"received_lsn,omitempty"`
	Note       string  `json:"note,omitempty"` // what it waits for
	Goroutines int     `json:"goroutines"`
	Ended      bool    `json:"ended,omitempty"` // the run has ended by itself

	RetainedLimit int64    `json:"retained_limit_bytes,omitempty"` // of WAL that the slot may hold back; 0: none is known
	RetainedLeft  float64  `json:"retained_left_seconds"`          // until then, as it grows now; -1: it does not, or there is no limit
	NewTables     []string `json:"new_tables,omitempty"`           // of the source, that are not followed
}

// CopyStatus is how far the copy is. Bytes are those of the tables on the source.
type CopyStatus struct {
	Tables     int     `json:"tables"`
	TablesDone int     `json:"tables_done"`
	Pieces     int     `json:"pieces"`
	PiecesDone int     `json:"pieces_done"`
	Rows       int64   `json:"rows"`
	Bytes      int64   `json:"bytes"`
	BytesTotal int64   `json:"bytes_total"` // an estimate until the copy is done
	ETASeconds float64 `json:"eta_seconds"`
}

// IndexStatus is how many tables have their indexes.
type IndexStatus struct {
	Tables     int `json:"tables"`
	TablesDone int `json:"tables_done"`
}

// View is what a running migrate does now, for drawing.
type View struct {
	Live
	Phase        Phase
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

func copyStatus(p snapshot.Progress, elapsed time.Duration) CopyStatus {
	s := CopyStatus{
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
		if err := r.store.setLive(ctx, live); err != nil && ctx.Err() == nil {
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
