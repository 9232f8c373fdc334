package cutover

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// Sequence is a sequence and where it stands.
type Sequence struct {
	catalog.Sequence
	LastValue int64
	IsCalled  bool
}

// perQuery bounds the branches of one UNION ALL.
const perQuery = 500

// ReadSequences reads where the sequences of a list stand. A session with CACHE > 1
// may hold values that nobody has seen; last_value is past all of them.
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

// SetSequences moves the target's sequences to where the source's are, in one
// statement. One that the target has taken further stays there, so that the
// target never hands out a value twice. A CYCLE sequence has no further and is set
// as it is. The target's others are not looked at.
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
	var names []string
	var values []int64
	var called []bool
	for i, s := range source {
		if !s.Cycle && further(target[i], s) {
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

// further tells whether t has gone past s in s's direction.
func further(t, s Sequence) bool {
	if t.LastValue == s.LastValue {
		return t.IsCalled || !s.IsCalled
	}
	if s.Increment < 0 {
		return t.LastValue < s.LastValue
	}
	return t.LastValue > s.LastValue
}
