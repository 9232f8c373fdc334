package fleet

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// patience bounds every wait for something that must come.
const patience = 4 * time.Minute

// size is how large the fleet of TestRun is: WALFERRY_TEST_FLEET=1 makes it large.
func size() (servers, databases int) {
	if os.Getenv("WALFERRY_TEST_FLEET") != "" {
		return 3, 40
	}
	return 2, 6
}

// flotilla is a fleet on servers of its own.
type flotilla struct {
	t        *testing.T
	from, to []*pgtest.Server
	text     string // of the file
	*Fleet
}

// newFlotilla makes servers with databases, of which those of bad cannot be migrated, and resolves a file about them: waves 1 and 2 alternate.
func newFlotilla(t *testing.T, head string, servers, databases int, bad map[int]bool) *flotilla {
	t.Helper()
	source, target := pgtest.Default()
	fl := &flotilla{t: t}
	text := head + "\ninstances:\n"
	settings := map[string]string{"max_replication_slots": "60", "max_wal_senders": "60", "max_connections": "300"}
	for i := range servers {
		fl.from = append(fl.from, pgtest.New(t, pgtest.Options{Major: source, Settings: settings}))
		fl.to = append(fl.to, pgtest.New(t, pgtest.Options{Major: target, Settings: settings}))
		text += fmt.Sprintf("  s%d:\n    source: %s\n    target: %s\n    databases:\n", i, fl.from[i].URL(""), fl.to[i].URL(""))
		for n := i; n < databases; n += servers {
			text += fmt.Sprintf("      - db%d: {wave: %d}\n", n, 1+n/servers%2)
		}
	}
	var all sync.WaitGroup
	for n := range databases {
		all.Go(func() {
			from, to := fl.from[n%servers], fl.to[n%servers]
			name := fmt.Sprintf("db%d", n)
			pgtest.Exec(t, from.URL("postgres"), "create database "+name)
			pgtest.Exec(t, to.URL("postgres"), "create database "+name)
			pgtest.Exec(t, from.URL(name), `create table t (id int primary key, v text); insert into t select i, repeat('x', 500) from generate_series(1, 4000) i`)
			if bad[n] { // a table that has no key blocks
				pgtest.Exec(t, from.URL(name), `create table nokey (a int); insert into nokey values (1)`)
			}
		})
	}
	all.Wait()
	fl.text = text
	fl.resolve()
	return fl
}

// resolve asks the servers for the databases.
func (fl *flotilla) resolve() {
	fl.t.Helper()
	f, err := resolve(fl.t, fl.text)
	if err != nil {
		fl.t.Fatal(err)
	}
	fl.Fleet = f
}

// sailing is a run in the background.
type sailing struct {
	*flotilla
	stop context.CancelFunc
	done chan struct{}
	Ended
	err error
}

func (fl *flotilla) run() *sailing {
	ctx, stop := context.WithCancel(context.Background())
	s := &sailing{flotilla: fl, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.Ended, s.err = fl.Run(ctx, RunConfig{
			Logger: slog.New(slog.NewTextHandler(fl.t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})), Retry: wait.Pauses{First: 500 * time.Millisecond, Longest: 2 * time.Second}, Options: some,
		})
	}()
	fl.t.Cleanup(func() { stop(); <-s.done })
	return s
}

// end stops the run and waits for it.
func (s *sailing) end() {
	s.t.Helper()
	s.stop()
	select {
	case <-s.done:
	case <-time.After(patience):
		s.t.Fatal("the run does not end")
	}
	if s.err != nil {
		s.t.Fatal(s.err)
	}
}

// until waits until the status is as wanted.
func (fl *flotilla) until(what string, holds func(st *Status) bool) *Status {
	fl.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		st, err := fl.Status(fl.t.Context())
		if err != nil {
			fl.t.Fatal(err)
		}
		if holds(st) {
			return st
		}
		if time.Now().After(deadline) {
			fl.t.Fatalf("waited in vain for %s: %+v", what, st)
		}
	}
}

