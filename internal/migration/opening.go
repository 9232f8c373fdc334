package migration

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
)

// replicaRole tells whether the target's role may set session_replication_role,
// so that neither ordinary triggers nor foreign keys act on what is applied.
func (r *runner) replicaRole(ctx context.Context) (may bool, err error) {
	err = r.target.Do(ctx, func(conn *pgx.Conn) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // that is the point
		_, err = tx.Exec(ctx, `set local session_replication_role = replica`)
		may = err == nil
		return nil
	})
	return may, err
}

// postData brings foreign keys, triggers and the rest of the schema. A role that
// may not set session_replication_role gets its foreign keys in the cutover: their
// cascades would act on what the stream brings as well.
func (r *runner) postData(ctx context.Context) error {
	dump, err := r.archive(ctx)
	if err != nil {
		return err
	}
	may, err := r.replicaRole(ctx)
	if err != nil {
		return err
	}
	var refused []schema.Refused
	if may {
		r.step("create and validate the foreign keys")
		if refused, err = schema.Refusals(dump.ForeignKeys(ctx, r.c.Target, r.c.Jobs)); err != nil {
			return err
		}
	}
	r.step("create triggers, policies, privileges and the rest; fill materialized views")
	conn, err := online.Open(ctx, session.Config{DSN: r.c.Target, Application: r.c.Name + " schema"})
	if err != nil {
		return err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	report, err := dump.Finish(ctx, conn)
	r.tell(report)
	more, err := schema.Refusals(err)
	if err != nil {
		return err
	}
	return r.keepRefused(ctx, conn, distinctRefused(slices.Concat(report.Refused, refused, more)))
}

// enableLeft tries again to enable what the opening of a cutover that is done has left, and returns
// what is recorded of that.
func (r *runner) enableLeft(ctx context.Context) (*CutoverResult, error) {
	result, err := cutoverResult(ctx, r.store)
	if err != nil || result == nil || len(result.Disabled) == 0 {
		return result, err
	}
	disabled, err := r.closed().EnableRest(ctx, 0)
	if err != nil && len(disabled) == 0 {
		return nil, err
	}
	result.Disabled = disabled
	return result, r.keepResult(ctx, result, nil)
}

func (r *runner) refreshViews(ctx context.Context) (int, error) {
	conn, err := online.Open(ctx, session.Config{DSN: r.c.Target, Application: r.c.Name + " schema"})
	if err != nil {
		return 0, err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	return schema.RefreshViews(ctx, conn)
}
