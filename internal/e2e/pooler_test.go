package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// How a pooled client talks.
const (
	simply    = "simple protocol"
	prepared  = "prepared statements"
	connected = "a connection for each transaction"
)

// pooled is a migration whose clients come through PgBouncer.
type pooled struct {
	*testing.T
	migration.Config
	bouncer *pgtest.Bouncer   // the first, or only one
	all     []*pgtest.Bouncer // that the clients come through, in turn
	flags   []string          // of migrate
	migrate *exec.Cmd
	load    *load
}

const pooledTables = `
create table public.ops (id int8 primary key, worker int not null);
create table public.counters (id int primary key, n int8 not null);
insert into counters select i, 0 from generate_series(1, 8) i;
`

// newPooled makes a migration of a database behind PgBouncer.
func newPooled(t *testing.T, program string, from, to int, more ...string) *pooled {
	t.Helper()
	return newPooledBy(t, 1, program, from, to, more...)
}

// newPooledBy makes a migration of a database behind several PgBouncers, each with its own file.
func newPooledBy(t *testing.T, count int, program string, from, to int, more ...string) *pooled {
	t.Helper()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, pooledTables)
	settings := map[string]string{"query_wait_timeout": "3600"} // longer than a test on a busy machine waits for anything
	if newer(t, program) {
		settings["max_prepared_statements"] = "100"
	}
	p := &pooled{T: t, Config: migration.Config{Source: source, Target: target, Name: migrationName("pooled")}}
	p.flags = append([]string{"--pgbouncer-database", "app"}, more...)
	for range count {
		b := pgtest.NewBouncer(t, program, []string{"other = host=127.0.0.1", pgtest.Line("app", source) + " pool_size=20"}, settings)
		p.all = append(p.all, b)
		p.flags = append(p.flags, "--pgbouncer", b.URL("pgbouncer"), "--pgbouncer-ini", b.File)
	}
	p.bouncer = p.all[0]
	return p
}

// newer reports whether a PgBouncer knows named prepared statements.
func newer(t *testing.T, program string) bool {
	t.Helper()
	for version, path := range pgtest.BouncerPrograms() {
		if path == program {
			return pgtest.BouncerKnows(version, 21)
		}
	}
	return false
}

func (p *pooled) start() {
	p.Helper()
	p.migrate = process(p.T, p.Config, p.flags...)
	follows(p.T, p.Config, 0)
}

// ask asks for a switch and returns its exit code, what it printed, and what it measured.
func (p *pooled) ask(args ...string) (code int, text string, r migration.CutoverResult) {
	p.Helper()
	cmd := walferry(p.T, p.Config, append(args, "--json", "--max-lag", "1m")...)
	var out, told bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &told
	err := cmd.Run()
	if cmd.ProcessState == nil {
		p.Fatal(err)
	}
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			p.Fatalf("%v: %s", err, out.String())
		}
	}
	p.Logf("%s: %v\n%s%s", strings.Join(args, " "), cmd.ProcessState, out.String(), told.String())
	return cmd.ProcessState.ExitCode(), out.String() + told.String(), r
}

// place is where the clients of an instance are led: port, database, and whether they are held.
func (p *pooled) place(b *pgtest.Bouncer) (port, database string, paused bool) {
	p.Helper()
	conn, err := pgx.Connect(context.Background(), b.URL("pgbouncer")+"&default_query_exec_mode=simple_protocol")
	if err != nil {
		p.Fatal(err)
	}
	defer conn.Close(context.Background())
	result, err := conn.PgConn().Exec(context.Background(), "show databases").ReadAll()
	if err != nil {
		p.Fatal(err)
	}
	for _, row := range result[0].Rows {
		values := map[string]string{}
		for i, f := range result[0].FieldDescriptions {
			values[f.Name] = string(row[i])
		}
		if values["name"] == "app" {
			return values["port"], values["database"], values["paused"] == "1"
		}
	}
	p.Fatal("PgBouncer has no database app any more")
	return "", "", false
}

