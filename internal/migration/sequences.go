package migration

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/state"
)

// sequenceState is what a migration remembers of a sequence of the source.
type sequenceState struct {
	catalog.Name

	// As it was when the migration began. What the target has otherwise from the beginning it
	// was given on purpose; what the source has altered since is carried over by the cutover.
	catalog.SequenceDefinition

	// Placed is where a cutover that was not finished has put the target's.
	Placed *cutover.Position `json:"placed,omitempty"`
}

// rememberSequences notes how the source's sequences are defined, once: before the schema is dumped.
func (r *runner) rememberSequences(ctx context.Context) error {
	if known, err := r.store.HasSequences(ctx); known || err != nil {
		return err
	}
	var states []sequenceState
	err := r.source.Do(ctx, func(conn *pgx.Conn) error {
		all, err := catalog.Sequences(ctx, conn)
		for _, s := range all {
			states = append(states, sequenceState{Name: s.Name, SequenceDefinition: s.SequenceDefinition})
		}
		return err
	})
	if err != nil {
		return err
	}
	return r.store.Put(ctx, state.Sequences, states)
}

// readSequences reads what is remembered, and where in it each sequence is.
func (r *runner) readSequences(ctx context.Context) (states []sequenceState, at map[catalog.Name]int, err error) {
	if _, err := r.store.Get(ctx, state.Sequences, &states); err != nil {
		return nil, nil, err
	}
	at = make(map[catalog.Name]int, len(states))
	for i, s := range states {
		at[s.Name] = i
	}
	return states, at, nil
}

// sequenceGate makes the target's sequences what the source's have become since the migration
// began: increment, limits, cycle, cache, type and start. It is done before the fence, as ALTER
// SEQUENCE locks; where the role may not, the cutover is refused with the SQL. Where the target could not take
// a position of the source, for limits that are its own, it is refused as well.
//
// It returns how the source's are defined.
func (r *runner) sequenceGate(ctx context.Context, o CutoverOptions, step func(string)) (gated map[catalog.Name]catalog.SequenceDefinition, err error) {
	if err := r.rememberSequences(ctx); err != nil { // of an older version's migration
		return nil, err
	}
	states, at, err := r.readSequences(ctx)
	if err != nil {
		return nil, err
	}
	var source, target []cutover.Sequence
	err = r.source.Do(ctx, func(conn *pgx.Conn) error {
		all, err := catalog.Sequences(ctx, conn)
		if err == nil {
			source, err = cutover.ReadSequences(ctx, conn, catalog.SequencesOf(all, r.tables))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	now := map[catalog.Name]cutover.Sequence{}
	gated = map[catalog.Name]catalog.SequenceDefinition{}
	for _, s := range source {
		now[s.Name], gated[s.Name] = s, s.SequenceDefinition
	}
	err = r.target.Do(ctx, func(conn *pgx.Conn) error {
		all, err := catalog.Sequences(ctx, conn)
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(t catalog.Sequence) bool { _, ok := now[t.Name]; return !ok })
		target, err = cutover.ReadSequences(ctx, conn, all)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, t := range target {
		s, was := now[t.Name], t.SequenceDefinition // of one that is younger than the migration
		if i, ok := at[t.Name]; ok {
			was = states[i].SequenceDefinition
		}
		if err := r.alterSequence(ctx, s, t, was, o, step); err != nil {
			return nil, err
		}
	}
	return gated, nil
}

// alterSequence brings one sequence t of the target to what s has become of was.
func (r *runner) alterSequence(ctx context.Context, s, t cutover.Sequence, was catalog.SequenceDefinition, o CutoverOptions, step func(string)) error {
	alter := t.Alter(was, s.SequenceDefinition)
	if alter == "" {
		if s.LastValue < t.Min || s.LastValue > t.Max {
			return &GateError{Problem: fmt.Sprintf("sequence %s of the target goes from %d to %d, and the source's stands at %d", t, t.Min, t.Max, s.LastValue), Advice: fmt.Sprintf("on the target: alter sequence %s as %s minvalue %d maxvalue %d; then ask again", t, s.Type, s.Min, s.Max)}
		}
		return nil
	}
	if t.LastValue < s.Min || t.LastValue > s.Max {
		alter += fmt.Sprintf(" restart with %d", s.LastValue)
	}
	sql := fmt.Sprintf("alter sequence %s %s", t, alter)
	if o.DryRun {
		step("the source has altered a sequence; the cutover will run on the target: " + sql)
		return nil
	}
	err := r.onTarget(ctx, o.Timeout/4, nil, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sql)
		return err
	})
	if err != nil {
		return &GateError{Problem: fmt.Sprintf("the source has altered sequence %s, and the target's could not be altered: %v", t, err), Advice: "on the target: " + sql + "; then ask again"}
	}
	step("altered on the target, as on the source: " + sql)
	return nil
}

// setSequences carries over the sequences of the selection and those of no table. gated is how the gate has seen
// those of the source; nil: it has not.
func (r *runner) setSequences(ctx context.Context, conn *pgx.Conn, gated map[catalog.Name]catalog.SequenceDefinition) (int, error) {
	all, err := catalog.Sequences(ctx, conn)
	if err != nil {
		return 0, err
	}
	list := catalog.SequencesOf(all, r.tables)
	for _, s := range list {
		if was, ok := gated[s.Name]; ok && was != s.SequenceDefinition {
			return 0, fmt.Errorf("sequence %s was altered on the source while the cutover went on", s)
		}
	}
	sequences, err := cutover.ReadSequences(ctx, conn, list)
	if err != nil {
		return 0, err
	}
	states, at, err := r.readSequences(ctx)
	if err != nil {
		return 0, err
	}
	for i := range sequences {
		s := &sequences[i]
		n, ok := at[s.Name]
		if !ok {
			n = len(states)
			states = append(states, sequenceState{Name: s.Name, SequenceDefinition: s.SequenceDefinition})
		}
		s.Placed, states[n].Placed = states[n].Placed, &s.Position
	}
	// Noted before it is done: where it is not done after all, nothing stands there.
	if err := r.store.Put(ctx, state.Sequences, states); err != nil {
		return 0, err
	}
	return len(sequences), r.target.Do(ctx, func(conn *pgx.Conn) error { return cutover.SetSequences(ctx, conn, sequences) })
}
