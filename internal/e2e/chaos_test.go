package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/shop"
)

// TestChaos moves shop under its writers while faults come at random, from the first
// second on, one at a time and two together. Then everything is let heal, the clients are switched over,
// and what they were told is held against what is there. `make chaos` runs it for longer.
//
//	WALFERRY_TEST_CHAOS_SECONDS  how long faults come; 60 unless given
//	WALFERRY_TEST_CHAOS_SEED     a run's choices again; what they meet differs
//	WALFERRY_TEST_CHAOS_FAULTS   a regular expression: these faults only
func TestChaos(t *testing.T) {
	t.Parallel()
	seconds, seed := 60, uint64(time.Now().UnixNano())%1e9
	if n, err := strconv.Atoi(os.Getenv("WALFERRY_TEST_CHAOS_SECONDS")); err == nil {
		seconds = n
	}
	if n, err := strconv.ParseUint(os.Getenv("WALFERRY_TEST_CHAOS_SEED"), 10, 64); err == nil {
		seed = n
	}
	only, err := regexp.Compile(os.Getenv("WALFERRY_TEST_CHAOS_FAULTS"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("again: make chaos SECONDS=%d SEED=%d", seconds, seed)
	a := newArena(t, seed)
	var chosen []fault
	for _, f := range faults {
		if only.MatchString(f.name) {
			chosen = append(chosen, f)
		}
	}
	w, err := shop.Start(t.Context(), shop.Config{Source: a.direct.source, Target: a.direct.target, Migration: a.c.Name, Clients: 3, TPS: 40, Seed: seed, Batch: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	reader := &shop.Reader{DSN: a.direct.target, Migration: a.c.Name}
	reading, endReading := context.WithCancel(t.Context())
	read := make(chan error, 1)
	go func() { read <- reader.Run(reading) }()
	defer endReading()
	a.supervise()
	a.watchAcks()

	met := map[string]int{}
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end) && !t.Failed(); {
		time.Sleep(time.Duration(100+a.random.IntN(1200)) * time.Millisecond)
		var together sync.WaitGroup
		for range 1 + a.random.IntN(4)/3 {
			f, random := chosen[a.random.IntN(len(chosen))], rand.New(rand.NewPCG(a.random.Uint64(), 0))
			met[f.name]++
			t.Logf("%s  fault: %s", time.Now().Format("15:04:05.000"), f.name)
			together.Go(func() { f.do(a, random) })
		}
		together.Wait()
	}
	a.heal()
	t.Logf("faults: %v", met)

	// Everything goes on by itself, and the promise holds.
	eventually(t, "a migrate that follows", func() (bool, string) {
		st, err := migration.ReadStatus(t.Context(), a.c)
		return err == nil && st.Phase == migration.Following && st.Running && st.Stream.LagSeconds != nil && *st.Stream.LagSeconds < 3, fmt.Sprintf("%+v, %v", st, err)
	})
	c := a.c
	c.Cut.MaxLag, c.Cut.Timeout = patience, patience
	eventually(t, "a cutover", func() (bool, string) {
		_, err := migration.Cutover(context.Background(), c, nil)
		return err == nil, fmt.Sprint(err)
	})
	a.finished()
	eventually(t, "writes on the target by every client", func() (bool, string) {
		r := w.Report()
		return r.Switched >= 3 || len(read) > 0, fmt.Sprintf("%+v", r)
	})
	report := w.Stop()
	endReading()
	if err := <-read; err != nil {
		t.Errorf("reader: %v", err)
	}
	t.Logf("%d transactions on the source, %d on the target, %d snapshots read, migrate started %d times: %+v",
		report.Source, report.Target, reader.Snapshots(), a.starts, report)
	if err := w.Check(t.Context(), a.direct.target); err != nil {
		t.Errorf("check: %v", err)
	}
	for class, n := range report.Errors {
		if strings.HasPrefix(class, string(shop.Other)) {
			t.Errorf("clients got %d errors that no application expects: %s", n, class)
		}
	}
	sourceKeeps(t, w, a.direct.source, report)
	m := &moving{t, a.c}
	m.Config.Source, m.Config.Target = a.direct.source, a.direct.target
	m.cleanup()
}

// ends are connection strings of both sides.
type ends struct{ source, target string }

// arena is two servers, a bad network, and a migrate that is started again whenever it ends.
type arena struct {
	t              *testing.T
	random         *rand.Rand
	source, target *pgtest.Server
	near, far      *pgtest.Proxy // before the source and before the target
	direct         ends          // of the test itself, as superuser
	c              migration.Config
	args           []string

	mu       sync.Mutex
	cmd      *exec.Cmd
	starts   int
	stopping bool
	exit     int           // of the last one
	ended    chan struct{} // closed when the supervisor has
}

// mover is the role of the migration, so that what is done to it is done to nobody else.
const mover = `do $$ begin create role mover superuser login password 'mover'; exception when duplicate_object then end $$`

func asMover(dsn string) string {
	return strings.Replace(dsn, "postgres://postgres", "postgres://mover", 1)
}

func newArena(t *testing.T, seed uint64) *arena {
	t.Helper()
	a := &arena{t: t, random: rand.New(rand.NewPCG(seed, 1)), ended: make(chan struct{})}
	from, to := pgtest.Default()
	settings := map[string]string{"wal_sender_timeout": "5s", "deadlock_timeout": "300ms", "checkpoint_timeout": "30s"}
	a.source = pgtest.New(t, pgtest.Options{Major: from, Settings: settings})
	a.target = pgtest.New(t, pgtest.Options{Major: to, Settings: settings})
	a.direct = ends{a.source.Database(t), a.target.Database(t)}
	if err := shop.Load(t.Context(), a.direct.source, shop.Options{Size: 8}); err != nil {
		t.Fatal(err)
	}
	a.c = migration.Config{Name: migrationName("chaos")}
	for _, side := range []struct {
		direct string
		proxy  **pgtest.Proxy
		to     *string
	}{{a.direct.source, &a.near, &a.c.Source}, {a.direct.target, &a.far, &a.c.Target}} {
		pgtest.Exec(t, side.direct, mover)
		p := pgtest.ProxyFor(t, side.direct)
		*side.proxy = p
		*side.to = asMover(p.Through(side.direct))
	}
	a.args = []string{"migrate", "--insert-only", "shop.events", "--jobs", "2", "--piece-size", "256kB", "--verify"}
	return a
}

// never is what a migrate must not say, whatever happens to the servers.
var never = regexp.MustCompile(`(?i)no such row|several rows|duplicate key|violates|\bgap\b|check progress of stream|panic:|DATA RACE|does not fit|GIVEN UP`)

// inTheWay is what the preflight blocks for while a fault lasts: "target read-only", and "role locked
// out" between its first connection and the one for replication.
var inTheWay = regexp.MustCompile(`BLOCK not-a-writer|BLOCK replication-connection \(source\)\n.*is not permitted to log in`)

// supervise keeps a migrate running until it is done.
func (a *arena) supervise() {
	if _, err := binary(); err != nil {
		a.t.Fatal(err)
	}
	go func() {
		defer close(a.ended)
		for {
			var told bytes.Buffer
			cmd := walferry(a.t, a.c, a.args...)
			cmd.Stdout, cmd.Stderr = &told, &told
			a.mu.Lock()
			if a.stopping {
				a.mu.Unlock()
				return
			}
			err := cmd.Start()
			if err == nil {
				a.cmd, a.starts = cmd, a.starts+1
			}
			a.mu.Unlock()
			if err != nil {
				a.t.Errorf("start migrate: %v", err)
				return
			}
			err = cmd.Wait()
			a.mu.Lock()
			a.cmd, a.exit = nil, cmd.ProcessState.ExitCode()
			stopping := a.stopping
			a.mu.Unlock()
			closed := a.exit == 3 && inTheWay.Match(told.Bytes())
			if never.Match(told.Bytes()) || a.exit == 2 || a.exit == 3 && !closed || a.exit == 5 {
				a.t.Errorf("migrate said what it must not say, and ended with %v:\n%s", err, tail(told.String()))
			} else if err != nil {
				a.t.Logf("migrate ended with %v: %s", err, lastLine(told.String()))
			}
			st, statusErr := migration.ReadStatus(context.Background(), migration.Config{Source: a.direct.source, Target: a.direct.target, Name: a.c.Name})
			if stopping || statusErr == nil && st.Phase == migration.Finished {
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
	}()
	a.t.Cleanup(func() {
		a.mu.Lock()
		a.stopping = true
		if a.cmd != nil {
			a.cmd.Process.Kill() //nolint:errcheck // it may have ended
		}
		a.mu.Unlock()
		<-a.ended
	})
}

func tail(s string) string { return s[max(0, len(s)-8000):] }

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// signal does something to the migrate that runs, if one does.
func (a *arena) signal(do func(*os.Process)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cmd != nil {
		do(a.cmd.Process)
	}
}

// finished waits for the migrate that has cut over.
func (a *arena) finished() {
	a.t.Helper()
	select {
	case <-a.ended:
	case <-time.After(patience):
		a.t.Fatal("migrate has not ended after the cutover")
	}
	if a.exit != 0 {
		a.t.Errorf("migrate ended with exit code %d, want 0", a.exit)
	}
}

// watchAcks holds, all the time, that the slot was never told more than is on the target.
func (a *arena) watchAcks() {
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	source, target := newLine(a.t, a.direct.source), newLine(a.t, a.direct.target)
	a.t.Cleanup(func() { cancel(); wait.Wait() })
	wait.Go(func() {
		for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
			acked, err := source.ask(`select coalesce(max(confirmed_flush_lsn)::text, '') from pg_replication_slots where slot_name = 'walferry_` + a.c.Name + `'`)
			if err != nil || acked == "" {
				continue
			}
			applied, err := target.ask(`select applied >= '` + acked + `' from walferry.progress where stream = '` + a.c.Name + `' and applied > '0/0'`)
			if err == nil && applied == "f" {
				a.t.Errorf("the slot has confirmed %s, the target has not applied that", acked)
				return
			}
		}
	})
}

// heal ends every fault, also one whose own end did not come through.
func (a *arena) heal() {
	a.t.Helper()
	for _, p := range []*pgtest.Proxy{a.near, a.far} {
		p.CutAfter(0)
		p.Set(pgtest.Network{})
		p.Reset()
	}
	for _, s := range []*pgtest.Server{a.source, a.target} {
		if err := s.Start(a.t.Context()); err != nil {
			a.t.Fatal(err)
		}
	}
	for _, dsn := range []string{a.direct.source, a.direct.target} {
		pgtest.Exec(a.t, dsn, `alter role mover reset all; alter role mover login`)
	}
}