// count is how many databases are in a state.
func count(st *Status, state string) (n int) {
	for i := range st.Databases {
		if st.Databases[i].State() == state {
			n++
		}
	}
	return n
}

// peak are the largest numbers that were seen on a server.
type peak struct{ slots, copying int }

// observe looks at the sources' own views all the time: at their slots that last, and at the databases that a copy reads.
func (fl *flotilla) observe() (seen func() (each []peak, slots int)) {
	ctx, stop := context.WithCancel(context.Background())
	each, all := make([]peak, len(fl.from)), 0
	var wg sync.WaitGroup
	wg.Go(func() {
		conns := make([]*session.Link, len(fl.from))
		for i, s := range fl.from {
			link, err := session.OpenLink(ctx, session.Config{DSN: s.URL("postgres"), Application: "observer"}, nil)
			if err != nil {
				fl.t.Error(err)
				return
			}
			defer link.Close()
			conns[i] = link
		}
		for ctx.Err() == nil {
			sum := 0
			for i, c := range conns {
				var slots, copying int
				err := c.Row(ctx, `select (select count(*) from pg_replication_slots where not temporary),
					(select count(distinct datname) from pg_stat_activity where query ilike 'copy %' and state = 'active' and application_name like 'walferry %')`, nil, &slots, &copying)
				if err != nil {
					continue // it is down for a while
				}
				sum += slots
				each[i].slots, each[i].copying = max(each[i].slots, slots), max(each[i].copying, copying)
			}
			all = max(all, sum)
			time.Sleep(2 * time.Millisecond)
		}
	})
	fl.t.Cleanup(func() { stop(); wg.Wait() })
	return func() ([]peak, int) { stop(); wg.Wait(); return each, all }
}

// A fleet whose limits are less than its databases moves all but the one that cannot be: in two waves, the first of which makes room
// for the second, over a restart, and never more at a time than the limits allow.
func TestRun(t *testing.T) {
	t.Parallel()
	servers, databases := size()
	following := (databases/servers + 2) / 2 // on each source: a wave of them, and no more
	if databases > 6 {
		following++
	}
	bad := 0
	head := fmt.Sprintf("defaults: {jobs: 2}\nlimits: {copying: 2, per-source: {copying: 1, following: %d}}\nwaves: {1: {approve: manual}, 2: {after: 1, approve: auto}}", following)
	fl := newFlotilla(t, head, servers, databases, map[int]bool{bad: true})
	seen := fl.observe()
	first := 0
	for _, d := range fl.Databases {
		if d.Wave == 1 {
			first++
		}
	}

	run := fl.run()
	fl.until("the first wave", func(st *Status) bool { return st.Waves[0].Following == first-1 })
	if st, err := fl.Status(t.Context()); err != nil || databases == 6 && st.of("s1_db3").Phase != "" {
		t.Errorf("wave 2 has taken a place from wave 1: %+v, %v", st, err)
	}
	run.end()
	if run.Finished != 0 || len(run.Left) != databases {
		t.Fatalf("stopped: %+v", run.Ended)
	}
	if _, err := fl.Cutover(t.Context(), 1, SwitchConfig{Approved: "anna"}); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "do not follow") {
		t.Errorf("a wave that nobody runs: %v", err)
	}
	// One of the servers is away when the next run begins, and comes later.
	away := fl.from[servers-1]
	if err := away.Stop(t.Context(), "fast"); err != nil {
		t.Fatal(err)
	}
	fl.resolve()
	run = fl.run()
	others := 0
	for _, d := range fl.In(1) {
		if d.Name != "s0_db0" {
			others++
		}
	}
	fl.until("the servers that are there", func(st *Status) bool { return st.Waves[0].Following == others && len(st.Problems) == 1 })
	if err := away.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	fl.resolve()
	fl.until("the first wave again", func(st *Status) bool { return st.Waves[0].Following == first-1 })
	fl.refused()
	// The one that cannot be has not kept anybody from anything; it is left behind, for now.
	s, err := fl.Cutover(t.Context(), 1, SwitchConfig{Approved: "anna", Ready: true})
	if s == nil || s.Failed > 0 || s.Left != 1 || err == nil {
		t.Fatalf("%+v, %v", s, err)
	}
	// What is switched has made room, also for those of the other wave.
	fl.until("the second wave", func(st *Status) bool { return count(st, "following") >= databases-first })
	pgtest.Exec(t, fl.from[0].URL("db0"), `drop table nokey`) // and now it can be
	fl.until("what was repaired", func(st *Status) bool { return count(st, "following") == databases-first+1 })
	if s, err = fl.Cutover(t.Context(), 1, SwitchConfig{Approved: "anna"}); err != nil || s.Databases[0].State != "done" || s.Databases[1].State != "already" {
		t.Fatalf("%+v, %v", s, err)
	}
	select { // the second wave goes by itself, and with it the run
	case <-run.done:
	case <-time.After(patience):
		t.Fatal("the run does not end")
	}
	if run.err != nil || run.Finished != databases {
		t.Fatalf("%+v, %v", run.Ended, run.err)
	}
	each, all := seen()
	within(t, each, following)
	t.Logf("at most %+v, %d slots in all", each, all)
	for i, d := range fl.Databases {
		rows := pgtest.Query(t, d.Config.Target, `select count(*), sum(length(v)) from t`)[0]
		slots := pgtest.Query(t, d.Config.Source, `select count(*) from pg_replication_slots`)[0][0]
		if rows[0] != "4000" || slots != "0" {
			t.Errorf("%d, %s: %v rows, %s slots on its source", i, d.Name, rows, slots)
		}
	}
	if again := fl.run(); true { // there is nothing to do
		<-again.done
		if again.err != nil || again.Finished != databases {
			t.Errorf("%+v, %v", again.Ended, again.err)
		}
	}
}

