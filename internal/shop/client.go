package shop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// side is a database that a client may be connected to.
type side string

const (
	source side = "source"
	target side = "target"
)

// done is a transaction that the client knows to be committed.
type done struct {
	attempt int
	side    side
}

// client is one application process: one connection, one transaction at a time.
type client struct {
	w        *Writers
	id       int
	kinds    []kind
	limits   limits
	rng      *rand.Rand
	interval time.Duration // between two transactions' starts; zero: none
	rest     time.Duration // before each transaction, however long the last one took

	// Of the goroutine that runs it.
	conn    *pgx.Conn
	side    side
	backend backend
	attempt int // of any transaction, counted over all: the same n is tried under different ones

	mu      sync.Mutex
	report  Report
	base    int64 // n of the last row of shop.ledger before the client began
	log     []done
	pending int       // an attempt at the n after log whose end is unknown; 0: none
	last    time.Time // of the last commit
	lastOn  side
}

// backend is the server process of a connection. Its number alone is used again.
type backend struct {
	pid     int32
	started time.Time
}

func newClient(w *Writers, id int, kinds []kind, l limits) *client {
	c := &client{
		w: w, id: id, kinds: kinds, limits: l, side: source,
		rng:    rand.New(rand.NewPCG(w.c.Seed, uint64(id))),
		report: Report{Kinds: map[string]int64{}, Errors: map[string]int64{}},
	}
	if w.c.TPS > 0 {
		c.interval = time.Duration(float64(time.Second) / w.c.TPS)
	}
	return c
}

// begin connects for the first time and finds where the client's count continues.
func (c *client) begin(ctx context.Context) error {
	if err := c.connect(ctx); err != nil {
		return err
	}
	err := c.conn.QueryRow(ctx, `select coalesce(max(n), 0), coalesce(max(attempt), 0) from shop.ledger where client = $1`, c.id).Scan(&c.base, &c.attempt)
	if err != nil {
		c.close()
		return fmt.Errorf("read ledger: %w", err)
	}
	return nil
}

func (c *client) close() {
	if c.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c.conn.Close(ctx)
		c.conn = nil
	}
}

func (c *client) dsn(s side) string {
	if s == target {
		return c.w.c.Target
	}
	return c.w.c.Source
}

// connect makes sure of a connection to the client's side.
func (c *client) connect(ctx context.Context) error {
	if c.conn != nil && !c.conn.IsClosed() {
		return nil
	}
	conn, err := connect(ctx, c.dsn(c.side))
	if err != nil {
		return err
	}
	var b backend
	err = conn.QueryRow(ctx, `select pid, backend_start from pg_stat_activity where pid = pg_backend_pid()`).Scan(&b.pid, &b.started)
	if err != nil {
		conn.Close(ctx)
		return fmt.Errorf("read own session: %w", err)
	}
	c.conn, c.backend = conn, b
	return nil
}

// run does one transaction after the other until stopping ends. The one in hand is finished, as
// long as working allows.
func (c *client) run(stopping, working context.Context) {
	defer c.close()
	next := time.Now()
	for stopping.Err() == nil {
		if c.rest > 0 && !sleep(stopping, c.rest) {
			return
		}
		if wait := time.Until(next); wait > 0 && !sleep(stopping, wait) {
			return
		}
		// No catching up in a rush after a pause.
		if next = next.Add(c.interval); time.Since(next) > time.Second {
			next = time.Now()
		}
		c.transaction(stopping, working, c.choose())
	}
}

func (c *client) choose() kind {
	var sum int
	for _, k := range c.kinds {
		sum += k.weight
	}
	at := c.rng.IntN(sum)
	for _, k := range c.kinds {
		if at -= k.weight; at < 0 {
			return k
		}
	}
	return c.kinds[0]
}

// transaction tries one transaction until it is committed, given up, or the writers are told to end
// while it cannot be done.
func (c *client) transaction(stopping, working context.Context, k kind) {
	backoff := 10 * time.Millisecond
	for {
		c.move()
		outcome, class, err := c.try(working, k)
		c.note(k, outcome, class, err)
		switch {
		case outcome == ok || outcome == aborted:
			return
		case outcome == failed:
			if class == Other {
				sleep(stopping, 50*time.Millisecond) // it will hardly be the last one
			}
			return
		case outcome == unknown:
			if !c.resolve(stopping, working, k) {
				return
			}
			if c.pending == 0 {
				return // it was committed
			}
			c.mu.Lock()
			c.pending = 0
			c.report.Retried++
			c.mu.Unlock()
			continue
		case class == Refused && c.w.elsewhere(working, c.side):
			continue
		}
		if class == Refused {
			backoff = 5 * time.Millisecond
		}
		if !sleep(stopping, backoff+rand.N(backoff)) {
			c.mu.Lock()
			c.report.Failed++
			c.mu.Unlock()
			return
		}
		backoff = min(backoff*2, time.Second)
	}
}

