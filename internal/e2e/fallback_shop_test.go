package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/shop"
)

// TestFallBack_Shop moves shop over, back and over again while clients write, who go each time where the database is. What they were told
// of is on both servers at the end, and the invariants hold on both.
func TestFallBack_Shop(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{10, 18}, {13, 17}} {
		t.Run(fmt.Sprintf("%d-%d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			fallBackShop(t, pair[0], pair[1])
		})
	}
}

func fallBackShop(t *testing.T, from, to int) {
	source, target := pgtest.Pair(t, from, to)
	ctx := t.Context()
	if err := shop.Load(ctx, source, shop.Options{Size: 2}); err != nil {
		t.Fatal(err)
	}
	m := newMoving(t, fmt.Sprintf("shop_back_%d_%d", from, to), source, target)
	m.InsertOnly, m.FallBack = shopInsertOnly, migration.FallBackRequire
	if _, err := schema.Find(ctx, from, to); err != nil {
		bringShop(t, m, 2)
	}
	r := m.start()
	r.waitFor(migration.Following)
	var all []*shop.Writers
	for n, phase := range []migration.Phase{migration.Switched, migration.Following, migration.Switched} {
		sides, ask := [2]string{source, target}, migration.Cutover
		if phase == migration.Following {
			sides, ask = [2]string{target, source}, migration.Fallback
		}
		w, err := shop.Start(ctx, shop.Config{
			Source: sides[0], Target: sides[1], Clients: 3, First: 1 + 10*n, TPS: 30, Seed: uint64(from*100 + to + n),
			Ready: func(context.Context) (bool, error) {
				return one[bool](t, target, fmt.Sprintf(`select phase = '%s' from walferry.migration where name = '%s'`, phase, m.Name)), nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		all = append(all, w)
		m.eventually("writes before the switch", func() bool { return w.Report().Source >= 30 })
		m.asked(ask)
		r.waitFor(phase)
		m.eventually("writes after the switch by every client", func() bool { return w.Report().Switched >= 3 })
		report := w.Stop()
		for class, n := range report.Errors {
			if strings.HasPrefix(class, string(shop.Other)) {
				t.Errorf("clients got %d errors that no application expects: %s", n, class)
			}
		}
	}
	count := `select count(*) from shop.ledger`
	m.eventually("the last of the ledger", func() bool { return one[int](t, source, count) == one[int](t, target, count) })
	for side, dsn := range map[string]string{"old": source, "new": target} {
		for _, w := range all {
			if err := w.Check(ctx, dsn); err != nil {
				t.Errorf("check of the %s server: %v", side, err)
			}
		}
	}
	sameRows(t, target, source)
	if _, err := migration.Finish(context.Background(), m.Config); err != nil {
		t.Fatal(err)
	}
	if outcome, err := r.end(); err != nil || outcome.Phase != migration.Finished {
		t.Fatalf("migrate ended with %+v, %v", outcome, err)
	}
	m.cleanup()
}
