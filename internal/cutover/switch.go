package cutover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/internal/state"
)

// Switch moves the writers of a database from one server to another, by the steps of a Recipe. It
// does not know which of the two is the old one. A switch is run once.
type Switch struct {
	Name     string // of the migration: its objects on the servers are named after it
	From, To session.End
	Sides    sides.Sides // what they are called
	// Tables returns those of From that are fenced. It is called when the gates are passed: they
	// may read them again.
	Tables func() []catalog.Table

	Flow        Flow // nil for Resume: nothing is followed any more
	Definitions Definitions
	Opening     Opening
	Sequences   *Carrier
	Clients     Clients // nil: they find To by themselves
	// Proof says what is compared as of the switch; nil: nothing is.
	Proof *Proof

	// WayBack is armed before anything is refused, and begins before To opens. nil: the switch is one way. Run sets it to nil
	// where it could not be armed and NeedWayBack does not say that the switch is refused then.
	WayBack     WayBack
	NeedWayBack bool
	Onward      state.Phase // that a switch with a way back ends in; one without ends in Finished
	Began       decoder.LSN // by Resume: where the way back has begun
	Pass        string      // what lets the way back through the fence of From; see Fence.Pass
	// Stands is the fence that a switch in the other direction has left on To: it opens with To. The zero value: there is none.
	Stands Standing

	// Gates are the conditions, in their order; see LagGate and those beside it.
	Gates []Step
	// Identity checks that From is what it is known as, and returns the mark of its catalogue as of
	// before it looked. It is called again inside the fence, if the mark has changed since the
	// gates.
	Identity func(ctx context.Context, from session.Lender) (mark string, err error)

	Store    *state.Store                             // its record is on To, and says that To is open by the transaction that opens it
	Advance  func(context.Context, state.Phase) error // records and tells a phase
	Finished func(*Result)                            // told once To is open
	Closed   func()                                   // called when the switch was undone and could not open From again

	// Timeout is how long it may take until From is fenced and sealed. When it ends first, From is
	// un-fenced.
	Timeout time.Duration
	// MaxLag is the lag above which nothing begins.
	MaxLag time.Duration
	// Rehearse fences, drains, measures and un-fences; with NoFence it passes the gates and no more.
	Rehearse, NoFence bool
	Jobs              int // how many things are done at a time, where several can be

	Observers []Observer
	InWay     func(online.Wait) // told whom it waits for at each look; nil: nobody wants to know
	Told      func(string)      // of each line for people
	Logger    *slog.Logger

	recipe Recipe
	result *Result

	alone func()        // lets others hold the applier again, and another switch begin
	words chan struct{} // closed when tables whose words are broken may be copied again

	conn     *pgx.Conn // to From, for the fence
	fence    Fence
	since    time.Time   // when writes began to be refused; zero: they were not
	position decoder.LSN // of the fence: every write is before it
	opened   bool        // the fence was taken down again
	heldAt   time.Time   // when clients began to be held; zero: they are not

	mark    string           // of From's catalogue, when the gates were passed
	keys    *schema.Prepared // nil: there are none
	goOn    func()           // lets the applier resume, which stands still until everything is undone; nil: it does not
	prover  *prover          // nil: no proof is wanted
	opening *opening         // nil: it was not prepared
}

// Flow is what a switch needs of the stream that brings the changes of From to To.
type Flow interface {
	// Alone keeps everybody else from holding the applier, and another switch from beginning, until
	// end is called.
	Alone(ctx context.Context) (end func(), err error)
	// Canary returns once what was committed on From before the call is durable on To, and how long
	// that took.
	Canary(ctx context.Context) (time.Duration, error)
	// Beat writes what Canary writes, and does not wait for it.
	Beat(ctx context.Context) error
	// Applied asks To for its position.
	Applied(ctx context.Context) (decoder.LSN, error)
	// Passed returns an error if the stream has brought a change of a table from after a position.
	Passed(position decoder.LSN) error
	// StandStill has the applier stand still, if that can be had within a moment, until goOn is
	// called.
	StandStill(ctx context.Context, moment time.Duration) (goOn func())
	// AwaitWriters waits, with patience, for transactions of From that have written.
	AwaitWriters(ctx context.Context, patience time.Duration, tell online.Waits) error
	// InApplierWay returns those whose locks on To the applier waits for.
	InApplierWay(ctx context.Context) []online.Holder

	// SettleWords has the words of --insert-only hold, and keeps the tables from being copied again
	// until done is closed.
	SettleWords(ctx context.Context, done <-chan struct{}, tell func(string)) error
	// WordsHold returns an error if a word was broken since.
	WordsHold(ctx context.Context) error
	// CopiedAgain returns the tables whose words had been broken before.
	CopiedAgain(ctx context.Context) ([]string, error)
}

