// Package wait has loops for polling and for retrying with growing pauses. All of them end with
// their context, and then return its cause.
package wait

import (
	"context"
	"math/rand/v2"
	"time"
)

// Pauses are the pauses between attempts.
type Pauses struct {
	First   time.Duration
	Longest time.Duration // each pause is twice the one before, up to this; zero: all are as long as the first
	Random  bool          // each is 0.5 to 1.5 times as long, so that parties that collided do not collide again
}

// Every returns pauses that do not grow.
func Every(d time.Duration) Pauses { return Pauses{First: d} }

// After returns the pause after attempt n, counted from 0.
func (p Pauses) After(n int) time.Duration {
	d := p.First
	for ; n > 0 && d < p.Longest; n-- {
		d = min(2*d, p.Longest)
	}
	if p.Random && d > 0 {
		d = d/2 + rand.N(d)
	}
	return d
}

// Sleep waits for d, or until ctx ends.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// Tick waits for the next tick, or until ctx ends.
func Tick(ctx context.Context, tick *time.Ticker) {
	select {
	case <-ctx.Done():
	case <-tick.C:
	}
}

// Within runs f with a deadline of its own, also when ctx has ended.
func Within(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d)
	defer cancel()
	return f(ctx)
}

// Until calls look, at once and then after each pause, until it reports that it is done, or fails.
func Until(ctx context.Context, p Pauses, look func() (done bool, err error)) error {
	for n := 0; ; n++ {
		if done, err := look(); done || err != nil {
			return err
		}
		if err := Sleep(ctx, p.After(n)); err != nil {
			return err
		}
	}
}

// Again retries do until it succeeds, or fails with an error that does not pass. tell, which may be
// nil, is called before each pause.
func Again(ctx context.Context, p Pauses, do func() error, passes func(error) bool, tell func(err error, pause time.Duration)) error {
	for n := 0; ; n++ {
		err := do()
		if err == nil || !passes(err) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		pause := p.After(n)
		if tell != nil {
			tell(err, pause)
		}
		if err := Sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// Lingering returns a context that ends some seconds after ctx does.
func Lingering(ctx context.Context) (context.Context, context.CancelFunc) {
	after, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-after.Done():
		case <-time.After(5 * time.Second):
			cancel()
		}
	})
	return after, func() { stop(); cancel() }
}