// at fails unless the clients are led to a server, and nobody holds them.
func (p *pooled) at(what, dsn string) {
	p.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		p.Fatal(err)
	}
	for _, b := range p.all {
		port, database, paused := p.place(b)
		if port != strconv.Itoa(int(cfg.Port)) || database != cfg.Database || paused {
			p.Errorf("%s: the clients are led to port %s, database %s, held: %v; want port %d, database %s", what, port, database, paused, cfg.Port, cfg.Database)
		}
	}
}

// held reports whether an instance holds its clients.
func (p *pooled) held() bool {
	p.Helper()
	return slices.ContainsFunc(p.all, func(b *pgtest.Bouncer) bool { _, _, paused := p.place(b); return paused })
}

// load are clients who write through the pooler until they are stopped.
type load struct {
	t    *testing.T
	next atomic.Int64
	done atomic.Int64
	stop func()

	mu      sync.Mutex
	acked   []int64
	errs    []string
	longest time.Duration // transaction, since it was last asked for
}

func (p *pooled) clients(count int, kinds ...string) *load {
	p.Helper()
	l := &load{t: p.T}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	l.stop = sync.OnceFunc(func() { cancel(); wait.Wait() })
	p.Cleanup(l.stop)
	for worker := range count {
		how := kinds[worker%len(kinds)]
		bouncer := p.all[worker%len(p.all)]
		url := bouncer.URL("app") + "&default_query_exec_mode=simple_protocol"
		if how == prepared {
			url = bouncer.URL("app") + "&default_query_exec_mode=cache_statement"
		}
		wait.Go(func() {
			var conn *pgx.Conn
			for ctx.Err() == nil {
				began := time.Now()
				id := l.next.Add(1)
				var err error
				if conn == nil {
					conn, err = pgx.Connect(context.Background(), url)
				}
				if err == nil {
					err = l.write(conn, id, worker+1)
				}
				l.note(id, err, time.Since(began))
				if conn != nil && (err != nil || how == connected) {
					conn.Close(context.Background())
					conn = nil
				}
				time.Sleep(10 * time.Millisecond) // it is about when they write, not about how much
			}
			if conn != nil {
				conn.Close(context.Background())
			}
		})
	}
	p.load = l
	l.more()
	return l
}

func (l *load) write(conn *pgx.Conn, id int64, worker int) error {
	ctx := context.Background()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) //nolint:errcheck // it is over
	if _, err := tx.Exec(ctx, `update counters set n = n + 1 where id = $1`, worker); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `insert into ops values ($1, $2)`, id, worker); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

func (l *load) note(id int64, err error, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.longest = max(l.longest, took)
	if err != nil {
		l.errs = append(l.errs, err.Error())
		return
	}
	l.acked = append(l.acked, id)
	l.done.Add(1)
}

// more waits until the clients have written more than they had when it was called.
func (l *load) more() {
	l.t.Helper()
	before := l.done.Load()
	eventually(l.t, "clients who write", func() (bool, string) {
		return l.done.Load() > before+20, fmt.Sprintf("%d transactions, errors: %q", l.done.Load()-before, l.failed())
	})
}

// stall returns the longest transaction since it was last asked.
func (l *load) stall() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	longest := l.longest
	l.longest = 0
	return longest
}

func (l *load) failed() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.errs)
}

// quiet fails if a client has seen an error.
func (p *pooled) quiet() {
	p.Helper()
	if errs := p.load.failed(); len(errs) > 0 {
		p.Errorf("%d errors at clients, such as %s", len(errs), errs[0])
	}
}

// whole stops the clients and fails unless a server has what they were told, once.
func (p *pooled) whole(dsn string) {
	p.Helper()
	p.load.stop()
	p.quiet()
	p.kept(dsn)
}

