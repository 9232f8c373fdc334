package identity

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
)

// compare compares tables with what both catalogs have now. It marks in tables the columns that are
// gone from both sides, and reports that in Marked. brought means that the target's schema was not
// created by walferry, lenient that tables that are not migrated may come and go, also below those that are.
func compare(tables []state.Table, now catalogs, brought, lenient bool) (found Changes) {
	migrated := map[string]*state.Table{} // by name as SQL
	byOID := map[uint32]*catalog.Table{}
	for i := range now.All {
		byOID[now.All[i].OID] = &now.All[i]
	}
	for i := range tables {
		migrated[tables[i].String()] = &tables[i]
	}
	for i := range tables {
		was := &tables[i]
		name, key := was.String(), was.Name
		s, t := now.Source[key], now.Target[key]
		switch there := byOID[was.OID]; {
		case s == nil && was.Kind == "p" && there == nil:
			found.Places = append(found.Places, name+" was dropped on the source")
			continue
		case s == nil && was.OID == 0:
			found.Replaced = append(found.Replaced, name+" is gone from the source")
			continue
		case was.OID == 0 || s != nil && (s.OID == was.OID || was.Kind == "p" && s.Kind == 'p'): // a partitioned table holds no rows
		case there != nil:
			found.Renamed = append(found.Renamed, fmt.Sprintf("%s is called %s on the source now", name, there))
			continue
		case s != nil:
			found.Replaced = append(found.Replaced, fmt.Sprintf("%s was dropped on the source and made again (oid %d, was %d): the table that is there now is in no publication", name, s.OID, was.OID))
			continue
		default:
			found.Replaced = append(found.Replaced, name+" was dropped on the source")
			continue
		}
		if t == nil {
			continue // schema.Compare reports what the target lacks
		}
		if was.TargetOID != 0 && was.TargetOID != t.OID && was.Kind != "p" {
			if other := copyOf(tables, t.OID); other != nil {
				// The applier may need it that way for a while: it checks the pair before it
				// applies anything.
				found.Exchanged = append(found.Exchanged, fmt.Sprintf("%s of the target is what %s was copied to", name, other.String()))
			} else {
				found.Replaced = append(found.Replaced, fmt.Sprintf("%s was dropped on the target and made again (oid %d, was %d)", name, t.OID, was.TargetOID))
			}
			continue
		}
		replaced, swapped, marked := compareColumns(was, s, t)
		found.Replaced, found.Swapped = append(found.Replaced, replaced...), append(found.Swapped, swapped...)
		found.Marked = found.Marked || marked
		if what := comparePlaces(was.Place, s, t, migrated, brought); what != "" {
			found.Places = append(found.Places, name+" "+what)
		}
	}
	if !lenient {
		for name, others := range otherChildren(now, migrated) {
			was := migrated[name].Place
			for _, other := range others {
				if was != nil && !slices.Contains(was.Others, other) {
					found.Places = append(found.Places, fmt.Sprintf("%s, which is not migrated, was attached to %s", other, name))
				}
			}
		}
		slices.Sort(found.Places)
	}
	return found
}

// copyOf returns the table that was copied to a table of the target; nil: none known.
func copyOf(tables []state.Table, target uint32) *state.Table {
	i := slices.IndexFunc(tables, func(t state.Table) bool { return t.TargetOID == target })
	if i < 0 {
		return nil
	}
	return &tables[i]
}

