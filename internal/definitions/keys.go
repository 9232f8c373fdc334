package definitions

import (
	"cmp"
	"context"
	"time"

	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// Pending returns the foreign keys that are created inside the fence and validated later.
func (c *Carrier) Pending() *schema.Pending {
	return &schema.Pending{Link: c.To.Link, DSN: c.To.DSN, Store: c.Store, Jobs: c.Jobs}
}

func (c *Carrier) reopens() bool { return c.Reopens != nil && c.Reopens() }

// keysLate reports whether foreign keys are created so late: a role that may set
// session_replication_role has them from Complete.
func (c *Carrier) keysLate(ctx context.Context) (bool, error) {
	if c.Brought {
		return false, nil
	}
	may, err := session.MaySetReplicaRole(ctx, c.To.Link)
	return !may && err == nil, err
}

// FindKeys finds out, before the fence, which foreign keys are to be created inside it; nil: none.
func (c *Carrier) FindKeys(ctx context.Context) (*schema.Prepared, error) {
	if c.reopens() {
		return c.Pending().PrepareAside(ctx)
	}
	if late, err := c.keysLate(ctx); err != nil || !late {
		return nil, err
	}
	dump, err := c.Archive(ctx)
	if err != nil {
		return nil, err
	}
	return c.Pending().Prepare(ctx, dump)
}

// CreateKeys finds and creates them, for a one-time copy.
func (c *Carrier) CreateKeys(ctx context.Context, step func(string)) error {
	keys, err := c.FindKeys(ctx)
	if err != nil || keys == nil {
		return err
	}
	defer keys.Close(ctx)
	return keys.Create(ctx, step)
}

// DropKeys drops them, before To follows: after a cutover that was not finished, or when it has been open. What
// it has of its own then is put aside.
func (c *Carrier) DropKeys(ctx context.Context) error {
	if c.reopens() {
		fresh, err := c.Pending().PutAside(ctx, c.Tables(), func(text string) { c.Logger.Warn(text) })
		if fresh > 0 {
			c.Logger.Info("foreign keys are put aside until the server opens again", "count", fresh)
		}
		return err
	}
	if late, err := c.keysLate(ctx); err != nil || !late {
		return err
	}
	return c.Pending().Drop(ctx, c.Tables())
}

// ValidateKeys checks the rows against those that were created, and returns the statements that are
// still to be run.
func (c *Carrier) ValidateKeys(ctx context.Context, tell func(string)) (left []string, err error) {
	failed := c.Pending().Validate(ctx, tell)
	err = wait.Within(ctx, 10*time.Second, func(ctx context.Context) (err error) {
		left, err = c.Pending().Left(ctx)
		return err
	})
	return left, cmp.Or(failed, err)
}
