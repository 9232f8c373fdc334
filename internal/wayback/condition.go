package wayback

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
	"github.com/walferry/walferry/internal/wait"
)

// after returns how the way back is after an error; with nil, after something has come through it. It keeps since when that is so. What
// is lost stays lost, and why: what fails later, as that its slot is gone, follows from it.
func after(migration string, was *state.WayBack, err error, at time.Time) *state.WayBack {
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

// Condition keeps how the way back is in what the run shows, and tells when that changes.
type Condition struct {
	Migration string
	Live      *status.Live
	Alert     func(text string) // tells hooks
	Logger    *slog.Logger
}

// Begin notes that the way back follows, unless it is known how it is: what has interrupted it may do so again.
func (c *Condition) Begin() {
	c.Live.Set(func(st *status.Status) {
		if st.Back == nil {
			st.Back = after(c.Migration, nil, nil, time.Now())
		}
	})
}

// After notes how the way back is after an error, or, with nil, that something has come through it.
func (c *Condition) After(err error) (now state.WayBack) {
	var was *state.WayBack
	c.Live.Set(func(st *status.Status) {
		was, st.Back = st.Back, after(c.Migration, st.Back, err, time.Now())
		now = *st.Back
	})
	switch {
	case was != nil && was.State == now.State && was.Reason == now.Reason: // it was said
	case err != nil:
		c.Logger.Error("the way back is "+string(now.State)+"; the new server is not affected", "reason", now.Reason, "do", now.Do)
		c.Alert("the way back is " + string(now.State) + ": " + now.Reason)
	case was != nil && was.State != now.State:
		c.Logger.Info("the way back follows again")
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
