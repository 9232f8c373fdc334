package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/shop"
)

// soakFaults are those in which the one migrate that follows stays alive.
var soakFaults = regexp.MustCompile(`crashed|restarted|sessions ended|cancelled|locked on|deadlock|open transaction|reset at|black hole|cut in|flapping|slow|somebody else`)

// gauge is something that must not grow.
type gauge struct {
	name   string
	values []float64
	slack  float64 // by which the end may be above the beginning, besides half of that
}

// TestSoak follows shop for as long as WALFERRY_TEST_SOAK_MINUTES says, with faults now and then,
// and draws what must not grow: memory, goroutines, files, slots, walferry's own tables. `make soak` runs it.
func TestSoak(t *testing.T) {
	minutes, err := strconv.ParseFloat(os.Getenv("WALFERRY_TEST_SOAK_MINUTES"), 64)
	if err != nil {
		t.Skip("WALFERRY_TEST_SOAK_MINUTES is not set: it takes as long as one wants it to")
	}
	seed := uint64(time.Now().UnixNano()) % 1e9
	a := newArena(t, seed)
	w, err := shop.Start(t.Context(), shop.Config{Source: a.direct.source, Target: a.direct.target, Migration: a.c.Name, Clients: 6, TPS: 50, Seed: seed, Batch: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	a.supervise()
	a.watchAcks()
	direct := migration.Config{Source: a.direct.source, Target: a.direct.target, Name: a.c.Name}
	follows(t, direct, 1)
	random := rand.New(rand.NewPCG(seed, 4))
	var chosen []fault
	for _, f := range faults {
		if soakFaults.MatchString(f.name) {
			chosen = append(chosen, f)
		}
	}
	gauges := []*gauge{
		{name: "memory of migrate, MB", slack: 32},
		{name: "goroutines of migrate", slack: 10},
		{name: "open files of migrate", slack: 10},
		{name: "slots on the source", slack: 1},
		{name: "schema walferry on the target, kB", slack: 1024},
		{name: "schema walferry on the source, kB", slack: 1024},
		{name: "lag, s", slack: 60},
	}
	source, target := newLine(t, a.direct.source), newLine(t, a.direct.target)
	began := time.Now()
	end := began.Add(time.Duration(minutes * float64(time.Minute)))
	nextFault := began.Add(time.Minute)
	pid, restarts := 0, -1
	for ; time.Now().Before(end) && !t.Failed(); time.Sleep(5 * time.Second) {
		if time.Now().After(nextFault) && time.Until(end) > 2*time.Minute {
			f := chosen[random.IntN(len(chosen))]
			t.Logf("%s  fault: %s", time.Now().Format("15:04:05"), f.name)
			f.do(a, rand.New(rand.NewPCG(random.Uint64(), 0)))
			nextFault = time.Now().Add(time.Duration(30+random.IntN(60)) * time.Second)
			continue
		}
		now := 0
		a.signal(func(p *os.Process) { now = p.Pid })
		if now != pid {
			pid, restarts = now, restarts+1
		}
		sample := a.sample(pid, source, target)
		for i, g := range gauges {
			if sample != nil {
				g.values = append(g.values, sample[i])
			}
		}
	}
	a.heal()
	report := w.Report()
	t.Logf("%.0f minutes, %d transactions on the source, migrate was started again %d times", time.Since(began).Minutes(), report.Source, restarts)
	for _, g := range gauges {
		t.Logf("%-36s %s", g.name, g.draw())
		if first, last := g.part(1), g.part(3); last > 1.5*first+g.slack {
			t.Errorf("%s has grown: %.0f in the second quarter, %.0f in the last", g.name, first, last)
		}
	}
	eventually(t, "a migrate that follows", func() (bool, string) {
		st, err := migration.ReadStatus(t.Context(), direct)
		return err == nil && st.Phase == migration.Following && st.Running && st.Stream.LagSeconds != nil && *st.Stream.LagSeconds < 3, fmt.Sprintf("%+v, %v", st, err)
	})
	c := a.c
	c.Cut.MaxLag, c.Cut.Timeout = patience, patience
	if _, err := migration.Cutover(context.Background(), c, nil); err != nil {
		t.Fatalf("cutover: %v", err)
	}
	a.finished()
	eventually(t, "writes on the target by every client", func() (bool, string) { return w.Report().Switched >= 6, fmt.Sprintf("%+v", w.Report()) })
	report = w.Stop()
	if err := w.Check(t.Context(), a.direct.target); err != nil {
		t.Errorf("check: %v", err)
	}
	sourceKeeps(t, w, a.direct.source, report)
}

// sample reads the gauges; nil: not just now.
func (a *arena) sample(pid int, source, target *line) []float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil
	}
	var rss float64
	for _, line := range strings.Split(string(status), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			fmt.Sscan(rest, &rss) //nolint:errcheck // a number and kB
		}
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return nil
	}
	const size = `select coalesce(sum(pg_total_relation_size(c.oid)), 0)::text from pg_class c join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'walferry' where c.relkind = 'r'`
	sample := []float64{rss / 1024, 0, float64(len(files))}
	for i, q := range []struct {
		on  *line
		sql string
	}{
		{target, `select live ->> 'goroutines' from walferry.migration where name = '` + a.c.Name + `'`},
		{source, `select count(*)::text from pg_replication_slots`},
		{target, size},
		{source, size},
		{target, `select live ->> 'lag_seconds' from walferry.migration where name = '` + a.c.Name + `'`},
	} {
		text, err := q.on.ask(q.sql)
		if err != nil {
			return nil
		}
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil
		}
		switch {
		case i == 0:
			sample[1] = n
		case q.sql == size:
			sample = append(sample, n/1024)
		default:
			sample = append(sample, n)
		}
	}
	return sample
}

// part is the median of a quarter of the values.
func (g *gauge) part(quarter int) float64 {
	n := len(g.values)
	values := slices.Sorted(slices.Values(g.values[n*quarter/4 : n*(quarter+1)/4]))
	if len(values) == 0 {
		return 0
	}
	return values[len(values)/2]
}

// draw makes a line of up to 60 bars, each the highest of its time, and says the extremes.
func (g *gauge) draw() string {
	if len(g.values) == 0 {
		return "(nothing was seen)"
	}
	const width = 60
	least, most := slices.Min(g.values), slices.Max(g.values)
	var line strings.Builder
	n := len(g.values)
	for i := range min(width, n) {
		v := slices.Max(g.values[i*n/min(width, n) : max(i*n/min(width, n)+1, (i+1)*n/min(width, n))])
		line.WriteRune([]rune("▁▂▃▄▅▆▇█")[int(7*v/max(most, 1e-9))])
	}
	return fmt.Sprintf("%s  %.1f to %.1f", line.String(), least, most)
}
