package decoder_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/slot"
)

// everyKindOfTable is a source with three tables, and their names in the publication.
func everyKindOfTable(t *testing.T, major int) (s *source, tables []string) {
	url := pgtest.Shared(t, major).Database(t)
	var idents []pgx.Identifier
	if major == 10 {
		s := &source{t: t, url: url}
		s.exec(`create table "T 1" (id int primary key, note text, doc text);
			create table heap (a int, b text); create table child (id int primary key)`)
		idents = []pgx.Identifier{{"public", "T 1"}, {"public", "heap"}}
		if err := slot.CreateTruncationTriggers(t.Context(), s.conn(), idents); err != nil {
			t.Fatal(err)
		}
	}
	tables = []string{"public.T 1", "public.heap", "public.child"}
	if major == 10 {
		tables = append(tables, slot.TruncationTable)
	}
	s = newSource(t, url, `
		create table if not exists "T 1" (id int primary key, note text, doc text);
		create table if not exists heap (a int, b text);
		create table if not exists child (id int primary key);
		alter table "T 1" alter doc set storage external;
		alter table heap replica identity full`, tables...)
	if major == 10 {
		s.config.Truncations = slot.TruncationTable
	}
	return s, tables
}

// Every kind of change arrives as it was made, from every version.
func TestStream_EveryMajor(t *testing.T) {
	for major := 10; major <= 18; major++ {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s, tables := everyKindOfTable(t, major)
			stream := s.open()

			big := strings.Repeat("x", 3000)
			s.exec(`insert into "T 1" values (1, 'it''s', '` + big + `'), (2, null, '')`)
			expect(t, stream,
				`{"op":"insert","schema":"public","table":"T 1","new":{"id":"1","note":"it's","doc":"`+big+`"}}`,
				`{"op":"insert","schema":"public","table":"T 1","new":{"id":"2","note":null,"doc":""}}`)
			s.exec(`update "T 1" set note = 'a' where id = 1; update "T 1" set id = 3 where id = 2; delete from "T 1" where id = 3`)
			expect(t, stream,
				`{"op":"update","schema":"public","table":"T 1","new":{"id":"1","note":"a"},"unchanged":["doc"]}`,
				`{"op":"update","schema":"public","table":"T 1","key":{"id":"2"},"new":{"id":"3","note":null,"doc":""}}`,
				`{"op":"delete","schema":"public","table":"T 1","key":{"id":"3"}}`)
			s.exec(`insert into heap values (1, null); update heap set b = 'x'; delete from heap`)
			expect(t, stream,
				`{"op":"insert","schema":"public","table":"heap","new":{"a":"1","b":null}}`,
				`{"op":"update","schema":"public","table":"heap","old":{"a":"1","b":null},"new":{"a":"1","b":"x"}}`,
				`{"op":"delete","schema":"public","table":"heap","old":{"a":"1","b":"x"}}`)
			s.exec(`insert into heap values (2, 'y'); truncate "T 1", heap; insert into heap values (3, 'z')`)
			expect(t, stream,
				`{"op":"insert","schema":"public","table":"heap","new":{"a":"2","b":"y"}}`,
				`{"op":"truncate","tables":[{"schema":"public","table":"T 1"},{"schema":"public","table":"heap"}]}`,
				`{"op":"insert","schema":"public","table":"heap","new":{"a":"3","b":"z"}}`)
			s.exec(`alter table heap add column c int; insert into heap values (4, 'w', 5)`)
			expect(t, stream, `{"op":"insert","schema":"public","table":"heap","new":{"a":"4","b":"w","c":"5"}}`)

			identity := stream.Identity()
			if identity.Timeline != 1 || identity.SystemID == "" || identity.Database != s.config.Slot {
				t.Errorf("identity %+v", identity)
			}
			publish := "insert,update,delete,truncate"
			if major == 10 {
				publish = "insert,update,delete"
			}
			if p := identity.Publications[s.config.Publications[0]]; p.Publish != publish || len(p.Tables) != len(tables) {
				t.Errorf("publication %+v", p)
			}
			if err := stream.Close(); err != nil {
				t.Fatal(err)
			}
			s.config.Expect = identity
			s.open().Close()
			if err := slot.Drop(t.Context(), s.conn(), s.config.Slot); err != nil {
				t.Fatal(err)
			}
			if major == 10 {
				if err := slot.DropTruncationTriggers(t.Context(), s.conn()); err != nil {
					t.Fatal(err)
				}
				s.exec(`truncate heap`) // a trigger left behind would fail
			}
		})
	}
}

