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
	"github.com/walferry/walferry/slot"
	"github.com/walferry/walferry/snapshot"
)

// A table is copied while it is being written to, and then followed. Nothing is lost between the
// copy and what is followed, and nothing comes twice: also not if the process ends and another one
// calls follow.
func Example_copyAndFollow() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	source, target, stop := servers(ctx) // two connection strings
	defer stop()
	must(exec(ctx, source, `create table orders (id int primary key, item text)`, `insert into orders values (1, 'tea'), (2, 'rice')`))
	must(exec(ctx, target, `create table orders (id int primary key, item text)`))

	// The copy has what is committed by then.
	must(begin(ctx, source, target))
	must(exec(ctx, source, `insert into orders values (3, 'salt')`, `delete from orders where id = 1`))

	// What was committed since is applied, until the process is stopped.
	run, end := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- follow(run, source, target) }()
	must(until(ctx, target, `select string_agg(item, ' ' order by id) = 'rice salt' from orders`))
	fmt.Println("followed")
	end()
	<-ended

	// The next process resumes where that one was.
	must(exec(ctx, source, `update orders set item = 'pepper' where id = 3`))
	run, end = context.WithCancel(ctx)
	go func() { ended <- follow(run, source, target) }()
	must(until(ctx, target, `select string_agg(item, ' ' order by id) = 'rice pepper' from orders`))
	fmt.Println("resumed")
	end()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
	// Output:
	// followed
	// resumed
}

// begin copies the table as of the position of a new slot. If it fails, or the process ends before
// it is done, it has to start over: drop the slot and the publication, call applier.Forget, and
// empty the target's table and walferry.copy_state and copy_plan.
func begin(ctx context.Context, source, target string) error {
	// The publication first, and the slot when that is committed.
	old, err := pgx.Connect(ctx, source)
	if err != nil {
		return err
	}
	defer old.Close(context.WithoutCancel(ctx))
	if _, err := slot.CreatePublication(ctx, old, "orders", []pgx.Identifier{{"public", "orders"}}, ""); err != nil {
		return err
	}
	exported, err := slot.Export(ctx, source, slot.ExportConfig{Slot: "orders"})
	if err != nil {
		return err
	}
	defer exported.Close(context.WithoutCancel(ctx))

	copier, err := snapshot.New(snapshot.Config{
		Source: source, Target: target, Migration: "orders",
		Snapshot: exported.Name, AsOf: exported.ConsistentPoint,
		Tables: []snapshot.Table{{Schema: "public", Name: "orders"}},
	})
	if err != nil {
		return err
	}
	if err := copier.Run(ctx); err != nil {
		return err
	}

	// The stream begins where the copy is; from now on the target knows that.
	a, err := open(ctx, target, exported.ConsistentPoint)
	if err != nil {
		return err
	}
	return a.Close(ctx)
}

// follow applies what is committed on the source, until ctx ends.
func follow(ctx context.Context, source, target string) error {
	a, err := open(ctx, target, 0)
	if err != nil {
		return err
	}
	defer a.Close(context.WithoutCancel(ctx))
	for {
		stream, err := decoder.Open(ctx, source, decoder.Config{
			Slot: "orders", Publications: []string{"orders"}, Start: a.Applied(),
		})
		if err != nil {
			return err
		}
		err = a.Run(ctx, stream)
		stream.Close()
		var again *applier.RestartError
		if !errors.As(err, &again) {
			return err
		}
	}
}

func open(ctx context.Context, target string, start decoder.LSN) (*applier.Applier, error) {
	conn, err := pgx.Connect(ctx, target)
	if err != nil {
		return nil, err
	}
	a, err := applier.New(ctx, conn, applier.Config{Name: "orders", Start: start})
	if err != nil {
		conn.Close(context.WithoutCancel(ctx))
	}
	return a, err
}

func exec(ctx context.Context, url string, statements ...string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// until waits for a query to return true.
func until(ctx context.Context, url, query string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for yes := false; ; time.Sleep(10 * time.Millisecond) {
		if err := conn.QueryRow(ctx, query).Scan(&yes); err != nil || yes {
			return err
		}
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
