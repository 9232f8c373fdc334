package applier

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walferry/walferry/decoder"
)

// feed is a Source that delivers what a test puts into it.
type feed struct {
	txs   chan *decoder.Tx
	mu    sync.Mutex
	acked []decoder.LSN
	moved chan struct{}
}

func newFeed(txs ...*decoder.Tx) *feed {
	f := &feed{txs: make(chan *decoder.Tx, 10_000), moved: make(chan struct{}, 1)}
	f.put(txs...)
	return f
}

func (f *feed) put(txs ...*decoder.Tx) {
	for _, tx := range txs {
		f.txs <- tx
	}
}

func (f *feed) Next(ctx context.Context) (*decoder.Tx, error) {
	select {
	case tx, ok := <-f.txs:
		if !ok {
			return nil, errEnd
		}
		return tx, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *feed) Ack(lsn decoder.LSN) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acked = append(f.acked, lsn)
	select {
	case f.moved <- struct{}{}:
	default:
	}
}

// acks are the positions acknowledged so far.
func (f *feed) acks() []decoder.LSN {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.acked)
}

// wait returns once a position has been acknowledged.
func (f *feed) wait(t *testing.T, lsn decoder.LSN) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !slices.Contains(f.acks(), lsn) {
		select {
		case <-f.moved:
		case <-deadline:
			t.Fatalf("%s was not acknowledged; only %v", lsn, f.acks())
		}
	}
}

var errEnd = errors.New("end of the test's transactions")

// start runs an applier until the test or stop ends it.
func (g *target) start(src Source) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx, src) }()
	var err error
	stop = sync.OnceValue(func() error { cancel(); err = <-done; return err })
	g.t.Cleanup(func() { stop() })
	return stop
}

// run runs an applier over transactions and returns when all are used up.
func (g *target) run(f *feed) {
	g.t.Helper()
	close(f.txs)
	if err := g.Run(g.t.Context(), f); !errors.Is(err, errEnd) {
		g.t.Fatal(err)
	}
}

// A backlog is committed in few transactions, each of them whole, and what is acknowledged is
// durable.
func TestRun_Groups(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key)`)
	r := relation("t", 'd', "id*")
	f := newFeed()
	for i := range 5000 {
		f.put(g.tx(insert(r, fmt.Sprint(i))))
	}
	f.put(g.position())
	commits := 0
	g.hooks.afterCommit = func() { commits++ }
	g.run(f)
	g.want(`select count(*) from t`, "5000")
	g.want(`select applied, transactions, changes from walferry.progress`, fmt.Sprintf("%s|5000|5000", g.lsn))
	if acks := f.acks(); acks[len(acks)-1] != g.lsn {
		t.Errorf("acknowledged %v, want the position %s at last", acks, g.lsn)
	}
	if commits > 1000 {
		t.Errorf("%d commits for 5000 waiting transactions", commits)
	}
}

// A lone transaction does not wait for others.
func TestRun_Lone(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key)`)
	r := relation("t", 'd', "id*")
	f := newFeed()
	stop := g.start(f)
	for i := range 3 {
		tx := g.tx(insert(r, fmt.Sprint(i)))
		f.put(tx)
		f.wait(t, tx.EndLSN)
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v", err)
	}
	g.want(`select count(*) from t`, "3")
}

