package definitions

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
)

// keepRefused records and logs what the target refuses of the source's schema. It replaces what was
// recorded before.
func (c *Carrier) keepRefused(ctx context.Context, q catalog.Querier, refused []schema.Refused) error {
	for _, o := range refused {
		c.Logger.Warn("schema: the target refuses " + o.String())
	}
	return c.Store.Values().PutIn(ctx, q, state.Refused, append([]schema.Refused{}, refused...))
}

// refused reads what the target refuses.
func refused(ctx context.Context, s *state.Store) (refused []schema.Refused, err error) {
	_, err = s.Values().Get(ctx, state.Refused, &refused)
	return refused, err
}

func refusedNames(refused []schema.Refused) (names []string) {
	for _, o := range refused {
		names = append(names, o.Object)
	}
	return names
}

// distinctRefused removes what was refused in two steps.
func distinctRefused(refused []schema.Refused) (distinct []schema.Refused) {
	for _, o := range refused {
		if !slices.ContainsFunc(distinct, func(d schema.Refused) bool { return d.Object == o.Object }) {
			distinct = append(distinct, o)
		}
	}
	return distinct
}

// missing returns the objects that the target has refused and still lacks.
func (c *Carrier) missing(ctx context.Context) (missing []schema.Refused, err error) {
	refused, err := refused(ctx, c.Store)
	if err != nil || len(refused) == 0 {
		return nil, err
	}
	dump, err := c.Archive(ctx)
	if err != nil {
		return nil, err
	}
	err = c.To.Link.Do(ctx, func(conn *pgx.Conn) (err error) {
		missing, err = dump.Missing(ctx, conn, refused)
		return err
	})
	return missing, err
}
