package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/walferry/walferry/internal/pgtest"
)

// fault is something that happens to a migration, and ends by itself.
type fault struct {
	name string
	do   func(*arena, *rand.Rand)
}

// faults are those from which a migration recovers without anybody's help. docs/faults.md says
// what is promised for each, and which tests are for those that end a migration.
var faults = []fault{
	{"migrate killed", func(a *arena, _ *rand.Rand) { a.signal(func(p *os.Process) { p.Kill() }) }},
	{"migrate stopped", func(a *arena, _ *rand.Rand) { a.signal(func(p *os.Process) { p.Signal(syscall.SIGTERM) }) }},
	{"migrate frozen", func(a *arena, r *rand.Rand) {
		a.signal(func(p *os.Process) { p.Signal(syscall.SIGSTOP) })
		pause(r, 500, 8000) // longer than wal_sender_timeout, at times
		a.signal(func(p *os.Process) { p.Signal(syscall.SIGCONT) })
	}},
	{"migrate started twice", func(a *arena, _ *rand.Rand) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		second := walferry(a.t, a.c, a.args...)
		if second.Start() != nil {
			return
		}
		done := context.AfterFunc(ctx, func() { second.Process.Kill() })
		time.Sleep(time.Second) // it has the lock when the first one does not run: then it is the first
		second.Process.Signal(syscall.SIGTERM)
		second.Wait()
		done()
	}},
	{"source crashed", func(a *arena, r *rand.Rand) { a.crash(a.source, r) }},
	{"target crashed", func(a *arena, r *rand.Rand) { a.crash(a.target, r) }},
	{"source restarted", func(a *arena, _ *rand.Rand) { a.restart(a.source) }},
	{"target restarted", func(a *arena, _ *rand.Rand) { a.restart(a.target) }},
	{"sessions ended on the source", func(a *arena, _ *rand.Rand) { a.sessions(a.direct.source, "pg_terminate_backend") }},
	{"sessions ended on the target", func(a *arena, _ *rand.Rand) { a.sessions(a.direct.target, "pg_terminate_backend") }},
	{"statements cancelled on the source", func(a *arena, _ *rand.Rand) { a.sessions(a.direct.source, "pg_cancel_backend") }},
	{"statements cancelled on the target", func(a *arena, _ *rand.Rand) { a.sessions(a.direct.target, "pg_cancel_backend") }},
	{"tables locked on the target", func(a *arena, r *rand.Rand) {
		a.session(a.direct.target, func(do func(string)) {
			do(`begin; set local lock_timeout = '5s'`)
			do(`lock table shop.accounts in access exclusive mode`)
			pause(r, 200, 6000)
			do(`rollback`)
		})
	}},
	{"deadlock on the target", func(a *arena, r *rand.Rand) {
		a.session(a.direct.target, func(do func(string)) {
			do(`begin; set local lock_timeout = '5s'`)
			do(`lock table shop.ledger in exclusive mode`)
			pause(r, 100, 600)
			do(`lock table shop.accounts, shop.orders in exclusive mode`)
			pause(r, 100, 600)
			do(`rollback`)
		})
	}},
	{"open transaction on the source", func(a *arena, r *rand.Rand) {
		a.session(a.direct.source, func(do func(string)) {
			do(`begin`)
			do(`select txid_current()`)
			pause(r, 500, 4000)
			do(`rollback`)
		})
	}},
	{"timeouts on the source", func(a *arena, r *rand.Rand) { a.timeouts(a.direct.source, r) }},
	{"timeouts on the target", func(a *arena, r *rand.Rand) { a.timeouts(a.direct.target, r) }},
	{"target read-only", func(a *arena, r *rand.Rand) {
		a.role(a.direct.target, r, `alter role mover set default_transaction_read_only = on`, `alter role mover reset default_transaction_read_only`)
	}},
	{"role locked out of the source", func(a *arena, r *rand.Rand) {
		a.role(a.direct.source, r, `alter role mover nologin`, `alter role mover login`)
	}},
	{"role locked out of the target", func(a *arena, r *rand.Rand) {
		a.role(a.direct.target, r, `alter role mover nologin`, `alter role mover login`)
	}},
	{"slot read by somebody else", func(a *arena, r *rand.Rand) { a.steal(r) }},
	{"connections reset at the source", func(a *arena, _ *rand.Rand) { a.near.Reset() }},
	{"connections reset at the target", func(a *arena, _ *rand.Rand) { a.far.Reset() }},
	{"black hole at the source", func(a *arena, r *rand.Rand) { network(a.near, r, pgtest.Network{Hole: true}, 8000) }},
	{"black hole at the target", func(a *arena, r *rand.Rand) { network(a.far, r, pgtest.Network{Hole: true}, 8000) }},
	{"network slow", func(a *arena, r *rand.Rand) {
		far := pgtest.Network{Delay: time.Duration(5+r.IntN(100)) * time.Millisecond}
		both(func() { network(a.near, r, far, 4000) }, func() { network(a.far, rand.New(rand.NewPCG(1, 1)), far, 4000) })
	}},
	{"network narrow", func(a *arena, r *rand.Rand) {
		network(a.near, r, pgtest.Network{Rate: 64 << 10}, 3000)
	}},
	{"bytes in slices from the source", func(a *arena, r *rand.Rand) { network(a.near, r, pgtest.Network{Slice: 1 + r.IntN(3)}, 2000) }},
	{"bytes in slices to the target", func(a *arena, r *rand.Rand) { network(a.far, r, pgtest.Network{Slice: 1 + r.IntN(3)}, 2000) }},
	{"connections cut in the middle", func(a *arena, r *rand.Rand) {
		for _, p := range []*pgtest.Proxy{a.near, a.far} {
			p.CutAfter(1 + r.Int64N(1<<uint(4+r.IntN(14))))
			p.Reset()
		}
		pause(r, 500, 3000)
		a.near.CutAfter(0)
		a.far.CutAfter(0)
	}},
	{"network flapping", func(a *arena, r *rand.Rand) {
		for range 5 {
			for _, p := range []*pgtest.Proxy{a.near, a.far} {
				p.Set(pgtest.Network{Down: true})
				p.Reset()
			}
			pause(r, 50, 400)
			a.near.Set(pgtest.Network{})
			a.far.Set(pgtest.Network{})
			pause(r, 50, 800)
		}
	}},
}

