package migration

import (
	"context"

	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// pending are the foreign keys that are created inside the fence and validated later.
func (r *runner) pending() *schema.Pending {
	return &schema.Pending{Link: r.target, DSN: r.c.Target, Store: r.store, Jobs: r.c.Jobs}
}

// keysLate reports whether there are any: a role that may set session_replication_role has had
// its foreign keys before.
func (r *runner) keysLate(ctx context.Context) (bool, error) {
	if r.c.Schema == "none" {
		return false, nil
	}
	may, err := r.replicaRole(ctx)
	return !may && err == nil, err
}

// prepareLateKeys finds out what there will be to do, while nothing is fenced; nil: nothing.
func (r *runner) prepareLateKeys(ctx context.Context) (*schema.Prepared, error) {
	if late, err := r.keysLate(ctx); err != nil || !late {
		return nil, err
	}
	dump, err := r.archive(ctx)
	if err != nil {
		return nil, err
	}
	return r.pending().Prepare(ctx, dump)
}

// lateForeignKeys does both, for a one-time copy.
func (r *runner) lateForeignKeys(ctx context.Context, step func(string)) error {
	keys, err := r.prepareLateKeys(ctx)
	if err != nil || keys == nil {
		return err
	}
	defer keys.Close(ctx)
	return keys.Create(ctx, step)
}

// dropLateForeignKeys undoes lateForeignKeys, for a cutover that was not finished.
func (r *runner) dropLateForeignKeys(ctx context.Context) error {
	if late, err := r.keysLate(ctx); err != nil || !late {
		return err
	}
	return r.pending().Drop(ctx, r.tables)
}

// addUnvalidated sets what is still to be run of a cutover that is done.
func addUnvalidated(ctx context.Context, target *session.Link, s *state.Store, result *CutoverResult) error {
	list, _, err := (&schema.Pending{Link: target, Store: s}).List(ctx)
	result.Unvalidated = schema.Statements(list)
	return err
}
