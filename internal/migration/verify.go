package migration

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/compare"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/groups"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/verify"
)

// VerifyOptions says what to compare.
type VerifyOptions struct {
	Tables   []string // patterns; empty: every table of the migration
	Progress func(verify.Progress)

	// Patience is how long old transactions are waited for that would prolong the hold, before it.
	// Zero means a minute.
	Patience time.Duration
}

// Verified is a comparison and the moment it holds for.
type Verified = verify.Verified

// Verify compares source and target at one position.
//
// While a migrate follows, its applier is held, a temporary slot gives a snapshot of the source and
// the position it belongs to, the applier advances to exactly that position, and the target's
// snapshots are taken; then the applier resumes, and the comparison runs on the snapshots. A source
// that is fenced stands still anyway. While the old server follows the new one, that is the source, and the comparison is kept
// with the record of that flow: it is a gate of the switch back.
func Verify(ctx context.Context, c Config, o VerifyOptions) (v Verified, err error) {
	if c, err = c.Fill(); err != nil {
		return v, err
	}
	e, err := openEnds(ctx, c)
	if err != nil {
		return v, err
	}
	defer e.close(ctx)
	if e.rec != nil && (e.rec.Phase == Following || e.rec.Phase == Switched) && !e.rec.Alive { // or is taking its lock again
		if e.rec, err = e.store.LoadAlive(ctx); err != nil {
			return v, err
		}
	}
	if e.rec == nil {
		return v, e.store.Missing(ctx)
	}
	if e.rec.Phase == Finished && len(o.Tables) == 0 {
		proof, err := compare.Proof(ctx, e.store)
		if err != nil {
			return v, err
		}
		if proof != nil {
			return *proof, nil
		}
	}
	over := e.rec.Phase == Finished
	from := e // the ends in the direction that is followed
	switch {
	case over, e.rec.Phase == Following && e.rec.Alive:
	case e.rec.Phase == Switched && e.rec.Alive:
		from = e.turned()
		if err := from.recall(ctx); err != nil {
			return v, fmt.Errorf("read what is known of the way back: %w", err)
		}
	case e.rec.Phase == Following || e.rec.Phase == Switched:
		return v, state.ErrNoRunner
	default:
		return v, &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("migration %q is in phase %s", c.Name, e.rec.Phase), Advice: "verify compares while a migrate follows, or after the cutover"}
	}
	tables, err := from.tables.Migrated(ctx)
	if err != nil {
		return v, err
	}
	if len(o.Tables) > 0 {
		if tables, err = catalog.Select(tables, o.Tables, nil); err != nil {
			return v, err
		}
	}
	both := &compare.Both{Flow: from.flow, Store: e.store, Over: over, Jobs: c.Jobs, Patience: o.Patience, Progress: o.Progress}
	if e.rec.Phase == Following {
		handed, err := groups.ReadHanded(ctx, e.target, e.store)
		if err == nil && len(handed) > 0 {
			err = e.verifyOwned(ctx, both, tables, groups.Away(handed), &v)
		}
		if err != nil || len(handed) > 0 {
			return v, err
		}
	}
	if v, err = both.Compare(ctx, tables); err == nil && !over {
		err = compare.Keep(ctx, from.store, &v)
	}
	return v, err
}

// verifyOwned compares each of tables with its owner as the source: those that are away with the new server.
func (e *ends) verifyOwned(ctx context.Context, both *compare.Both, tables []catalog.Table, away map[catalog.Name]bool, v *Verified) error {
	b := e.turned()
	if err := b.recall(ctx); err != nil {
		return fmt.Errorf("read what is known of the flow back: %w", err)
	}
	there, err := b.tables.Migrated(ctx)
	if err != nil {
		return err
	}
	asked := map[catalog.Name]bool{}
	for i := range tables {
		asked[tables[i].Name] = true
	}
	for _, part := range []struct {
		e    *ends
		all  []catalog.Table
		away bool
	}{{e, tables, false}, {b, there, true}} {
		mine := slices.DeleteFunc(slices.Clone(part.all), func(t catalog.Table) bool { return away[t.Name] != part.away || !asked[t.Name] })
		if len(mine) == 0 {
			continue
		}
		one := *both
		one.Flow = part.e.flow
		found, err := one.Compare(ctx, mine)
		if err == nil {
			err = compare.Keep(ctx, part.e.store, &found)
		}
		if err != nil {
			return err
		}
		if len(v.Tables) == 0 {
			*v = found
			continue
		}
		v.Tables, v.SourceIs = append(v.Tables, found.Tables...), "mixed"
		v.Position = fmt.Sprintf("%s of the old server, %s of the new one", v.Position, found.Position)
		v.HeldMS = max(v.HeldMS, found.HeldMS)
		v.Conclude()
	}
	return nil
}