func pause(r *rand.Rand, least, most int) {
	time.Sleep(time.Duration(least+r.IntN(most-least)) * time.Millisecond)
}

func both(a, b func()) {
	var wait sync.WaitGroup
	wait.Go(a)
	wait.Go(b)
	wait.Wait()
}

func network(p *pgtest.Proxy, r *rand.Rand, n pgtest.Network, most int) {
	p.Set(n)
	pause(r, 200, most)
	p.Set(pgtest.Network{})
}

func (a *arena) crash(s *pgtest.Server, r *rand.Rand) {
	if err := s.Kill(); err != nil {
		a.t.Errorf("kill server: %v", err)
	}
	pause(r, 1, 1500)
	if err := s.Start(context.Background()); err != nil {
		a.t.Errorf("start server after a crash: %v", err)
	}
}

// restart is one that an operator orders; the server must be able to end in spite of us.
func (a *arena) restart(s *pgtest.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Restart(ctx); err != nil {
		a.t.Errorf("restart server: %v", err)
		s.Start(context.Background())
	}
}

// session runs statements in a session of somebody else, as far as they go through.
func (a *arena) session(dsn string, use func(do func(string))) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return
	}
	defer conn.Close(context.Background())
	use(func(sql string) { conn.PgConn().Exec(ctx, sql).ReadAll() })
}

func (a *arena) sessions(dsn, do string) {
	a.session(dsn, func(sql func(string)) {
		sql(`select ` + do + `(pid) from pg_stat_activity where usename = 'mover'`)
	})
}

// role changes the mover's role for a while; existing sessions start over.
func (a *arena) role(dsn string, r *rand.Rand, on, off string) {
	a.session(dsn, func(do func(string)) { do(on) })
	a.sessions(dsn, "pg_terminate_backend")
	pause(r, 300, 3000)
	for range 100 { // the server may be down just now
		done := false
		a.session(dsn, func(do func(string)) { do(off); done = true })
		if done {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (a *arena) timeouts(dsn string, r *rand.Rand) {
	a.role(dsn, r, `alter role mover set statement_timeout = '200ms'; alter role mover set lock_timeout = '50ms';
alter role mover set idle_in_transaction_session_timeout = '300ms'; alter role mover set default_transaction_isolation = 'serializable'`,
		`alter role mover reset statement_timeout; alter role mover reset lock_timeout;
alter role mover reset idle_in_transaction_session_timeout; alter role mover reset default_transaction_isolation`)
}

// steal reads the slot in another's place, and confirms nothing.
func (a *arena) steal(r *rand.Rand) {
	a.sessions(a.direct.source, "pg_terminate_backend")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := pgconn.Connect(ctx, a.direct.source+"?replication=database")
	if err != nil {
		return
	}
	defer conn.Close(context.Background())
	conn.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf(
		`START_REPLICATION SLOT "walferry_%s" LOGICAL 0/0 (proto_version '1', publication_names '"walferry_%[1]s"')`, a.c.Name)})
	if conn.Frontend().Flush() == nil {
		pause(r, 300, 3000)
	}
}