const plain = `create table t (id int primary key, note text)`

func newPlain(t testing.TB) *source {
	return newSource(t, pgtest.Shared(t, 15).Database(t), plain, "public.t")
}

// A transaction that is larger than a piece and than the queue comes in pieces, in order and
// complete, and only its last one is an end.
func TestStream_LargeTransaction(t *testing.T) {
	s := newPlain(t)
	s.config.PieceBytes, s.config.QueueBytes = 10_000, 30_000
	stream := s.open()
	const rows = 20_000
	s.exec(`insert into t select i, repeat('x', 50) from generate_series(1, ` + fmt.Sprint(rows) + `) i`)
	s.exec(`insert into t values (0, 'after')`)
	id, pieces := 0, 0
	for last := false; !last; {
		tx := next(t, stream)
		if tx.First != (pieces == 0) || tx.Last != (tx.EndLSN != 0) || len(tx.Changes) > 200 {
			t.Fatalf("piece %d: first %t, last %t, end %s, %d changes", pieces, tx.First, tx.Last, tx.EndLSN, len(tx.Changes))
		}
		for _, c := range tx.Changes {
			if id++; string(c.New[0].Data) != strconv.Itoa(id) {
				t.Fatalf("got id %s, want %d", c.New[0].Data, id)
			}
		}
		pieces++
		last = tx.Last
	}
	if id != rows || pieces < 100 {
		t.Errorf("got %d rows in %d pieces", id, pieces)
	}
	if tx := next(t, stream); !tx.First || !tx.Last || string(tx.Changes[0].New[1].Data) != "after" {
		t.Errorf("after it came %+v", tx)
	}
}

// What is acknowledged does not come again in the next stream, what is not does, and the slot is
// told before Close returns.
func TestStream_AckAndClose(t *testing.T) {
	s := newPlain(t)
	stream := s.open()
	s.exec(`insert into t values (1, 'a')`)
	s.exec(`insert into t values (2, 'b')`)
	first := next(t, stream)
	second := next(t, stream)
	stream.Ack(first.EndLSN)
	stream.Ack(0) // does not go back
	stream.Ack(second.EndLSN - 1)
	stream.Ack(1 << 60) // no more than what Next has returned
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
	if got := s.confirmed(); got != second.EndLSN {
		t.Errorf("slot has confirmed %s, want %s", got, second.EndLSN)
	}
	if _, err := stream.Next(t.Context()); !errors.Is(err, decoder.ErrClosed) {
		t.Errorf("Next after Close: got %v", err)
	}

	s.exec(`insert into t values (3, 'c')`)
	stream = s.open()
	expect(t, stream, `{"op":"insert","schema":"public","table":"t","new":{"id":"3","note":"c"}}`)
	stream.Close()
	stream = s.open()
	expect(t, stream, `{"op":"insert","schema":"public","table":"t","new":{"id":"3","note":"c"}}`)
}

// A stream starts where its consumer is, which may be ahead of the slot: a source forgets what was
// confirmed since its last checkpoint when it crashes.
func TestStream_StartAheadOfSlot(t *testing.T) {
	s := newPlain(t)
	stream := s.open()
	s.exec(`insert into t values (1, 'a')`)
	s.exec(`insert into t values (2, 'b')`)
	s.config.Start = next(t, stream).EndLSN
	stream.Close()
	stream = s.open()
	expect(t, stream, `{"op":"insert","schema":"public","table":"t","new":{"id":"2","note":"b"}}`)
}

