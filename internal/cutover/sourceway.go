package cutover

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// sourceWay looks for those whose locks on the source a cutover waits for. Whatever reads the
// catalogue needs the weakest lock of a table, and yet queues behind an ALTER TABLE or the end of a
// REPACK that waits for a reader.
type sourceWay struct {
	stop  context.CancelFunc
	done  chan struct{}
	sides sides.Sides

	mu   sync.Mutex
	last []online.Holder // at the last look, and at the one before
}

// watchSource looks every second, from the third on, and reports each holder once.
func (s *Switch) watchSource(ctx context.Context) *sourceWay {
	ctx, stop := context.WithCancel(ctx)
	w := &sourceWay{stop: stop, done: make(chan struct{}), sides: s.Sides}
	go func() {
		defer close(w.done)
		if err := w.look(ctx, s.From.DSN, s.Name, s.waits); err != nil && ctx.Err() == nil {
			s.Logger.Debug("look for who is in the way on the "+s.Sides.From(), "error", err)
		}
	}()
	return w
}

func (w *sourceWay) look(ctx context.Context, dsn, name string, tell online.Waits) error {
	wait.Sleep(ctx, 3*time.Second) //nolint:errcheck // the next query sees that ctx has ended
	conn, err := session.Open(ctx, session.Config{DSN: dsn, Application: name + " look"})
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it has only read
	before, told := map[int32]bool{}, map[int32]bool{}
	for ; ctx.Err() == nil; wait.Sleep(ctx, time.Second) { //nolint:errcheck // the loop sees that ctx has ended
		rows, err := conn.Query(ctx, `
select `+online.HolderColumns+`
  from pg_stat_activity w cross join lateral unnest(pg_blocking_pids(w.pid)) as l(pid) left join pg_stat_activity a on a.pid = l.pid
 where w.datname = current_database() and w.application_name in ($1, $1 || ' fence') and w.wait_event_type = 'Lock'
   and w.query_start < clock_timestamp() - interval '1 second' -- what gives up sooner tells by itself
 group by l.pid order by 4 desc`, "walferry "+name)
		if err != nil {
			return err
		}
		holders, err := pgx.CollectRows(rows, pgx.RowToStructByPos[online.Holder])
		if err != nil {
			return err
		}
		var stay, fresh []online.Holder
		now := map[int32]bool{}
		for _, h := range holders {
			now[h.PID] = true
			if !before[h.PID] {
				continue
			}
			if stay = append(stay, h); !told[h.PID] {
				told[h.PID], fresh = true, append(fresh, h)
			}
		}
		before = now
		w.mu.Lock()
		w.last = stay
		w.mu.Unlock()
		why := "waiting for a lock on the " + w.sides.From() + ", held by "
		if len(fresh) > 0 {
			tell(online.Wait{For: why, Holders: fresh}, true)
		}
		if len(stay) > 0 {
			tell(online.Wait{For: why, Holders: stay}, false)
		}
	}
	return nil
}

// end ends the looking, and names in an error after waiting for too long who was in the way.
func (w *sourceWay) end(ctx context.Context, err error) error {
	w.stop()
	<-w.done
	var named *WaitError
	if err == nil || ctx.Err() == nil || len(w.last) == 0 || errors.As(err, &named) || errors.Is(err, state.ErrOvertaken) {
		return err
	}
	return &fail.Error{
		Kind:    fail.Gate,
		Problem: fmt.Sprintf("%v; it waits for a lock on the %s, held by %s", err, w.sides.From(), online.List(w.last)),
		Advice:  "on the " + w.sides.From() + ", " + online.EndHint(w.last) + "; then ask again",
	}
}