// kept fails unless a server has what the clients, who have stopped, were told, once.
func (p *pooled) kept(dsn string) {
	p.Helper()
	rows := pgtest.Query(p.T, dsn, `select count(*), (select sum(n) from counters) from ops`)
	if rows[0][0] != rows[0][1] {
		p.Errorf("%s rows, but the counters say %s", rows[0][0], rows[0][1])
	}
	have := map[string]bool{}
	for _, row := range pgtest.Query(p.T, dsn, `select id from ops`) {
		have[row[0]] = true
	}
	lost := 0
	for _, id := range p.load.acked {
		if !have[strconv.FormatInt(id, 10)] {
			lost++
		}
	}
	if unacked := len(have) - (len(p.load.acked) - lost); lost > 0 || unacked > 0 && len(p.load.errs) == 0 {
		p.Errorf("of %d transactions that were acknowledged %d are lost, and %d are there that nobody was told of", len(p.load.acked), lost, unacked)
	}
	p.Logf("%d transactions, %d errors", len(p.load.acked), len(p.load.errs))
}

// measured compares the longest transaction of a client during a switch with what the switch has measured itself, and with the longest
// without one: the one on top of the other is what it may be, times two, as both compete for this machine.
func (p *pooled) measured(what string, r migration.CutoverResult, usual time.Duration) {
	p.Helper()
	if r.HeldMS == nil {
		p.Fatalf("%s: it does not say for how long clients were held: %+v", what, r)
	}
	stall, heldFor := p.load.stall(), time.Duration(*r.HeldMS)*time.Millisecond
	p.Logf("%s: stall %d ms, pause %d ms, held %d ms, usually %d ms: stall / (pause + 50 ms) = %.2f", what, stall.Milliseconds(), r.PauseMS, *r.HeldMS,
		usual.Milliseconds(), float64(stall.Milliseconds())/float64(r.PauseMS+50))
	if stall > 2*(heldFor+usual) {
		p.Errorf("%s: a client waited for %s, but all were held for %s, and a transaction takes up to %s otherwise", what, stall, heldFor, usual)
	}
}

// usually lets the clients write for a while, and returns their longest transaction of that.
func (l *load) usually() time.Duration {
	l.t.Helper()
	l.stall()
	l.more()
	return l.stall()
}

// Clients of every kind come through a rehearsal, a cutover, and a fallback without an error.
func TestPooler(t *testing.T) {
	t.Parallel()
	pgtest.EachBouncer(t, func(t *testing.T, program string) {
		kinds := []string{simply, connected}
		if newer(t, program) {
			kinds = append(kinds, prepared)
		}
		// Back to a server before 16 PgBouncer 1.26 has to end its clients: TestPoolerOlder.
		p := newPooled(t, program, 13, 15, "--fall-back", "require", "--max-retained-wal-target", "50GB")
		p.clients(6, kinds...)
		p.start()
		switches := func(what, at string, args ...string) {
			t.Helper()
			usual := p.load.usually()
			code, _, r := p.ask(args...)
			if code != 0 {
				t.Fatalf("%s: exit code %d", what, code)
			}
			p.load.more()
			p.measured(what, r, usual)
			p.at("after "+what, at)
			p.quiet()
		}
		switches("the rehearsal", p.Source, "cutover", "--dry-run")
		switches("the cutover", p.Target, "cutover")
		waitFor(t, "the way back", p.Config, func(st migration.Status) bool { return st.Phase == migration.Switched && st.Running })
		switches("the rehearsal of the fallback", p.Target, "fallback", "--dry-run")
		switches("the fallback", p.Source, "fallback")
		p.whole(p.Source)
	})
}

// waitFor waits until status shows something.
func waitFor(t *testing.T, what string, c migration.Config, holds func(migration.Status) bool) {
	t.Helper()
	eventually(t, what, func() (bool, string) {
		st, err := migration.ReadStatus(t.Context(), c)
		return err == nil && holds(st), fmt.Sprintf("%+v, %v", st, err)
	})
}

// hookScript writes a program that is called as a hook; $dir is a folder of its own.
func hookScript(t *testing.T, text string) (path, dir string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "hook.sh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\ndir='"+dir+"'\ncat > /dev/null\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, dir
}