// A consumer that stores nothing does not keep a source from shutting down, and nothing is confirmed for it: what it did not
// acknowledge is still the slot's afterwards.
func TestStream_ShutdownWithoutAcks(t *testing.T) {
	t.Parallel()
	for _, major := range []int{10, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			server := pgtest.New(t, pgtest.Options{Major: major})
			s := newSource(t, server.Database(t), plain, "public.t")
			stream := s.open()
			s.exec(`insert into t values (1, 'before')`)
			tx := next(t, stream)
			before := s.confirmed()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := server.Stop(ctx, "fast"); err != nil {
				t.Fatal(err)
			}
			if err := server.Start(ctx); err != nil {
				t.Fatal(err)
			}
			if got := s.confirmed(); got != before {
				t.Errorf("the slot is at %s, but nothing after %s was acknowledged", got, before)
			}
			s.exec(`insert into t values (2, 'after')`)
			var awaited bool
			for tx := (&decoder.Tx{}); tx.XID == 0; awaited = awaited || tx.Awaited {
				var err error
				if tx, err = stream.Next(ctx); err != nil {
					t.Fatal(err)
				}
			}
			if !awaited {
				t.Error("the consumer was not told that a position is awaited")
			}
			stream.Ack(tx.EndLSN)
			until(t, "slot at what was acknowledged", func() bool { return s.confirmed() == tx.EndLSN })
		})
	}
}

// While only another database writes, and while tables are written that are not published, the
// consumer gets positions, and the slot moves when it acknowledges them, and not before.
func TestStream_SlotMovesWhileOthersWrite(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			server := pgtest.Shared(t, major)
			s := newSource(t, server.Database(t), plain+`; create table unpublished (id int)`, "public.t")
			s.config.StatusInterval = 300 * time.Millisecond
			stream := s.open()
			for _, url := range []string{server.Database(t), s.url} {
				pgtest.Exec(t, url, `create table if not exists unpublished (id int)`)
				pgtest.Exec(t, url, `insert into unpublished select generate_series(1, 1000)`)
				target := lsn(t, s.value(`select pg_current_wal_lsn()`))
				before := s.confirmed()
				var tx *decoder.Tx
				for tx == nil || tx.EndLSN < target {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					var err error
					if tx, err = stream.Next(ctx); err != nil {
						t.Fatal(err)
					}
					cancel()
					if tx.XID != 0 || tx.EndLSN != tx.CommitLSN || len(tx.Changes) != 0 || !tx.First || !tx.Last {
						t.Fatalf("got %+v, want a position", tx)
					}
					if tx.EndLSN < target {
						stream.Ack(tx.EndLSN)
						before = tx.EndLSN
					}
				}
				if got := s.confirmed(); got > before {
					t.Errorf("the slot is at %s, but only %s was acknowledged", got, before)
				}
				stream.Ack(tx.EndLSN)
				until(t, "slot at the position", func() bool { return s.confirmed() == tx.EndLSN })
			}
		})
	}
}

func lsn(t testing.TB, text string) decoder.LSN {
	t.Helper()
	position, err := pglogrepl.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return position
}