// refused asks for cutovers that may not be yet.
func (fl *flotilla) refused() {
	t := fl.t
	t.Helper()
	for what, c := range map[string]SwitchConfig{"is not approved": {}, "do not follow: s0_db0 (waits)": {Approved: "anna"}} {
		if s, err := fl.Cutover(t.Context(), 1, c); s != nil || !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), what) {
			t.Errorf("got %+v, %v, want %s", s, err, what)
		}
	}
	if _, err := fl.Cutover(t.Context(), 2, SwitchConfig{}); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "wave 2 comes after wave 1") {
		t.Errorf("wave 2 before wave 1: %v", err)
	}
}

// within makes sure that no source had more slots than the limit, nor more databases being copied than one.
func within(t *testing.T, each []peak, following int) {
	t.Helper()
	for i, m := range each {
		if m.slots > following || m.copying > 1 {
			t.Errorf("source %d: %d slots, %d databases being copied at a time; the limits are %d and 1", i, m.slots, m.copying, following)
		}
		if m.slots == 0 {
			t.Errorf("source %d: no slot was seen", i)
		}
	}
}

// Who comes first in the order has a place first; who does not fit keeps nobody from another place.
func TestPlaces(t *testing.T) {
	t.Parallel()
	a, b := &Server{ID: "a"}, &Server{ID: "b"}
	one, other := &Database{From: a, To: b}, &Database{From: b, To: a}
	p := newPlaces(Limits{All: Bounds{Copying: 3}, PerSource: Bounds{Copying: 1, Following: 2}, PerTarget: Bounds{Copying: 2}})
	has := func(w *waiter) bool {
		select {
		case <-w.ready:
			return true
		default:
			return false
		}
	}
	first, third, second := p.ask(1, one.copying()), p.ask(3, one.copying()), p.ask(2, one.copying())
	if elsewhere := p.ask(4, other.copying()); !has(first) || has(second) || has(third) || !has(elsewhere) {
		t.Error("one of a source copies, and one of the other")
	}
	p.free(one.copying())
	if !has(second) || has(third) {
		t.Error("the order is not that of the ranks")
	}
	p.force(one.following(false))
	p.force(one.following(true)) // its slot is on its target
	ended, end := context.WithCancel(t.Context())
	end()
	if w := p.ask(5, one.following(false)); !has(w) || p.used[place{follow: true, at: "a"}] != 2 {
		t.Error("two follow on a source")
	}
	w := p.ask(6, one.following(false))
	if has(w) || p.wait(ended, w) == nil || slices.Contains(p.waiting, w) {
		t.Error("a third one, which does not wait any more")
	}
}