// compareColumns checks which column of the source goes into which of the target. Names are not
// enough: a column that was dropped and added again has other values under its old name, and two
// that swapped names have each other's. A column keeps its number for life, so a pair must remain a
// pair.
//
// That a column was dropped and added again shows in the stream if a column that followed it now
// precedes it: then nothing of the table is applied until the target's was, too. The last column
// looks as before, and what was written to the source's new one has gone into the target's old one;
// that both are new afterwards says nothing. One that is gone from both sides is marked as such in
// was: a later one with its name is new.
func compareColumns(was *state.Table, s, t *catalog.Table) (replaced, swapped []string, marked bool) {
	source, target := map[int16]*state.Column{}, map[int16]*state.Column{}
	name := map[string]*state.Column{}
	for i := range was.Columns {
		c := &was.Columns[i]
		if c.Number == 0 || c.Target == 0 {
			return nil, nil, false // of an older version, or missing on the target
		}
		if c.Gone {
			continue
		}
		if !hasNumber(s, c.Number) && !hasNumber(t, c.Target) && s.ColumnsByName()[c.Name] == nil {
			c.Gone, marked = true, true
			continue
		}
		source[c.Number], target[c.Target], name[c.Name] = c, c, c
	}
	there := t.ColumnsByName()
	for i := range s.Columns {
		c := &s.Columns[i]
		to := there[c.Name]
		if c.Generated != 0 || to == nil || to.Generated != 0 {
			continue
		}
		label := fmt.Sprintf("%s: column %s ", s, catalog.Quote(c.Name))
		from, into, old := source[c.Number], target[to.Number], name[c.Name]
		switch {
		case from != nil && from == into:
		case from == nil && into == nil:
			if old != nil && !hasNumber(s, old.Number) && !shown(was, s, old.Number) {
				replaced = append(replaced, label+"was dropped on both sides and added again")
			}
		case from == nil && shown(was, s, into.Number):
			swapped = append(swapped, label+"was dropped on the source and added again")
		case from == nil:
			replaced = append(replaced, label+fmt.Sprintf("of the source is another one than it was (number %d, was %d), as when it is dropped and added again", c.Number, into.Number))
		case into == nil:
			replaced = append(replaced, label+fmt.Sprintf("of the target is another one than it was (number %d, was %d), as when it is dropped and added again", to.Number, from.Target))
		default:
			swapped = append(swapped, label+fmt.Sprintf("of the source was %s, of the target %s", catalog.Quote(from.Name), catalog.Quote(into.Name)))
		}
	}
	return replaced, swapped, marked
}

// shown reports whether the source still has a column that followed another one.
func shown(was *state.Table, s *catalog.Table, number int16) bool {
	return slices.ContainsFunc(was.Columns, func(c state.Column) bool { return c.Number > number && hasNumber(s, c.Number) })
}

func hasNumber(t *catalog.Table, number int16) bool {
	return slices.ContainsFunc(t.Columns, func(c catalog.Column) bool { return c.Number == number })
}

// comparePlaces returns a clause on how a table's place in a hierarchy differs between the sides,
// unless it did from the start; was is nil if that is not known.
func comparePlaces(was *state.Place, s, t *catalog.Table, migrated map[string]*state.Table, brought bool) string {
	for _, parent := range s.Parents {
		if parent, _ = strings.CutSuffix(parent, " (being detached)"); migrated[parent] == nil && was != nil && !slices.Contains(was.Parents, parent) {
			return "was attached to " + parent + " on the source, which is not migrated and not fenced"
		}
	}
	known := func(parents []string) (in []string) {
		for _, parent := range parents {
			if plain, _ := strings.CutSuffix(parent, " (being detached)"); migrated[plain] != nil {
				in = append(in, parent)
			}
		}
		return in
	}
	from, to := known(s.Parents), known(t.Parents)
	moved := was != nil && !slices.Equal(from, known(was.Parents))
	if !slices.Equal(from, to) && (moved || !brought) {
		return fmt.Sprintf("is %s on the source and %s on the target", partOfAny(from), partOfAny(to))
	}
	before := cmp.Or(was, &state.Place{})
	for _, d := range []struct{ what, from, to, was string }{
		{"bound", s.Bound, t.Bound, before.Bound},
		{"key", s.Key, t.Key, before.Key},
	} {
		// Servers of different versions may write the same differently: then only changes count.
		if was != nil && !schema.SameDefinition(d.from, d.to) && !schema.SameDefinition(d.from, d.was) {
			return fmt.Sprintf("has the partition %s %q on the source and %q on the target", d.what, d.from, d.to)
		}
	}
	return ""
}

func partOfAny(parents []string) string {
	if len(parents) == 0 {
		return "no part of another table"
	}
	return "part of " + strings.Join(parents, ", ")
}

// otherChildren returns the children of migrated tables that are not migrated, by the migrated
// table's name as SQL.
func otherChildren(now catalogs, migrated map[string]*state.Table) map[string][]string {
	others := map[string][]string{}
	for _, tables := range [][]catalog.Table{now.All, now.Foreign} {
		for i := range tables {
			if t := &tables[i]; migrated[t.String()] == nil {
				for _, parent := range t.Parents {
					if migrated[parent] != nil {
						others[parent] = append(others[parent], t.String())
					}
				}
			}
		}
	}
	return others
}
