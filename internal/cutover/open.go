package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/verify"
	"github.com/walferry/walferry/internal/wait"
)

// conclude opens the target once the fence is sealed. If the opening was prepared that is a COMMIT.
// Otherwise, as in a run that finds a cutover interrupted, what is held is enabled one by one, and
// what cannot be enabled within a moment does not keep the rest of the target closed: the result
// has its SQL.
func (s *Switch) conclude(ctx context.Context) error {
	done := *s.result
	if s.prover != nil {
		done.Comparison = &Comparison{Sides: s.Sides, Error: unfinished}
	}
	// left is the SQL of what is still disabled, and recorded is how that is recorded.
	end := func(left, recorded []string) (string, error) {
		now := time.Now()
		done.FinishedAt, done.PauseMS, done.Disabled = &now, now.Sub(s.since).Milliseconds(), left
		return s.Store.FinishSQL(s.ends(), now, done.PauseMS, recorded, done)
	}
	record, err := end(nil, nil)
	if err == nil {
		err = s.opening.commit(ctx, record)
		s.opening.close()
		s.opening = nil
	}
	for ; err != nil; wait.Sleep(ctx, time.Second) { //nolint:errcheck // each attempt sees that ctx has ended
		if ctx.Err() != nil {
			return fmt.Errorf("open the %s: %w", s.Sides.To(), err)
		}
		if gone := s.Store.Mine(ctx); errors.Is(gone, state.ErrOvertaken) {
			return gone
		}
		s.Logger.Warn("opening the "+s.Sides.To()+" step by step", "reason", err)
		var left, recorded []string
		if left, recorded, err = s.Opening.EnableEach(ctx); err == nil {
			record, err = end(left, recorded)
		}
		if err == nil {
			err = s.open(ctx, record)
		}
		if err == nil {
			break
		}
	}
	*s.result = done
	s.Finished(s.result)
	return nil
}

// open records the end, and opens the fence that stands on To with that: before it is recorded a run that is
// asked to abort opens From.
func (s *Switch) open(ctx context.Context, record string) error {
	if s.Stands.Name == "" {
		return s.To.Link.Exec(ctx, record)
	}
	return s.To.Link.Do(ctx, func(conn *pgx.Conn) error {
		_, err := conn.PgConn().Exec(ctx, openFunction(s.Stands.Name, "")+"; "+record).ReadAll() // one transaction
		return err
	})
}

// afterOpen returns the steps that may take their time: the target is in use. What fails in them
// undoes nothing of the cutover.
func (s *Switch) afterOpen() []Step {
	var steps []Step
	add := func(name string, do func(context.Context) error) {
		steps = append(steps, Step{Name: name, Do: do, Optional: true})
	}
	if s.Clients != nil {
		add(stepRelease, s.onward)
	}
	if s.Proof != nil {
		add(stepSmall, s.compareSmall)
	}
	if s.Stands.Name != "" {
		add(stepTakeDown, s.takeDownStanding)
	}
	add(stepViews, s.refreshViews)
	add(stepRest, s.enableRest)
	if s.Proof != nil {
		add(stepCompare, s.prove)
	}
	add(stepValidate, s.validateKeys)
	return steps
}

// takeDownStanding takes what is left of the fence that was opened with To. Its triggers let everybody pass.
func (s *Switch) takeDownStanding(ctx context.Context) error {
	return s.Stands.TakeDown(ctx, "", func() {}, s.sayOther)
}

func (s *Switch) validateKeys(ctx context.Context) error {
	s.result.Unvalidated, s.result.Late = s.Definitions.ValidateKeys(ctx, s.say)
	return s.result.Late
}

// compareSmall comes first: whoever truncates a small table waits.
func (s *Switch) compareSmall(ctx context.Context) error {
	s.prover.compareSmall(ctx)
	return nil
}

func (s *Switch) refreshViews(ctx context.Context) error {
	n, err := s.Definitions.RefreshViews(ctx)
	if n > 0 {
		s.say(fmt.Sprintf("refreshed %d materialized views", n))
	}
	if err != nil {
		s.say("materialized views that are still as they were after the copy; refresh them by hand: " + err.Error())
	}
	return err
}

// enableRest continues with what the opening has left.
func (s *Switch) enableRest(ctx context.Context) (err error) {
	result := s.result
	if len(result.Disabled) == 0 {
		return nil
	}
	if result.Disabled, err = s.Opening.EnableRest(ctx, 30*time.Second); err != nil {
		s.say(err.Error())
	}
	for _, sql := range result.Disabled {
		s.say("to be run on the " + s.Sides.To() + ": " + sql)
	}
	if err := s.keep(ctx, nil); err != nil {
		s.Logger.Error("record what is still disabled", "error", err)
	}
	return err
}

// keep records what the switch has measured, and the comparison if there is one.
func (s *Switch) keep(ctx context.Context, proof *verify.Verified) error {
	if err := s.Store.Values().Put(ctx, state.Result, s.result); err != nil || proof == nil {
		return err
	}
	return s.Store.Values().Put(ctx, state.Proof, proof)
}

// opening is the transaction that opens To. Everything that has waited for the opening is done in
// it before the fence is sealed, and its locks are taken; only its COMMIT is left.
type opening struct{ conn *pgx.Conn }

// commit commits the opening together with what is recorded of it: one message to the server.
func (o *opening) commit(ctx context.Context, record string) error {
	if o == nil {
		return errors.New("it was not prepared")
	}
	_, err := o.conn.PgConn().Exec(ctx, record+"; commit").ReadAll()
	return err
}

// close rolls back an opening that was not committed.
func (o *opening) close() {
	if o != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		o.conn.Close(ctx) //nolint:errcheck // which rolls it back
	}
}
