package decoder_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
)

// through puts a proxy before the source and returns it.
func (s *source) through() *pgtest.Proxy {
	s.t.Helper()
	p := pgtest.ProxyFor(s.t, s.url)
	s.url = p.Through(s.url)
	return p
}

// Messages arrive a few bytes at a time, slower than the deadlines that the owner of the connection
// sets to do other work: reading resumes in the middle of a message where it was.
func TestStream_MessagesInSlices(t *testing.T) {
	s := newPlain(t)
	direct := *s
	p := s.through()
	stream := s.open()
	opened := p.Accepted()                     // may be two: one for TLS, which the server has not
	p.Set(pgtest.Network{Slice: 7, Rate: 350}) // a row takes several settleTimes
	for i := range 3 {
		direct.exec(`insert into t values (` + strconv.Itoa(i) + `, 'some text that makes it longer than a slice by far')`)
		expect(t, stream, `{"op":"insert","schema":"public","table":"t","new":{"id":"`+strconv.Itoa(i)+`","note":"some text that makes it longer than a slice by far"}}`)
	}
	if n := p.Accepted(); n != opened {
		t.Errorf("%d more connections", n-opened)
	}
}

// A connection goes dead without a word: nothing comes any more. The stream asks, hears nothing,
// and connects again, although the source still believes in the old walsender.
func TestStream_SourceSilent(t *testing.T) {
	s := newPlain(t)
	direct := *s
	p := s.through()
	s.config.StatusInterval, s.config.SilenceTimeout = 200*time.Millisecond, time.Second
	stream := s.open()
	opened := p.Accepted()
	direct.exec(`insert into t values (1, 'a')`)
	expect(t, stream, `{"op":"insert","schema":"public","table":"t","new":{"id":"1","note":"a"}}`)
	p.Set(pgtest.Network{Hole: true})
	direct.exec(`insert into t values (2, 'held on the way')`)
	until(t, "another connection", func() bool { return p.Accepted() > opened })
	p.Set(pgtest.Network{}) // what was delayed arrives now, with no reader
	expect(t, stream, `{"op":"insert","schema":"public","table":"t","new":{"id":"2","note":"held on the way"}}`)
}

// The connection is cut after each number of bytes from the source, from the first of its greeting
// to the last of a backlog: Open fails, or the stream connects again, and in the end each
// transaction has come once, whole and in order. Every 151st number is tried; WALFERRY_TEST_CUTS=1
// tries each.
func TestStream_CutAnywhere(t *testing.T) {
	t.Parallel()
	step := int64(151)
	if n, err := strconv.ParseInt(os.Getenv("WALFERRY_TEST_CUTS"), 10, 64); err == nil {
		step = n
	}
	s := newPlain(t)
	for i := range 4 {
		s.exec(fmt.Sprintf(`begin; insert into t values (%[1]d, 'a'), (%[1]d + 100, 'b'); update t set note = 'c' where id = %[1]d; delete from t where id = %[1]d + 100; commit`, i))
	}
	p := s.through()
	var failed, again int
	for n := int64(1); ; n += step {
		p.CutAfter(n)
		stream, err := decoder.Open(t.Context(), s.url, s.config)
		p.CutAfter(0)
		if err != nil {
			failed++
			if _, wrong := errors.AsType[*decoder.SlotError](err); wrong {
				t.Errorf("cut after %d bytes: %v", n, err)
			}
			stream = s.open()
		}
		opened := p.Accepted()
		last := decoder.LSN(0)
		for i := range 4 {
			tx := next(t, stream)
			if !tx.First || !tx.Last || len(tx.Changes) != 4 || tx.CommitLSN <= last {
				t.Fatalf("cut after %d bytes, transaction %d: %+v", n, i, tx)
			}
			last = tx.CommitLSN
		}
		whole := err == nil && p.Accepted() == opened
		if err == nil && !whole {
			again++
		}
		if err := stream.Close(); err != nil {
			t.Errorf("cut after %d bytes, close: %v", n, err)
		}
		if whole && n > 1000 {
			break
		}
	}
	t.Logf("%d times Open failed, %d times the stream connected again", failed, again)
	if failed == 0 || again == 0 {
		t.Errorf("%d times Open failed, %d times the stream connected again; want some of each", failed, again)
	}
}
