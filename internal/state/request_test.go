package state

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/pgtest"
)

// An asker of a run that ended before it could begin learns how things are by now, and whether
// anything was changed.
func TestAnswerAfter(t *testing.T) {
	done := json.RawMessage(`{"pause_ms":7}`)
	for _, c := range []struct {
		kind    string
		dryRun  bool
		phase   Phase
		cutover json.RawMessage
		want    string
		gate    bool
	}{
		{"cutover", false, Finished, done, "", false},
		{"cutover", true, Finished, done, "the cutover is done already", true},
		{"cutover", false, Finished, nil, "the cutover is done already", true},
		{"hold", false, Finished, done, "the cutover was done meanwhile", true},
		{"advance", false, Finished, done, "the cutover was done meanwhile", true},
		{"cutover", false, Aborted, nil, "the migration was aborted meanwhile", true},
		{"hold", false, Aborted, nil, "the migration was aborted meanwhile", true},
		{"cutover", false, Drained, nil, "the running migrate ended within a cutover", false},
		{"cutover", false, Fenced, nil, "the running migrate ended within a cutover", false},
		{"cutover", false, Following, nil, "the running migrate ended before it could begin: nothing was changed", true},
		{"fallback", false, Finished, done, "the way back was given up meanwhile", true},
		{"fallback", false, Fenced, nil, "the running migrate ended within a fallback", false},
		{"cutover", false, Switched, nil, "the cutover is done already", true},
		{"cutover", true, Switched, nil, "the cutover is done already", true},
		{"fallback", false, Switched, nil, "the running migrate ended before it could begin: nothing was changed", true},
		{"fallback", false, Finished, done, "the way back was given up meanwhile", true},
		{"fallback", false, Drained, nil, "the running migrate ended within a fallback", false},
		{"finish", false, Switched, nil, "the running migrate ended before the way back was given up", false},
		{"hold", false, Drained, nil, "the running migrate ended before it could begin: nothing was changed", true},
	} {
		a := answerAfter(&Request{Kind: c.kind, Args: Args{DryRun: c.dryRun}}, c.phase, c.cutover)
		if a.Error != c.want || a.Gate != c.gate {
			t.Errorf("%s (rehearsal: %t) in phase %s: got %q, gate %t; want %q, %t", c.kind, c.dryRun, c.phase, a.Error, a.Gate, c.want, c.gate)
		}
		if a.Error == "" && string(a.Cutover) != string(done) {
			t.Errorf("%s in phase %s: got %s", c.kind, c.phase, a.Cutover)
		}
	}
	if a := answerAfter(&Request{Kind: "finish"}, Finished, nil); a.Error != "" {
		t.Errorf("a way back that was given up: %+v", a)
	}
}

// A migrate that begins tells who asked the one before it what has become of that: a cutover that was opened with a way back is done, of
// another switch nobody knows yet, and what it can carry out itself stays.
func TestAnswerOld_Done(t *testing.T) {
	t.Parallel()
	s, target := newStore(t)
	begin(t, s)
	pgtest.Exec(t, target, `update walferry.migration set phase = 'switched', cutover = '{"pause_ms": 7}'`)
	ask := func(kind, args string, taken bool) {
		pgtest.Exec(t, target, fmt.Sprintf(`insert into walferry.request (migration, kind, args, requested_at, seen_at, taken_at)
select 'test', '%s', '%s', now, now + interval '1 hour', case when %t then now end from clock_timestamp() now`, kind, args, taken))
	}
	ask("cutover", `{}`, true)
	ask("cutover", `{"dry_run": true}`, true)
	ask("fallback", `{}`, true)
	ask("hold", `{}`, true)
	ask("finish", `{}`, true)
	ask("fallback", `{}`, false)
	if err := s.Mailbox().AnswerOld(t.Context(), Switched); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range pgtest.Query(t, target, `select concat_ws(' ', kind, args ->> 'dry_run', taken_at is not null, ok, coalesce(answer -> 'cutover' ->> 'pause_ms', answer ->> 'gate', 'no gate')) from walferry.request order by id`) {
		got = append(got, row[0])
	}
	want := []string{"cutover t t 7", "cutover true t f no gate", "fallback t f no gate", "hold t f true", "finish t no gate", "fallback f no gate"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Whoever asks learns what is before it, in words that people know.
func TestQueued(t *testing.T) {
	held, other := "held for a verify on h (pid 1)", "copying public.t again"
	for _, c := range []struct {
		before []string
		note   *string
		want   string
	}{
		{nil, nil, ""},
		{nil, &other, ""},
		{nil, &held, "waiting: the applier is held for a verify on h (pid 1)"},
		{[]string{"cutover", "false", "12"}, &held, "waiting for the cutover that was asked for 12 s ago"},
		{[]string{"cutover", "true", "0"}, nil, "waiting for the rehearsal that was asked for 0 s ago"},
		{[]string{"hold", "false", "1"}, nil, "waiting for the verify that was asked for 1 s ago"},
	} {
		if got := queued(c.before, c.note); got != c.want {
			t.Errorf("%q: got %q, want %q", c.before, got, c.want)
		}
	}
}
