package applier

import (
	"strings"

	"github.com/walferry/walferry/decoder"
)

// alteration is a reason why changes of a table cannot be applied: one side was altered after the
// table was copied, and the other was not.
type alteration struct {
	what    string
	columns []string
	advice  string // if it is other than to alter the target as the source was altered
}

// firstUnpinned is the first OID that servers do not share (FirstGenbkiObjectId in
// access/transam.h); those of built-in types are below it.
const firstUnpinned = 10000

// findAlteration compares the columns that the source has now with those it had and with the
// target's. If original has no columns, it only finds what the target lacks: a column that the
// source no longer has then looks like one of the target's own, which gets its default, and most
// types accept the text of most others, while the rows that the source has rewritten are not in the
// stream.
func findAlteration(original Original, now []decoder.Column, target map[string]column) *alteration {
	was := original.Columns
	current := map[string]decoder.Column{}
	var lacking, dropped, retyped, computed []string
	for _, c := range now {
		current[c.Name] = c
		if to, ok := target[c.Name]; !ok {
			lacking = append(lacking, c.Name)
		} else if to.generated && was != nil {
			computed = append(computed, c.Name)
		}
	}
	for _, old := range was {
		to, ok := target[old.Name]
		if !ok || to.generated {
			continue // the target has followed, or lacks it
		}
		c, ok := current[old.Name]
		switch {
		case !ok && (old.Target == 0 || old.Target == to.number): // or it is the target's own
			dropped = append(dropped, old.Name)
		case !ok:
		case c.TypeOID == old.TypeOID && c.TypeMod == old.TypeMod:
		case c.TypeOID >= firstUnpinned && to.oid >= firstUnpinned:
			// The numbers say nothing about the other server; the values will.
		case c.TypeOID != to.oid || c.TypeMod != to.mod:
			retyped = append(retyped, old.Name)
		}
	}
	if displaced := original.displaced(now, target); displaced != nil {
		if original.untouched(now, target) {
			return &alteration{
				"the target's columns were dropped and added again before this was applied, which is for the old ones: " + strings.Join(displaced, ", "), nil,
				"what it has for the old ones must not go into the new ones, and the old ones are gone: start the migration over with a new copy",
			}
		}
		return &alteration{what: "the source has given columns each other's names, or dropped and added them again", columns: displaced}
	}
	switch {
	case dropped != nil && lacking != nil:
		return &alteration{what: "the source has added or renamed columns that the target lacks, and dropped or renamed columns that the target still has", columns: append(lacking, dropped...)}
	case lacking != nil:
		return &alteration{what: "the target's table lacks columns", columns: lacking}
	case dropped != nil:
		return &alteration{what: "the source has dropped or renamed columns that the target still has", columns: dropped}
	case retyped != nil:
		return &alteration{what: "the source has changed the type of columns", columns: retyped}
	case computed != nil:
		return &alteration{what: "columns are generated on the target and not on the source", columns: computed}
	}
	return nil
}
