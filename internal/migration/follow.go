package migration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// following is the part of a run that applies the stream, and what may be asked of
// it meanwhile.
type following struct {
	r       *runner
	applier *applier.Applier

	mu        sync.Mutex
	stream    *decoder.Stream
	underway  []beat        // heartbeats that have not come back, the oldest first
	beatAt    time.Time     // when the last one was written
	lag       time.Duration // trip of the last one that has come back
	lagBytes  int64
	held      *heldFor // nil: no verify holds the applier
	cutting   bool     // a cutover is under way: no verify may hold the applier
	again     *copyingAgain
	writtenAt decoder.LSN       // CommitLSN of the last transaction that changed a migrated table
	written   *decoder.Relation // such a table; nil: none was changed

	holding chan struct{} // full while somebody may hold the applier
	turns   chan wordsTurn
}

// beat is a heartbeat: its number, and when it was written by this process's clock.
type beat struct {
	id int64
	at time.Time
}

// following applies changes until the cutover is done, the migration is aborted,
// ctx ends, or something needs an operator.
func (r *runner) following(ctx context.Context) error {
	// What an interrupted cutover had prepared must not act on what is applied, and its
	// fence must not refuse anybody until its deadline: a rehearsal, and a cutover that
	// only puts the triggers up, are interrupted in this very phase.
	if err := errors.Join(r.holdTriggers(ctx), r.dropLateForeignKeys(ctx),
		r.unfence(ctx, func() {}, func(text string) { r.c.Logger.Warn(text) })); err != nil {
		return err
	}
	r.step("follow")
	f, err := r.startFollowing(ctx, nil)
	if err != nil {
		return err
	}
	defer r.stopFollowing(ctx, f)
	return f.run(ctx, f.serve, f.keepWords, func(ctx context.Context, stop context.CancelCauseFunc) {
		if r.c.Until == UntilCaughtUp || r.c.Auto {
			f.onceCaughtUp(ctx, stop)
		}
	})
}

// startFollowing makes the applier.
func (r *runner) startFollowing(ctx context.Context, windows *applier.Windows) (*following, error) {
	f := &following{r: r, holding: make(chan struct{}, 1), turns: make(chan wordsTurn)}
	conn, err := session.Open(ctx, session.Config{DSN: r.c.Target, Application: r.c.Name + " apply"})
	if err != nil {
		return nil, err
	}
	f.applier, err = applier.New(ctx, conn, applier.Config{
		Name: r.c.Name, Logger: r.c.Logger, Columns: r.columnsAtStart(), Windows: windows,
		Connect: func(ctx context.Context) (*pgx.Conn, error) {
			return session.Open(ctx, session.Config{DSN: r.c.Target, Application: r.c.Name + " apply"})
		},
	})
	if err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	r.mu.Lock()
	r.follow = f
	r.mu.Unlock()
	return f, nil
}

func (r *runner) stopFollowing(ctx context.Context, f *following) {
	f.applier.Close(context.WithoutCancel(ctx)) //nolint:errcheck // everything of it is durable
}

// run applies the stream with helpers beside it, of which each may stop it. They end
// before the applier does, so that a signal lets it finish.
func (f *following) run(ctx context.Context, beside ...func(context.Context, context.CancelCauseFunc)) error {
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	helpers, end := context.WithCancelCause(context.WithoutCancel(ctx))
	var wait sync.WaitGroup
	defer wait.Wait()
	defer end(errEnding)
	wait.Go(func() { f.heartbeats(helpers) })
	wait.Go(func() { f.guardLock(helpers, stop) })
	for _, help := range beside {
		wait.Go(func() { help(helpers, stop) })
	}
	return f.apply(run)
}

// apply opens the stream at the target's position and runs the applier on it. It
// begins again where a transaction was interrupted that is too large to be kept.
func (f *following) apply(ctx context.Context) error {
	wait := time.Second
	for {
		err := f.applyStream(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var restart *applier.RestartError
		if !errors.As(err, &restart) {
			return f.overtaken(ctx, err)
		}
		f.r.c.Logger.Info("starting the stream again", "at", f.applier.Applied(), "reason", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait + rand.N(wait)):
		}
		wait = min(2*wait, 30*time.Second)
	}
}

// overtaken tells a slot that another migrate has moved on, while this one had lost its lock
// and waited for the source, from one that is past what the target has: that is no gap.
func (f *following) overtaken(ctx context.Context, err error) error {
	var slot *decoder.SlotError
	if !errors.As(err, &slot) || slot.Reason != decoder.SlotAhead {
		return err
	}
	applied, unread := f.r.applied(ctx)
	if unread != nil || applied < slot.Confirmed {
		return err
	}
	return fmt.Errorf("another migrate has moved the stream from %s to %s: only one can be at work", slot.Start, applied)
}

// applied asks the target where it is, whoever has brought it there.
func (r *runner) applied(ctx context.Context) (decoder.LSN, error) {
	var applied string
	err := r.store.row(ctx, `select applied::text from walferry.progress where stream = $1`, []any{r.c.Name}, &applied)
	return parseLSN(applied), err
}

func (f *following) applyStream(ctx context.Context) error {
	r := f.r
	c, err := r.streamConfig(ctx, f.applier.Applied())
	if err != nil {
		return err
	}
	stream, err := decoder.Open(ctx, r.c.Source, c)
	if err != nil {
		return err
	}
	defer stream.Close()
	f.mu.Lock()
	f.stream = stream
	f.mu.Unlock()
	return f.applier.Run(ctx, &watched{stream, f})
}

