package applier

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

// cutter makes connections that are cut at a COMMIT once it is armed.
type cutter struct {
	armed  atomic.Bool
	before atomic.Bool // the COMMIT never arrives, instead of its answer
}

type cutConn struct {
	net.Conn
	cutter *cutter
	cut    atomic.Bool
}

func (c *cutter) connect(ctx context.Context, url string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &cutConn{Conn: conn, cutter: c}, nil
	}
	return pgx.ConnectConfig(ctx, config)
}

func (c *cutConn) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("Q\x00\x00\x00\x0bcommit\x00")) && c.cutter.armed.CompareAndSwap(true, false) {
		c.cut.Store(true)
		if c.cutter.before.Load() {
			return len(b), nil
		}
	}
	return c.Conn.Write(b)
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.cut.Load() && !c.cutter.before.Load() {
		return 0, io.ErrUnexpectedEOF // the server has answered: it has committed
	}
	return n, err
}

// The connection is cut when COMMIT has been sent, and only the server knows whether it took
// effect.
func TestApply_CommitInDoubt(t *testing.T) {
	t.Parallel()
	c := new(cutter)
	_, url := pgtest.Pair(t, sourceMajor(), targetMajor())
	pgtest.Exec(t, url, `create table log (line text)`)
	conn, err := c.connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(t.Context(), conn, Config{Name: "test", Connect: func(ctx context.Context) (*pgx.Conn, error) { return c.connect(ctx, url) }})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close(t.Context())
	g := &target{Applier: a, t: t, url: url, other: otherConn(t, url)}
	r := relation("log", 'd', "line")

	c.armed.Store(true)
	g.apply(insert(r, "committed"))
	g.want(`select count(*) from log`, "1")
	if p := g.Progress(); p.Applied != g.lsn+0x30 || p.Transactions != 1 {
		t.Errorf("got %+v", p)
	}

	// The COMMIT gets lost on its way: the old session still has its transaction open when the new
	// one asks, until it is ended.
	c.before.Store(true)
	c.armed.Store(true)
	tx := g.tx(insert(r, "not committed"))
	ctx, cancel := context.WithCancel(t.Context())
	a.hooks.beforeCommit = once(cancel) // it waits for the answer all the same
	wire := a.session.conn.PgConn().Conn()
	done := make(chan error, 1)
	go func() { done <- a.Apply(ctx, tx) }()
	g.eventually(`select count(*) from pg_stat_activity where state = 'idle in transaction' and datname = current_database()`, "1")
	<-ctx.Done()
	wire.Close() // the network notices at last
	if err := <-done; err == nil {
		t.Error("no error though nothing was committed")
	}
	g.want(`select count(*) from log`, "1")
	if err := a.Apply(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	g.want(`select line from log`, "committed", "not committed")
}

// The connection is cut after each number of bytes from the target, from the first of its greeting
// to the last of what it answers to some transactions. Each of them is there once, as a table
// without a key shows. Every 97th number is tried; WALFERRY_TEST_CUTS=1 tries each.
func TestRun_CutAnywhere(t *testing.T) {
	t.Parallel()
	step := int64(97)
	if n, err := strconv.ParseInt(os.Getenv("WALFERRY_TEST_CUTS"), 10, 64); err == nil {
		step = n
	}
	_, url := pgtest.Pair(t, sourceMajor(), targetMajor())
	pgtest.Exec(t, url, `create table log (line text); create table t (id int primary key, n int); insert into t values (1, 0)`)
	p := pgtest.ProxyFor(t, url)
	through := p.Through(url) + "?sslmode=disable" // TLS, which the server has not, would take a connection of its own
	g := openTarget(t, through, Config{Name: "test", Connect: func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, through) }})
	g.other = otherConn(t, url)
	log, counter := relation("log", 'd', "line"), relation("t", 'd', "id*", "n")
	f := newFeed()
	g.start(f)
	rounds, again := 0, 0
	for n := int64(1); ; n += step {
		before := p.Accepted()
		p.CutAfter(n)
		p.Reset()
		rounds++
		f.put(
			g.tx(insert(log, fmt.Sprint(rounds))),
			g.tx(update(counter, nil, row("1", fmt.Sprint(rounds)))),
			g.tx(insert(log, fmt.Sprint(rounds, " too")), update(counter, nil, row("1", fmt.Sprint(-rounds)))),
		)
		for deadline := time.Now().Add(time.Minute); p.Accepted() == before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("cut after %d bytes: the applier does not connect again", n)
			}
		}
		p.CutAfter(0)
		f.wait(t, g.lsn+0x30)
		if p.Accepted() == before+1 && n > 1000 {
			break // nothing was cut
		}
		again++
	}
	t.Logf("cut %d times", again)
	g.want(`select count(*), count(distinct line), (select n from t) from log`, fmt.Sprintf("%d|%d|%d", 2*rounds, 2*rounds, -rounds))
}
