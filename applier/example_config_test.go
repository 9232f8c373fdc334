package applier_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/slot"
	"github.com/walferry/walferry/snapshot"
)

// Both sides are looked at as of one position of the source, without stopping its writers.
func ExampleApplier_Pause() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	source, target, stop := servers(ctx)
	defer stop()
	must(exec(ctx, source, `create table orders (id int primary key, item text)`))
	must(exec(ctx, target, `create table orders (id int primary key, item text)`))
	must(begin(ctx, source, target))

	a, err := open(ctx, target, 0)
	must(err)
	stream, err := decoder.Open(ctx, source, decoder.Config{Slot: "orders", Publications: []string{"orders"}, Start: a.Applied()})
	must(err)
	defer stream.Close()
	run, end := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(run, stream) }()

	must(exec(ctx, source, `insert into orders select i, 'tea' from generate_series(1, 100) i`))
	var position string
	old, err := pgx.Connect(ctx, source)
	must(err)
	defer old.Close(ctx)
	must(old.QueryRow(ctx, `select pg_current_wal_insert_lsn()::text`).Scan(&position))
	must(exec(ctx, source, `delete from orders`)) // after the position

	var at decoder.LSN
	must(at.Scan(position))
	if _, err := a.Pause(ctx, at); err != nil {
		log.Fatal(err)
	}
	must(until(ctx, target, `select count(*) = 100 from orders`))
	fmt.Println("the target has what was committed before the position")
	a.Resume()
	must(until(ctx, target, `select count(*) = 0 from orders`))
	fmt.Println("and then the rest")

	end()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
	must(a.Close(ctx))
	// Output:
	// the target has what was committed before the position
	// and then the rest
}

// Tables of one schema are applied to another one under other names, and some are left out.
func ExampleConfig_table() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	_, target, stop := servers(ctx)
	defer stop()
	must(exec(ctx, target, `create schema shop`, `create table shop.old_orders (id int primary key)`))
	conn, err := pgx.Connect(ctx, target)
	must(err)
	a, err := applier.New(ctx, conn, applier.Config{
		Name: "orders",
		Table: func(schema, name string) (pgx.Identifier, bool) {
			return pgx.Identifier{"shop", "old_" + name}, schema == "public" && !strings.HasPrefix(name, "tmp_")
		},
	})
	must(err)
	defer a.Close(ctx)

	orders, tmp := relation("orders"), relation("tmp_7")
	must(a.Apply(ctx, &decoder.Tx{
		XID: 7, CommitLSN: 0x100, EndLSN: 0x130, First: true, Last: true,
		Changes: []decoder.Change{
			{Op: decoder.Insert, Relation: orders, New: row("1")},
			{Op: decoder.Insert, Relation: tmp, New: row("2")},
		},
	}))
	must(until(ctx, target, `select array_agg(id) = '{1}' from shop.old_orders`))
	fmt.Println("applied up to", a.Applied())
	// Output: applied up to 0/130
}

