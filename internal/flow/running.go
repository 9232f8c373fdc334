package flow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
	"github.com/walferry/walferry/slot"
)

// ErrEnding ends what is done beside a flow when its run ends: a cutover that is not sealed is
// undone.
var ErrEnding = &fail.Error{Kind: fail.Gate, Problem: "the running migrate is ending", Advice: "start `walferry migrate` again to resume, and ask again"}

// Running is a flow that was started: its applier, and who waits for it or holds it.
type Running struct {
	flow    *Flow
	applier *applier.Applier
	pulse   *pulse
	hold    hold
	words   *Words
	keeper  *keeper // nil: there are no words
	saw     func(*decoder.Tx)

	mu        sync.Mutex
	stream    *decoder.Stream
	filter    *applier.Filter      // of that stream; nil: none was opened
	leftOut   applier.FilterCounts // by the filters before
	before    decoder.Counts       // of the streams before
	start     decoder.LSN          // of the filters
	writtenAt decoder.LSN          // CommitLSN of the last transaction that changed a table that is followed
	written   *decoder.Relation    // a table that it changed; nil: none was changed
	only      *Only                // a switch of some of them; nil: there is none
}

// Helper does something beside a flow until ctx ends; it may stop the flow.
type Helper func(ctx context.Context, stop context.CancelCauseFunc)

// Close ends the applier's session. Everything that was applied is durable.
func (r *Running) Close(ctx context.Context) {
	r.applier.Close(context.WithoutCancel(ctx)) //nolint:errcheck // as above
}

// Run applies the stream with helpers beside it, each of which may stop it. They end before the
// applier does, so that a signal lets it finish.
func (r *Running) Run(ctx context.Context, beside ...Helper) error {
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	helpers, end := context.WithCancelCause(context.WithoutCancel(ctx))
	var group sync.WaitGroup
	defer group.Wait()
	defer end(ErrEnding)
	group.Go(func() { r.pulse.beat(helpers, r.flow.Heartbeat, r.flow.Logger) })
	for _, help := range beside {
		group.Go(func() { help(helpers, stop) })
	}
	return r.apply(run)
}

// apply opens the stream at the target's position and runs the applier on it. It starts over where
// a transaction was interrupted that is too large to keep.
func (r *Running) apply(ctx context.Context) error {
	interrupted := func(err error) bool {
		var restart *applier.RestartError
		return errors.As(err, &restart)
	}
	err := wait.Again(ctx, wait.Pauses{First: 1500 * time.Millisecond, Longest: 45 * time.Second, Random: true},
		func() error { return r.applyStream(ctx) }, interrupted, func(err error, _ time.Duration) {
			r.flow.Logger.Info("starting the stream again", "at", r.applier.Applied(), "reason", err)
		})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return r.flow.overtaken(ctx, err)
}

// overtaken tells a slot that another migrate has moved, while this one had lost its lock and
// waited for the source, from one that is past what the target has: the former is no gap.
func (f *Flow) overtaken(ctx context.Context, err error) error {
	var unusable *slot.Error
	if !errors.As(err, &unusable) || unusable.Reason != slot.Ahead {
		return err
	}
	applied, unread := f.Applied(ctx)
	if unread != nil || applied < unusable.Confirmed {
		return err
	}
	return fmt.Errorf("another migrate has moved the stream from %s to %s: only one can be at work", unusable.Start, applied)
}

func (r *Running) applyStream(ctx context.Context) error {
	c, err := r.flow.Stream(ctx, r.applier.Applied())
	if err != nil {
		return err
	}
	r.pulse.hear(&c)
	stream, err := decoder.Open(ctx, r.flow.From.DSN, c)
	if err != nil {
		return err
	}
	defer stream.Close()
	r.mu.Lock()
	r.before = r.streamsNow()
	r.stream = stream
	r.mu.Unlock()
	return r.applier.Run(ctx, &watched{r.filtered(stream), r})
}

// filtered is a stream without what the flow in the other direction has written.
func (r *Running) filtered(stream applier.Source) *applier.Filter {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leftOut = r.leftOutNow()
	r.filter = applier.NewFilter(stream, applier.FilterConfig{Stream: r.flow.Name.Reverse().String(), Start: r.start})
	return r.filter
}

// LeftOut returns what was not applied because the flow in the other direction has written it, or
// somebody who was not to write yet.
func (r *Running) LeftOut() applier.FilterCounts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leftOutNow()
}

func (r *Running) leftOutNow() applier.FilterCounts {
	c := r.leftOut
	if r.filter != nil {
		now := r.filter.Counts()
		c.Echoes += now.Echoes
		c.Strays += now.Strays
		c.First, c.Last = cmp.Or(c.First, now.First), cmp.Or(now.Last, c.Last)
	}
	return c
}

