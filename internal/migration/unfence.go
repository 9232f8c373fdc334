package migration

import (
	"context"
	"errors"
	"time"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/state"
)

// stillFencedError says that writers may still be refused.
type stillFencedError struct{ error }

func (e *stillFencedError) Unwrap() error { return e.error }

// triggerPatience is how long the triggers of an open fence are tried that somebody's long
// transaction keeps from being taken away. What is left then does no harm.
const triggerPatience = 10 * time.Second

// unfence opens the fence, records that it is gone, and takes down what it can of its
// triggers. opened is called once writers pass. With a run the fence of another one is let be.
func (r *runner) unfence(ctx context.Context, run string, opened func(), step func(string)) error {
	conn, err := openSource(ctx, r.c, "un-fence")
	if err != nil {
		return &stillFencedError{err}
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	err = cutover.Open(ctx, conn, r.c.Name, run)
	if errors.Is(err, cutover.ErrOtherRun) {
		return state.ErrOvertaken
	}
	if err != nil {
		return &stillFencedError{err}
	}
	opened()
	err = r.store.SetUnfenced(ctx)
	if err != nil {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, triggerPatience)
	defer cancel()
	left, err := cutover.Remove(patience, conn, r.c.Name)
	if err != nil {
		left = append(left, cutover.Left{Table: "some tables", Why: err.Error()})
	}
	if len(left) > 0 {
		step("the fence is open; triggers of it that let everybody pass are left, until the next cutover, run of migrate, or cleanup: " + cutover.ListLeft(left))
	}
	return nil
}

// unfenceOwn takes the fence of this run down, and goes on trying until ctx ends: the source
// may be restarting.
func (r *runner) unfenceOwn(ctx context.Context, opened func(), step func(string)) error {
	for n := 0; ; n++ {
		err := r.unfence(ctx, r.store.Run(), opened, step)
		var closed *stillFencedError
		if !errors.As(err, &closed) {
			return err
		}
		if n == 0 {
			step("un-fencing failed, trying again; the SQL printed above does it by hand: " + err.Error())
		}
		if online.Pause(ctx, n) != nil {
			return err
		}
	}
}

// standStill keeps the applier from applying anything, if it can be held in a moment, until the
// returned function is called.
func (f *following) standStill(ctx context.Context) (goOn func()) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lateKeysPatience)
	defer cancel()
	select {
	case f.holding <- struct{}{}:
	case <-ctx.Done():
		return func() {}
	}
	if _, err := f.pause(ctx, 0); err != nil {
		f.letGo()
		return func() {}
	}
	return f.letGo
}

// openLate tries again to un-fence after a cutover that could not when it was taken back.
func (f *following) openLate(ctx context.Context) {
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	if !closed {
		return
	}
	say := func(text string) { f.r.c.Logger.Warn(text) }
	err := within(ctx, 5*time.Second, func(ctx context.Context) error {
		return f.r.unfence(ctx, f.r.store.Run(), func() { say("un-fenced") }, say)
	})
	var still *stillFencedError
	if errors.As(err, &still) {
		f.r.c.Logger.Debug("un-fence", "error", err)
		return
	}
	f.mu.Lock()
	f.closed = false
	f.mu.Unlock()
}