// Twenty pieces of one transaction become visible together.
func TestRun_Pieces(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key)`)
	r := relation("t", 'd', "id*")
	f := newFeed()
	whole := g.tx()
	for i := range 20 {
		piece := &decoder.Tx{XID: whole.XID, CommitLSN: whole.CommitLSN, CommitTime: whole.CommitTime, First: i == 0, Last: i == 19}
		for j := range 100 {
			piece.Changes = append(piece.Changes, insert(r, fmt.Sprint(100*i+j)))
		}
		if piece.Last {
			g.want(`select count(*) from t`, "0")
			piece.EndLSN = whole.EndLSN
		}
		f.put(piece)
	}
	f.put(g.tx(insert(r, "5000")))
	g.run(f)
	g.want(`select count(*) from t`, "2001")
	g.want(`select transactions, changes from walferry.progress`, "2|2001")
}

// The source loses its connection half-way through a transaction of several pieces and begins it
// again: what came of it before is void.
func TestRun_PiecesBeginAgain(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table log (line text)`)
	r := relation("log", 'd', "line")
	whole := g.tx()
	piece := func(line string, first, last bool) *decoder.Tx {
		tx := &decoder.Tx{XID: whole.XID, CommitLSN: whole.CommitLSN, CommitTime: whole.CommitTime, First: first, Last: last, Changes: []decoder.Change{insert(r, line)}}
		if last {
			tx.EndLSN = whole.EndLSN
		}
		return tx
	}
	f := newFeed(piece("a", true, false), piece("b", false, false),
		piece("a", true, false), piece("b", false, false), piece("c", false, true),
		// and once more, although it is durable
		piece("a", true, false), piece("b", false, false), piece("c", false, true),
		g.tx(insert(r, "d")))
	g.run(f)
	g.want(`select line from log order by line`, "a", "b", "c", "d")
}

// Verify's use of Pause: hold, advance to exactly a position, hold, resume.
func TestPause_Exact(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key)`)
	r := relation("t", 'd', "id*")
	f := newFeed()
	first := g.tx(insert(r, "1"))
	f.put(first)
	g.start(f)
	f.wait(t, first.EndLSN)

	at, err := g.Pause(t.Context(), 0)
	if err != nil || at != first.EndLSN {
		t.Fatalf("paused at %s, %v; want %s", at, err, first.EndLSN)
	}
	var txs []*decoder.Tx
	for i := 2; i <= 9; i++ {
		txs = append(txs, g.tx(insert(r, fmt.Sprint(i))))
	}
	f.put(txs...)
	g.want(`select count(*) from t`, "1")

	// a snapshot taken between the transactions 4 and 5
	at, err = g.Pause(t.Context(), txs[3].CommitLSN)
	if err != nil || at != txs[2].EndLSN {
		t.Fatalf("paused at %s, %v; want %s", at, err, txs[2].EndLSN)
	}
	g.want(`select count(*) from t`, "4")

	if _, err = g.Pause(t.Context(), txs[1].CommitLSN); err == nil {
		t.Error("paused at a position that is passed")
	}
	g.want(`select count(*) from t`, "4") // still held

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err = g.Pause(ctx, txs[7].CommitLSN+0x1000); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("pause at what never comes: %v", err)
	}
	g.Resume()
	f.wait(t, txs[7].EndLSN)
	g.want(`select count(*) from t`, "9")
	g.Resume()
}

// An idle source sends positions only; they end a Pause too.
func TestPause_Position(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key)`)
	r := relation("t", 'd', "id*")
	f := newFeed()
	g.start(f)
	last := g.tx(insert(r, "1"))
	at := g.lsn + 0x80
	f.put(last, g.position())
	got, err := g.Pause(t.Context(), at)
	if err != nil || got != last.EndLSN {
		t.Fatalf("paused at %s, %v; want %s", got, err, last.EndLSN)
	}
	g.Resume()
	f.wait(t, g.lsn)
	g.want(`select applied from walferry.progress`, g.lsn.String())
}