// Open ends the time of applier.NotOpen: whatever commits from at on goes through. The error means
// that somebody has written after it already; see applier.Filter.Begin.
func (r *Running) Open(at decoder.LSN) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.leftOut.Last; s != nil && s.LSN >= at {
		return fmt.Errorf("begin at %s: left out already: %s", at, s)
	}
	if r.filter != nil {
		if err := r.filter.Begin(at); err != nil {
			return err
		}
	}
	r.start = at
	return nil
}

// watched is the stream on its way to the applier. It remembers the last transaction that changed a
// table that is followed, and sees the beats.
type watched struct {
	applier.Source
	r *Running
}

// Next is the stream's.
func (w *watched) Next(ctx context.Context) (*decoder.Tx, error) {
	tx, err := w.Source.Next(ctx)
	if err == nil {
		w.r.pulse.saw(tx)
		if w.r.saw != nil {
			w.r.saw(tx)
		}
		if table := written(tx); table != nil {
			w.r.mu.Lock()
			w.r.writtenAt, w.r.written = tx.CommitLSN, table
			only := w.r.only
			w.r.mu.Unlock()
			if only != nil {
				only.saw(tx)
			}
		}
	}
	return tx, err
}

// written returns a table that a transaction has changed and that is not walferry's.
func written(tx *decoder.Tx) *decoder.Relation {
	for i := range tx.Changes {
		if c := &tx.Changes[i]; c.Op == decoder.Truncate {
			if len(c.Truncated) > 0 {
				return c.Truncated[0]
			}
		} else if c.Relation.Namespace != "walferry" {
			return c.Relation
		}
	}
	return nil
}

// Passed returns an error if somebody has passed the fence whose position is given: the stream has
// every change of the tables that it publishes, whoever made it and in whatever way, and after that
// position it must have none. A beat that was written before has come through: what committed
// before it has been seen.
func (r *Running) Passed(position decoder.LSN) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.written == nil || r.writtenAt < position {
		return nil
	}
	return passed(r.written, r.writtenAt, position)
}

// Canary writes a beat and waits until it has come back through the stream and the target is
// durable up to its end. That, and nothing less, shows that the target has everything that was
// committed before. It returns how long the beat took.
//
// It does not show that the publication still has what it should: a message comes through whatever
// becomes of that.
//
// If ctx ends before it has come back the error is the cause of that, not wrapped. Otherwise something has failed.
func (r *Running) Canary(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	beat, err := r.pulse.write(ctx)
	if err != nil {
		return 0, err
	}
	defer r.pulse.forget(beat)
	var unread error // why it is not known where the target is
	err = wait.Until(ctx, wait.Pauses{First: 2 * time.Millisecond, Longest: 50 * time.Millisecond}, func() (bool, error) {
		end := decoder.LSN(beat.end.Load())
		if end == 0 {
			return false, nil
		}
		applied, err := r.flow.Applied(ctx)
		if ctx.Err() == nil {
			unread = err
		}
		return err == nil && applied >= end, nil
	})
	if err != nil && unread != nil {
		err = fmt.Errorf("%w: %w", err, unread)
	}
	return time.Since(began), err
}

// Beat writes a beat that nobody waits for.
func (r *Running) Beat(ctx context.Context) error {
	beat, err := r.pulse.write(ctx)
	r.pulse.forget(beat)
	return err
}

// Applied asks the server that the flow goes to for its position.
func (r *Running) Applied(ctx context.Context) (decoder.LSN, error) { return r.flow.Applied(ctx) }

// AwaitWriters waits, with patience, until no transaction that has written to the server that the
// flow comes from is older than a second. tell, which may be nil, is told whom it waits for.
func (r *Running) AwaitWriters(ctx context.Context, patience time.Duration, tell online.Waits) error {
	_, err := awaitWriters(ctx, r.flow.From.Link, r.flow.Name.Sides().From(), patience, tell)
	return err
}

// InApplierWay is Flow.InApplierWay.
func (r *Running) InApplierWay(ctx context.Context) []online.Holder { return r.flow.InApplierWay(ctx) }

// status is Flow.Status.
func (r *Running) status() (s Status) {
	s.Applied = r.applier.Applied()
	p := r.applier.Progress()
	s.Transactions, s.Changes = p.Transactions, p.Changes
	s.Lag, s.LagKnown, s.LagBytes = r.pulse.lagNow()
	r.mu.Lock()
	stream, streams := r.stream, r.streamsNow()
	r.mu.Unlock()
	if stream != nil {
		s.Received = stream.Received()
	}
	s.Counts = counts(r.applier.Counts(), streams)
	if held := r.hold.holder(); held != nil {
		s.Note = state.HeldFor + held.Name
	}
	if note := r.keeper.note(); note != "" {
		s.Note = note
	}
	return s
}
