package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/state"
)

// CutoverResult is what a cutover, or its rehearsal, measured.
type CutoverResult struct {
	DryRun     bool        `json:"dry_run,omitempty"`
	FencedAt   *time.Time  `json:"fenced_at"`
	DrainedAt  *time.Time  `json:"drained_at"`
	FinishedAt *time.Time  `json:"finished_at"` // nil for a dry run
	PauseMS    int64       `json:"pause_ms"`    // from the first refused write until the target may be written to
	LagMS      int64       `json:"lag_ms"`      // trip of the canary before the fence
	Tables     int         `json:"tables"`
	Sequences  int         `json:"sequences"`
	Already    bool        `json:"already,omitempty"`   // it was done before it was asked for
	ExpectMS   *int64      `json:"expect_ms,omitempty"` // by a rehearsal: its own pause, and what it left out, by measurement
	LeftOut    []LeftOut   `json:"left_out,omitempty"`
	touched    bool        // something was done that has to be undone
	sealed     bool        // there is no way back: the fence has no deadline any more
	position   decoder.LSN // of the fence: every write is before it
	Recopied   []string    `json:"recopied,omitempty"` // --insert-only tables that had been updated after all, and were copied again before the fence
	late       error       // why foreign keys could not be validated
	// Unvalidated are the statements that are still to be run for foreign keys which were created without a look at the rows.
	Unvalidated []string `json:"foreign_keys_to_validate,omitempty"`
	Disabled    []string `json:"disabled,omitempty"` // SQL that enables on the target what the opening could not; empty: nothing is left

	// Steps are what is known of the steps that were begun, for who has asked. The record has them in Live.
	Steps []state.Taken `json:"steps,omitempty"`

	*Comparison // both sides as of the cutover; nil: not asked for
}

// switching is one switch, or its rehearsal: what its steps share.
type switching struct {
	r      *runner
	f      *following // nil in a run that finds a sealed fence: nothing is followed any more
	o      CutoverOptions
	result *CutoverResult
	told   func(string) // of each line for people
	recipe cutover.Recipe

	alone func()        // lets verify hold the applier again, and another cutover begin
	words chan struct{} // closed when the words of --insert-only may be mended again

	conn   *pgx.Conn // to the source, for the fence
	fence  cutover.Fence
	since  time.Time // when writes began to be refused; zero: none was
	opened bool      // the fence was taken down again

	mark    string                                      // of the source's catalogue, when the gates were passed
	gated   map[catalog.Name]catalog.SequenceDefinition // the source's sequences as the gates have seen them; nil: they have not
	keys    *lateKeys                                   // nil: there are none
	goOn    func()                                      // lets the applier go on, which stands still until everything is undone; nil: it does not
	prover  *prover                                     // nil: no proof is wanted
	opening *opening                                    // nil: it was not prepared
}

// cutover takes the steps of a switch. Until the fence is sealed every failure, and the deadline,
// un-fences and leaves everything as before; the fence also opens by itself, by the source's clock, when this
// process dies. So does the end of wanted, as long as nothing is sealed. After the seal there is only
// the way forward, also for the next run.
func (f *following) cutover(whole, wanted context.Context, o CutoverOptions, step func(string)) (*CutoverResult, error) {
	until, cancel := context.WithTimeoutCause(wanted, o.Timeout, &GateError{
		Problem: fmt.Sprintf("the cutover was not done within %s", o.Timeout),
		Advice:  "give a longer --timeout, or try when there is less load",
	})
	defer cancel()
	s := &switching{r: f.r, f: f, o: o, result: &CutoverResult{DryRun: o.DryRun}, told: step}
	defer s.close(until)
	s.recipe.Steps = s.steps()
	s.recipe.Mine = f.r.store.Mine
	inWay := f.r.watchSource(until, step)
	err := s.run(whole, until)
	if named := inWay.end(until, err); !s.recipe.Sealed() {
		err = named
	}
	if o.DryRun && !o.NoFence && err == nil {
		if err := s.measureRest(until); err != nil {
			step("the real pause is longer than this one by what could not be measured: " + err.Error())
		}
	}
	return s.result, err
}

// run takes the steps, and notes in the result what has become of them.
func (s *switching) run(whole, until context.Context) error {
	s.recipe.Overtaken = func(err error) bool { return errors.Is(err, state.ErrOvertaken) }
	s.recipe.Observers = append(s.recipe.Observers, func(_ context.Context, t state.Taken) error {
		s.r.mu.Lock()
		s.r.status.Cutover.Steps = s.recipe.Taken()
		s.r.mu.Unlock()
		if line := s.line(t); line != "" {
			s.say(line)
		}
		return nil
	})
	err := s.recipe.Run(whole, until)
	s.result.Steps, s.result.sealed = s.recipe.Taken(), s.recipe.Sealed()
	var stop *cutover.StopError
	if errors.As(err, &stop) {
		s.result.touched = stop.Touched
		return explainStop(until, stop)
	}
	return err
}

// say tells people a line.
func (s *switching) say(line string) { s.told(line) }

// close lets go of what a switch has had, however it has ended.
func (s *switching) close(ctx context.Context) {
	if s.goOn != nil {
		s.goOn()
	}
	s.opening.close()
	s.prover.close()
	s.keys.close(ctx)
	if s.conn != nil {
		s.conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is under way on it
	}
	if s.words != nil {
		close(s.words)
	}
	if s.alone != nil {
		s.alone()
	}
}
