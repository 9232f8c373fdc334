package state

import (
	"encoding/json"
	"testing"
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
