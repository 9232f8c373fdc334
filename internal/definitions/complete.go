package definitions

import (
	"context"
	"slices"

	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
)

// Complete creates foreign keys, triggers and the rest of the schema. A role that may not set
// session_replication_role gets its foreign keys in the cutover: until then their cascades would
// act on what the stream brings.
func (c *Carrier) Complete(ctx context.Context) error {
	if c.Brought {
		return nil
	}
	dump, err := c.Archive(ctx)
	if err != nil {
		return err
	}
	may, err := session.MaySetReplicaRole(ctx, c.To.Link)
	if err != nil {
		return err
	}
	var refused []schema.Refused
	if may {
		c.Step("create and validate the foreign keys")
		if refused, err = schema.Refusals(dump.ForeignKeys(ctx, c.To.DSN, c.Jobs)); err != nil {
			return err
		}
	}
	c.Step("create triggers, policies, privileges and the rest; fill materialized views")
	conn, err := online.Open(ctx, session.Config{DSN: c.To.DSN, Application: c.Store.Name() + " schema"})
	if err != nil {
		return err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	report, err := dump.Finish(ctx, conn)
	c.tell(report)
	more, err := schema.Refusals(err)
	if err != nil {
		return err
	}
	return c.keepRefused(ctx, conn, distinctRefused(slices.Concat(report.Refused, refused, more)))
}

// RefreshViews refreshes the materialized views of To, and returns how many.
func (c *Carrier) RefreshViews(ctx context.Context) (int, error) {
	if c.Brought {
		return 0, nil
	}
	conn, err := online.Open(ctx, session.Config{DSN: c.To.DSN, Application: c.Store.Name() + " schema"})
	if err != nil {
		return 0, err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	return schema.RefreshViews(ctx, conn)
}
