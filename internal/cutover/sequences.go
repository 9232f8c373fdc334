package cutover

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// Sequence is a sequence of the source and where it stands.
type Sequence struct {
	catalog.Sequence
	Position

	// Placed and Before are those of Remembered.
	Placed, Before *Position
}

// Position is where a sequence stands.
type Position struct {
	LastValue int64 `json:"last_value"`
	IsCalled  bool  `json:"is_called"`
}

// perQuery bounds the branches of one UNION ALL.
const perQuery = 500

// ReadSequences reads where the sequences of a list stand. A session with CACHE > 1 may have values
// that nobody has seen; last_value is past all of them.
func ReadSequences(ctx context.Context, q catalog.Querier, list []catalog.Sequence) ([]Sequence, error) {
	sequences := make([]Sequence, len(list))
	for i := range list {
		sequences[i].Sequence = list[i]
	}
	for from := 0; from < len(sequences); from += perQuery {
		part := sequences[from:min(from+perQuery, len(sequences))]
		var sql strings.Builder
		for i := range part {
			if i > 0 {
				sql.WriteString(" union all ")
			}
			fmt.Fprintf(&sql, "select %d, last_value, is_called from %s", i, part[i])
		}
		rows, err := q.Query(ctx, sql.String())
		if err != nil {
			return nil, fmt.Errorf("read sequences: %w", err)
		}
		var i int
		var value int64
		var called bool
		if _, err := pgx.ForEachRow(rows, []any{&i, &value, &called}, func() error {
			part[i].LastValue, part[i].IsCalled = value, called
			return nil
		}); err != nil {
			return nil, fmt.Errorf("read sequences: %w", err)
		}
	}
	return sequences, nil
}

// SetSequences moves the target's sequences to where the source's are, in one statement. One that
// somebody has taken further on the target stays there, so that the target never hands out a value
// twice; one that nobody has drawn from there takes the source's position, wherever that is. A
// CYCLE sequence has no further and is set as it is. The target's others are not looked at.
func SetSequences(ctx context.Context, q catalog.Querier, source []Sequence) error {
	if len(source) == 0 {
		return nil
	}
	list := make([]catalog.Sequence, len(source))
	for i := range source {
		list[i] = source[i].Sequence // they have the same names there
	}
	target, err := ReadSequences(ctx, q, list)
	if err != nil {
		return err
	}
	starts, err := startsOf(ctx, q, list)
	if err != nil {
		return err
	}
	var names []string
	var values []int64
	var called []bool
	for i, s := range source {
		t := target[i].Position
		drawn := t != Position{LastValue: starts[i]} && (s.Placed == nil || t != *s.Placed) && (s.Before == nil || t != *s.Before)
		if drawn && !s.Cycle && further(t, s) {
			continue
		}
		names, values, called = append(names, s.String()), append(values, s.LastValue), append(called, s.IsCalled)
	}
	_, err = q.Exec(ctx, `select setval(s.name::regclass, s.value, s.called)
  from unnest($1::text[], $2::int8[], $3::bool[]) as s(name, value, called)`, names, values, called)
	if err != nil {
		return fmt.Errorf("set %d sequences: %w", len(names), err)
	}
	return nil
}

// startsOf reads the server's own START of each sequence.
func startsOf(ctx context.Context, q catalog.Querier, list []catalog.Sequence) ([]int64, error) {
	names := make([]string, len(list))
	for i := range list {
		names[i] = list[i].String()
	}
	rows, err := q.Query(ctx, `select s.seqstart from unnest($1::text[]) with ordinality n(name, i)
  join pg_sequence s on s.seqrelid = n.name::regclass order by n.i`, names)
	if err != nil {
		return nil, fmt.Errorf("read the start of sequences: %w", err)
	}
	starts, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err == nil && len(starts) < len(list) {
		err = fmt.Errorf("%d of %d are there", len(starts), len(list))
	}
	if err != nil {
		return nil, fmt.Errorf("read the start of sequences: %w", err)
	}
	return starts, nil
}

// further reports whether t has gone past s in s's direction.
func further(t Position, s Sequence) bool {
	if t.LastValue == s.LastValue {
		return t.IsCalled || !s.IsCalled
	}
	if s.Increment < 0 {
		return t.LastValue < s.LastValue
	}
	return t.LastValue > s.LastValue
}
