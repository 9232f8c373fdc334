package applier

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/decoder"
)

var progressRelation = &decoder.Relation{
	Namespace: "walferry", Name: "progress", ReplicaIdentity: 'd',
	Columns: []decoder.Column{{Name: "stream", Key: true}, {Name: "applied"}},
}

// mark is what the applier of a stream changes first.
func mark(stream string) decoder.Change {
	return update(progressRelation, nil, row(stream, "0/1"))
}

// filtered is a Filter of the stream "back" over a feed.
type filtered struct {
	*Filter
	*feed
	t *testing.T
	script
}

func newFiltered(t *testing.T, c FilterConfig) *filtered {
	c.Stream = "back"
	f := newFeed()
	return &filtered{Filter: NewFilter(f, c), feed: f, t: t}
}

// Next is the Filter's.
func (f *filtered) Next(ctx context.Context) (*decoder.Tx, error) { return f.Filter.Next(ctx) }

// rest is all that passes until the source ends.
func (f *filtered) rest() (txs []*decoder.Tx) {
	f.t.Helper()
	close(f.txs)
	for {
		tx, err := f.Next(f.t.Context())
		if errors.Is(err, errEnd) {
			return txs
		}
		if err != nil {
			f.t.Fatal(err)
		}
		txs = append(txs, tx)
	}
}

