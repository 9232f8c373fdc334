package wayback

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// After returns how the way back is after an error; with nil, after something has come through it. It keeps since when that is so. What
// is lost stays lost, and why: what fails later, as that its slot is gone, follows from it.
func After(migration string, was *state.WayBack, err error, at time.Time) *state.WayBack {
	if was != nil && was.State == state.BackLost {
		return was
	}
	now := &state.WayBack{State: state.BackFollowing, Since: at}
	switch {
	case err == nil:
	case Lost(err):
		now.State, now.Reason = state.BackLost, said(err.Error())
	default:
		now.State, now.Reason, now.Do = state.BackInterrupted, said(err.Error()), said(fail.Hint(err))
		if conflict := new(applier.ConflictError); errors.As(err, &conflict) {
			now.Do += "; rows of the old server are changed past its fence after: " + Past(migration)
		}
	}
	if was != nil {
		now.Sequences = was.Sequences
		if was.State == now.State {
			now.Since = was.Since
		}
	}
	return now
}

// said returns what is said of any flow in the words of this one, which nobody has to start again.
func said(text string) string {
	return strings.ReplaceAll(sides.Back.Reword(text), ", then start again: it resumes where it stopped", "; it is tried again every minute")
}

// Past is the SQL by which a session of the old server's writes past its fence, as whoever repairs rows there must.
func Past(migration string) string {
	stream := flow.Name{Migration: migration, Direction: flow.Back}.String()
	return "select set_config('walferry.pass', armed ->> 'pass', false) from walferry.migration where name = " + catalog.Literal(stream)
}

// Attend tells how a flow back is that runs, until ctx ends: nil whenever a beat has come through it, an error while the server that it
// goes to does not answer, to which the applier connects again for as long as it takes.
func Attend(ctx context.Context, f *flow.Flow, running *flow.Running, interval time.Duration, tell func(error)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for failed := 0; ctx.Err() == nil; wait.Tick(ctx, tick) {
		err := ask(ctx, f)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if failed++; failed > 1 { // a connection may be lost, and made again
				tell(&fail.Error{Problem: "the old server does not answer: " + err.Error(), Advice: fail.Hint(err), Err: err})
			}
			continue
		}
		failed = 0
		within, cancel := context.WithTimeout(ctx, interval)
		if _, err := running.Canary(within); err == nil { // a longer lag is no interruption
			tell(nil)
		}
		cancel()
	}
}

// ask asks the server that a flow goes to for anything.
func ask(ctx context.Context, f *flow.Flow) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := f.Applied(ctx)
	return err
}
