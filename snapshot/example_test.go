package snapshot_test

import (
	"context"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/snapshot"
)

// Copy a table into another schema, as of the position of a new slot.
func Example() {
	ctx := context.Background()
	source, target, stop := servers(ctx)
	defer stop()

	exported, err := snapshot.Export(ctx, source, snapshot.ExportConfig{Slot: "orders"})
	if err != nil {
		log.Fatal(err)
	}
	defer exported.Close(ctx)

	copier, err := snapshot.New(snapshot.Config{
		Source: source, Target: target, Migration: "orders",
		Snapshot: exported.Name, AsOf: exported.ConsistentPoint,
		Tables: []snapshot.Table{{Schema: "public", Name: "orders", TargetSchema: "archive"}},
		OnTable: func(_ context.Context, t snapshot.Table) error {
			fmt.Println("complete:", t) // time to build its indexes
			return nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := copier.Run(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("rows:", copier.Progress().Rows)
	// What is written from now on comes through the slot, from exported.ConsistentPoint.

	// Output:
	// complete: public.orders
	// rows: 3
}

// servers starts a source with a table of three rows and a target with an empty one.
func servers(ctx context.Context) (source, target string, stop func()) {
	start := func(major int, sql string) *pgtest.Server {
		s, err := pgtest.Launch(ctx, pgtest.Options{Major: major})
		if err != nil {
			log.Fatal(err)
		}
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err != nil {
			log.Fatal(err)
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			log.Fatal(err)
		}
		return s
	}
	from := start(15, `create table orders (id int primary key, item text); insert into orders values (1, 'tea'), (2, 'rice'), (3, null)`)
	to := start(18, `create schema archive; create table archive.orders (id int, item text)`)
	return from.URL("postgres"), to.URL("postgres"), func() {
		from.Close()
		to.Close()
	}
}
