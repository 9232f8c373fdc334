package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// SequenceDefinition is what CREATE SEQUENCE defines.
type SequenceDefinition struct {
	Type      string `json:"type"`
	Start     int64  `json:"start"`
	Increment int64  `json:"increment"`
	Min       int64  `json:"min"`
	Max       int64  `json:"max"`
	Cache     int64  `json:"cache"`
	Cycle     bool   `json:"cycle"`
}

// Sequence is a sequence of an application, including those of identity columns.
type Sequence struct {
	Name
	Owner string // "schema.table" whose column owns it (serial, identity); empty: none
	SequenceDefinition
	Users     []string // "schema.table" that draw from it by a default or an identity column, whichever table owns it
	CanSelect bool     // current_user may read where it stands
	CanUpdate bool     // and may set it
}

// Sequences lists the application's sequences by schema and name, without those that belong to an
// extension.
func Sequences(ctx context.Context, q Querier) ([]Sequence, error) {
	rows, err := q.Query(ctx, `
select n.nspname::text, c.relname::text,
       coalesce((select tn.nspname || '.' || tc.relname from pg_depend d join pg_class tc on tc.oid = d.refobjid
                   join pg_namespace tn on tn.oid = tc.relnamespace
                  where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass
                    and d.deptype in ('a', 'i') and d.refobjsubid > 0 limit 1), ''),
       format_type(s.seqtypid, null), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
       array(select un.nspname || '.' || uc.relname
               from (select a.adrelid from pg_depend d join pg_attrdef a on a.oid = d.objid
                      where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid
                     union
                     -- from 17 on partitions draw from the sequence of their parent's identity column
                     select b.oid from pg_depend d, lateral (
                            with recursive below(oid) as (
                                select inhrelid from pg_inherits where inhparent = d.refobjid
                                union select i.inhrelid from pg_inherits i join below on i.inhparent = below.oid)
                            select oid from below) b
                      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.refclassid = 'pg_class'::regclass and d.deptype = 'i'
                        and exists (select from pg_attribute where attrelid = b.oid and attidentity <> '')) u(rel)
               join pg_class uc on uc.oid = u.rel join pg_namespace un on un.oid = uc.relnamespace
              order by 1),
       has_sequence_privilege(c.oid, 'SELECT'), has_sequence_privilege(c.oid, 'UPDATE')
  from pg_sequence s join pg_class c on c.oid = s.seqrelid join pg_namespace n on n.oid = c.relnamespace
 where c.relpersistence <> 't' and `+NotOurs+`
   and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by 1, 2`)
	if err != nil {
		return nil, fmt.Errorf("list sequences: %w", err)
	}
	sequences, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s Sequence, err error) {
		err = row.Scan(&s.Schema, &s.Name.Name, &s.Owner, &s.Type, &s.Start, &s.Increment, &s.Min, &s.Max, &s.Cache, &s.Cycle,
			&s.Users, &s.CanSelect, &s.CanUpdate)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("list sequences: %w", err)
	}
	return sequences, nil
}

// SequencesOf returns the sequences that move with these tables: theirs, those that they draw from,
// and those of no table.
func SequencesOf(all []Sequence, tables []Table) []Sequence {
	selected := map[string]bool{"": true}
	for i := range tables {
		selected[tables[i].Plain()] = true
	}
	var ours []Sequence
	for _, s := range all {
		if selected[s.Owner] || slices.ContainsFunc(s.Users, func(user string) bool { return selected[user] }) {
			ours = append(ours, s)
		}
	}
	return ours
}

// Alter returns the end of an ALTER SEQUENCE that applies to a sequence defined as there what has
// changed from was to now; empty if there is nothing to do. What now and was have in common is left
// alone: it may differ on the other server on purpose.
func (there SequenceDefinition) Alter(was, now SequenceDefinition) string {
	var parts []string
	// The type comes first: limits that were those of the old type change with it.
	if was.Type != now.Type && there.Type != now.Type {
		parts = append(parts, "as "+now.Type)
	}
	retyped := len(parts) > 0
	for _, p := range []struct {
		keyword         string
		was, now, there int64
	}{
		{"increment by", was.Increment, now.Increment, there.Increment},
		{"minvalue", was.Min, now.Min, there.Min},
		{"maxvalue", was.Max, now.Max, there.Max},
		{"start with", was.Start, now.Start, there.Start},
		{"cache", was.Cache, now.Cache, there.Cache},
	} {
		if p.was != p.now && (p.there != p.now || retyped) {
			parts = append(parts, fmt.Sprintf("%s %d", p.keyword, p.now))
		}
	}
	if was.Cycle != now.Cycle && there.Cycle != now.Cycle {
		parts = append(parts, map[bool]string{true: "cycle", false: "no cycle"}[now.Cycle])
	}
	return strings.Join(parts, " ")
}

// Unsettable returns the sequences of the source that are missing on the target, and those that
// current_user may not read and set there.
func Unsettable(source, target []Sequence) (missing, denied []Sequence) {
	there := make(map[Name]Sequence, len(target))
	for _, s := range target {
		there[s.Name] = s
	}
	for _, s := range source {
		switch t, ok := there[s.Name]; {
		case !ok:
			missing = append(missing, s)
		case !t.CanSelect || !t.CanUpdate:
			denied = append(denied, t)
		}
	}
	return missing, denied
}
