package cutover

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// Recipe is a switch as a list of steps. Up to the seal any failure, and the end of the time there
// is, undoes what was done, the last step first. After the seal there is only the way forward. A
// recipe without a seal is a rehearsal: at its end everything is undone.
//
// It knows nothing of servers: which way round a switch goes is for the steps to know.
type Recipe struct {
	Steps []Step
	// Forward says that the seal is behind all steps: in this run there never was a way back.
	Forward bool

	// Mine is called before anything is undone; nil: there is no other process. If it returns an
	// error that Overtaken reports, nothing is undone: another process has taken over, and
	// everything is left as that one has it.
	Mine func(context.Context) error
	// Overtaken reports whether an error, of Mine or of an Undo, says so. nil: none does.
	Overtaken func(error) bool

	Observers []Observer
	// Words puts the text of a step's error into the words that people know. nil: it stays as it is.
	Words func(string) string

	mu     sync.Mutex
	taken  []state.Taken
	sealed bool
}

// Step is a named part of a switch.
type Step struct {
	Name string
	Do   func(context.Context) error

	// Undo undoes what Do has done, all of it or a part: it is called as well for a Do that has
	// failed, whose outcome nobody knows. why is what has stopped the switch; nil: a rehearsal is
	// over. The context is not the one that has ended. nil: there is nothing to undo.
	Undo func(ctx context.Context, why error) error
	// UndoWithin is the time that Undo has. Zero: a minute.
	UndoWithin time.Duration

	// Seal marks the step after which nothing is undone any more.
	Seal bool

	// Within is the time that Do has after the seal, during which the end of another context does
	// not stop it. Zero: it may be stopped.
	Within time.Duration
	// Optional says that the switch continues if Do fails after the seal.
	Optional bool
}

// Observer is told of a step when it begins, when it is done or has failed, and when it was undone,
// in this order and never of two steps at a time.
//
// Until the seal an error for a step that begins refuses it, and one for a step that is done counts
// as the step's own: what was done is undone. After the seal nothing can be refused: the observer
// is told again, with growing pauses, until it returns nil or ctx ends. Its error for Failed and
// Undone changes nothing.
type Observer func(ctx context.Context, t state.Taken) error

// StopError says which step has stopped a switch before its seal.
type StopError struct {
	Step string
	Err  error // why
	// Touched reports whether there was something to undo. Otherwise nothing had been changed.
	Touched bool
	// Ended is what had ended the steps' context by then; nil: nothing had. Undoing takes time,
	// too.
	Ended error
	// Back is what could not be undone. nil: everything is as before.
	Back error
}

func (e *StopError) Error() string { return errors.Join(e.Err, e.Back).Error() }

// Unwrap returns both errors.
func (e *StopError) Unwrap() []error {
	return slices.DeleteFunc([]error{e.Err, e.Back}, func(err error) bool { return err == nil })
}

// Run takes the steps in their order. Until the seal they run under until, whose end stops them;
// after it under whole. An error before the seal is a *StopError; one after it is that of a step
// which the next run has to take again. Run is called once.
func (r *Recipe) Run(whole, until context.Context) error {
	r.sealed = r.Forward
	next := 0
	for ; next < len(r.Steps) && !r.Sealed(); next++ {
		s := &r.Steps[next]
		begun, err := r.take(until, whole, s)
		if err == nil {
			continue
		}
		if begun {
			next++
		}
		return r.stopped(until, r.Steps[:next], s.Name, err)
	}
	if !r.Sealed() {
		return r.stopped(until, r.Steps, "", nil)
	}
	for ; next < len(r.Steps); next++ {
		s := &r.Steps[next]
		if err := r.forward(whole, s); err != nil && !s.Optional {
			return err
		}
	}
	return nil
}

// Sealed reports whether the way back is gone.
func (r *Recipe) Sealed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sealed
}

// Taken returns what is known of the steps that were begun, in their order. It may be called while
// Run is in progress.
func (r *Recipe) Taken() []state.Taken {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.taken)
}

