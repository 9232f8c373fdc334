package decoder_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
)

// position is what comes next, and is no transaction.
func position(t *testing.T, stream *decoder.Stream) *decoder.Tx {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tx, err := stream.Next(ctx)
	if err != nil || tx.XID != 0 {
		t.Fatalf("want a position, got %+v, %v", tx, err)
	}
	return tx
}

// A role without any privilege writes logical messages. They come from 14 on, those that were
// requested, and whatever is in the publication; before, an empty transaction does, if it is asked
// for by its id. Nothing else of all that makes a Tx.
func TestStream_MessagesEveryMajor(t *testing.T) {
	for _, major := range []int{10, 13, 14, 15, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := newSource(t, pgtest.Shared(t, major).Database(t), plain, "public.t")
			xids := make(chan uint32, 1)
			s.config.Messages = func(prefix string) bool { return prefix == "mine" }
			s.config.Empty = func(xid uint32) bool {
				select {
				case want := <-xids:
					if xid == want {
						return true
					}
					xids <- want
				default:
				}
				return false
			}
			stream := s.open()
			conn := s.conn()
			emit := func(transactional bool, prefix, content string) (at decoder.LSN) {
				t.Helper()
				tx, err := conn.Begin(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // nothing after a commit
				var xid int64
				var text string
				if _, err := tx.Exec(t.Context(), `set local role pg_signal_backend`); err != nil {
					t.Fatal(err)
				}
				if err := tx.QueryRow(t.Context(), `select pg_logical_emit_message($1, $2, $3)::text, txid_current()`, transactional, prefix, content).Scan(&text, &xid); err != nil {
					t.Fatal(err)
				}
				if prefix == "mine" && major < 14 {
					xids <- uint32(xid)
				}
				if err := tx.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
				return lsn(t, text)
			}
			emit(true, "other", "nobody's business")
			at := emit(true, "mine", "first")
			tx := next(t, stream)
			if tx.XID == 0 || !tx.First || !tx.Last || len(tx.Changes) > 0 || tx.CommitLSN < at {
				t.Fatalf("want a transaction without changes after %s, got %+v", at, tx)
			}
			if major < 14 {
				if len(tx.Messages) > 0 {
					t.Errorf("messages %+v", tx.Messages)
				}
				return
			}
			want := decoder.Message{Prefix: "mine", Content: []byte("first"), LSN: at, Transactional: true}
			if fmt.Sprint(tx.Messages) != fmt.Sprint([]decoder.Message{want}) {
				t.Errorf("got %+v, want %+v", tx.Messages, want)
			}
			if _, err := conn.Exec(t.Context(), `begin; select pg_logical_emit_message(true, 'mine', 'gone'), pg_logical_emit_message(false, 'mine', 'stays'); rollback`); err != nil {
				t.Fatal(err)
			}
			s.exec(`begin; insert into t values (1, 'a'); select pg_logical_emit_message(true, 'mine', 'between'), pg_logical_emit_message(true, 'other', 'x'); insert into t values (2, 'b'); commit`)
			for tx = position(t, stream); len(tx.Messages) == 0; tx = position(t, stream) {
				stream.Ack(tx.EndLSN)
			}
			if tx.Messages[0].Transactional || string(tx.Messages[0].Content) != "stays" || tx.EndLSN != tx.Messages[0].LSN {
				t.Errorf("got %+v, want the message of no transaction", tx)
			}
			tx = next(t, stream)
			line := string(decoder.AppendJSON(nil, tx))
			if message := fmt.Sprintf(`],"messages":[{"prefix":"mine","content":"between","lsn":"%s","transactional":true,"before":1}]}`+"\n", tx.Messages[0].LSN); len(tx.Changes) != 2 || !strings.HasSuffix(line, message) {
				t.Errorf("got %s, want two changes and %s", line, message)
			}
		})
	}
}
