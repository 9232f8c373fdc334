package decoder_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/slot"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience is how long a test waits for what must come; nothing is as slow.
const patience = 60 * time.Second

// source is a database with a publication of some tables and a slot.
type source struct {
	t      testing.TB
	url    string
	config decoder.Config
}

// newSource creates tables in a database, and a publication and a slot for them. The slot has the
// name of the database, for slots belong to the server.
func newSource(t testing.TB, url, schema string, tables ...string) *source {
	s := &source{t: t, url: url}
	name := s.value(`select current_database()`)
	s.config = decoder.Config{Slot: name, Publications: []string{"Pub, \"of\" 'it'"}}
	s.exec(schema)
	var idents []pgx.Identifier
	for _, table := range tables {
		idents = append(idents, strings.Split(table, "."))
	}
	if _, err := slot.CreatePublication(t.Context(), s.conn(), s.config.Publications[0], idents, ""); err != nil {
		t.Fatal(err)
	}
	s.exec(`select pg_create_logical_replication_slot('` + name + `', 'pgoutput')`)
	return s
}

func (s *source) exec(sql string) {
	s.t.Helper()
	pgtest.Exec(s.t, s.url, sql)
}

func (s *source) value(sql string) string {
	s.t.Helper()
	return pgtest.Query(s.t, s.url, sql)[0][0]
}

func (s *source) conn() *pgx.Conn {
	s.t.Helper()
	conn, err := pgx.Connect(s.t.Context(), s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close(context.WithoutCancel(s.t.Context())) })
	return conn
}

func (s *source) open() *decoder.Stream {
	s.t.Helper()
	stream, err := decoder.Open(s.t.Context(), s.url, s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { stream.Close() })
	return stream
}

func (s *source) confirmed() decoder.LSN {
	s.t.Helper()
	return lsn(s.t, s.value(`select confirmed_flush_lsn from pg_replication_slots where slot_name = '`+s.config.Slot+`'`))
}

// until waits for a condition.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// next is the next transaction; positions are acknowledged and passed over.
func next(t testing.TB, stream *decoder.Stream) *decoder.Tx {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		tx, err := stream.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if tx.XID != 0 {
			return tx
		}
		stream.Ack(tx.EndLSN)
	}
}

// changes are the changes of the next transactions up to the first whole one, as JSON.
func changes(t testing.TB, stream *decoder.Stream) []string {
	t.Helper()
	var lines []string
	for {
		tx := next(t, stream)
		var object struct{ Changes []json.RawMessage }
		if err := json.Unmarshal(decoder.AppendJSON(nil, tx), &object); err != nil {
			t.Fatal(err)
		}
		for _, change := range object.Changes {
			lines = append(lines, string(change))
		}
		if tx.Last {
			return lines
		}
	}
}

func expect(t testing.TB, stream *decoder.Stream, want ...string) {
	t.Helper()
	if got := changes(t, stream); !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// finalError takes what is left and returns the error at the end.
func finalError(t testing.TB, stream *decoder.Stream) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		tx, err := stream.Next(ctx)
		if err != nil {
			return err
		}
		if tx.Last {
			stream.Ack(tx.EndLSN)
		}
	}
}
