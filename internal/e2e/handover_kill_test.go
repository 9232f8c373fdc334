package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// probe looks whether the service could write on both servers: on the one that is seen to be open before and after the other one was. Before
// the first hand-over nothing keeps anybody from writing to the new server.
func (s *service) probe(from *atomic.Bool) {
	conns := s.connect()
	defer conns[0].Close(context.Background())
	defer conns[1].Close(context.Background())
	open := func(side int) bool {
		_, err := conns[side].Exec(context.Background(), `begin; insert into `+s.name+`.total select 2, 0 where false; rollback`, pgx.QueryExecModeSimpleProtocol)
		if err != nil {
			conns[side].Exec(context.Background(), `rollback`) //nolint:errcheck // the next statement tells
			if !refusal(err) {
				s.t.Errorf("probe of server %d: %v", side, err)
			}
		}
		return err == nil
	}
	for !s.halted(5 * time.Millisecond) {
		if from.Load() && open(0) && open(1) && open(0) && open(1) {
			s.t.Errorf("%s can write on both servers", s.name)
			return
		}
	}
}

// migrate is killed at random statements of hand-overs to and fro, and started again. Every group comes to be where it was asked to be; no transaction is lost
// or torn, and nobody can write to one table on both servers.
func TestHandOver_Killed(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	old, young := pgtest.Pair(t, 13, 18)
	pgtest.Exec(t, old, threeServices)
	m := newMoving(t, "handover_killed", old, young)
	m.MaxRetainedWALTarget = 1 << 40
	r := m.start()
	r.waitFor(migration.Following)
	r.cancel()
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	services := map[string]*service{}
	var there atomic.Bool
	for _, name := range serviceNames {
		s := startService(t, name, old, young)
		s.wait.Go(func() { s.probe(&there) })
		services[name] = s
	}
	through := m.Config
	var statements, killAt atomic.Int64
	var k atomic.Pointer[kept]
	for _, side := range []*string{&through.Source, &through.Target} {
		p := pgtest.ProxyFor(t, *side)
		p.Watch(func(s pgtest.Step) (f pgtest.Fault) {
			if changes := !strings.HasPrefix(strings.TrimSpace(s.Statement), "select"); !changes || strings.HasSuffix(s.Application, " apply") || strings.HasSuffix(s.Application, " stream") ||
				strings.Contains(s.Statement, "set live") || strings.Contains(s.Statement, "walferry.request") {
				return f
			}
			if n := killAt.Load(); n > 0 && statements.Add(1) == n && k.Load() != nil {
				t.Logf("killed at %s | %s", s.Application, s.Statement)
				k.Load().kill()
				f.Cut = true
			}
			return f
		})
		*side = p.Through(*side)
	}
	k.Store(m.keep(through, 60))

	// to asks, as often as it takes, for a switch of some tables, or of the rest; done are errors that say that it was done.
	to := func(kill int64, what func(context.Context, migration.Config, func(string)) (*migration.CutoverResult, error), tables []string, done string) {
		t.Helper()
		statements.Store(0)
		killAt.Store(kill)
		c := m.Config
		c.Cut.MaxLag, c.Cut.Timeout, c.Cut.Tables = patience, patience, tables
		eventually(t, fmt.Sprintf("the switch of %s, killed at statement %d", tables, kill), func() (bool, string) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_, err := what(ctx, c, nil)
			return err == nil || strings.Contains(err.Error(), done), fmt.Sprint(err)
		}, m.describe)
		killAt.Store(0)
		t.Logf("%s: %d statements of %d", tables, statements.Load(), kill)
	}
	at := func() int64 { return 1 + random.Int64N(250) } // about as many statements change something, those of the start of migrate included
	goTo := func(name string, side int) {
		t.Helper()
		if side == 1 {
			to(at(), migration.Cutover, []string{name + ".*"}, "is the new server's already")
		} else {
			to(at(), migration.Fallback, []string{name + ".*"}, "the old server")
		}
		there.Store(true)
		services[name].goesTo(side)
	}
	for range 2 {
		goTo("billing", 1)
		goTo("orders", 1)
		goTo("billing", 0)
		goTo("orders", 0)
	}
	goTo("stock", 1)
	to(at(), migration.Cutover, nil, "nothing")
	for range 2 { // parts of the whole, and back to it
		goTo("orders", 0)
		goTo("stock", 0)
		goTo("orders", 1)
		goTo("stock", 1)
	}
	eventually(t, "all is the new server's", func() (bool, string) {
		st, err := migration.ReadStatus(context.Background(), m.Config)
		return err == nil && st.Phase == migration.Switched, m.describe()
	})
	for _, s := range services {
		s.goesTo(1)
		s.arrived()
	}
}
