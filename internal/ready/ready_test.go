package ready

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/status"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// gates are those of a report, as names and outcomes.
func gates(r Report) string {
	var all []string
	for _, g := range r.Gates {
		outcome := "?"
		if g.OK != nil {
			outcome = fmt.Sprint(*g.OK)
		}
		all = append(all, g.Name+" "+outcome)
	}
	return fmt.Sprint(r.For, " ", r.Ready, ": ", strings.Join(all, ", "))
}

// What follows from a status alone.
func TestNow(t *testing.T) {
	lag, late := 0.2, 7.0
	follows := status.Status{Phase: state.Following, Running: true, Stream: status.StreamStatus{LagSeconds: &lag}}
	with := func(change func(*status.Status)) *status.Status {
		st := follows
		change(&st)
		return &st
	}
	fine := &Looked{Gates: []Gate{{Name: cutover.GateIdentity, OK: new(true)}}}
	for _, c := range []struct {
		st     *status.Status
		looked *Looked
		want   string
	}{
		{&status.Status{}, nil, "cutover false: phase false"},
		{&status.Status{Phase: state.Copying, Running: true}, fine, "cutover false: phase false"},
		{&follows, nil, "cutover false: phase true, lag true, compared true, identity false, actions ?, sequence definitions ?"},
		{&follows, fine, "cutover true: phase true, lag true, compared true, identity true, actions ?, sequence definitions ?"},
		{with(func(st *status.Status) { st.Running = false }), fine, "cutover false: phase false, lag true, compared true, identity true, actions ?, sequence definitions ?"},
		{with(func(st *status.Status) { st.Stream.LagSeconds = &late }), fine, "cutover false: phase true, lag false, compared true, identity true, actions ?, sequence definitions ?"},
		{with(func(st *status.Status) { st.Stream.LagSeconds = &late }), &Looked{MaxLag: 10 * time.Second, Gates: fine.Gates}, "cutover true: phase true, lag true, compared true, identity true, actions ?, sequence definitions ?"},
		{with(func(st *status.Status) { st.Source.Error = "away" }), fine, "cutover false: phase true, lag false, compared true, identity true, actions ?, sequence definitions ?"},
		{with(func(st *status.Status) { st.LastComparison = &status.LastComparison{Differ: []string{"public.t"}} }), fine, "cutover false: phase true, lag true, compared false, identity true, actions ?, sequence definitions ?"},
		{with(func(st *status.Status) {
			st.Switches = []state.Ran{
				{DryRun: true, Steps: []state.RanStep{{Name: cutover.GateActions, Outcome: state.Failed}}, Error: "it waits"},
				{DryRun: true, Steps: []state.RanStep{{Name: cutover.GateActions, Outcome: state.Done}}},
			}
		}), fine, "cutover true: phase true, lag true, compared true, identity true, actions true, sequence definitions ?"},
		{&status.Status{Phase: state.Switched, Running: true, WayBack: status.WayBack{State: state.BackFollowing, Stream: status.StreamStatus{LagSeconds: &lag}}}, nil, "fallback true: phase true, lag true, compared true"},
		{&status.Status{Phase: state.Switched, Running: true, WayBack: status.WayBack{State: state.BackInterrupted, Unfenced: new("its fence is gone")}}, nil, "fallback false: phase false, lag false, compared true, writers false"},
		{&status.Status{Phase: state.Finished}, nil, "cutover false: phase false"},
	} {
		if got := gates(Now(c.st, c.looked)); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// What both servers show: whatever refuses a cutover is seen before one is asked for, and nothing is changed by looking.
func TestLook(t *testing.T) {
	from, to := pgtest.Default()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, `create table t (id int primary key, v int); insert into t select i, i from generate_series(1, 100) i; create index t_v on t (v)`)
	c := migration.Config{Source: source, Target: target, Name: fmt.Sprintf("ready_%06x", rand.N(1<<24)), Until: migration.UntilCaughtUp, OnNewTable: migration.StopOnNewTable}
	ends := [2]session.Config{{DSN: source, Application: "ready"}, {DSN: target, Application: "ready"}}
	look := func() Report {
		t.Helper()
		looked, err := Look(t.Context(), ends[0], ends[1], c.Name)
		if err != nil {
			t.Fatal(err)
		}
		lag := 0.1
		return Now(&status.Status{Phase: state.Following, Running: true, Stream: status.StreamStatus{LagSeconds: &lag}}, looked)
	}
	if looked, err := Look(t.Context(), ends[0], ends[1], c.Name); err != nil || looked.Gates != nil {
		t.Errorf("before there is a migration: %v, %v", looked, err)
	}
	if _, err := migration.Migrate(t.Context(), c, migration.Observer{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := migration.Abort(context.Background(), c); err != nil {
			t.Error(err)
		}
	})
	record := func() string {
		return fmt.Sprint(pgtest.Query(t, target, `select md5(m::text) from walferry.migration m where name = '`+c.Name+`'`))
	}
	before := record()
	if r := look(); !r.Ready {
		t.Errorf("nothing is wrong: %+v", r.Gates)
	}
	for _, wrong := range []struct{ dsn, do, undo, gate, says string }{
		{source, `create table later (id int primary key)`, `drop table later`, cutover.GateIdentity, "later"},
		{target, `drop index t_v`, `create index t_v on t (v)`, cutover.GateSchema, "t_v"},
	} {
		pgtest.Exec(t, wrong.dsn, wrong.do)
		r := look()
		seen := ""
		for _, g := range r.Gates {
			if g.OK != nil && !*g.OK {
				seen += g.Name + ": " + g.Says
			}
		}
		if r.Ready || !strings.HasPrefix(seen, wrong.gate+": ") || !strings.Contains(seen, wrong.says) {
			t.Errorf("%s: got %q", wrong.do, seen)
		}
		pgtest.Exec(t, wrong.dsn, wrong.undo)
	}
	if r := look(); !r.Ready || record() != before {
		t.Errorf("all is well again: %+v; the record is what it was: %v", r.Gates, record() == before)
	}
	away := ends[0]
	away.DSN = "postgres://nobody@127.0.0.1:1/away"
	if _, err := Look(t.Context(), away, ends[1], c.Name); err == nil {
		t.Error("a source that does not answer is no error")
	}
}
