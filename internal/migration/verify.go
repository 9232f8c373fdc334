package migration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/verify"
	"github.com/walferry/walferry/internal/wait"
	"github.com/walferry/walferry/slot"
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
	tables, err := r.migrated(ctx)
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

// migrated are the source's tables that the migration has, in the order of its record. One
// that the source has no more, or by another identity, is named by what is remembered of it, so
// that it is reported.
func (r *runner) migrated(ctx context.Context) (tables []catalog.Table, err error) {
	var all []catalog.Table
	err = r.source.Do(ctx, func(conn *pgx.Conn) (err error) {
		all, err = catalog.Tables(ctx, conn)
		return err
	})
	if err != nil {
		return nil, err
	}
	now := map[catalog.Name]catalog.Table{}
	for _, t := range all {
		now[t.Name] = t
	}
	for _, t := range r.rec.Tables {
		found, ok := now[t.Name]
		if !ok || t.OID != 0 && found.OID != t.OID {
			found = catalog.Table{OID: t.OID, Name: t.Name, Kind: 'r'}
		}
		tables = append(tables, found)
	}
	return tables, nil
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
		err = r.openAtOnePosition(ctx, compare, cmp.Or(o.Patience, time.Minute), v)
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
	if found, err := r.store.Get(ctx, state.Proof, v); err != nil || !found {
		return nil, err
	}
	v.Conclude() // an older version said "equal" of what was not compared
	return v, nil
}

// openAtOnePosition opens the sessions of both sides so that they see the same.
func (r *runner) openAtOnePosition(ctx context.Context, compare *verify.Verifier, patience time.Duration, v *Verified) error {
	me := state.Args{Token: fmt.Sprintf("%016x", rand.Uint64()), Asker: asker()}
	var exported *slot.Exported
	var held time.Time
	for _, wait := range []time.Duration{5 * time.Second, 10 * time.Second, 30 * time.Second} {
		if err := r.flow.ClearWay(ctx, patience, func(text string) { r.c.Logger.Warn(text) }); err != nil {
			return err
		}
		if err := compare.Connect(ctx); err != nil {
			return err
		}
		if err := r.hold(ctx, me); err != nil {
			return err
		}
		held = time.Now()
		var err error
		exported, err = slot.ExportTemporary(ctx, r.c.Source, "verify", slot.ExportConfig{Wait: wait, Logger: r.c.Logger})
		if err == nil {
			break
		}
		r.release(ctx, me)
		// By somebody who has come since: he is waited for without the applier, too.
		if blocked := new(slot.BlockedError); !errors.As(err, &blocked) || wait == 30*time.Second {
			return err
		}
	}
	defer func() {
		r.release(ctx, me)
		v.HeldMS = time.Since(held).Milliseconds()
	}()
	defer exported.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the temporary slot ends with it either way
	if err := compare.OpenSource(ctx, exported.Name); err != nil {
		return err
	}
	v.Position = exported.ConsistentPoint.String() // of the last round, where there are several
	me.LSN = v.Position
	there, err := r.store.Ask(ctx, "advance", me, nil)
	if err != nil {
		return err
	}
	if err := compare.OpenTarget(ctx); err != nil {
		return err
	}
	// Whatever may have let the applier go on, or another one begin: what the snapshots show
	// is of that position, or nothing is compared.
	seen, err := state.ReadProgress(ctx, compare.UnderTarget, r.c.Name)
	if err != nil {
		return err
	}
	if seen != there.Progress {
		return &GateError{Problem: fmt.Sprintf("the target has moved on from %s to %s before it could be compared", there.Progress.Applied, seen.Applied), Advice: "verify again"}
	}
	return nil
}

// release lets the applier go on.
func (r *runner) release(ctx context.Context, me state.Args) {
	err := within(ctx, 20*time.Second, func(ctx context.Context) error {
		_, err := r.store.Ask(ctx, "release", me, nil)
		return err
	})
	if err != nil {
		r.c.Logger.Warn("let the applier go on", "error", err)
	}
}

// asker names this process, for those whom it keeps waiting.
func asker() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("a verify on %s (pid %d)", host, os.Getpid())
}

// hold has the applier held, after whoever holds it now: for a moment, unless he has died, and then
// for flow.HoldLimit.
func (r *runner) hold(ctx context.Context, me state.Args) error {
	for began, told := time.Now(), false; ; told = true {
		a, err := r.store.Ask(ctx, "hold", me, nil)
		if err == nil || a.Holder == "" || time.Since(began) > 2*flow.HoldLimit {
			return err
		}
		if !told {
			r.c.Logger.Info(a.Holder + " holds the applier: waiting for it")
		}
		if err := wait.Sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
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
