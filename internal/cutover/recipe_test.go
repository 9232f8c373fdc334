package cutover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/state"
)

// script is a recipe that writes down what it does: a step's name when it is done, with a minus when it is undone.
type script struct {
	Recipe
	log  []string
	fail map[string]error  // by what would be written down
	then map[string]func() // after it was written down
}

// newScript makes a recipe of names. One in parentheses has nothing to undo, one with ! is the seal, and one with ?
// is optional.
func newScript(names string) *script {
	s := &script{fail: map[string]error{}, then: map[string]func(){}}
	for _, word := range strings.Fields(names) {
		name := strings.Trim(word, "()!?")
		step := Step{Name: name, Seal: strings.HasSuffix(word, "!"), Optional: strings.HasSuffix(word, "?")}
		step.Do = func(ctx context.Context) error { return s.write(ctx, name) }
		if !strings.HasPrefix(word, "(") {
			step.Undo = func(ctx context.Context, _ error) error { return s.write(ctx, "-"+name) }
		}
		s.Steps = append(s.Steps, step)
	}
	return s
}

func (s *script) write(ctx context.Context, what string) error {
	s.log = append(s.log, what)
	if then := s.then[what]; then != nil {
		then()
	}
	return errors.Join(s.fail[what], context.Cause(ctx))
}

