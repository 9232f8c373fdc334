package cutover

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/online"
)

// WaitForOld waits until no transaction that can have changed the tables is older than age: Raise
// would wait for it as well, and refuse everybody else meanwhile. At the end of its time it is a
// *WaitError. Of a transaction whose age this role may not see it is enough that it was there at
// the beginning.
func (f Fence) WaitForOld(ctx context.Context, conn *pgx.Conn, age time.Duration, until time.Time) error {
	hidden := map[string]bool{}
	told := f.Waits == nil
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
			return &WaitError{Problem: "transactions that can have written to the tables go on: " + online.List(holders), Holders: holders}
		}
		if !told && time.Since(began) > time.Second {
			told = true
			f.Waits("the fence is not closed yet, and waits for transactions that can have written to the tables: " + online.List(holders))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
