package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/online"
)

// WaitForOld waits until no transaction that can have changed the tables is older than age: Raise
// would wait for it as well, and refuse everybody else meanwhile. At the end of its time it returns
// a *WaitError. A transaction whose age this role may not see counts if it was there at the
// beginning.
func (f Fence) WaitForOld(ctx context.Context, conn *pgx.Conn, age time.Duration, until time.Time) error {
	hidden := map[string]bool{}
	told := false
	began := time.Now()
	for first := true; ; first = false {
		all, err := writers(ctx, conn, f.oids())
		if err != nil {
			return fmt.Errorf("list the transactions that write: %w", err)
		}
		var old []writer
		for _, w := range all {
			if first && w.Seconds < 0 {
				hidden[w.Transaction] = true
			}
			if w.Seconds > age.Seconds() || hidden[w.Transaction] {
				old = append(old, w)
			}
		}
		if len(old) == 0 {
			return nil
		}
		holders := holdersOf(old)
		if time.Now().After(until) {
			return &WaitError{Problem: "transactions that can have written to the tables do not end: " + online.List(holders), Sides: f.Sides, Holders: holders}
		}
		if f.Waits != nil && time.Since(began) > time.Second {
			f.Waits(online.Wait{For: "the fence is not closed yet, and waits for transactions that can have written to the tables: ", Holders: holders}, !told)
			told = true
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// forFence is the part of a switch's time that is kept for the fence. That is the longest that
// others are refused for the sake of a transaction that has written before.
func (s *Switch) forFence() time.Duration {
	return min(max(5*time.Second, s.Timeout/4), s.Timeout/2)
}

// tooOld is the age of a writer for which the fence is not closed at all: nobody knows how long it
// will take, only that it has taken so long (decision 025).
const tooOld = 5 * time.Second

// quietMoment waits, for a quarter of the time there is, until no transaction that has written is
// older than a second and the target is close: waiting outside the fence is cheaper than inside.
// For a writer that is tooOld it waits until only the fence's time is left, and gives up.
func (s *Switch) quietMoment(ctx context.Context) error {
	last := time.Now().Add(s.Timeout - s.forFence())
	if deadline, ok := ctx.Deadline(); ok {
		last = deadline.Add(-s.forFence())
	}
	for end := time.Now().Add(s.Timeout / 4); ; {
		if err := s.Flow.AwaitWriters(ctx, time.Until(end), s.waits); err != nil {
			return err
		}
		var waited *WaitError
		if err := s.fence.WaitForOld(ctx, s.conn, time.Second, end); err != nil && !errors.As(err, &waited) {
			return err
		}
		if err := s.fence.WaitForOld(ctx, s.conn, tooOld, last); errors.As(err, &waited) {
			return &fail.Error{
				Kind:    fail.Gate,
				Problem: waited.Problem + ": the fence would refuse everybody else until they do",
				Advice:  waited.Hint() + "; or ask again with a longer --timeout, or when they have ended",
			}
		} else if err != nil {
			return err
		}
		lag, err := s.Flow.Canary(ctx)
		if err != nil || lag < time.Second || time.Now().After(end) {
			return err
		}
	}
}
