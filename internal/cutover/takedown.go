package cutover

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/internal/state"
)

// StillFencedError means that writers may still be refused.
type StillFencedError struct{ error }

func (e *StillFencedError) Unwrap() error { return e.error }

// triggerPatience is how long TakeDown keeps trying to drop the triggers of an open fence that
// somebody's long transaction is in the way of. What is left then does no harm.
const triggerPatience = 10 * time.Second

// Standing is the fence of a migration, as it may stand on its source.
type Standing struct {
	Name  string // of the migration
	DSN   string // of the source
	Store *state.Store
	Sides sides.Sides // of the switch that has put it up
}

// TakeDown opens the fence, records that it is gone, and drops what it can of its triggers. opened
// is called once writers pass. With a run the fence of another one is left alone. If writers may
// still be refused the error is a *StillFencedError.
func (f Standing) TakeDown(ctx context.Context, run string, opened func(), tell func(string)) error {
	return f.takeDown(ctx, func(ctx context.Context, conn *pgx.Conn) error { return Open(ctx, conn, f.Name, run) }, opened, tell)
}

// TakeDownLeft is TakeDown for what a run finds that has taken the migration over: the fence of whichever run was before. One that another run
// has raised since is left alone; but what a dead one had asked for may come to be only now, and is taken down as well while the migration is
// this run's.
func (f Standing) TakeDownLeft(ctx context.Context, opened func(), tell func(string)) error {
	for n := 0; ; n++ {
		err := f.takeDownSeen(ctx, opened, tell)
		if !errors.Is(err, state.ErrOvertaken) || n == lateMost || f.Store.Mine(ctx) != nil || online.Pause(ctx, n) != nil {
			return err
		}
	}
}

// lateMost is how often TakeDownLeft begins again: a dead run has one statement under way.
const lateMost = 5

func (f Standing) takeDownSeen(ctx context.Context, opened func(), tell func(string)) error {
	return f.takeDown(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		stands, err := Look(ctx, conn, f.Name)
		if err != nil {
			return err
		}
		// Whoever takes the migration over after this raises a fence with another mark.
		if err := f.Store.Mine(ctx); err != nil {
			return err
		}
		return openSeen(ctx, conn, f.Name, stands)
	}, opened, tell)
}

func (f Standing) takeDown(ctx context.Context, open func(context.Context, *pgx.Conn) error, opened func(), tell func(string)) error {
	conn, err := online.Open(ctx, session.Config{DSN: f.DSN, Application: f.Name + " un-fence"})
	if err != nil {
		return &StillFencedError{err}
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	err = open(ctx, conn)
	if errors.Is(err, ErrOtherRun) || errors.Is(err, state.ErrOvertaken) {
		return state.ErrOvertaken
	}
	if err != nil {
		return &StillFencedError{err}
	}
	opened()
	err = f.Store.SetUnfenced(ctx)
	if err != nil {
		return err
	}
	if stands, err := Look(ctx, conn, f.Name); err == nil && stands.Raised && stands.Triggers > 0 { // by another run, since
		return state.ErrOvertaken
	}
	patience, cancel := context.WithTimeout(ctx, triggerPatience)
	defer cancel()
	left, err := Remove(patience, conn, f.Name)
	if err != nil {
		left = append(left, Left{Table: "some tables", Why: err.Error()})
	}
	if len(left) > 0 {
		tell("the fence is open; some of its triggers, which let everybody pass, are left until the next " + f.Sides.Switch() + ", run of migrate, or cleanup: " + ListLeft(left))
	}
	return nil
}

// takeDownOwn takes the fence of this run down, and keeps trying until ctx ends: the source may be
// restarting.
func (f Standing) takeDownOwn(ctx context.Context, opened func(), tell func(string)) error {
	for n := 0; ; n++ {
		err := f.TakeDown(ctx, f.Store.Run(), opened, tell)
		var closed *StillFencedError
		if !errors.As(err, &closed) {
			return err
		}
		if n == 0 {
			tell("un-fencing failed, trying again; the SQL printed above does it by hand: " + err.Error())
		}
		if online.Pause(ctx, n) != nil {
			return err
		}
	}
}
