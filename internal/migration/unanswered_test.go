package migration

import "testing"

// Whoever has asked a run that ended before it could begin learns how things are by now, and
// whether anything was changed.
func TestAnswerAfter(t *testing.T) {
	done := &CutoverResult{PauseMS: 7}
	for _, c := range []struct {
		kind    string
		dryRun  bool
		phase   Phase
		cutover *CutoverResult
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
		a := answerAfter(&request{Kind: c.kind, Args: requestArgs{DryRun: c.dryRun}}, c.phase, c.cutover)
		if a.Error != c.want || a.Gate != c.gate {
			t.Errorf("%s (rehearsal: %t) in phase %s: got %q, gate %t; want %q, %t", c.kind, c.dryRun, c.phase, a.Error, a.Gate, c.want, c.gate)
		}
		if a.Error == "" && (a.Cutover == nil || !a.Cutover.Already || a.Cutover.PauseMS != 7 || done.Already) {
			t.Errorf("%s in phase %s: got %+v", c.kind, c.phase, a.Cutover)
		}
	}
}
