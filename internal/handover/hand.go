package handover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wayback"
)

// ErrBothFirst says that both flows have to run first: the flow back is armed, and the first group is Groups.Entering. The flow forth has to be
// started again, with Mode.Pass, and Hand.Do called again.
var ErrBothFirst = errors.New("both flows have to run first")

// Hand is a request to hand a group over, or to switch groups back.
type Hand struct {
	Groups        *Groups
	Switchback    bool
	Tables, Loose []string // patterns
	Timeout       time.Duration
	MaxLag        time.Duration
	Running       *flow.Running // forth

	// Switch returns that of everything in the direction of a side, which becomes that of a group.
	Switch func(*Side) *cutover.Switch
	// Pass returns the secret that the fence which may stand on the new server knows, or a new one.
	Pass func(context.Context) (string, error)
	// Arm makes the flow back, for a first group.
	Arm func(ctx context.Context, pass string) error
	// Opened is told that the flow back has begun, as it is recorded with the phase Following.
	Opened func(state.Armed)
	// Under is told that a switch begins, or has ended.
	Under func(bool)

	// Handed is told of each group that has another owner.
	Handed func(Group)

	Step   func(string)
	Closed func() // a switch was undone and could not un-fence: Settle does
}

// Do carries it out. Whatever becomes of it, Groups.Settle is to be called afterwards, but for ErrBothFirst. Of several groups the result has all
// tables and sequences, and the longest time in which one was refused writes.
func (h *Hand) Do(whole, wanted context.Context) (result *cutover.Result, err error) {
	g := h.Groups
	if h.Switchback {
		splitting, cancel := context.WithTimeout(wanted, h.Timeout)
		defer cancel()
		chosen, err := g.ChooseBack(splitting, h.Tables, h.Loose, h.waits)
		for i := 0; i < len(chosen) && err == nil; i++ {
			h.Step("switching back " + chosen[i].String())
			var one *cutover.Result
			one, err = h.run(whole, wanted, chosen[i], g.Back)
			result = together(result, one)
		}
		return result, err
	}
	group := g.Entering
	if group == nil {
		if err := g.Forth.Tables.Select(wanted, true); err != nil {
			return nil, err
		}
		tables, err := g.Choose(wanted, h.Tables, h.Loose)
		if err != nil {
			return nil, err
		}
		if g.Mode() == nil {
			return nil, h.enter(wanted, tables)
		}
		added, err := g.Add(wanted, tables, h.Loose)
		if err != nil {
			return nil, err
		}
		group = &added
	}
	parting, cancel := context.WithTimeout(wanted, h.Timeout)
	defer cancel()
	if err := h.open(parting, h.waits); err != nil {
		return nil, err
	}
	if err := g.Part(parting, *group, g.Back, h.waits); err != nil {
		return nil, err
	}
	h.Step("handing over " + group.String())
	return h.run(whole, wanted, *group, g.Forth)
}

// together returns the result of the last one of several switches as that of all.
func together(before, last *cutover.Result) *cutover.Result {
	if before == nil || last == nil {
		return cmp.Or(last, before)
	}
	last.Tables, last.Sequences, last.PauseMS = before.Tables+last.Tables, before.Sequences+last.Sequences, max(before.PauseMS, last.PauseMS)
	last.Recopied = append(before.Recopied, last.Recopied...)
	return last
}

func (h *Hand) waits(w online.Wait, say bool) {
	if say {
		h.Step(w.String())
	}
}

// Divide makes everything, which the new server owns, a group, so that a part of it can be switched back. Then the error is ErrBothFirst, and Do is to be called
// when both flows run. With any other error, and a Mode, Groups.Merge has to be called.
func (h *Hand) Divide(ctx context.Context, pass string, forth *wayback.Way) error {
	g := h.Groups
	if err := g.Divisible(ctx, h.Tables, h.Loose); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	forth.Pass = pass
	err := forth.Arm(within, h.Step)
	if err == nil {
		_, err = forth.Begin(within)
	}
	if err != nil {
		forth.Disarm(context.WithoutCancel(ctx))
		return &fail.Error{Kind: fail.Gate, Problem: "the flow from the old server to the new one cannot be armed: " + err.Error(), Advice: cmp.Or(fail.Hint(err), "fix that, and ask again")}
	}
	h.Step("the flow from the old server to the new one is armed: both flows run from now on")
	if err := g.Divide(within, pass, h.waits); err != nil {
		forth.Disarm(context.WithoutCancel(ctx))
		return &fail.Error{Kind: fail.Gate, Problem: err.Error() + ": everything is as before", Advice: cmp.Or(fail.Hint(err), "ask again"), Err: err}
	}
	g.Dividing = true
	return ErrBothFirst
}

