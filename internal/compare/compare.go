// Package compare compares the two sides of a migration, while one follows the other and when the
// migration is over. It records what was found last, for status and as a gate of the cutover.
package compare

import (
	"cmp"
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/verify"
)

// Both are the sides of a migration.
type Both struct {
	Flow  *flow.Flow   // between the two: what it comes from is the source
	Store *state.Store // of the migration, where the running migrate is asked
	// Over means that nothing follows any longer: the source is fenced or no longer the
	// migration's, the target is in use, and both are compared as they are. Otherwise a running
	// migrate is asked to bring them to one position.
	Over     bool
	Jobs     int
	Patience time.Duration // how long old transactions are waited for that would keep the applier held; zero: a minute
	Progress func(verify.Progress)
}

const (
	rounds   = 50 // how often a table is tried that is truncated while it is compared
	unlocked = 3  // how many of these are done without locking it

	// lockedFor bounds how long a table is locked against TRUNCATE: whoever truncates it waits that
	// long.
	lockedFor = 5 * time.Second
)

// Compare compares tables of the source with those of the target.
func (b *Both) Compare(ctx context.Context, tables []catalog.Table) (v verify.Verified, err error) {
	for round := 1; ; round++ {
		// Tables that were truncated each time are locked, but not for long.
		var lockFor time.Duration
		if round > unlocked {
			lockFor = lockedFor
		}
		if err := b.once(ctx, tables, lockFor, &v); err != nil {
			return v, b.Flow.Name.Sides().Error(err)
		}
		// A snapshot does not see through TRUNCATE: such tables are compared again.
		if tables = uncompared(v.Report, tables); len(tables) == 0 || round == rounds {
			return v, nil
		}
	}
}

func uncompared(report verify.Report, tables []catalog.Table) (again []catalog.Table) {
	for _, t := range report.Tables {
		if !t.Rewritten {
			continue
		}
		for i := range tables {
			if tables[i].Schema == t.Schema && tables[i].Name.Name == t.Name {
				again = append(again, tables[i])
			}
		}
	}
	return again
}

// once compares tables, and replaces what an earlier round has found of them.
func (b *Both) once(ctx context.Context, tables []catalog.Table, lockFor time.Duration, v *verify.Verified) error {
	of := b.Flow.Name.Sides()
	sides, err := verify.New(verify.Config{
		SourceIs: of.From(), TargetIs: of.To(), Source: b.Flow.From.DSN, Target: b.Flow.To.DSN, Tables: tables, Jobs: min(b.Jobs, len(tables)), LockFor: lockFor,
		Progress: b.Progress, Logger: b.Flow.Logger,
	})
	if err != nil {
		return err
	}
	defer sides.Close()
	v.SourceIs = "old"
	if b.Flow.Name.Direction == flow.Back {
		v.SourceIs = "new"
	}
	if b.Over {
		err = b.open(ctx, sides, v)
	} else {
		at, held, failed := b.Flow.Meet(ctx, b.Store, sides, cmp.Or(b.Patience, time.Minute))
		err = failed
		v.Position, v.HeldMS = at.String(), held.Milliseconds() // of the last round, where there are several
	}
	if err != nil {
		return err
	}
	report, err := sides.Compare(ctx)
	if err != nil {
		return err
	}
	if v.Tables == nil {
		v.Report = report
		return nil
	}
	for i := range v.Tables {
		for _, t := range report.Tables {
			if t.Schema == v.Tables[i].Schema && t.Name == v.Tables[i].Name {
				v.Tables[i] = t
			}
		}
	}
	v.Conclude()
	return nil
}

// open opens both sides as they are.
func (b *Both) open(ctx context.Context, sides *verify.Verifier, v *verify.Verified) error {
	var fence cutover.State
	err := b.Flow.From.Link.Do(ctx, func(conn *pgx.Conn) (err error) {
		fence, err = cutover.Look(ctx, conn, b.Store.Name())
		return err
	})
	if err != nil {
		return err
	}
	v.Caveat = "the target is open for writing: what was written there after the cutover shows as a difference (`migrate --verify` compares as of the cutover)"
	if !fence.Sealed || fence.Triggers == 0 {
		v.Caveat = "the source is not fenced: what either side has written since shows as a difference"
	}
	if err := sides.OpenSource(ctx, ""); err != nil {
		return err
	}
	return sides.OpenTarget(ctx)
}