// next is what passes; it must be there.
func (f *filtered) next() *decoder.Tx {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	tx, err := f.Next(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	return tx
}

// none makes sure that nothing passes of what the source has.
func (f *filtered) none() {
	f.t.Helper()
	stop := errors.New("nothing is left")
	ctx, cancel := context.WithCancelCause(f.t.Context())
	go func() {
		for len(f.txs) > 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(20 * time.Millisecond) // what would pass has time for that
		cancel(stop)
	}()
	if tx, err := f.Next(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, stop) {
		f.t.Errorf("passed: %+v, error %v", tx, err)
	}
}

// cut cuts a transaction into as many as it has changes.
func cut(tx *decoder.Tx) (txs []*decoder.Tx) {
	for i := range tx.Changes {
		piece := *tx
		piece.Changes, piece.First, piece.Last = tx.Changes[i:i+1], i == 0, i == len(tx.Changes)-1
		if !piece.Last {
			piece.EndLSN = 0
		}
		txs = append(txs, &piece)
	}
	return txs
}

// Only the first change makes a transaction an echo, and only with the name of that stream.
func TestFilter_Verdict(t *testing.T) {
	t.Parallel()
	r := relation("t", 'd', "id*")
	message := decoder.Message{Prefix: "walferry/x", Transactional: true}
	for _, test := range []struct {
		name     string
		changes  []decoder.Change
		messages []decoder.Message
		passes   bool
		echoes   int64
	}{
		{"an application's", []decoder.Change{insert(r, "1")}, nil, true, 0},
		{"an echo", []decoder.Change{mark("back"), insert(r, "1")}, nil, false, 1},
		{"an echo that moved nothing but the position", []decoder.Change{mark("back")}, nil, false, 1},
		{"the mark in the middle", []decoder.Change{insert(r, "1"), mark("back")}, nil, true, 0},
		{"another stream's", []decoder.Change{mark("back2"), insert(r, "1")}, nil, true, 0},
		{"another stream's, of which the name is part of ours", []decoder.Change{mark("bac"), insert(r, "1")}, nil, true, 0},
		{"another stream's first, and ours then", []decoder.Change{mark("forth"), mark("back"), insert(r, "1")}, nil, true, 0},
		{"positions of another stream alone", []decoder.Change{mark("forth")}, nil, false, 0},
		{"the position of a stream that is set up", []decoder.Change{insert(progressRelation, "back", "0/0")}, nil, false, 1},
		{"written beside the applier", []decoder.Change{insert(progressRelation, "back\x1f4711", "0/0"), remove(progressRelation, "back\x1f4711"), insert(r, "1")}, nil, false, 1},
		{"the row is deleted first", []decoder.Change{remove(progressRelation, "back"), insert(r, "1")}, nil, true, 0},
		{"a table of that name somewhere else", []decoder.Change{update(&decoder.Relation{Namespace: "public", Name: "progress", Columns: progressRelation.Columns}, nil, row("back", "0/1"))}, nil, true, 0},
		{"a truncate", []decoder.Change{{Op: decoder.Truncate, Truncated: []*decoder.Relation{r}}}, nil, true, 0},
		{"an echo of a truncate", []decoder.Change{mark("back"), {Op: decoder.Truncate, Truncated: []*decoder.Relation{r}}}, nil, false, 1},
		{"a beat of before 14", nil, nil, true, 0},
		{"a beat", nil, []decoder.Message{message}, true, 0},
	} {
		f := newFiltered(t, FilterConfig{Interval: time.Hour})
		tx := f.tx(test.changes...)
		tx.Messages = test.messages
		f.put(tx)
		got := f.rest()
		if test.passes != (len(got) == 1 && got[0] == tx) {
			t.Errorf("%s: passed: %+v, want %t", test.name, got, test.passes)
		}
		if !test.passes && (len(got) != 1 || got[0].XID != 0 || got[0].EndLSN != tx.EndLSN || got[0].CommitLSN != tx.EndLSN || !got[0].First || !got[0].Last) {
			t.Errorf("%s: got %+v instead, want its end as a position", test.name, got)
		}
		if c := f.Counts(); c.Echoes != test.echoes || c.Strays != 0 {
			t.Errorf("%s: counted %+v, want %d echoes", test.name, c, test.echoes)
		}
	}
}

// The pieces of a transaction have the verdict of the first one, and no position comes between
// them: it would void what came before.
func TestFilter_Pieces(t *testing.T) {
	t.Parallel()
	r := relation("t", 'd', "id*")
	f := newFiltered(t, FilterConfig{Interval: time.Nanosecond}) // always due
	own := cut(f.tx(insert(r, "1"), mark("back"), insert(r, "2")))
	echo := cut(f.tx(mark("back"), insert(r, "3"), insert(r, "4")))
	again := cut(f.tx(insert(r, "5"), insert(r, "6")))
	f.put(f.tx(mark("back"), insert(r, "0")))
	f.put(own...)
	f.put(echo[0], echo[1])
	f.put(echo...) // the connection was lost
	f.put(again[0])
	f.put(again...) // once more
	f.put(f.position())
	var lines []string
	for _, tx := range f.rest() {
		line := "position"
		if tx.XID != 0 {
			line = "piece of " + string(tx.Changes[0].New[0].Data)
		}
		lines = append(lines, line)
	}
	want := []string{"position", "piece of 1", "piece of back", "piece of 2", "position", "piece of 5", "piece of 5", "piece of 6", "position"}
	if !slices.Equal(lines, want) {
		t.Errorf("got %q, want %q", lines, want)
	}
	if c := f.Counts(); c.Echoes != 2 {
		t.Errorf("%d echoes, want 2", c.Echoes)
	}
}

// A position that is stored is an echo for the other side: what was left out moves it only now and
// then, at once when somebody drains, and then once. What passes has its own position.
func TestFilter_Lazy(t *testing.T) {
	t.Parallel()
	r := relation("t", 'd', "id*")
	f := newFiltered(t, FilterConfig{Interval: time.Hour})
	first := f.tx(mark("back"))
	f.put(first)
	if tx := f.next(); tx.EndLSN != first.EndLSN {
		t.Errorf("the first position: %s, want %s", tx.EndLSN, first.EndLSN)
	}
	f.put(f.tx(mark("back"), insert(r, "1")), f.position(), f.tx(mark("other")))
	f.none()
	own := f.tx(insert(r, "2"))
	f.put(own)
	if tx := f.next(); tx != own {
		t.Errorf("got %+v, want the application's", tx)
	}
	f.none() // its end is past those

	f.put(f.tx(mark("back"), insert(r, "3")))
	last := f.tx(mark("back"), insert(r, "4"))
	f.Drain(last.EndLSN) // asked before it comes
	f.none()
	f.put(last)
	if tx := f.next(); tx.XID != 0 || tx.EndLSN != last.EndLSN {
		t.Errorf("drained: %+v, want the position %s", tx, last.EndLSN)
	}
	f.put(f.tx(mark("back"), insert(r, "5")))
	f.none()

	done := make(chan *decoder.Tx)
	late := f.tx(mark("back"), insert(r, "6"))
	f.put(late)
	go func() { done <- f.next() }()
	for f.pendingUntil() != late.EndLSN {
		time.Sleep(time.Millisecond)
	}
	f.Drain(late.EndLSN) // asked while Next waits
	if tx := <-done; tx.XID != 0 || tx.EndLSN != late.EndLSN {
		t.Errorf("drained: %+v, want the position %s", tx, late.EndLSN)
	}
	f.Drain(f.tx().EndLSN)
	own = f.tx(insert(r, "7"))
	f.put(own)
	if tx := f.next(); tx != own {
		t.Errorf("got %+v, want the application's", tx)
	}
	f.put(f.tx(mark("back"), insert(r, "8"))) // the drain is over
	f.none()
}

func (f *filtered) pendingUntil() decoder.LSN {
	f.Filter.mu.Lock()
	defer f.Filter.mu.Unlock()
	return f.pending
}

// A position that the source waits for comes at once, and only that one.
func TestFilter_Awaited(t *testing.T) {
	t.Parallel()
	f := newFiltered(t, FilterConfig{Interval: time.Hour})
	f.put(f.tx(mark("back")))
	f.next() // the first one is due
	f.put(f.tx(mark("back")))
	f.none()
	position := &decoder.Tx{CommitLSN: 1 << 40, EndLSN: 1 << 40, First: true, Last: true, Awaited: true}
	f.put(position)
	if tx := f.next(); tx.XID != 0 || tx.EndLSN != position.EndLSN {
		t.Errorf("got %+v, want the position that the source waits for", tx)
	}
	f.put(f.tx(mark("back")))
	f.none()
}

// A position comes on its own once the interval is over, though the source sends nothing more.
func TestFilter_PositionComesByItself(t *testing.T) {
	t.Parallel()
	f := newFiltered(t, FilterConfig{Interval: 50 * time.Millisecond})
	for range 3 {
		tx := f.tx(mark("back"))
		f.put(tx)
		if got := f.next(); got.EndLSN != tx.EndLSN {
			t.Errorf("got %s, want %s", got.EndLSN, tx.EndLSN)
		}
	}
}

// What somebody writes before the server is open for writing is told apart, until it is.
func TestFilter_Strays(t *testing.T) {
	t.Parallel()
	r := relation("t", 'd', "id*")
	f := newFiltered(t, FilterConfig{Start: NotOpen, Interval: time.Hour})
	echo, beat, one := f.tx(mark("back"), insert(r, "1")), f.tx(), f.tx(insert(r, "2"))
	large := f.tx(insert(r, "3"), insert(r, "4"))
	f.put(echo, beat, one)
	f.put(cut(large)...)
	if tx := f.next(); tx.EndLSN != echo.EndLSN {
		t.Errorf("got %+v, want the echo's position", tx)
	}
	if tx := f.next(); tx != beat {
		t.Errorf("got %+v, want the beat: whoever waits for it has to see it", tx)
	}
	f.none()
	c := f.Counts()
	if c.Echoes != 1 || c.Strays != 2 || c.Last == nil || c.Last.XID != large.XID || c.Last.LSN != large.CommitLSN {
		t.Errorf("counted %+v, last %v", c, c.Last)
	}
	if text := c.Last.String(); !strings.Contains(text, `"public"."t"`) {
		t.Errorf("the stray is told as %q", text)
	}
	if err := f.Begin(large.CommitLSN); err == nil {
		t.Error("began where something was left out already")
	}
	start := large.EndLSN + 1
	if err := f.Begin(start); err != nil {
		t.Error(err)
	}
	own := f.tx(insert(r, "5"))
	f.put(own)
	if tx := f.next(); tx != own {
		t.Errorf("got %+v, want what came after the beginning", tx)
	}
	if got := f.Counts().Strays; got != 2 {
		t.Errorf("%d strays, want 2", got)
	}
}

// The source's errors, and the end of the caller's context, are Next's.
func TestFilter_Errors(t *testing.T) {
	t.Parallel()
	f := newFiltered(t, FilterConfig{Interval: time.Hour})
	f.put(f.tx(mark("back")), f.tx(mark("back")))
	f.next()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	f.Filter.Ack(7)
	if !slices.Equal(f.acks(), []decoder.LSN{7}) {
		t.Errorf("acknowledged: %v", f.acks())
	}
	if len(f.rest()) != 0 {
		t.Error("a position that was not due")
	}
}

// Positions of the source's streams are none of the target's.
func TestApply_NoPositions(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key)`)
	g.exec(`insert into walferry.progress (stream, applied) values ('other', '0/7')`)
	g.apply(mark("other"), mark("test"), insert(progressRelation, "new", "0/1"), insert(relation("t", 'd', "id*"), "1"))
	g.want(`select stream, applied from walferry.progress where stream <> 'test'`, "other|0/7")
	g.want(`select id from t`, "1")
}
