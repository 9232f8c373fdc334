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
	Schema, Name string
	Owner        string // "schema.table" whose column owns it (serial, identity); empty: none
	Increment    int64
	Cycle        bool
	LastValue    int64
	IsCalled     bool
}

// String is the sequence's name as SQL.
func (s Sequence) String() string { return catalog.Name(s.Schema, s.Name) }

// perQuery bounds the branches of one UNION ALL.
const perQuery = 500

// ReadSequences lists the application's sequences, those of identity columns
// too, with their values. A session with CACHE > 1 may hold values that nobody
// has seen; last_value is past all of them.
func ReadSequences(ctx context.Context, q catalog.Querier) ([]Sequence, error) {
	rows, err := q.Query(ctx, `
select n.nspname::text, c.relname::text, s.seqincrement, s.seqcycle,
       coalesce((select tn.nspname || '.' || tc.relname from pg_depend d join pg_class tc on tc.oid = d.refobjid
                   join pg_namespace tn on tn.oid = tc.relnamespace
                  where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass
                    and d.deptype in ('a', 'i') and d.refobjsubid > 0 limit 1), '')
  from pg_sequence s join pg_class c on c.oid = s.seqrelid join pg_namespace n on n.oid = c.relnamespace
 where c.relpersistence <> 't' and `+catalog.NotOurs+`
 order by 1, 2`)
	if err != nil {
		return nil, fmt.Errorf("list sequences: %w", err)
	}
	sequences, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Sequence, err error) {
		err = row.Scan(&s.Schema, &s.Name, &s.Increment, &s.Cycle, &s.Owner)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("list sequences: %w", err)
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
// statement. One that is further already, in the direction it counts, stays: the
// target never hands out a value twice. A CYCLE sequence has no further and is set
// as it is.
func SetSequences(ctx context.Context, q catalog.Querier, source []Sequence) error {
	if len(source) == 0 {
		return nil
	}
	target, err := ReadSequences(ctx, q)
	if err != nil {
		return err
	}
	at := make(map[[2]string]Sequence, len(target))
	for _, s := range target {
		at[[2]string{s.Schema, s.Name}] = s
	}
	var names []string
	var values []int64
	var called []bool
	for _, s := range source {
		t, ok := at[[2]string{s.Schema, s.Name}]
		if !ok {
			return fmt.Errorf("set sequence %s: the target has none of that name", s)
		}
		if !s.Cycle && further(t, s) {
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
