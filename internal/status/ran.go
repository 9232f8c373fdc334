package status

import (
	"time"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/state"
)

// Enter notes that a phase was entered.
func (st *Status) Enter(phase state.Phase) {
	st.Phase, st.Phases = phase, state.Enter(st.Phases, phase, time.Now())
}

// Ran notes that a switch, or its rehearsal, has ended: what it was, the steps that it has taken, what it has measured, and why it was
// not done.
func (st *Status) Ran(kind string, taken []state.Taken, r *cutover.Result, err error) {
	ran := state.Ran{Kind: kind, DryRun: r.DryRun, At: time.Now().UTC().Truncate(time.Millisecond), ExpectMS: r.ExpectMS, Steps: []state.RanStep{}}
	if r.PauseMS > 0 {
		ran.PauseMS = &r.PauseMS
	}
	if err != nil && !r.Sealed {
		ran.Error = err.Error()
	}
	refused := cutover.InFence(taken)
	for i, t := range taken {
		ran.Steps = append(ran.Steps, state.RanStep{Name: t.Name, Outcome: t.Outcome, MS: t.MS, Refused: refused[i]})
	}
	st.Switches = state.KeepRan(st.Switches, ran)
}
