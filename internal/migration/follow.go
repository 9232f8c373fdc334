package migration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
	"github.com/walferry/walferry/slot"
)

// following is the part of a run that applies the stream, and what may be asked of
// it meanwhile.
type following struct {
	r       *runner
	applier *applier.Applier
	beats   *beats

	mu        sync.Mutex
	stream    *decoder.Stream
	underway  []*beat       // heartbeats that have not come back, the oldest first
	lag       time.Duration // trip of the last one that has come back
	lagBytes  int64
	held      *heldFor // nil: no verify holds the applier
	cutting   bool     // a cutover is under way: no verify may hold the applier, and no other one begins
	closed    bool     // a cutover that was taken back could not un-fence
	again     *copyingAgain
	writtenAt decoder.LSN       // CommitLSN of the last transaction that changed a migrated table
	written   *decoder.Relation // such a table; nil: none was changed

	holding chan struct{} // full while somebody may hold the applier
	turns   chan wordsTurn
}

// following applies changes until the cutover is done, the migration is aborted,
// ctx ends, or something needs an operator.
func (r *runner) following(ctx context.Context) error {
	// What an interrupted cutover had prepared must not act on what is applied, and its
	// fence must not refuse anybody until its deadline: a rehearsal, and a cutover that
	// only puts the triggers up, are interrupted in this very phase.
	_, err := r.holdTriggers(ctx)
	if err := errors.Join(err, r.dropLateForeignKeys(ctx),
		r.fence().TakeDown(ctx, "", func() {}, func(text string) { r.c.Logger.Warn(text) })); err != nil {
		return err
	}
	r.step("follow")
	f, err := r.startFollowing(ctx, nil)
	if err != nil {
		return err
	}
	defer r.stopFollowing(ctx, f)
	return f.run(ctx, f.serve, f.keepWords, func(ctx context.Context, stop context.CancelCauseFunc) {
		if r.c.Until == UntilCaughtUp || r.c.Auto == On {
			f.onceCaughtUp(ctx, stop)
		}
	})
}

// startFollowing makes the applier.
func (r *runner) startFollowing(ctx context.Context, windows *applier.Windows) (*following, error) {
	f := &following{r: r, beats: newBeats(), holding: make(chan struct{}, 1), turns: make(chan wordsTurn)}
	conn, err := session.Open(ctx, session.Config{DSN: r.c.Target, Application: r.c.Name + " apply"})
	if err != nil {
		return nil, err
	}
	f.applier, err = applier.New(ctx, conn, applier.Config{
		Name: r.c.Name, Logger: r.c.Logger, Originals: r.originals(), Windows: windows, Table: targetTable,
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

// targetTable leaves out what an older version has put into the publication for its canary.
func targetTable(namespace, name string) (pgx.Identifier, bool) {
	return pgx.Identifier{namespace, name}, namespace != "walferry" || name != "heartbeat"
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
	interrupted := func(err error) bool {
		var restart *applier.RestartError
		return errors.As(err, &restart)
	}
	err := wait.Again(ctx, wait.Pauses{First: 1500 * time.Millisecond, Longest: 45 * time.Second, Random: true},
		func() error { return f.applyStream(ctx) }, interrupted, func(err error, _ time.Duration) {
			f.r.c.Logger.Info("starting the stream again", "at", f.applier.Applied(), "reason", err)
		})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return f.overtaken(ctx, err)
}

// overtaken tells a slot that another migrate has moved on, while this one had lost its lock
// and waited for the source, from one that is past what the target has: that is no gap.
func (f *following) overtaken(ctx context.Context, err error) error {
	var unusable *slot.Error
	if !errors.As(err, &unusable) || unusable.Reason != slot.Ahead {
		return err
	}
	applied, unread := f.r.applied(ctx)
	if unread != nil || applied < unusable.Confirmed {
		return err
	}
	return fmt.Errorf("another migrate has moved the stream from %s to %s: only one can be at work", unusable.Start, applied)
}

// applied asks the target where it is, whoever has brought it there.
func (r *runner) applied(ctx context.Context) (decoder.LSN, error) {
	var applied decoder.LSN
	err := r.target.Row(ctx, `select applied::text from walferry.progress where stream = $1`, []any{r.c.Name}, &applied)
	return applied, err
}

func (f *following) applyStream(ctx context.Context) error {
	r := f.r
	c, err := r.streamConfig(ctx, f.applier.Applied())
	if err != nil {
		return err
	}
	f.hear(&c)
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
		Slot: slot.NamesOf(r.c.Name).Slot, Start: start, Logger: r.c.Logger,
		Expect: decoder.Identity{SystemID: r.rec.SystemID, Timeline: r.rec.Timeline, Database: r.rec.Database, Publications: publications},
	}
	for name, p := range publications {
		c.Publications = append(c.Publications, name)
		for _, t := range p.Tables {
			if schema, name, _ := strings.Cut(slot.TruncationTable, "."); t == (catalog.Name{Schema: schema, Name: name}).String() {
				c.Truncations = slot.TruncationTable
			}
		}
	}
	return c, nil
}

// fill adds what the stream and the applier know.
func (f *following) fill(st *Status) {
	p := f.applier.Progress()
	st.Stream.AppliedLSN, st.Stream.Transactions, st.Stream.Changes = f.applier.Applied().String(), p.Transactions, p.Changes
	f.mu.Lock()
	defer f.mu.Unlock()
	lagBytes := f.lagBytes
	st.Stream.LagBytes = &lagBytes
	if lag, known := f.lagNow(); known {
		seconds := lag.Seconds()
		st.Stream.LagSeconds = &seconds
	}
	if f.stream != nil {
		st.Stream.ReceivedLSN = f.stream.Received().String()
	}
	if f.held != nil {
		st.Note = "held for " + f.held.owner
	}
	if f.again != nil {
		st.Note = fmt.Sprintf("copying %s again, as it was updated in spite of --insert-only: %d rows", f.again.table, f.again.Rows())
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
		if err == nil {
			err = f.r.store.Mine(ctx)
		}
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
	err := wait.Until(ctx, wait.Every(time.Second), func() (bool, error) {
		lag, err := f.canary(ctx)
		return err == nil && lag <= f.r.c.Cut.MaxLag, nil
	})
	if err != nil || ctx.Err() != nil {
		return
	}
	f.r.c.Logger.Info("caught up")
	if f.r.c.Until == UntilCaughtUp {
		options := f.r.c.options()
		options.Until = string(UntilCutover) // reached: the next run goes on, unless it is given again
		if err := within(ctx, 10*time.Second, func(ctx context.Context) error { return f.r.store.SetOptions(ctx, options) }); err != nil {
			f.r.c.Logger.Warn("the next migrate will stop here again", "reason", err)
		}
		stop(errCaughtUp)
		return
	}
	_, err = f.cutover(ctx, ctx, f.r.c.Cut, func(step string) { f.r.c.Logger.Info("cutover: " + step) })
	if err == nil {
		err = errFinished
	}
	stop(err)
}
