package definitions

import (
	"cmp"
	"context"
	"time"

	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// Pending are the foreign keys that are created inside the fence and validated later.
func (c *Carrier) Pending() *schema.Pending {
	return &schema.Pending{Link: c.To.Link, DSN: c.To.DSN, Store: c.Store, Jobs: c.Jobs}
}

// keysLate reports whether there are foreign keys of that kind: a role that may set session_replication_role has had
// its foreign keys before.
func (c *Carrier) keysLate(ctx context.Context) (bool, error) {
	if c.Brought {
		return false, nil
	}
	may, err := session.MaySetReplicaRole(ctx, c.To.Link)
	return !may && err == nil, err
}

// FindKeys finds out which there are to create, while nothing is fenced; nil: none.
func (c *Carrier) FindKeys(ctx context.Context) (*schema.Prepared, error) {
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

// DropKeys drops them again, for a cutover that was not finished.
func (c *Carrier) DropKeys(ctx context.Context) error {
	if late, err := c.keysLate(ctx); err != nil || !late {
		return err
	}
	return c.Pending().Drop(ctx, c.Tables())
}

// ValidateKeys looks at the rows of those that were created, and returns the statements that are left of that.
func (c *Carrier) ValidateKeys(ctx context.Context, tell func(string)) (left []string, err error) {
	failed := c.Pending().Validate(ctx, tell)
	err = wait.Within(ctx, 10*time.Second, func(ctx context.Context) (err error) {
		left, err = c.Pending().Left(ctx)
		return err
	})
	return left, cmp.Or(failed, err)
}
