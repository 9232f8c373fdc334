package applier

import (
	"fmt"
	"maps"
	"slices"

	"github.com/walferry/walferry/decoder"
)

// Original describes a table of the source when it was copied, and the table that it was copied to.
// A name identifies neither: two tables may have swapped names since.
type Original struct {
	// OID is the table's (pg_class.oid). Changes of another table with its name are not applied,
	// nor are its own under another name, unless the table that it was copied to has that name too.
	// Zero: unknown.
	OID uint32

	// Target is the OID of the table of the target that it was copied to; its changes go to no
	// other. Zero: unknown; then the table must have its original name, or one that no original
	// had.
	Target uint32

	// Columns are its columns without generated ones. A column that has been dropped or renamed
	// since, or has another type, must have been altered in the same way on the target. Nil: unknown.
	Columns []OriginalColumn
}

// OriginalColumn is a column of an [Original].
type OriginalColumn struct {
	Name    string
	TypeOID uint32
	TypeMod int32

	// Number is pg_attribute.attnum. The order of the columns reveals that some have swapped names,
	// or were dropped and added again. Zero: unknown; then the order of the table's columns is not
	// checked.
	Number int16

	// Target is the number of the column of the target that it was copied to. After the same ALTER
	// TABLE there the name belongs to another number, and applying continues. Zero: unknown; it is
	// assumed to be the column with the same name.
	Target int16
}

// original returns what is known of a table of the source, and the name that it had; zero: nothing.
// replaced reports whether another table had its name.
func (c *Config) original(r *decoder.Relation) (was Original, name decoder.Name, replaced bool) {
	name = r.Table()
	was, known := c.Originals[name]
	if known && (was.OID == r.OID || was.OID == 0) || r.OID == 0 { // a TRUNCATE of version 10 may name no OID
		return was, name, false
	}
	for name, was := range c.Originals {
		if was.OID == r.OID {
			return was, name, false
		}
	}
	return Original{}, name, known
}

// identify makes sure that the source's table, and the target's table that would take its changes,
// are the pair that was copied.
func (c *Config) identify(t *table, target *targetTable) (Original, error) {
	r := t.relation
	was, name, replaced := c.original(r)
	old := name.Schema + "." + name.Name
	unlike := func(advice, reason string, args ...any) error {
		return &SchemaError{Place: Place{Table: t.label()}, Reason: fmt.Sprintf(reason, args...), advice: advice}
	}
	const again = "what has been written to it before, or to the one that it was, is not on the target: start the migration over with a new copy"
	renamed := name != r.Table()
	restore := fmt.Sprintf("give the source's tables their old names back. What was changed under others comes under these, so that "+
		"the target's must be renamed in the same way (%s to %s.%s) until that is applied; start again: it resumes where it stopped", old, r.Namespace, r.Name)
	switch {
	case replaced:
		return was, unlike(again, "the source's table is another one (oid %d) than it was when it was copied (oid %d): it was dropped and created again, or another one has its name", r.OID, c.Originals[name].OID)
	case target == nil && renamed:
		return was, unlike(restore, "the target has no such table; when it was copied the source's was called %s", old)
	case target == nil:
		return was, unlike("", "the target has no such table")
	case renamed && was.Target == 0:
		if _, taken := c.Originals[r.Table()]; taken {
			return was, unlike(again, "when it was copied the source's table was called %s, and another one had this name: they were renamed", old)
		}
	case was.Target == 0 || was.Target == target.oid:
	case renamed:
		return was, unlike(restore, "when it was copied the source's table was called %s: it was renamed, and the target's table of this name is another one", old)
	default:
		return was, unlike("give the target's tables the names back that they had when they were copied, then start again: it resumes where it stopped; "+
			"where one was dropped and made again, start the migration over",
			"the target's table is another one (oid %d) than that which was copied to (oid %d): it was renamed, or dropped and made again", target.oid, was.Target)
	}
	return was, nil
}

// displaced returns columns of the source that cannot correspond to the target's columns of the
// same names. A column of the target corresponds to the one that it was copied from, whatever its
// name; one that nothing was copied to is new on the source, too. The stream has no column numbers,
// only their order: columns keep their order, and new ones come last. This also reveals changes
// made before an ALTER TABLE of the source that the target has had already.
func (o *Original) displaced(now []decoder.Column, target map[string]column) (names []string) {
	was, of := map[string]bool{}, map[int16]OriginalColumn{}
	for _, c := range o.Columns {
		if c.Number == 0 {
			return nil
		}
		was[c.Name] = true
		if c.Target == 0 {
			c.Target = target[c.Name].number
		}
		of[c.Target] = c
	}
	type place struct {
		name   string
		number int // of the source's column
	}
	var kept []place
	var fresh []string  // names of the source that are new columns on the target, since the previous kept column
	at, number := -1, 0 // of the previous kept column
	for i, c := range now {
		to, there := target[c.Name]
		if !there {
			continue
		}
		w, known := of[to.number]
		if !known {
			if was[c.Name] {
				fresh = append(fresh, c.Name)
			}
			continue
		}
		names = append(names, fresh...) // it comes before one that was there
		fresh = nil
		if room := int(w.Number) - number - 1; i-at-1 > room {
			for _, c := range now[at+1 : i+1] { // one of them is new, or came later
				if !slices.Contains(names, c.Name) {
					names = append(names, c.Name)
				}
			}
		}
		kept = append(kept, place{c.Name, int(w.Number)})
		at, number = i, int(w.Number)
	}
	order := slices.Clone(kept)
	slices.SortFunc(order, func(a, b place) int { return a.number - b.number })
	for i := range kept {
		if kept[i] != order[i] && !slices.Contains(names, kept[i].name) {
			names = append(names, kept[i].name)
		}
	}
	return names
}

// places returns the target's columns by their names on the source. These are the target's own
// names, unless the change was made before the source's columns were renamed and the target's have
// been renamed already, as when a transaction writes, renames and writes again. Then each column
// maps to the one that it was copied to.
func (o *Original) places(now []decoder.Column, target map[string]column) map[string]column {
	if !slices.ContainsFunc(now, func(c decoder.Column) bool { _, ok := target[c.Name]; return !ok }) && o.displaced(now, target) == nil {
		return target
	}
	if !o.untouched(now, target) {
		return target
	}
	called := names(target)
	placed := maps.Clone(target)
	for _, c := range o.Columns {
		delete(placed, called[c.Target])
	}
	for _, c := range o.Columns {
		if name, ok := called[c.Target]; ok {
			placed[c.Name] = target[name]
		}
	}
	return placed
}

// names returns the names of the target's columns, by number.
func names(target map[string]column) map[int16]string {
	names := map[int16]string{}
	for name, to := range target {
		names[to.number] = name
	}
	return names
}

// untouched reports whether the columns show no alteration of the original ones, apart from those
// that both the source and the target have dropped.
func (o *Original) untouched(now []decoder.Column, target map[string]column) bool {
	called, copied := names(target), map[string]column{}
	for _, c := range o.Columns {
		there := slices.ContainsFunc(now, func(n decoder.Column) bool { return n.Name == c.Name })
		switch _, ok := called[c.Target]; {
		case c.Number == 0 || c.Target == 0 || !there && ok:
			return false
		case there:
			copied[c.Name] = column{number: c.Target}
		}
	}
	return len(copied) > 0 && o.displaced(now, copied) == nil
}