// outcomes is what is known of the steps, in a line.
func (s *script) outcomes() string {
	var words []string
	for _, t := range s.Taken() {
		word := t.Name + " " + string(t.Outcome)
		if t.Error != "" {
			word += " (" + t.Error + ")"
		}
		if t.UndoError != "" {
			word += " [" + t.UndoError + "]"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

func (s *script) expect(t *testing.T, log, outcomes string) {
	t.Helper()
	if got := strings.Join(s.log, " "); got != log {
		t.Errorf("did %q; want %q", got, log)
	}
	if got := s.outcomes(); got != outcomes {
		t.Errorf("known: %s\nwant: %s", got, outcomes)
	}
}

// stopped is the error of a switch that was not sealed.
func stopped(t *testing.T, err error) *StopError {
	t.Helper()
	var stop *StopError
	if !errors.As(err, &stop) {
		t.Fatalf("%v is no StopError", err)
	}
	return stop
}

func TestRecipe_Done(t *testing.T) {
	s := newScript("(gate) fence seal! (open)")
	if err := s.Run(t.Context(), t.Context()); err != nil {
		t.Fatal(err)
	}
	s.expect(t, "gate fence seal open", "gate done, fence done, seal done, open done")
	if !s.Sealed() {
		t.Error("it is not sealed")
	}
}

// What has failed may have been done in part: it is undone as well, before what came before it. What was not begun is not.
func TestRecipe_Failure(t *testing.T) {
	s := newScript("(gate) keys fence seal! (open)")
	s.fail["fence"] = errors.New("no lock")
	stop := stopped(t, s.Run(t.Context(), t.Context()))
	s.expect(t, "gate keys fence -fence -keys", "gate done, keys undone, fence undone (no lock)")
	if stop.Step != "fence" || stop.Err.Error() != "no lock" || !stop.Touched || stop.Back != nil || s.Sealed() {
		t.Errorf("stopped: %+v", stop)
	}
}

// A gate that is not passed has nothing before it that would have to be undone.
func TestRecipe_Gate(t *testing.T) {
	s := newScript("(lag) (gate) fence seal!")
	s.fail["gate"] = errors.New("lost an index")
	asked := false
	s.Mine = func(context.Context) error { asked = true; return nil }
	if stop := stopped(t, s.Run(t.Context(), t.Context())); stop.Touched || asked {
		t.Errorf("stopped: %+v, asked whose it is: %v", stop, asked)
	}
	s.expect(t, "lag gate", "lag done, gate failed (lost an index)")
}

// The seal may have failed after it was made: it is undone like any other step that has failed.
func TestRecipe_SealFails(t *testing.T) {
	s := newScript("fence seal! (open)")
	s.fail["seal"] = errors.New("the deadline passed")
	stopped(t, s.Run(t.Context(), t.Context()))
	s.expect(t, "fence seal -seal -fence", "fence undone, seal undone (the deadline passed)")
}

// The end of the time there is, and an asker who takes it back, stop the step that runs and those to come; undoing they do not stop.
func TestRecipe_Withdrawn(t *testing.T) {
	s := newScript("keys fence drain seal!")
	until, cancel := context.WithCancelCause(t.Context())
	withdrawn := errors.New("taken back")
	s.then["fence"] = func() { cancel(withdrawn) }
	stop := stopped(t, s.Run(t.Context(), until))
	if !errors.Is(stop, withdrawn) || stop.Back != nil {
		t.Errorf("stopped: %+v", stop)
	}
	s.expect(t, "keys fence -fence -keys", "keys undone, fence undone (taken back)")

	// Between two steps: one that does not look at its context.
	s = newScript("keys fence seal!")
	until, cancel = context.WithCancelCause(t.Context())
	s.Steps[0].Do = func(context.Context) error { cancel(withdrawn); return nil }
	if stop := stopped(t, s.Run(t.Context(), until)); stop.Step != "fence" || !errors.Is(stop, withdrawn) {
		t.Errorf("stopped: %+v", stop)
	}
	s.expect(t, "-keys", "keys undone")
}

func TestRecipe_Deadline(t *testing.T) {
	s := newScript("fence drain seal!")
	late := errors.New("not done in time")
	until, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, late)
	defer cancel()
	s.Steps[1].Do = func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("drain: %w", context.Cause(ctx)) }
	if stop := stopped(t, s.Run(t.Context(), until)); !errors.Is(stop, late) || stop.Step != "drain" && stop.Step != "fence" {
		t.Errorf("stopped: %+v", stop)
	}
	if got := strings.Join(s.log, " "); got != "" && got != "fence -drain -fence" { // nothing where the time was over at once
		t.Errorf("did %q", got)
	}
}

// After the seal neither the deadline nor an error takes anything back: the next run goes forward.
func TestRecipe_PointOfNoReturn(t *testing.T) {
	s := newScript("fence seal! (compare)? (open) (rest)")
	until, cancel := context.WithCancelCause(t.Context())
	s.Steps[1].Do = func(context.Context) error { s.log = append(s.log, "seal"); cancel(errors.New("late")); return nil }
	s.fail["compare"], s.fail["open"] = errors.New("truncated"), errors.New("no server")
	err := s.Run(t.Context(), until)
	if err == nil || err.Error() != "no server" {
		t.Errorf("it ended with %v", err)
	}
	s.expect(t, "fence seal compare open", "fence done, seal done, compare failed (truncated), open failed (no server)")
}

// What has to be done after the seal is done although the run is ending; what may wait is not.
func TestRecipe_EndsAfterSeal(t *testing.T) {
	s := newScript("seal! (open) (views)?")
	s.Steps[1].Within = time.Minute
	whole, cancel := context.WithCancelCause(t.Context())
	s.Steps[0].Do = func(context.Context) error { s.log = append(s.log, "seal"); cancel(errors.New("signal")); return nil }
	if err := s.Run(whole, whole); err != nil {
		t.Fatal(err)
	}
	s.expect(t, "seal open views", "seal done, open done, views failed (signal)")
}

// An undo that fails does not keep the others from theirs, and all of it is told.
func TestRecipe_UndoFails(t *testing.T) {
	s := newScript("phase keys fence drain seal!")
	s.fail["drain"], s.fail["-fence"], s.fail["-phase"] = errors.New("no beat"), errors.New("no source"), errors.New("no target")
	stop := stopped(t, s.Run(t.Context(), t.Context()))
	s.expect(t, "phase keys fence drain -drain -fence -keys -phase",
		"phase done [no target], keys undone, fence done [no source], drain undone (no beat)")
	if got, want := stop.Error(), "no beat\nno source\nno target"; got != want {
		t.Errorf("it says %q; want %q", got, want)
	}
}

// Another process has taken over: everything is left as that one has it, whether it shows before anything is undone or then.
func TestRecipe_Overtaken(t *testing.T) {
	other := errors.New("another run")
	for _, where := range []string{"mine", "-fence"} {
		s := newScript("phase fence drain seal!")
		s.Overtaken = func(err error) bool { return errors.Is(err, other) }
		s.Mine = func(context.Context) error { return nil }
		s.fail["drain"], s.fail["-fence"] = errors.New("no beat"), other
		want := "phase fence drain -drain -fence"
		if where == "mine" {
			s.Mine = func(context.Context) error { return other }
			want = "phase fence drain"
		}
		if stop := stopped(t, s.Run(t.Context(), t.Context())); !errors.Is(stop.Back, other) {
			t.Errorf("%s: %v", where, stop.Back)
		}
		if got := strings.Join(s.log, " "); got != want {
			t.Errorf("%s: did %q; want %q", where, got, want)
		}
	}
	// Where nobody can be asked, the source must not stay fenced for that.
	s := newScript("fence drain seal!")
	s.Mine = func(context.Context) error { return errors.New("no target") }
	s.fail["drain"] = errors.New("no beat")
	stopped(t, s.Run(t.Context(), t.Context()))
	s.expect(t, "fence drain -drain -fence", "fence undone, drain undone (no beat)")
}

// A recipe without a seal takes everything back at its end, and that is no error.
func TestRecipe_Rehearsal(t *testing.T) {
	s := newScript("(gate) fence (drain)")
	if err := s.Run(t.Context(), t.Context()); err != nil {
		t.Fatal(err)
	}
	s.expect(t, "gate fence drain -fence", "gate done, fence undone, drain done")
	s = newScript("fence")
	s.fail["-fence"] = errors.New("no source")
	if stop := stopped(t, s.Run(t.Context(), t.Context())); stop.Err != nil || stop.Error() != "no source" {
		t.Errorf("stopped: %+v", stop)
	}
}

// An observer may refuse a step, or what it came to, until the seal. After it, it is told until it has taken note.
func TestRecipe_Observer(t *testing.T) {
	for _, c := range []struct{ refuses, log, outcomes, told string }{
		{"fence begun", "gate -gate", "gate undone, fence failed (no)", "gate begun, gate done, fence begun, fence failed, gate undone"},
		{"fence done", "gate fence -fence -gate", "gate undone, fence undone (no)", "gate begun, gate done, fence begun, fence done, fence failed, fence undone, gate undone"},
		{"seal begun", "gate fence -fence -gate", "gate undone, fence undone, seal failed (no)", "gate begun, gate done, fence begun, fence done, seal begun, seal failed, fence undone, gate undone"},
		{"seal done", "gate fence seal open", "gate done, fence done, seal done, open done", "gate begun, gate done, fence begun, fence done, seal begun, seal done, seal done, open begun, open done"},
		{"open begun", "gate fence seal open", "gate done, fence done, seal done, open done", "gate begun, gate done, fence begun, fence done, seal begun, seal done, open begun, open begun, open done"},
	} {
		s := newScript("gate fence seal! open")
		var told []string
		s.Observers = []Observer{func(_ context.Context, taken state.Taken) error {
			event := taken.Name + " " + string(taken.Outcome)
			told = append(told, event)
			if event == c.refuses && !slices.Contains(told[:len(told)-1], event) {
				return errors.New("no")
			}
			return nil
		}}
		if err := s.Run(t.Context(), t.Context()); (err == nil) != s.Sealed() {
			t.Errorf("%s: %v", c.refuses, err)
		}
		s.expect(t, c.log, c.outcomes)
		if got := strings.Join(told, ", "); got != c.told {
			t.Errorf("%s: it was told %s\nwant %s", c.refuses, got, c.told)
		}
	}
}

// An observer that never takes note does not keep the target closed: the time of the step is its time.
func TestRecipe_ObserverGivesUp(t *testing.T) {
	s := newScript("seal! (open) (views)")
	s.Steps[1].Within = time.Millisecond
	s.Steps[1].Do = func(context.Context) error { s.log = append(s.log, "open"); return nil }
	s.Observers = []Observer{func(_ context.Context, taken state.Taken) error {
		if taken.Name == "open" {
			return errors.New("no")
		}
		return nil
	}}
	if err := s.Run(t.Context(), t.Context()); err != nil {
		t.Fatal(err)
	}
	s.expect(t, "seal open views", "seal done, open done, views done")
}
