package migration

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/opening"
)

// holdTriggers disables, until the target opens, what would act on the rows that are copied
// and applied: triggers and rules that are enabled ALWAYS or REPLICA and, where the
// role may not set session_replication_role, every other trigger of a user and every rule. What each was is
// recorded in the transaction that disables it. It returns those that were not held before.
//
// Partitions' copies of their parent's triggers are held one by one, like any others: their state
// may be another than the parent's, and the rows are written to the partitions.
func (r *runner) holdTriggers(ctx context.Context) (fresh []catalog.Firing, err error) {
	may, err := r.replicaRole(ctx)
	if err != nil {
		return nil, err
	}
	err = r.target.Do(ctx, func(conn *pgx.Conn) error {
		fresh, err = catalog.FiringOn(ctx, conn, r.tables, may)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for what would act on the rows that are applied: %w", err)
	}
	for _, f := range fresh {
		if !f.Holding {
			return nil, &RunError{Problem: fmt.Sprintf("%s acts on the rows that are copied and applied, and this role may not disable it until the cutover", f.Action), Advice: "run as the owner of the table, or as a superuser (who alone may disable triggers of foreign keys and, before version 13, the copies of a trigger that partitions have); or: " + f.Enable("D")}
		}
	}
	if err := r.closed().Hold(ctx, fresh); err != nil {
		return nil, err
	}
	if len(fresh) > 0 {
		r.c.Logger.Info("triggers and rules are held until the cutover", "count", len(fresh))
	}
	return fresh, nil
}

// openingGate tries what the opening of the target will run, and takes it back: every held
// trigger and rule is there, may be enabled, and its lock is to be had. What has gone is told and
// will be left out. What acts on applied rows although it was not to is held again, and the cutover refused:
// it may have changed the target.
func (r *runner) openingGate(ctx context.Context, o CutoverOptions, step func(string)) error {
	fresh, err := r.holdTriggers(ctx)
	if err != nil {
		return err
	}
	if len(fresh) > 0 {
		var which []string
		for _, f := range fresh {
			which = append(which, f.Action.String())
		}
		return &GateError{Problem: "on the target, what was to be disabled until the cutover was enabled or created meanwhile, and has acted on rows that were applied: " + list(which), Advice: "it is disabled now, and will be enabled as it was when the target opens; see by `walferry verify` whether it has changed anything, and ask again"}

	}
	return r.closed().Try(ctx, o.Timeout/4, step)
}

// closed is the target before its opening.
func (r *runner) closed() *opening.Target {
	return &opening.Target{Link: r.target, DSN: r.c.Target, Migration: r.c.Name, Logger: r.c.Logger}
}