// move goes to the other side, if the clients write there.
func (c *client) move() {
	to := c.w.side()
	if c.side == to {
		return
	}
	c.close()
	c.side = to
	c.w.c.Logger.Info("client goes to the "+string(to), "client", c.id)
}

// outcome is what a client knows of an attempt.
type outcome string

const (
	ok      outcome = "ok"
	aborted outcome = "aborted" // as it wanted
	failed  outcome = "failed"  // and not to be tried again
	again   outcome = "again"   // failed, to be tried again
	unknown outcome = "unknown" // no answer to COMMIT
)

// errAbort is returned by kinds that roll back.
var errAbort = errors.New("rolled back by the client")

// patience is how long an attempt may take, on a server that has stopped answering.
const patience = 2 * time.Minute

// try makes one attempt.
func (c *client) try(ctx context.Context, k kind) (outcome, Class, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := c.connect(ctx); err != nil {
		return again, Lost, err
	}
	c.attempt++
	n := c.next()
	c.write(entry{Client: c.id, N: n, Attempt: c.attempt, Kind: k.name, Side: c.side, Event: "intent"})
	err := c.body(ctx, k, n)
	if err != nil {
		// A connection that does not even roll back is closed by this.
		if _, rollback := c.conn.Exec(ctx, "rollback"); rollback != nil {
			c.close()
		}
		class := classify(err, c.w.c.Fenced)
		switch {
		case errors.Is(err, errAbort):
			return aborted, "", nil
		case class == Constraint, class == Other:
			return failed, class, err
		}
		return again, class, err
	}
	tag, err := c.conn.Exec(ctx, "commit")
	switch {
	case err == nil && tag.String() == "COMMIT":
		return ok, "", nil
	case err == nil:
		return failed, Other, fmt.Errorf("COMMIT was answered with %s", tag)
	case uncertain(err):
		c.close()
		return unknown, Lost, err
	}
	class := classify(err, c.w.c.Fenced)
	if class == Constraint || class == Other {
		return failed, class, err
	}
	return again, class, err
}

func (c *client) body(ctx context.Context, k kind, n int64) error {
	if _, err := c.conn.Exec(ctx, "begin"); err != nil {
		return err
	}
	// First, so that a fence refuses before anything else is done.
	_, err := c.conn.Exec(ctx, `insert into shop.ledger (client, n, attempt, kind) values ($1, $2, $3, $4)`, c.id, n, c.attempt, k.name)
	if err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "23505" {
			c.w.violation("client %d: transaction %d is in shop.ledger of the %s although it was never committed", c.id, n, c.side)
		}
		return err
	}
	t := &tx{Conn: c.conn, Rand: c.rng, limits: c.limits, client: c.id, number: n<<20 | int64(c.id)}
	if err := k.run(ctx, t); err != nil {
		return err
	}
	// Last, since all clients meet in these rows. Accounts before reserves: no deadlock.
	amount := c.rng.IntN(1000) - 500
	if err := t.exec(ctx, `update billing.accounts set balance = balance - $2 where id = $1`, t.pick(c.limits.accounts), amount); err != nil {
		return err
	}
	return t.exec(ctx, `update billing.reserves set balance = balance + $2 where id = $1`, t.pick(c.limits.reserves), amount)
}

// next is the n that comes after the last committed one.
func (c *client) next() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base + int64(len(c.log)) + 1
}

