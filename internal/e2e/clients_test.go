package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

// clients write to accounts from several sessions. What the fence refuses they try
// again as another transaction, until they are stopped.
type clients struct {
	t       *testing.T
	next    atomic.Int64
	refused atomic.Int64
	stop    func()

	mu   sync.Mutex
	told []int64 // numbers of the transactions that were told to have committed
}

// startClients starts clients whose transactions are one message, or, with open,
// stay open between their statements: those are about when a fence is raised.
func startClients(t *testing.T, dsn string, count int, open bool) *clients {
	t.Helper()
	c := &clients{t: t}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	c.stop = sync.OnceFunc(func() { cancel(); wait.Wait() })
	t.Cleanup(c.stop)
	for range count {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			t.Fatal(err)
		}
		wait.Go(func() {
			defer conn.Close(context.Background())
			for ctx.Err() == nil && c.write(conn, open) {
				time.Sleep(15 * time.Millisecond) // it is about when they write, not about how much
			}
		})
	}
	return c
}

// write does one transaction, and returns whether to go on.
func (c *clients) write(conn *pgx.Conn, open bool) bool {
	ctx := context.Background()
	n, id := c.next.Add(1), 1+rand.IntN(100)
	statements := []string{
		fmt.Sprintf(`insert into journal values (%d)`, n),
		fmt.Sprintf(`update a set money = money - 1 where id = %d`, id),
		fmt.Sprintf(`update b set money = money + 1 where id = %d`, id),
	}
	if !open {
		statements = []string{strings.Join(statements, "; ")}
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range statements {
			if _, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll(); err != nil {
				return err
			}
			if open {
				time.Sleep(time.Duration(rand.IntN(4)) * time.Millisecond)
			}
		}
		return nil
	})
	switch {
	case err == nil:
		c.mu.Lock()
		c.told = append(c.told, n)
		c.mu.Unlock()
	case strings.Contains(err.Error(), "WF001"):
		c.refused.Add(1)
	default:
		c.t.Errorf("client: %v", err)
		return false
	}
	return true
}

// commits is how many transactions have been committed.
func (c *clients) commits() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(len(c.told))
}

// goOn waits until so many more transactions are committed than now.
func (c *clients) goOn(more int64) {
	c.t.Helper()
	want := c.commits() + more
	eventually(c.t, "transactions that the source accepts", func() (bool, string) {
		n := c.commits()
		return n >= want, fmt.Sprintf("%d committed, want %d; %d refused", n, want, c.refused.Load())
	})
}

// areRefused waits until the source refuses what begins now.
func (c *clients) areRefused() {
	c.t.Helper()
	before := c.refused.Load()
	eventually(c.t, "a transaction that the source refuses", func() (bool, string) {
		return c.refused.Load() > before, fmt.Sprintf("%d committed", c.commits())
	})
}

// check stops the clients and holds a database against what they were told: nothing
// is lost, nothing is there twice, nothing is torn.
func (c *clients) check(dsn string) {
	c.t.Helper()
	c.stop()
	slices.Sort(c.told)
	want := fmt.Sprintf("journal %d rows, %d different, up to %d; money %d", len(c.told), len(c.told), c.told[len(c.told)-1], 100*1000+20000*1000)
	if got := sums(c.t, dsn); got != want {
		c.t.Errorf("got %s, want %s", got, want)
	}
	rows := pgtest.Query(c.t, dsn, `select n from journal order by n`)
	got := make([]int64, len(rows))
	for i, row := range rows {
		fmt.Sscan(row[0], &got[i]) //nolint:errcheck // an int8
	}
	if !slices.Equal(got, c.told) {
		c.t.Errorf("the journal has other transactions than those that the clients were told of: %v, want %v", got, c.told)
	}
}

// held is a transaction that a test holds open, in the way of something.
type held struct {
	t    *testing.T
	conn *pgx.Conn
}

// hold begins a transaction and runs SQL in it.
func hold(t *testing.T, dsn, sql string) *held {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	h := &held{t, conn}
	h.do("begin; " + sql)
	return h
}

func (h *held) do(sql string) {
	h.t.Helper()
	if _, err := h.conn.PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
		h.t.Fatalf("%v\nin: %s", err, sql)
	}
}

func (h *held) commit()   { h.t.Helper(); h.do("commit") }
func (h *held) rollback() { h.t.Helper(); h.do("rollback") }
