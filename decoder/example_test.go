package decoder_test

import (
	"context"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
)

// Decoded transactions as lines of JSON, until a row says that it is enough.
func Example() {
	ctx := context.Background()
	server, err := pgtest.Launch(ctx, pgtest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	url := server.URL("postgres")
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	exec := func(sql string) {
		if _, err := conn.Exec(ctx, sql); err != nil {
			log.Fatal(err)
		}
	}

	// The publication first, then the slot.
	exec(`create table city (name text primary key, people int)`)
	if _, err := decoder.CreatePublication(ctx, conn, "cities", []pgx.Identifier{{"public", "city"}}, ""); err != nil {
		log.Fatal(err)
	}
	exec(`select pg_create_logical_replication_slot('cities', 'pgoutput')`)

	stream, err := decoder.Open(ctx, url, decoder.Config{Slot: "cities", Publications: []string{"cities"}})
	if err != nil {
		log.Fatal(err)
	}
	defer stream.Close()
	exec(`insert into city values ('Ulm', 126000), ('Bern', null)`)
	exec(`update city set people = 134000 where name = 'Bern'`)
	exec(`delete from city`)

	for left := 3; left > 0; {
		tx, err := stream.Next(ctx)
		if err != nil {
			log.Fatal(err)
		}
		if tx.XID != 0 { // else it is a position
			// Without what differs from run to run: transaction id, positions, time.
			fmt.Printf("%s", decoder.AppendJSON(nil, &decoder.Tx{First: true, Last: true, Changes: tx.Changes}))
			left--
		}
		stream.Ack(tx.EndLSN)
	}
	// Output:
	// {"xid":0,"commit_lsn":"0/0","end_lsn":"0/0","changes":[{"op":"insert","schema":"public","table":"city","new":{"name":"Ulm","people":"126000"}},{"op":"insert","schema":"public","table":"city","new":{"name":"Bern","people":null}}]}
	// {"xid":0,"commit_lsn":"0/0","end_lsn":"0/0","changes":[{"op":"update","schema":"public","table":"city","new":{"name":"Bern","people":"134000"}}]}
	// {"xid":0,"commit_lsn":"0/0","end_lsn":"0/0","changes":[{"op":"delete","schema":"public","table":"city","key":{"name":"Ulm"}},{"op":"delete","schema":"public","table":"city","key":{"name":"Bern"}}]}
}