// A copy was interrupted when one of two tables was complete, and the snapshot was lost. The other
// one is copied under a later snapshot. Changes that its rows have already are left out.
func ExampleWindows() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	source, target, stop := servers(ctx)
	defer stop()
	tables := []string{`create table a (id int primary key)`, `create table b (id int primary key)`}
	must(exec(ctx, source, append(tables, `insert into a values (1)`, `insert into b values (1)`)...))
	must(exec(ctx, target, tables...))
	old, err := pgx.Connect(ctx, source)
	must(err)
	defer old.Close(ctx)
	_, err = slot.CreatePublication(ctx, old, "orders", []pgx.Identifier{{"public", "a"}, {"public", "b"}}, "")
	must(err)

	// copied copies tables under a snapshot; Resume, because it may be another one than before.
	copied := func(e *slot.Exported, names ...string) {
		defer e.Close(ctx)
		c := snapshot.Config{Source: source, Target: target, Migration: "orders", Snapshot: e.Name, AsOf: e.ConsistentPoint, Resume: true}
		for _, name := range names {
			c.Tables = append(c.Tables, snapshot.Table{Schema: "public", Name: name})
		}
		copier, err := snapshot.New(c)
		must(err)
		must(copier.Run(ctx))
	}
	first, err := slot.Export(ctx, source, slot.ExportConfig{Slot: "orders"})
	must(err)
	copied(first, "a")
	must(exec(ctx, source, `insert into a values (2)`, `insert into b values (2)`))
	later, err := slot.Export(ctx, source, slot.ExportConfig{Slot: "orders_later", Temporary: true})
	must(err)
	copied(later, "a", "b") // a is complete already

	conn, err := pgx.Connect(ctx, target)
	must(err)
	windows, err := snapshot.Windows(ctx, conn, "orders")
	must(err)
	for _, w := range windows {
		if w.Mixed() { // a table that was half copied: its changes need Windows.Read
			log.Fatal("rows of several snapshots")
		}
	}
	a, err := applier.New(ctx, conn, applier.Config{
		Name: "orders", Start: first.ConsistentPoint, Windows: &applier.Windows{Tables: windows},
	})
	must(err)
	stream, err := decoder.Open(ctx, source, decoder.Config{Slot: "orders", Publications: []string{"orders"}, Start: a.Applied()})
	must(err)
	defer stream.Close()
	run, end := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(run, stream) }()
	must(exec(ctx, source, `insert into b values (3)`))
	must(until(ctx, target, `select (select array_agg(id order by id) from a) = '{1,2}' and (select array_agg(id order by id) from b) = '{1,2,3}'`))
	fmt.Println("both are as of one commit:", a.Applied() >= a.Settled())
	end()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
	must(a.Close(ctx))
	// Output: both are as of one commit: true
}

// A Source of one's own: transactions that come from elsewhere than a slot. This one has them in
// memory, and begins where the target is.
func ExampleSource() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	_, target, stop := servers(ctx)
	defer stop()
	must(exec(ctx, target, `create table orders (id int primary key)`))
	orders := relation("orders")
	source := &memory{}
	for i := range 3 {
		commit := decoder.LSN(0x100 * (i + 1))
		source.txs = append(source.txs, &decoder.Tx{
			XID: uint32(7 + i), CommitLSN: commit, EndLSN: commit + 0x30, First: true, Last: true,
			Changes: []decoder.Change{{Op: decoder.Insert, Relation: orders, New: row(strconv.Itoa(i))}},
		})
	}
	a, err := open(ctx, target, 0)
	must(err)
	defer a.Close(ctx)
	if err := a.Run(ctx, source); !errors.Is(err, io.EOF) {
		log.Fatal(err)
	}
	must(until(ctx, target, `select count(*) = 3 from orders`))
	fmt.Println("applied up to", a.Applied(), "acknowledged:", source.durable.Load() == uint64(a.Applied()))
	// Output: applied up to 0/330 acknowledged: true
}

// memory is a Source of what is in memory.
type memory struct {
	txs     []*decoder.Tx
	durable atomic.Uint64 // Ack may be called while Next is
}

// Next returns the next transaction. One that has to wait for it does so until ctx ends.
func (m *memory) Next(context.Context) (*decoder.Tx, error) {
	if len(m.txs) == 0 {
		return nil, io.EOF
	}
	tx := m.txs[0]
	m.txs = m.txs[1:]
	return tx, nil
}

// Ack notes how far whoever keeps the transactions may delete them.
func (m *memory) Ack(durable decoder.LSN) { m.durable.Store(uint64(durable)) }

// relation is a table public.name (id int primary key).
func relation(name string) *decoder.Relation {
	return &decoder.Relation{
		Namespace: "public", Name: name, ReplicaIdentity: decoder.IdentityDefault,
		Columns: []decoder.Column{{Name: "id", Key: true, TypeOID: 23, TypeMod: -1}},
	}
}

func row(values ...string) (row []decoder.Value) {
	for _, v := range values {
		row = append(row, decoder.Value{Kind: decoder.Text, Data: []byte(v)})
	}
	return row
}
