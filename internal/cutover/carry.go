package cutover

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/internal/state"
)

// Remembered is what a migration knows of a sequence of the source.
type Remembered struct {
	catalog.Name

	// As it was when the migration began. Where the target differs from the beginning, that is on
	// purpose; what the source has altered since is carried over by the cutover.
	catalog.SequenceDefinition

	// Placed is where the target's was put last, by an unfinished cutover, or to be ahead of the source's; Before is where it was put
	// before that. Nobody has drawn from it there. It stands at one of them: what is recorded is done afterwards.
	Placed *Position `json:"placed,omitempty"`
	Before *Position `json:"placed_before,omitempty"`
}

// Carrier carries sequences over, and records what it needs for that.
type Carrier struct {
	From, To *session.Link
	Sides    sides.Sides
	Store    *state.Store
	Tables   func() []catalog.Table // whose sequences are carried over, with those of no table
	Owned    bool                   // those of no table are not
	// Alter runs a statement on To that needs a lock, which nobody has to queue behind for long,
	// and keeps trying for as long as patience.
	Alter func(ctx context.Context, patience time.Duration, sql string) error

	gated map[catalog.Name]catalog.SequenceDefinition // those of From as the gate has seen them; nil: it has not looked
	ends  map[catalog.Name]width                      // of columns; see ReadEnds
	set   []Sequence                                  // of From, as Set has carried them over

	except map[catalog.Name]Position // those of From that stand there are not carried over
}

// Remember records how the source's sequences are defined, once: before the schema is dumped.
func (c *Carrier) Remember(ctx context.Context) error {
	if known, err := c.Store.Values().HasSequences(ctx); known || err != nil {
		return err
	}
	var states []Remembered
	err := c.From.Do(ctx, func(conn *pgx.Conn) error {
		all, err := catalog.Sequences(ctx, conn)
		for _, s := range all {
			states = append(states, Remembered{Name: s.Name, SequenceDefinition: s.SequenceDefinition})
		}
		return err
	})
	if err != nil {
		return err
	}
	return c.Store.Values().Put(ctx, state.Sequences, states)
}

// of returns those of From's sequences that are carried over.
func (c *Carrier) of(all []catalog.Sequence) []catalog.Sequence {
	list := catalog.SequencesOf(all, c.Tables())
	if !c.Owned {
		return list
	}
	return slices.DeleteFunc(list, func(s catalog.Sequence) bool { return s.Owner == "" && len(s.Users) == 0 })
}

// read reads what is remembered, and the index of each sequence in it.
func (c *Carrier) read(ctx context.Context) (states []Remembered, at map[catalog.Name]int, err error) {
	if _, err := c.Store.Values().Get(ctx, state.Sequences, &states); err != nil {
		return nil, nil, err
	}
	at = make(map[catalog.Name]int, len(states))
	for i, s := range states {
		at[s.Name] = i
	}
	return states, at, nil
}

// Gate makes the target's sequences what the source's have become since the migration began:
// increment, limits, cycle, cache, type and start. It runs before the fence, as ALTER SEQUENCE
// locks; where the role may not, the cutover is refused with the SQL. It is refused as well where
// the target could not take a position of the source, for limits of its own.
func (c *Carrier) Gate(ctx context.Context, patience time.Duration, rehearse bool, tell func(string)) error {
	if err := c.Remember(ctx); err != nil { // of an older version's migration
		return err
	}
	states, at, err := c.read(ctx)
	if err != nil {
		return err
	}
	var source, target []Sequence
	err = c.From.Do(ctx, func(conn *pgx.Conn) error {
		all, err := catalog.Sequences(ctx, conn)
		if err == nil {
			source, err = ReadSequences(ctx, conn, c.of(all))
		}
		return err
	})
	if err != nil {
		return err
	}
	now := map[catalog.Name]Sequence{}
	c.gated = map[catalog.Name]catalog.SequenceDefinition{}
	for _, s := range source {
		now[s.Name], c.gated[s.Name] = s, s.SequenceDefinition
	}
	err = c.To.Do(ctx, func(conn *pgx.Conn) error {
		all, err := catalog.Sequences(ctx, conn)
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(t catalog.Sequence) bool { _, ok := now[t.Name]; return !ok })
		target, err = ReadSequences(ctx, conn, all)
		return err
	})
	if err != nil {
		return err
	}
	for _, t := range target {
		s, was := now[t.Name], t.SequenceDefinition // of one that is younger than the migration
		if i, ok := at[t.Name]; ok {
			was = states[i].SequenceDefinition
		}
		if err := c.alter(ctx, s, t, was, patience, rehearse, tell); err != nil {
			return err
		}
	}
	return nil
}

