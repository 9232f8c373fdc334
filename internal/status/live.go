package status

import (
	"fmt"
	"time"

	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/state"
)

// Follow adds what is known of the flow.
func (st *Status) Follow(s flow.Status) {
	st.Stream.AppliedLSN, st.Stream.Transactions, st.Stream.Changes = s.Applied.String(), s.Transactions, s.Changes
	st.Stream.LagBytes = &s.LagBytes
	if s.LagKnown {
		seconds := s.Lag.Seconds()
		st.Stream.LagSeconds = &seconds
	}
	if s.Received != 0 {
		st.Stream.ReceivedLSN = s.Received.String()
	}
	st.Note, st.Counts = s.Note, s.Counts
}

// Live is the part of a status that other processes cannot find out for themselves.
func (st *Status) Live() state.Live {
	l := state.Live{
		Copy: st.Copy, Indexes: st.Indexes, Received: st.Stream.ReceivedLSN, Note: st.Note, NewTables: st.NewTables, Steps: st.Cutover.Steps,
		Step:    st.Step,
		Under:   older(st.Under, time.Now()),
		WayBack: st.Back, Writes: st.Writes, Flow: st.Counts, Hooks: st.Hooks,
		Phases: st.Phases, Ran: st.Switches, Tables: tablesNow(st.Tables, st.Indexing),
		LagUnknown: st.Stream.LagSeconds == nil, RetainedLeft: -1,
	}
	if !l.LagUnknown {
		l.LagSeconds = *st.Stream.LagSeconds
	}
	if st.Source.RetainedLimit != nil {
		l.RetainedLimit = *st.Source.RetainedLimit
	}
	if st.Source.RetainedLeft != nil {
		l.RetainedLeft = *st.Source.RetainedLeft
	}
	return l
}

// fromLive is the inverse of Live.
func (st *Status) fromLive(l *state.Live) {
	st.Copy, st.Indexes, st.Note, st.NewTables = l.Copy, l.Indexes, l.Note, l.NewTables
	st.Stream.ReceivedLSN, st.Cutover.Steps, st.Under = l.Received, l.Steps, l.Under
	st.Back, st.Step, st.Writes = l.WayBack, l.Step, l.Writes
	st.Counts, st.Hooks = l.Flow, l.Hooks
	st.Phases, st.Switches = l.Phases, l.Ran
	st.Runner = fmt.Sprintf("%s, pid %d", l.Host, l.PID)
	if !l.LagUnknown {
		st.Stream.LagSeconds = &l.LagSeconds
	}
	if l.RetainedLimit > 0 {
		st.Source.RetainedLimit = &l.RetainedLimit
	}
	if l.RetainedLeft >= 0 {
		st.Source.RetainedLeft = &l.RetainedLeft
	}
}