// A consumer that takes longer for a transaction than wal_sender_timeout does not lose the
// connection, though the queue is full and nothing is read meanwhile.
func TestStream_ConsumerBlocked(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{Major: 15, Settings: map[string]string{"wal_sender_timeout": "1s"}})
	s := newSource(t, server.Database(t), plain, "public.t")
	s.config.QueueBytes, s.config.PieceBytes = 20_000, 5_000
	stream := s.open()
	const rows = 40_000 // more than the sockets hold
	s.exec(`insert into t select i, repeat('x', 200) from generate_series(1, ` + fmt.Sprint(rows) + `) i`)
	first := next(t, stream)
	sender := s.value(`select pid from pg_stat_replication`)
	time.Sleep(4 * time.Second) // four times the timeout: being slow is what this is about
	n := len(first.Changes)
	for last := false; !last; {
		tx := next(t, stream)
		if tx.First {
			t.Fatal("the transaction has begun again: the connection was lost")
		}
		n += len(tx.Changes)
		last = tx.Last
	}
	if n != rows {
		t.Errorf("got %d rows, want %d", n, rows)
	}
	if now := s.value(`select pid from pg_stat_replication`); now != sender {
		t.Errorf("walsender %s has become %s", sender, now)
	}
	if strings.Contains(server.Log(), "replication timeout") {
		t.Error("the server has run into its timeout")
	}
}

// The connection is lost again and again while a writer writes. Every transaction comes once, in
// order.
func TestStream_ConnectionLost(t *testing.T) {
	s := newPlain(t)
	s.config.PieceBytes = 2_000
	stream := s.open()
	writing := make(chan struct{})
	const each, rounds = 20, 40
	go func() {
		defer close(writing)
		conn, err := pgx.Connect(t.Context(), s.url)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.WithoutCancel(t.Context()))
		for i := range rounds {
			if _, err := conn.Exec(t.Context(), `insert into t select i, repeat('x', 100) from generate_series($1::int, $2::int) i`, i*each, i*each+each-1); err != nil {
				t.Error(err)
			}
			if i%15 == 5 {
				if _, err := conn.Exec(t.Context(), `select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1`, s.config.Slot); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	id := 0
	for range rounds {
		begin := id
		for last := false; !last; {
			tx := next(t, stream)
			if tx.First {
				id = begin // what came of an unfinished one is void
			}
			for _, c := range tx.Changes {
				if string(c.New[0].Data) != strconv.Itoa(id) {
					t.Fatalf("got id %s, want %d", c.New[0].Data, id)
				}
				id++
			}
			if last = tx.Last; last {
				stream.Ack(tx.EndLSN)
			}
		}
		if id != begin+each {
			t.Fatalf("a transaction has ended with id %d, want %d", id-1, begin+each-1)
		}
	}
	<-writing
}

// A source that crashes, and one that is shut down, is waited for. A fast shutdown waits until
// everything is acknowledged, idle positions too, and must not hang.
func TestStream_SourceRestarts(t *testing.T) {
	for _, major := range []int{13, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			server := pgtest.New(t, pgtest.Options{Major: major})
			s := newSource(t, server.Database(t), plain, "public.t")
			stream := s.open()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()

			var got []string
			arrived := make(chan struct{})
			go func() {
				defer close(arrived)
				for len(got) < 4 {
					tx, err := stream.Next(ctx)
					if err != nil {
						t.Error(err)
						return
					}
					for _, c := range tx.Changes {
						got = append(got, string(c.New[0].Data))
					}
					stream.Ack(tx.EndLSN)
				}
			}()

			s.exec(`insert into t values (1, 'before')`)
			if err := server.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := server.Start(ctx); err != nil {
				t.Fatal(err)
			}
			s.exec(`insert into t values (2, 'after the crash')`)
			until(t, "stream is back", func() bool { return s.value(`select count(*) from pg_stat_replication`) == "1" })
			s.exec(`insert into t values (3, 'before the shutdown')`)
			began := time.Now()
			if err := server.Stop(ctx, "fast"); err != nil {
				t.Fatal(err)
			}
			t.Logf("shutdown took %s", time.Since(began))
			if err := server.Start(ctx); err != nil {
				t.Fatal(err)
			}
			s.exec(`insert into t values (4, 'after the shutdown')`)
			<-arrived
			if want := []string{"1", "2", "3", "4"}; !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}
