package shop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// Config configures the writers.
type Config struct {
	// Source is the connection string of the database that is written to at first.
	Source string

	// Target is that of the database to go to when the fence refuses a client. Empty: there is
	// none, and a refused transaction is tried again on the source for ever.
	Target string

	// ToAndFro lets clients go back to the source when the target refuses them and is not the database any more.
	ToAndFro bool

	// Migration is the name in walferry.migration on the target whose phase, "switched" or "finished", says that
	// the target is the database. Zero means "default".
	Migration string

	// Ready, when set, decides in place of walferry.migration. An error means that nobody knows.
	Ready func(context.Context) (bool, error)

	// Fenced tells the fence's error from all others. Zero means the function [Fenced].
	Fenced func(error) bool

	// Clients is how many connections write. Zero means 4.
	Clients int

	// First is the number of the first client in shop.ledger: writers that run at the same time
	// need different ones. Zero means 1.
	First int

	// TPS limits each client, in transactions per second. Zero means no limit.
	TPS float64

	// Batch is the pause after which the nightly batch comes again: one client more that rewrites
	// 50,000 rows of shop.price_history, or half of them when there are fewer, in a transaction.
	// The first one comes after one such pause. Zero means none.
	Batch time.Duration

	// Seed makes the clients' choices. Those of two runs differ in spite of the same seed where the
	// clients meet each other in another order.
	Seed uint64

	// Log gets a JSON line for each attempt at a transaction, before and after. Zero: none.
	Log io.Writer

	// Logger gets reconnects and switches (info) and errors (warn). Zero: none.
	Logger *slog.Logger
}

// Report counts what clients did. Every transaction that was begun is in exactly one of the first
// five, once its client is done with it.
type Report struct {
	Source, Target int64 // committed there, and the client knows
	Aborted        int64 // rolled back because the client wanted to
	Failed         int64 // given up and reported to the caller; nothing of it is anywhere
	Unknown        int64 // connection lost at COMMIT, and the outcome is not known until Stop

	Retried  int64            // attempts that were repeated, refusals by the fence not counted
	Refused  int64            // attempts that the fence refused
	Resolved int64            // COMMITs without an answer that the ledger answered later
	Kinds    map[string]int64 // committed, by kind
	Errors   map[string]int64 // failed attempts by class and SQLSTATE, without Refused

	// Pause is the longest time a client was without a committed transaction, from its first one
	// on, that of the batch left out.
	Pause time.Duration
	// Switch is the longest time from a client's last commit on one side to its first on the
	// other, that of the batch left out. Zero: no client has switched.
	Switch time.Duration
	// Switched is how many clients have committed on the target, and Switches how often one has gone from
	// either side to the other.
	Switched, Switches int
}

func (r *Report) add(o Report) {
	r.Source += o.Source
	r.Target += o.Target
	r.Aborted += o.Aborted
	r.Failed += o.Failed
	r.Unknown += o.Unknown
	r.Retried += o.Retried
	r.Refused += o.Refused
	r.Resolved += o.Resolved
	r.Switched += o.Switched
	r.Switches += o.Switches
	r.Pause = max(r.Pause, o.Pause)
	r.Switch = max(r.Switch, o.Switch)
	for kind, n := range o.Kinds {
		r.Kinds[kind] += n
	}
	for class, n := range o.Errors {
		r.Errors[class] += n
	}
}

// Committed is what is certainly in the database.
func (r Report) Committed() int64 { return r.Source + r.Target }

// Writers are clients at work. Its methods may be called by several goroutines.
type Writers struct {
	c        Config
	clients  []*client
	ready    *ready
	switched atomic.Bool // a client has learned that the target is the database: all go there

	stop context.CancelFunc // no new transaction
	kill context.CancelFunc // nor those in hand
	wait sync.WaitGroup

	logMu sync.Mutex

	mu         sync.Mutex
	violations []string
}

// grace is how long a client may continue its transaction once it has been told to end.
const grace = 15 * time.Second

