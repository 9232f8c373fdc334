package cutover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// NewFence looks for who else can change the rows of tables than by a statement on them.
func NewFence(ctx context.Context, conn *pgx.Conn, name string, tables []catalog.Table) (Fence, []catalog.Subscription, error) {
	f := Fence{Name: name, Tables: tables}
	oids := f.oids()
	var err error
	if f.Parents, err = catalog.Parents(ctx, conn, oids); err != nil {
		return f, nil, err
	}
	subscriptions, fed, err := catalog.Subscriptions(ctx, conn, oids)
	for i := range tables {
		// Rows are written to leaves: a trigger before each row of a partitioned table is theirs,
		// and needs version 13.
		if tables[i].Kind == 'r' && slices.Contains(fed, tables[i].OID) {
			f.Fed = append(f.Fed, tables[i].OID)
		}
	}
	return f, subscriptions, err
}

// Unchanged checks, inside the fence, that everybody who could change rows is still among those
// that it was made for.
func (f Fence) Unchanged(ctx context.Context, conn *pgx.Conn) error {
	now, subscriptions, err := NewFence(ctx, conn, f.Name, f.Tables)
	if err != nil {
		return err
	}
	for _, p := range now.Parents {
		if !slices.ContainsFunc(f.Parents, func(was catalog.Parent) bool { return was.OID == p.OID }) {
			return fmt.Errorf("%s has become a parent of migrated tables inside the fence, and passes it", p)
		}
	}
	for _, s := range subscriptions {
		if s.Enabled {
			return fmt.Errorf("subscription %s was enabled inside the fence: it writes to %s", catalog.Quote(s.Name), strings.Join(s.Tables, ", "))
		}
	}
	for _, oid := range now.Fed {
		if !slices.Contains(f.Fed, oid) {
			return errors.New("a subscription got a migrated table inside the fence")
		}
	}
	return nil
}