// alter makes one sequence t of the target what s has become of was.
func (c *Carrier) alter(ctx context.Context, s, t Sequence, was catalog.SequenceDefinition, patience time.Duration, rehearse bool, tell func(string)) error {
	alter := t.Alter(was, s.SequenceDefinition)
	if alter == "" {
		if s.LastValue < t.Min || s.LastValue > t.Max {
			return &fail.Error{
				Kind:    fail.Gate,
				Problem: fmt.Sprintf("sequence %s of the %s goes from %d to %d, and the %s's stands at %d", t, c.Sides.To(), t.Min, t.Max, c.Sides.From(), s.LastValue),
				Advice:  fmt.Sprintf("on the %s: alter sequence %s as %s minvalue %d maxvalue %d; then ask again", c.Sides.To(), t, s.Type, s.Min, s.Max),
			}
		}
		return nil
	}
	if t.LastValue < s.Min || t.LastValue > s.Max {
		alter += fmt.Sprintf(" restart with %d", s.LastValue)
	}
	sql := fmt.Sprintf("alter sequence %s %s", t, alter)
	if rehearse {
		tell(fmt.Sprintf("the %s has altered a sequence; the %s will run on the %s: %s", c.Sides.From(), c.Sides.Switch(), c.Sides.To(), sql))
		return nil
	}
	err := c.Alter(ctx, patience, sql)
	if err != nil {
		return &fail.Error{
			Kind:    fail.Gate,
			Problem: fmt.Sprintf("the %s has altered sequence %s, and the %s's could not be altered: %v", c.Sides.From(), t, c.Sides.To(), err),
			Advice:  fmt.Sprintf("on the %s: %s; then ask again", c.Sides.To(), sql),
		}
	}
	tell(fmt.Sprintf("altered on the %s, as on the %s: %s", c.Sides.To(), c.Sides.From(), sql))
	return nil
}

// Set carries over the sequences of the selection and those of no table, and returns how many there
// are. conn is to From.
func (c *Carrier) Set(ctx context.Context, conn *pgx.Conn) (int, error) {
	all, err := catalog.Sequences(ctx, conn)
	if err != nil {
		return 0, err
	}
	list := c.of(all)
	for _, s := range list {
		if was, ok := c.gated[s.Name]; ok && was != s.SequenceDefinition {
			return 0, fmt.Errorf("sequence %s was altered on the %s during the %s", s, c.Sides.From(), c.Sides.Switch())
		}
	}
	sequences, err := ReadSequences(ctx, conn, list)
	if err != nil {
		return 0, err
	}
	sequences = slices.DeleteFunc(sequences, func(s Sequence) bool { at, ok := c.except[s.Name]; return ok && at == s.Position })
	states, at, err := c.read(ctx)
	if err != nil {
		return 0, err
	}
	for i := range sequences {
		states = placed(states, at, &sequences[i])
	}
	c.set = sequences
	// Recorded before it is done: if it is not done after all, no sequence stands there.
	if err := c.Store.Values().Put(ctx, state.Sequences, states); err != nil {
		return 0, err
	}
	return len(sequences), c.To.Do(ctx, func(conn *pgx.Conn) error { return SetSequences(ctx, conn, sequences) })
}

// placed notes in the states that a sequence is put where s is, and in s where it was put before.
func placed(states []Remembered, at map[catalog.Name]int, s *Sequence) []Remembered {
	n, ok := at[s.Name]
	if !ok {
		n, at[s.Name] = len(states), len(states)
		states = append(states, Remembered{Name: s.Name, SequenceDefinition: s.SequenceDefinition})
	}
	to := s.Position
	s.Placed, s.Before = states[n].Placed, states[n].Before
	states[n].Placed, states[n].Before = &to, states[n].Placed
	return states
}

// measure sets as many sequences as there are, but its own: what setval does stays whatever becomes
// of its transaction.
func (c *Carrier) measure(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	var list []catalog.Sequence
	err := c.From.Do(ctx, func(conn *pgx.Conn) error {
		all, err := catalog.Sequences(ctx, conn)
		if err != nil {
			return err
		}
		list = c.of(all)
		_, err = ReadSequences(ctx, conn, list)
		return err
	})
	if err != nil || len(list) == 0 {
		return time.Since(began), err
	}
	var made time.Duration
	err = c.To.Do(ctx, func(conn *pgx.Conn) error {
		if _, err := ReadSequences(ctx, conn, list); err != nil {
			return err
		}
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // that is the point
		making := time.Now()
		if _, err := tx.Exec(ctx, `create temporary sequence walferry_measured`); err != nil {
			return err
		}
		made = time.Since(making)
		_, err = tx.Exec(ctx, `select setval('pg_temp.walferry_measured', n) from generate_series(1, $1::int8) n`, len(list))
		return err
	})
	return time.Since(began) - made, err
}