// take takes a step that may still be refused. begun reports whether any of it may have been done.
func (r *Recipe) take(until, whole context.Context, s *Step) (begun bool, err error) {
	if until.Err() != nil {
		return false, context.Cause(until)
	}
	at := r.begin(s)
	if err = r.ask(until, at); err == nil {
		begun = true
		err = s.Do(until)
	}
	if err == nil && s.Seal {
		r.end(at, nil, true)
		r.insist(whole, at)
		return true, nil
	}
	r.end(at, err, false)
	if err == nil {
		if err = r.ask(until, at); err == nil {
			return true, nil
		}
		r.end(at, err, false)
	}
	r.tell(until, at)
	return begun, err
}

// forward takes a step after the seal.
func (r *Recipe) forward(ctx context.Context, s *Step) error {
	if s.Within > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), s.Within)
		defer cancel()
	}
	at := r.begin(s)
	r.insist(ctx, at)
	err := s.Do(ctx)
	r.end(at, err, false)
	r.insist(ctx, at)
	return err
}

// stopped undoes what was begun. why is nil at the end of a rehearsal.
func (r *Recipe) stopped(ctx context.Context, begun []Step, name string, why error) error {
	stop := &StopError{Step: name, Err: why}
	if ctx.Err() != nil {
		stop.Ended = context.Cause(ctx)
	}
	for i := range begun {
		stop.Touched = stop.Touched || begun[i].Undo != nil
	}
	if stop.Touched {
		// The caller's time may be over; that must not stop the undoing.
		stop.Back = r.undo(ctx, begun, why)
	}
	if why == nil && stop.Back == nil {
		return nil
	}
	return stop
}

// minePatience is how long Mine may take to answer before everything is undone all the same.
const minePatience = 5 * time.Second

func (r *Recipe) undo(ctx context.Context, begun []Step, why error) (back error) {
	overtaken := func(err error) bool { return err != nil && r.Overtaken != nil && r.Overtaken(err) }
	if r.Mine != nil {
		if err := wait.Within(ctx, minePatience, r.Mine); overtaken(err) {
			return err
		}
	}
	for i := len(begun) - 1; i >= 0; i-- {
		s := &begun[i]
		if s.Undo == nil {
			continue
		}
		began := time.Now()
		err := wait.Within(ctx, cmp.Or(s.UndoWithin, time.Minute), func(ctx context.Context) error { return s.Undo(ctx, why) })
		r.note(i, func(t *state.Taken) {
			t.UndoMS = time.Since(began).Milliseconds()
			if err != nil {
				t.UndoError = r.text(err)
			} else {
				t.Outcome = state.Undone
			}
		})
		r.tell(context.WithoutCancel(ctx), i)
		if overtaken(err) {
			return err
		}
		back = errors.Join(back, err)
	}
	return back
}

// begin notes that a step begins, and returns its index among those that were taken: that among
// Steps.
func (r *Recipe) begin(s *Step) (at int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = append(r.taken, state.Taken{Name: s.Name, Outcome: state.Begun, At: time.Now()})
	return len(r.taken) - 1
}

// end notes how a step has ended. With seal there is no way back from here on.
func (r *Recipe) end(at int, err error, seal bool) {
	r.note(at, func(t *state.Taken) {
		t.Outcome, t.MS = state.Done, time.Since(t.At).Milliseconds()
		if err != nil {
			t.Outcome, t.Error = state.Failed, r.text(err)
		}
		r.sealed = r.sealed || seal
	})
}

func (r *Recipe) text(err error) string {
	if r.Words == nil {
		return err.Error()
	}
	return r.Words(err.Error())
}

func (r *Recipe) note(at int, change func(*state.Taken)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.taken[at])
}

func (r *Recipe) at(at int) state.Taken {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.taken[at]
}

// ask tells the observers of a step, until the first one that refuses it.
func (r *Recipe) ask(ctx context.Context, at int) error {
	for _, o := range r.Observers {
		if err := o(ctx, r.at(at)); err != nil {
			return err
		}
	}
	return nil
}

// tell tells all observers of what they cannot change.
func (r *Recipe) tell(ctx context.Context, at int) {
	for _, o := range r.Observers {
		o(ctx, r.at(at)) //nolint:errcheck // as Observer says
	}
}

// insist tells each observer until it has taken note, or ctx ends.
func (r *Recipe) insist(ctx context.Context, at int) {
	for _, o := range r.Observers {
		for n := 0; o(ctx, r.at(at)) != nil && online.Pause(ctx, n) == nil; n++ {
		}
	}
}