// A repair on the target, and a later Run resumes with the transaction at fault; those before it in
// its group are there.
func TestRun_Conflict(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key, n int unique)`)
	g.exec(`insert into t values (100, 3)`)
	r := relation("t", 'd', "id*", "n")
	var txs []*decoder.Tx
	for i := range 6 {
		txs = append(txs, g.tx(insert(r, fmt.Sprint(i), fmt.Sprint(i))))
	}
	err := g.Run(t.Context(), newFeed(txs...))
	var conflict *ConflictError
	if !errors.As(err, &conflict) {
		t.Fatalf("got %v, want a ConflictError", err)
	}
	if conflict.Table != "public.t" || conflict.Constraint != "t_n_key" || conflict.SQLState != "23505" || conflict.LSN != txs[3].CommitLSN {
		t.Errorf("got %+v", conflict)
	}
	g.want(`select id from t order by id`, "0", "1", "2", "100")
	if g.Applied() != txs[2].EndLSN {
		t.Errorf("applied %s, want %s", g.Applied(), txs[2].EndLSN)
	}
	g.exec(`delete from t where id = 100`)
	g.run(newFeed(txs...))
	g.want(`select id from t order by id`, "0", "1", "2", "3", "4", "5")
}

// The same where the target lacks the table: what came before has to be there, as the repair may
// take away what it was for.
func TestRun_Drift(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key)`)
	was, is := relation("t", 'd', "id*"), relation("renamed", 'd', "id*")
	var txs []*decoder.Tx
	for i := range 6 {
		r := was
		if i >= 3 {
			r = is
		}
		txs = append(txs, g.tx(insert(r, fmt.Sprint(i))))
	}
	err := g.Run(t.Context(), newFeed(txs...))
	var drift *SchemaError
	if !errors.As(err, &drift) || drift.Table != "public.renamed" || drift.LSN != txs[3].CommitLSN {
		t.Fatalf("got %v, want a SchemaError of the fourth transaction", err)
	}
	if g.Applied() != txs[2].EndLSN {
		t.Errorf("applied %s, want %s", g.Applied(), txs[2].EndLSN)
	}
	g.exec(`alter table t rename to renamed`)
	g.run(newFeed(txs...))
	g.want(`select id from renamed order by id`, "0", "1", "2", "3", "4", "5")
}

// endless makes one transaction of many pieces as it is read.
type endless struct {
	*feed
	tx     *decoder.Tx
	pieces int
	next   int
	change func(row int) decoder.Change
	watch  func()
}

func (e *endless) Next(ctx context.Context) (*decoder.Tx, error) {
	if e.next == e.pieces {
		return e.feed.Next(ctx)
	}
	piece := *e.tx
	piece.First, piece.Last = e.next == 0, e.next == e.pieces-1
	if !piece.Last {
		piece.EndLSN = 0
	}
	for i := range 100 {
		piece.Changes = append(piece.Changes, e.change(100*e.next+i))
	}
	e.next++
	e.watch()
	return &piece, nil
}

// A transaction of 50 MB passes through a few of them.
func TestRun_Memory(t *testing.T) {
	g := newTarget(t, `create table t (id int primary key, doc text); alter table t alter doc set storage external`)
	r := relation("t", 'd', "id*", "doc")
	doc := strings.Repeat("x", 10_000)
	most, pieces := uint64(0), 0
	e := &endless{
		feed: newFeed(), tx: g.tx(), pieces: 50,
		change: func(row int) decoder.Change { return insert(r, fmt.Sprint(row), doc) },
		watch: func() {
			if pieces++; pieces%10 != 0 {
				return
			}
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		},
	}
	close(e.txs)
	if err := g.Run(t.Context(), e); !errors.Is(err, errEnd) {
		t.Fatal(err)
	}
	g.want(`select count(*), sum(length(doc)) from t`, "5000|50000000")
	if most > 30<<20 {
		t.Errorf("%d MiB of memory were in use", most>>20)
	}
}

func BenchmarkApply(b *testing.B) {
	g := newTarget(b, `create table t (id int primary key, v text)`)
	r := relation("t", 'd', "id*", "v")
	id := 0
	for b.Loop() {
		var group []*decoder.Tx
		for range 1000 {
			id++
			group = append(group, g.tx(insert(r, fmt.Sprint(id), "some text"), update(r, nil, row(fmt.Sprint(id), "other text"))))
		}
		if err := g.Apply(b.Context(), group...); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(2000*b.N)/b.Elapsed().Seconds(), "changes/s")
}