// Start connects the clients and lets them write until ctx ends or Stop is called. Each then
// finishes the transaction in hand.
func Start(ctx context.Context, c Config) (*Writers, error) {
	if c.Source == "" {
		return nil, errors.New("start writers: no source")
	}
	if c.Clients == 0 {
		c.Clients = 4
	}
	if c.First == 0 {
		c.First = 1
	}
	if c.Migration == "" {
		c.Migration = "default"
	}
	if c.Fenced == nil {
		c.Fenced = Fenced
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Writers{c: c}
	w.ready = &ready{ask: c.Ready}
	if c.Ready == nil {
		w.ready.ask = w.onTarget
	}
	kinds, limits, err := survey(ctx, c.Source)
	if err != nil {
		return nil, fmt.Errorf("start writers: %w", err)
	}
	number := c.Clients
	if c.Batch > 0 {
		number++
	}
	for i := range number {
		cl := newClient(w, c.First+i, kinds, limits)
		if i == c.Clients {
			cl.kinds, cl.interval, cl.rest = []kind{batch}, 0, c.Batch
		}
		if err := cl.begin(ctx); err != nil {
			for _, started := range w.clients {
				started.close()
			}
			return nil, fmt.Errorf("start client %d: %w", cl.id, err)
		}
		w.clients = append(w.clients, cl)
	}
	stopping, stop := context.WithCancel(ctx)
	w.stop = stop
	// What the clients do ends a while after they were told to end.
	working, kill := context.WithCancel(context.WithoutCancel(ctx))
	w.kill = kill
	context.AfterFunc(stopping, func() { time.AfterFunc(grace, kill) })
	for _, cl := range w.clients {
		w.wait.Go(func() { cl.run(stopping, working) })
	}
	return w, nil
}

// Stop lets every client finish its transaction, waits for them and reports what they did.
func (w *Writers) Stop() Report {
	w.stop()
	w.wait.Wait()
	w.kill()
	w.ready.close()
	return w.Report()
}

// Report is what has been done up to now.
func (w *Writers) Report() Report {
	sum := Report{Kinds: map[string]int64{}, Errors: map[string]int64{}}
	for _, cl := range w.clients {
		cl.mu.Lock()
		sum.add(cl.report)
		cl.mu.Unlock()
	}
	return sum
}

// violation keeps what a client saw that cannot be. Check returns it.
func (w *Writers) violation(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.violations) < 100 {
		w.violations = append(w.violations, fmt.Sprintf(format, args...))
	}
}

// seen is what the clients have seen so far that cannot be.
func (w *Writers) seen() []error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for _, detail := range w.violations {
		errs = append(errs, &Violation{"clients", detail})
	}
	return errs
}

// side is where the clients write.
func (w *Writers) side() side {
	if w.switched.Load() {
		return target
	}
	return source
}

// elsewhere asks whether the database is on the other side than a client's that was refused, and if so sends
// all of them there.
func (w *Writers) elsewhere(ctx context.Context, s side) bool {
	if w.c.Target == "" || s == target && !w.c.ToAndFro {
		return false
	}
	onTarget, known := w.ready.now(ctx)
	if !known || onTarget == (s == target) {
		return false
	}
	w.switched.Store(onTarget)
	return true
}

// onTarget asks the target whether it is the database.
func (w *Writers) onTarget(ctx context.Context) (yes bool, err error) {
	conn, err := w.ready.connect(ctx, w.c.Target)
	if err != nil {
		return false, err
	}
	err = conn.QueryRow(ctx, `select exists(select from walferry.migration where name = $1 and phase in ('switched', 'finished'))`, w.c.Migration).Scan(&yes)
	return yes, err
}

// ready asks whether the target is the database, for all clients, at most every few milliseconds:
// many clients must not make the pause longer by asking.
type ready struct {
	ask func(context.Context) (bool, error)

	mu    sync.Mutex
	at    time.Time
	yes   bool
	known bool
	conn  *pgx.Conn // of the default question
}

const askInterval = 10 * time.Millisecond

func (r *ready) now(ctx context.Context) (yes, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) >= askInterval {
		var err error
		r.yes, err = r.ask(ctx)
		r.known, r.at = err == nil, time.Now()
	}
	return r.yes, r.known
}

// connect is called by ask, with r locked.
func (r *ready) connect(ctx context.Context, dsn string) (*pgx.Conn, error) {
	if r.conn != nil && !r.conn.IsClosed() {
		return r.conn, nil
	}
	conn, err := connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	r.conn = conn
	return conn, nil
}

func (r *ready) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != nil {
		r.conn.Close(context.Background())
	}
}
