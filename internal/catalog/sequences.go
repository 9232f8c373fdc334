package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Sequence is a sequence of an application, that of an identity column too.
type Sequence struct {
	Schema, Name string
	Owner        string // "schema.table" whose column owns it (serial, identity); empty: none
	Increment    int64
	Cycle        bool
	CanSelect    bool // current_user may read where it stands
	CanUpdate    bool // and may set it
}

// String is the sequence's name as SQL.
func (s Sequence) String() string { return Name(s.Schema, s.Name) }

// Sequences lists the application's sequences by schema and name, without those
// that belong to an extension.
func Sequences(ctx context.Context, q Querier) ([]Sequence, error) {
	rows, err := q.Query(ctx, `
select n.nspname::text, c.relname::text,
       coalesce((select tn.nspname || '.' || tc.relname from pg_depend d join pg_class tc on tc.oid = d.refobjid
                   join pg_namespace tn on tn.oid = tc.relnamespace
                  where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass
                    and d.deptype in ('a', 'i') and d.refobjsubid > 0 limit 1), ''),
       s.seqincrement, s.seqcycle, has_sequence_privilege(c.oid, 'SELECT'), has_sequence_privilege(c.oid, 'UPDATE')
  from pg_sequence s join pg_class c on c.oid = s.seqrelid join pg_namespace n on n.oid = c.relnamespace
 where c.relpersistence <> 't' and `+NotOurs+`
   and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by 1, 2`)
	if err != nil {
		return nil, fmt.Errorf("list sequences: %w", err)
	}
	sequences, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Sequence, err error) {
		err = row.Scan(&s.Schema, &s.Name, &s.Owner, &s.Increment, &s.Cycle, &s.CanSelect, &s.CanUpdate)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("list sequences: %w", err)
	}
	return sequences, nil
}

// SequencesOf are those of all that move with these tables: theirs, and those of no table.
func SequencesOf(all []Sequence, tables []Table) []Sequence {
	selected := map[string]bool{"": true}
	for i := range tables {
		selected[tables[i].Schema+"."+tables[i].Name] = true
	}
	var ours []Sequence
	for _, s := range all {
		if selected[s.Owner] {
			ours = append(ours, s)
		}
	}
	return ours
}

// Unsettable are the sequences of the source of which the target has none of the
// same name, and those that it has but current_user may not read and set there.
func Unsettable(source, target []Sequence) (missing, denied []Sequence) {
	there := make(map[[2]string]Sequence, len(target))
	for _, s := range target {
		there[[2]string{s.Schema, s.Name}] = s
	}
	for _, s := range source {
		switch t, ok := there[[2]string{s.Schema, s.Name}]; {
		case !ok:
			missing = append(missing, s)
		case !t.CanSelect || !t.CanUpdate:
			denied = append(denied, t)
		}
	}
	return missing, denied
}