// streamConfig is what the stream must be, from a position on.
func (r *runner) streamConfig(ctx context.Context, start decoder.LSN) (decoder.Config, error) {
	publications, err := r.publications(ctx)
	if err != nil {
		return decoder.Config{}, err
	}
	c := decoder.Config{
		Slot: slotName(r.c.Name), Start: start, Logger: r.c.Logger,
		Expect: decoder.Identity{SystemID: r.rec.SystemID, Timeline: r.rec.Timeline, Database: r.rec.Database, Publications: publications},
	}
	for name, p := range publications {
		c.Publications = append(c.Publications, name)
		for _, t := range p.Tables {
			if schema, name, _ := strings.Cut(decoder.TruncationTable, "."); t == catalog.Name(schema, name) {
				c.Truncations = decoder.TruncationTable
			}
		}
	}
	return c, nil
}

// fill adds what the stream and the applier know.
func (f *following) fill(v *View) {
	v.Applied = f.applier.Applied().String()
	p := f.applier.Progress()
	v.Transactions, v.Changes = p.Transactions, p.Changes
	f.mu.Lock()
	defer f.mu.Unlock()
	v.LagSeconds, v.LagBytes = f.lagNow().Seconds(), f.lagBytes
	if f.stream != nil {
		v.Received = f.stream.Received().String()
	}
	if f.held != nil {
		v.Note = "held for " + f.held.owner
	}
	if f.again != nil {
		v.Note = fmt.Sprintf("copying %s again, as it was updated in spite of --insert-only: %d rows", f.again.table, f.again.Rows())
	}
}

// lagNow is the trip of the last heartbeat, or the age of the oldest that is under
// way when that is more.
func (f *following) lagNow() time.Duration {
	if len(f.underway) > 0 {
		return max(f.lag, time.Since(f.underway[0].at))
	}
	return f.lag
}

// writeBeat writes the canary row and returns its number.
func (f *following) writeBeat(ctx context.Context, kind string) (id int64, err error) {
	var position string
	err = f.r.source.row(ctx, `
insert into walferry.heartbeat as h (migration, kind, id, at) values ($1, $2, 1, clock_timestamp())
on conflict (migration, kind) do update set id = h.id + 1, at = clock_timestamp()
returning id, pg_current_wal_lsn()::text`, []any{f.r.c.Name, kind}, &id, &position)
	if err != nil {
		return 0, fmt.Errorf("write the heartbeat on the source: %w", err)
	}
	f.mu.Lock()
	f.lagBytes = max(0, int64(parseLSN(position))-int64(f.applier.Applied()))
	f.mu.Unlock()
	return id, nil
}

// seenBeat returns the number of the last heartbeat that has come through the stream.
func (f *following) seenBeat(ctx context.Context, kind string) (id int64, err error) {
	err = f.r.store.row(ctx, `select coalesce(max(id), 0) from walferry.heartbeat where migration = $1 and kind = $2`, []any{f.r.c.Name, kind}, &id)
	return id, err
}

// canary writes a row on the source and waits until it has come back through the
// stream; that, and nothing less, shows that the target has caught up. It returns
// the time of the trip.
func (f *following) canary(ctx context.Context, kind string) (time.Duration, error) {
	began := time.Now()
	id, err := f.writeBeat(ctx, kind)
	if err != nil {
		return 0, err
	}
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		seen, err := f.seenBeat(ctx, kind)
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if err == nil && seen >= id {
			return time.Since(began), nil
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// heartbeats keeps the canary going, for the lag that status shows, and as the
// sign that the publication is still what it was.
func (f *following) heartbeats(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for ; ctx.Err() == nil; waitTick(ctx, tick) {
		f.mu.Lock()
		waiting, last := len(f.underway) > 0, f.beatAt
		f.mu.Unlock()
		if waiting {
			if seen, err := f.seenBeat(ctx, "beat"); err == nil {
				f.mu.Lock()
				for len(f.underway) > 0 && f.underway[0].id <= seen {
					f.lag = time.Since(f.underway[0].at)
					f.underway = f.underway[1:]
				}
				f.mu.Unlock()
			}
		}
		if time.Since(last) < f.r.c.Heartbeat {
			continue
		}
		began := time.Now()
		id, err := f.writeBeat(ctx, "beat")
		if err != nil {
			f.r.c.Logger.Debug("heartbeat", "error", err)
			continue
		}
		f.mu.Lock()
		f.underway, f.beatAt = append(f.underway, beat{id, began}), began
		f.mu.Unlock()
	}
}

func waitTick(ctx context.Context, tick *time.Ticker) {
	select {
	case <-ctx.Done():
	case <-tick.C:
	}
}

// guardLock stops the run when the lock on the target is gone and somebody else
// has it: then another migrate is at work.
func (f *following) guardLock(ctx context.Context, stop context.CancelCauseFunc) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for waitTick(ctx, tick); ctx.Err() == nil; waitTick(ctx, tick) {
		if err := f.r.lock.Ping(ctx); err == nil || ctx.Err() != nil {
			continue
		}
		f.r.lock.Close(ctx)
		err := f.r.takeLock(ctx)
		var gate *GateError
		if errors.As(err, &gate) {
			stop(gate)
			return
		}
	}
}

// onceCaughtUp waits for the first canary that comes back in time, then ends the
// run, or cuts over.
func (f *following) onceCaughtUp(ctx context.Context, stop context.CancelCauseFunc) {
	for ctx.Err() == nil {
		lag, err := f.canary(ctx, "barrier")
		if err == nil && lag <= f.r.c.Cut.MaxLag {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	if ctx.Err() != nil {
		return
	}
	f.r.c.Logger.Info("caught up")
	if f.r.c.Until == UntilCaughtUp {
		stop(errCaughtUp)
		return
	}
	_, err := f.cutover(ctx, f.r.c.Cut, func(step string) { f.r.c.Logger.Info("cutover: " + step) })
	if err == nil {
		err = errFinished
	}
	stop(err)
}
