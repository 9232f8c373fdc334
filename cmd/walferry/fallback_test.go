package main

import (
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/state"
)

// Whoever switches learns whether there is a way back, and never that there is one that there is not.
func TestSwitchText(t *testing.T) {
	at := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	from := cutover.LSNText(42)
	done := migration.CutoverResult{FencedAt: &at, DrainedAt: &at, FinishedAt: &at, PauseMS: 70, Tables: 2, Sequences: 1}
	with := func(w *cutover.Armed, change func(*migration.CutoverResult)) *migration.CutoverResult {
		r := done
		r.WayBack = w
		if change != nil {
			change(&r)
		}
		return &r
	}
	rehearsed := func(r *migration.CutoverResult) { r.DryRun, r.FinishedAt = true, nil }
	already := func(r *migration.CutoverResult) { r.Already = true }
	const armed = `the new server is the database now; what is written there comes to the old one, which refuses everybody else's writes
a way back is armed: ` + "`walferry fallback` switches back to the old server; `walferry finish` gives the way back up\n"
	for _, c := range []struct {
		label string
		r     *migration.CutoverResult
		back  bool
		want  string
	}{
		{"none wanted", with(nil, nil), false, "cut over: writes were refused for 70 ms; 2 tables, 1 sequences\n"},
		{"armed", with(&cutover.Armed{From: &from}, nil), false, "cut over: writes were refused for 70 ms; 2 tables, 1 sequences\n" + armed},
		{"asked again", with(&cutover.Armed{From: &from}, already), false, "the cutover is done already, since 2026-05-04 03:02:01 UTC: writes were refused for 70 ms; 2 tables, 1 sequences\n" + armed},
		{"given up", with(&cutover.Armed{From: &from, GivenUp: true}, already), false, "the cutover is done already, since 2026-05-04 03:02:01 UTC: writes were refused for 70 ms; 2 tables, 1 sequences\n" +
			"its way back was given up since: the new server is the database, and the old one does not follow\n"},
		{"none to be had", with(&cutover.Armed{None: "no slot is free"}, nil), false, "cut over: writes were refused for 70 ms; 2 tables, 1 sequences\n" +
			"NO WAY BACK: what is written on the new server does not come to the old one: no slot is free\n"},
		{"fallback", with(&cutover.Armed{From: &from}, nil), true, "fell back: writes were refused for 70 ms; 2 tables, 1 sequences\n" +
			"the old server is the database now; what is written there comes to the new one, which refuses everybody else's writes\n" +
			"`walferry cutover` switches to the new server again; `walferry abort` gives the migration up\n"},
		{"rehearsed", with(&cutover.Armed{ArmedMS: 300}, rehearsed), false, "rehearsed: 2 tables were fenced, drained and un-fenced again; writes were refused for 70 ms\n" +
			"the real pause is longer: what was left out could not be measured\na way back can be armed: that took 300 ms, before the fence\n"},
		{"rehearsed in vain", with(&cutover.Armed{None: "no slot is free"}, rehearsed), false, "rehearsed: 2 tables were fenced, drained and un-fenced again; writes were refused for 70 ms\n" +
			"the real pause is longer: what was left out could not be measured\nNO WAY BACK could be armed, and so a cutover would go on without one: no slot is free\n"},
		{"lag", &migration.CutoverResult{LagMS: 5}, true, "rehearsed without a fence: the old server is 5 ms behind\n"},
	} {
		if got := switchText(c.r, c.back); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.label, got, c.want)
		}
	}
}

// A migrate that goes on after the switch says what it does: once, and again when the way back follows after an interruption, and
// whenever it follows the other way round.
func TestProgress_WayBack(t *testing.T) {
	lag := 0.1
	var following, switched migration.Status
	following.Phase, following.Stream.LagSeconds, switched.Phase = migration.Following, &lag, migration.Switched
	back := func(s state.WayBackState, reason string) migration.Status {
		v := switched
		v.Back = &state.WayBack{State: s, Reason: reason}
		return v
	}
	over := back(state.BackFollowing, "")
	over.Under = &state.Under{Step: "drain"}
	var p *progress
	told := printed(t, func(u *ui) {
		p = &progress{ui: u}
		for _, v := range []migration.Status{
			following, following, switched, back(state.BackFollowing, ""), back(state.BackFollowing, ""), back(state.BackInterrupted, "no label"), back(state.BackFollowing, ""), over, following,
		} {
			p.measure(v)
			p.tell(v)
		}
	})
	var order []string
	for line := range strings.Lines(told) {
		order = append(order, strings.Fields(line)[1])
	}
	if got, want := strings.Join(order, " "), "caught following following caught"; got != want {
		t.Errorf("told %s, want %s:\n%s", got, want, told)
	}
	for want, v := range map[string]migration.Status{
		"switched": switched,
		"following back: 0 transactions/s, lag not known yet, applied , 0 transactions": back(state.BackFollowing, ""),
		"falling back: drain": over,
	} {
		if got := p.line(v, 0); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	lost := back(state.BackLost, "the slot is gone")
	if got := p.line(lost, 0); !strings.HasPrefix(got, "the way back: lost since ") || !strings.HasSuffix(got, ", the slot is gone") {
		t.Errorf("got %q", got)
	}
	if got := p.line(lost, 35); strings.Contains(got, "slot") {
		t.Errorf("35 columns: %q", got)
	}
}
