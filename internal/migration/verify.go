package migration

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/verify"
)

// VerifyOptions says what to compare.
type VerifyOptions struct {
	Tables   []string // patterns; empty: every table of the migration
	Progress func(verify.Progress)

	// Patience is how long old transactions that would keep the applier held are waited for before it is.
	// Zero means a minute.
	Patience time.Duration
}

// Verified is a comparison and the moment it holds for.
type Verified = verify.Verified

// Verify compares source and target at one position.
//
// While a migrate follows, its applier is held, a temporary slot gives a snapshot
// of the source and the position it belongs to, the applier goes on to exactly
// there, and the target's snapshots are taken; then it goes on, and the comparison
// runs on the snapshots. A source that is fenced stands still by itself.
func Verify(ctx context.Context, c Config, o VerifyOptions) (v Verified, err error) {
	if c, err = c.fill(); err != nil {
		return v, err
	}
	r, closeAll, err := openEnds(ctx, c)
	if err != nil {
		return v, err
	}
	defer closeAll()
	if r.rec != nil && r.rec.Phase == Following && !r.rec.Alive { // or is taking its lock again
		if r.rec, err = r.store.LoadAlive(ctx); err != nil {
			return v, err
		}
	}
	if r.rec == nil {
		return v, r.store.Missing(ctx)
	}
	if r.rec.Phase == Finished && len(o.Tables) == 0 {
		proof, err := r.proof(ctx)
		if err != nil {
			return v, err
		}
		if proof != nil {
			return *proof, nil
		}
	}
	tables, err := r.tables.Migrated(ctx)
	if err != nil {
		return v, err
	}
	if len(o.Tables) > 0 {
		if tables, err = catalog.Select(tables, o.Tables, nil); err != nil {
			return v, err
		}
	}
	switch {
	case r.rec.Phase == Following && r.rec.Alive, r.rec.Phase == Finished:
	case r.rec.Phase == Following:
		return v, state.ErrNoRunner
	default:
		return v, &GateError{Problem: fmt.Sprintf("migration %q is in phase %s", c.Name, r.rec.Phase), Advice: "verify compares while a migrate follows, or after the cutover"}
	}
	for round := 1; ; round++ {
		// Tables that were truncated each time are locked, but not for long.
		lock := round > unlocked
		if err := r.compare(ctx, tables, lock, o, &v); err != nil {
			return v, err
		}
		// A snapshot does not see through TRUNCATE: such tables are compared again.
		if tables = uncompared(v.Report, tables); len(tables) == 0 || round == rounds {
			if r.rec.Phase == Following {
				err = r.keepComparison(ctx, &v)
			}
			return v, err
		}
	}
}

const (
	rounds   = 50 // how often a table is tried that is truncated while it is compared
	unlocked = 3  // how many of these are done without locking it

	// lockedFor bounds how long a table is locked against TRUNCATE: whoever
	// truncates it waits that long.
	lockedFor = 5 * time.Second
)

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

// compare compares tables, and puts the result in the place of an earlier one.
func (r *runner) compare(ctx context.Context, tables []catalog.Table, lock bool, o VerifyOptions, v *Verified) error {
	var lockFor time.Duration
	if lock {
		lockFor = lockedFor
	}
	compare, err := verify.New(verify.Config{
		Source: r.c.Source, Target: r.c.Target, Tables: tables, Jobs: min(r.c.Jobs, len(tables)), LockFor: lockFor, Progress: o.Progress, Logger: r.c.Logger,
	})
	if err != nil {
		return err
	}
	defer compare.Close()
	if r.rec.Phase == Finished {
		err = r.openQuiet(ctx, compare, v)
	} else {
		var at decoder.LSN
		var held time.Duration
		at, held, err = r.flow.Meet(ctx, r.store, compare, cmp.Or(o.Patience, time.Minute))
		v.Position, v.HeldMS = at.String(), held.Milliseconds() // of the last round, where there are several
	}
	if err != nil {
		return err
	}
	report, err := compare.Compare(ctx)
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

// proof is the comparison that was made as of the cutover, or nil.
func (r *runner) proof(ctx context.Context) (*Verified, error) {
	v := &Verified{}
	if found, err := r.store.Values().Get(ctx, state.Proof, v); err != nil || !found {
		return nil, err
	}
	v.Conclude() // an older version said "equal" of what was not compared
	return v, nil
}

// openQuiet is for a migration that has ended: the source is fenced or is not ours
// any more, the target is in use.
func (r *runner) openQuiet(ctx context.Context, compare *verify.Verifier, v *Verified) error {
	var state cutover.State
	err := r.source.Do(ctx, func(conn *pgx.Conn) (err error) {
		state, err = cutover.Look(ctx, conn, r.c.Name)
		return err
	})
	if err != nil {
		return err
	}
	v.Caveat = "the target is open for writing: what was written there after the cutover shows as a difference (`migrate --verify` compares as of the cutover)"
	if !state.Sealed || state.Triggers == 0 {
		v.Caveat = "the source is not fenced: what either side has written since shows as a difference"
	}
	if err := compare.OpenSource(ctx, ""); err != nil {
		return err
	}
	return compare.OpenTarget(ctx)
}
