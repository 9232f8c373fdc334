package applier_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
)

// The changes of a slot are applied to a table in another schema of another
// database, until it holds exactly what was committed up to a position.
func Example() {
	ctx := context.Background()
	server, err := pgtest.Launch(ctx, pgtest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	connect := func(database string) *pgx.Conn {
		conn, err := pgx.Connect(ctx, server.URL(database))
		if err != nil {
			log.Fatal(err)
		}
		return conn
	}
	exec := func(conn *pgx.Conn, sql string) {
		if _, err := conn.Exec(ctx, sql); err != nil {
			log.Fatal(err)
		}
	}

	// A source with a publication and a slot, a target with a table of the same columns.
	admin := connect("postgres")
	defer admin.Close(ctx)
	exec(admin, `create database shop`)
	exec(admin, `create database reports`)
	shop, reports := connect("shop"), connect("reports")
	defer shop.Close(ctx)
	exec(shop, `create table orders (id int primary key, state text)`)
	exec(reports, `create schema shop`)
	exec(reports, `create table shop.orders (id int primary key, state text, seen timestamptz default now())`)
	if _, err := decoder.CreatePublication(ctx, shop, "orders", []pgx.Identifier{{"public", "orders"}}, ""); err != nil {
		log.Fatal(err)
	}
	exec(shop, `select pg_create_logical_replication_slot('orders', 'pgoutput')`)

	target, err := applier.New(ctx, reports, applier.Config{
		Name: "orders",
		Table: func(namespace, name string) (pgx.Identifier, bool) {
			return pgx.Identifier{"shop", name}, namespace == "public"
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	source, err := decoder.Open(ctx, server.URL("shop"), decoder.Config{
		Slot: "orders", Publications: []string{"orders"}, Start: target.Applied(), StatusInterval: 100 * time.Millisecond,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- target.Run(run, source) }()

	exec(shop, `insert into orders values (1, 'new'), (2, 'new')`)
	exec(shop, `update orders set state = 'paid' where id = 1`)
	var now string
	if err := shop.QueryRow(ctx, `select pg_current_wal_insert_lsn()::text`).Scan(&now); err != nil {
		log.Fatal(err)
	}
	exec(shop, `delete from orders`) // after the position
	var at decoder.LSN
	if err := at.Scan(now); err != nil {
		log.Fatal(err)
	}
	if _, err := target.Pause(ctx, at); err != nil {
		log.Fatal(err)
	}

	look := connect("reports")
	defer look.Close(ctx)
	rows, err := look.Query(ctx, `select id, state from shop.orders order by id`)
	if err != nil {
		log.Fatal(err)
	}
	var id int
	var state string
	if _, err := pgx.ForEachRow(rows, []any{&id, &state}, func() error { fmt.Println(id, state); return nil }); err != nil {
		log.Fatal(err)
	}
	p := target.Progress()
	fmt.Println(p.Transactions, "transactions,", p.Changes, "changes")

	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
	if err := target.Close(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 1 paid
	// 2 new
	// 2 transactions, 3 changes
}

// Two servers that follow each other: this is the direction from b to a. The publication of b has
// the table walferry.progress, too, by whose changes the Filter knows what "a_to_b" has written.
func ExampleNewFilter() {
	ctx := context.Background()
	const a, b = "host=a dbname=shop", "host=b dbname=shop"
	conn, err := pgx.Connect(ctx, a)
	if err != nil {
		log.Fatal(err)
	}
	target, err := applier.New(ctx, conn, applier.Config{Name: "b_to_a"})
	if err != nil {
		log.Fatal(err)
	}
	stream, err := decoder.Open(ctx, b, decoder.Config{
		Slot: "b_to_a", Publications: []string{"b_to_a"}, Start: target.Applied(),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer stream.Close()
	filter := applier.NewFilter(stream, applier.FilterConfig{Stream: "a_to_b"})
	log.Fatal(target.Run(ctx, filter))
}