// Definitions are those of To that have to wait for a switch: foreign keys that the role cannot
// have while rows arrive, and views, which are as of the copy.
type Definitions interface {
	// FindKeys finds out which foreign keys are to be created inside the fence. nil: none.
	FindKeys(ctx context.Context) (*schema.Prepared, error)
	// DropKeys drops them again.
	DropKeys(ctx context.Context) error
	// ValidateKeys looks at the rows of those that were created, and returns the statements that
	// are left of that.
	ValidateKeys(ctx context.Context, tell func(string)) (left []string, err error)
	// RefreshViews refreshes the materialized views, and returns how many.
	RefreshViews(ctx context.Context) (int, error)
}

// Opening enables the triggers and rules of To that are disabled until then.
type Opening interface {
	// Prepare enables them in a transaction, and returns its connection: only the COMMIT is left.
	Prepare(ctx context.Context, tell func(string)) (*pgx.Conn, error)
	// EnableEach enables each on its own. It returns the SQL of what is left, and how that is
	// recorded. An error means that To could not be asked.
	EnableEach(ctx context.Context) (sql, recorded []string, err error)
	// EnableRest keeps trying for as long as patience, and returns the SQL of what is left then.
	EnableRest(ctx context.Context, patience time.Duration) (sql []string, err error)
	// Ruled returns the tables with rules among them, whose readers the opening has to wait for.
	Ruled(ctx context.Context) (map[string]bool, error)
}

// Run takes the steps of the switch. Until the fence is sealed every failure, and the end of
// Timeout, un-fences and leaves everything as before, and so does the end of wanted; the fence also
// opens on its own, by the clock of From, if this process dies. After the seal there is only the
// way forward, also for the next run.
func (s *Switch) Run(whole, wanted context.Context) (*Result, error) {
	until, cancel := context.WithTimeoutCause(wanted, s.Timeout, &fail.Error{
		Kind:    fail.Gate,
		Problem: fmt.Sprintf("the %s was not done within %s", s.Sides.Switch(), s.Timeout), Advice: "give a longer --timeout, or try when there is less load",
	})
	defer cancel()
	s.result = &Result{Sides: s.Sides, DryRun: s.Rehearse}
	defer s.close(until)
	s.recipe.Steps = s.steps()
	s.recipe.Mine = s.Store.Mine
	inWay := s.watchSource(until)
	err := s.run(whole, until)
	if named := inWay.end(until, err); !s.recipe.Sealed() {
		err = named
	}
	if s.Rehearse && !s.NoFence && err == nil {
		if err := s.measureRest(until); err != nil {
			s.say("the real pause is longer than this one by what could not be measured: " + err.Error())
		}
	}
	return s.result, err
}

// Taken returns what is known of the steps that were begun. It may be called while the switch is in
// progress.
func (s *Switch) Taken() []state.Taken { return s.recipe.Taken() }

// run takes the steps, and notes in the result what has become of them.
func (s *Switch) run(whole, until context.Context) error {
	s.recipe.Words = s.Sides.Reword
	s.recipe.Overtaken = func(err error) bool { return errors.Is(err, state.ErrOvertaken) }
	s.recipe.Observers = append(s.Observers, func(_ context.Context, t state.Taken) error {
		if line := s.line(t); line != "" {
			s.say(line)
		}
		return nil
	})
	err := s.recipe.Run(whole, until)
	s.result.Steps, s.result.Sealed = s.recipe.Taken(), s.recipe.Sealed()
	var stop *StopError
	if errors.As(err, &stop) {
		s.result.Touched = stop.Touched
		if errors.Is(stop.Back, state.ErrOvertaken) {
			s.openLeft(whole)
		}
		err = s.explainStop(stop)
	}
	return s.Sides.Error(err)
}

// say tells people a line. What it goes through knows only a source and a target.
func (s *Switch) say(line string) { s.Told(s.Sides.Reword(line)) }

// sayOther tells a line of what goes the other way.
func (s *Switch) sayOther(line string) { s.Told(s.Sides.Reverse().Reword(line)) }

// waits notes whom it waits for, and tells people.
func (s *Switch) waits(w online.Wait, say bool) {
	w.For = s.Sides.Reword(w.For)
	if s.InWay != nil {
		s.InWay(w)
	}
	if say {
		s.say(w.String())
	}
}

// close releases what a switch has had, however it has ended.
func (s *Switch) close(ctx context.Context) {
	if s.goOn != nil {
		s.goOn()
	}
	s.opening.close()
	s.prover.close()
	if s.keys != nil {
		s.keys.Close(ctx)
	}
	if s.conn != nil {
		s.conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is in progress on it
	}
	if s.words != nil {
		close(s.words)
	}
	if s.alone != nil {
		s.alone()
	}
}

// connectFrom connects to From for DDL.
func (s *Switch) connectFrom(ctx context.Context, what string) (*pgx.Conn, error) {
	return online.Open(ctx, session.Config{DSN: s.From.DSN, Application: s.Name + " " + what})
}