// A wave stops after as many failures as it may have; what was switched can go back; one database is given up alone.
func TestSwitch(t *testing.T) {
	t.Parallel()
	fl := newFlotilla(t, "defaults: {fall-back: require, max-retained-wal-target: 1GB}\nlimits: {per-source: {copying: none}}\nwaves: {1: {window: 'Sun 02:00-03:00'}}", 1, 3, nil)
	run := fl.run()
	fl.until("all", func(st *Status) bool { return count(st, "following") == 3 })
	sunday := func(hour int) func() time.Time {
		return func() time.Time { return time.Date(2026, 11, 29, hour, 30, 0, 0, time.UTC) }
	}
	if _, err := fl.Cutover(t.Context(), 1, SwitchConfig{Now: sunday(4)}); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "Sun 02:00-03:00, and it is Sun 04:30 UTC") {
		t.Errorf("outside of the window: %v", err)
	}
	if s, err := fl.Cutover(t.Context(), 1, SwitchConfig{DryRun: true}); err != nil || s.Databases[0].State != "done" {
		t.Errorf("a rehearsal: %+v, %v", s, err)
	}
	one, other := fl.In(1)[0], fl.In(1)[1]
	// A column that the target lacks refuses the cutover.
	pgtest.Exec(t, one.Config.Source, `alter table t add column w int`)
	s, err := fl.Cutover(t.Context(), 1, SwitchConfig{Now: sunday(2)})
	if s == nil || s.Failed != 1 || s.Left != 1 || !fail.Is(err, fail.Gate) || s.Databases[0].State != "failed" || s.Databases[1].State != "left" {
		t.Fatalf("%+v, %v", s, err)
	}
	pgtest.Exec(t, one.Config.Source, `alter table t drop column w`)
	if s, err = fl.Cutover(t.Context(), 1, SwitchConfig{Now: sunday(2)}); err != nil || s.Databases[1].State != "done" || s.Databases[1].PauseMS == nil {
		t.Fatalf("%+v, %v", s, err)
	}
	pgtest.Exec(t, other.Config.Target, `update t set v = 'new' where id = 1`)
	fl.until("the way back", func(st *Status) bool {
		return st.of(other.Name).WayBack == "following" && st.of(one.Name).WayBack == "following"
	})
	if s, err = fl.Fallback(t.Context(), 1, SwitchConfig{}); err != nil || s.Databases[0].State != "done" {
		t.Fatalf("%+v, %v", s, err)
	}
	if got := pgtest.Query(t, other.Config.Source, `select v from t where id = 1`)[0][0]; got != "new" {
		t.Errorf("what was written since is not on the old server: %s", got)
	}
	if _, err := fl.Fallback(t.Context(), 1, SwitchConfig{}); !fail.Is(err, fail.Gate) {
		t.Errorf("a second fallback: %v", err)
	}
	given := fl.In(2)[0]
	if err := fl.Abort(t.Context(), given.Name); err != nil {
		t.Fatal(err)
	}
	fl.until("the abort", func(st *Status) bool {
		return st.of(given.Name).Phase == migration.Aborted && count(st, "following") == 2
	})
	run.end()
	if run.Aborted != 1 || len(run.Left) != 2 {
		t.Errorf("%+v", run.Ended)
	}
}