// enter arms the flow back for a first group, while the flow forth goes on.
func (h *Hand) enter(ctx context.Context, tables []catalog.Name) error {
	g := h.Groups
	published, err := g.Forth.Tables.Publications(ctx)
	if err != nil {
		return err
	}
	if !flow.Marked(published) {
		return &fail.Error{Kind: fail.Gate, Problem: "the migration has no mark in its publication, by which the flows of both directions know each other", Advice: "it was begun by an older version, or somebody's publication FOR ALL TABLES is in the way: switch everything at once"}
	}
	pass, err := h.Pass(ctx)
	if err != nil {
		return err
	}
	m := &Mode{Pass: pass}
	group := m.Add(tables, h.Loose)
	if err := g.save(ctx, m); err != nil { // before anything is made for it
		return err
	}
	within, cancel := context.WithTimeout(ctx, h.Timeout/4)
	defer cancel()
	if err := h.Arm(within, pass); err != nil {
		return &fail.Error{Kind: fail.Gate, Problem: "the flow back cannot be armed: " + err.Error(), Advice: cmp.Or(fail.Hint(err), "fix that, and ask again")}
	}
	h.Step("the flow back is armed: both flows run from now on")
	g.Entering = &group
	return ErrBothFirst
}

// open lets the flow back apply what is written on the new server, once nobody but its applier can write there.
func (h *Hand) open(ctx context.Context, waits online.Waits) error {
	running, ctx, done, err := h.Groups.await(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err = h.opened(ctx, running, waits); err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (h *Hand) opened(ctx context.Context, running *flow.Running, waits online.Waits) error {
	g := h.Groups
	if err := g.FenceAll(ctx, h.Timeout, waits); err != nil {
		return err
	}
	if g.Start() != applier.NotOpen {
		lagging, cancel := context.WithTimeout(ctx, h.MaxLag)
		defer cancel()
		if _, err := running.Canary(lagging); err != nil && err != context.Cause(lagging) { //nolint:errorlint // what has failed may be wrapped around that
			return &fail.Error{Kind: fail.Gate, Problem: "the lag of the flow back cannot be measured: " + err.Error(), Advice: "see that both servers answer, and ask again"}
		} else if err != nil {
			return &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("the flow back lags by more than %s (--max-lag)", h.MaxLag), Advice: "wait until it has caught up (`walferry status`), or allow more"}
		}
		return nil
	}
	position, err := g.position(ctx, running)
	if err != nil {
		return err
	}
	armed := state.Armed{Begins: position, Pass: g.Mode().Pass, Stands: true}
	if err := g.Back.Store.PutArmed(ctx, armed); err != nil {
		return err
	}
	g.Begun(position)
	if err := running.Open(position); err != nil {
		return err
	}
	if err := g.Back.Store.SetPhase(ctx, state.Following); err != nil {
		return err
	}
	h.Opened(armed)
	return nil
}

// run switches a group in the direction of a side.
func (h *Hand) run(whole, wanted context.Context, group Group, side *Side) (*cutover.Result, error) {
	running := h.Running
	if side == h.Groups.Back {
		back, while, done, err := h.Groups.await(wanted)
		if err != nil {
			return nil, err
		}
		defer done()
		running, wanted = back, while
	}
	h.Under(true)
	defer h.Under(false)
	s := h.Switch(side)
	if err := h.Groups.Shape(wanted, s, group, side); err != nil {
		return nil, err
	}
	only, end := running.Only(group.Tables)
	defer end()
	s.Flow, s.Closed = only, h.Closed
	result, err := s.Run(whole, wanted)
	result.WayBack = nil // which was there before, and is not of this switch
	if err == nil {
		h.Step(fmt.Sprintf("%s: writes were refused for %d ms", group, result.PauseMS))
		if !s.Rehearse {
			h.Handed(group)
		}
	}
	return result, err
}