// resolve asks the ledger for the transaction whose COMMIT got no answer. When it returns true,
// either the transaction is in the log, or pending is still set and the transaction was certainly
// not committed. False: stopped before it knew.
func (c *client) resolve(stopping, working context.Context, k kind) bool {
	lost, on := c.backend, c.side
	n := c.next()
	c.mu.Lock()
	c.pending = c.attempt
	c.mu.Unlock()
	for wait := 20 * time.Millisecond; ; wait = min(wait*2, time.Second) {
		// All that was committed on this side before the fence is on the other one, if that is the database now.
		c.w.elsewhere(working, c.side)
		c.move()
		found, err := c.ask(working, n, lost, c.side == on)
		switch {
		case err != nil:
			c.w.c.Logger.Warn("client cannot ask for its transaction", "client", c.id, "n", n, "error", err)
		case found != 0 && found != c.attempt:
			c.w.violation("client %d: transaction %d is in shop.ledger of the %s by attempt %d, which failed", c.id, n, c.side, found)
			return false
		default:
			c.mu.Lock()
			c.report.Resolved++
			c.mu.Unlock()
			if found != 0 {
				c.committed(k, on)
			}
			return true
		}
		if !sleep(stopping, wait) {
			c.mu.Lock()
			c.report.Unknown++
			c.mu.Unlock()
			return false
		}
	}
}

// ask returns the attempt under which n is in the ledger, 0: it is not. On the side where the
// connection was lost it waits for the old session to end, which may still be about to commit.
func (c *client) ask(ctx context.Context, n int64, lost backend, same bool) (attempt int, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := c.connect(ctx); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	for alive := same; alive; {
		err := c.conn.QueryRow(ctx, `select exists(select from pg_stat_activity where pid = $1 and backend_start = $2)`, lost.pid, lost.started).Scan(&alive)
		if err != nil {
			return 0, err
		}
		if alive && !sleep(ctx, 10*time.Millisecond) {
			return 0, context.Cause(ctx)
		}
	}
	err = c.conn.QueryRow(ctx, `select coalesce(max(attempt), 0) from shop.ledger where client = $1 and n = $2`, c.id, n).Scan(&attempt)
	return attempt, err
}

// note counts an attempt and writes it to the log.
func (c *client) note(k kind, o outcome, class Class, err error) {
	e := entry{Client: c.id, N: c.next(), Attempt: c.attempt, Kind: k.name, Side: c.side, Event: string(o), Class: class}
	if err != nil {
		e.Error = err.Error()
	}
	c.write(e)
	if o == ok {
		c.committed(k, c.side)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case o == aborted:
		c.report.Aborted++
		return
	case o == failed:
		c.report.Failed++
	case class == Refused:
		c.report.Refused++
		return
	case o == again:
		c.report.Retried++
	}
	name := string(class)
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		name += " " + pg.Code
	}
	c.report.Errors[name]++
	if class == Other {
		c.w.violation("client %d, %s on the %s: %v", c.id, k.name, c.side, err)
	}
	c.w.c.Logger.Warn("attempt failed", "client", c.id, "kind", k.name, "side", c.side, "class", class, "error", err)
}

// committed puts the transaction in hand into the log.
func (c *client) committed(k kind, on side) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.log = append(c.log, done{attempt: c.attempt, side: on})
	c.pending = 0
	c.report.Kinds[k.name]++
	if on == source {
		c.report.Source++
	} else {
		c.report.Target++
	}
	if !c.last.IsZero() {
		gap := now.Sub(c.last)
		if c.rest == 0 { // otherwise most of it is rest
			c.report.Pause = max(c.report.Pause, gap)
		}
		if on != c.lastOn {
			c.report.Switches++
		}
		if on != c.lastOn && c.rest == 0 {
			c.report.Switch = max(c.report.Switch, gap)
		}
	}
	if on == target && c.lastOn != target {
		c.report.Switched = 1
	}
	c.last, c.lastOn = now, on
}

// entry is a line of Config.Log.
type entry struct {
	At      time.Time `json:"at"`
	Client  int       `json:"client"`
	N       int64     `json:"n"`
	Attempt int       `json:"attempt"`
	Kind    string    `json:"kind"`
	Side    side      `json:"side"`
	Event   string    `json:"event"` // intent or an outcome
	Class   Class     `json:"class,omitempty"`
	Error   string    `json:"error,omitempty"`
}

func (c *client) write(e entry) {
	if c.w.c.Log == nil {
		return
	}
	e.At = time.Now()
	line, err := json.Marshal(e)
	if err != nil {
		c.w.violation("write log: %v", err)
		return
	}
	c.w.logMu.Lock()
	defer c.w.logMu.Unlock()
	if _, err := c.w.c.Log.Write(append(line, '\n')); err != nil {
		c.w.violation("write log: %v", err)
	}
}
