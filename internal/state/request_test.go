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
