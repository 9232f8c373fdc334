package verify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/walferry/walferry/internal/catalog"
)

// explainGenerated explains rows that differ only in generated columns: their values are not
// copied, each server computes its own.
func (v *Verifier) explainGenerated(t *table) {
	r := &t.report
	if r.GeneratedRows == 0 || r.GeneratedRows != r.DifferentRows || r.MissingRows+r.ExtraRows > 0 || len(r.MissingColumns) > 0 {
		return
	}
	var names, stored, search []string
	for _, c := range t.source.Columns {
		if c.Generated == 0 || !slices.ContainsFunc(r.Different, func(k Key) bool { return slices.Contains(k.Columns, c.Name) }) {
			continue
		}
		name := catalog.Quote(c.Name)
		names = append(names, name)
		if c.Generated == 's' {
			stored = append(stored, name)
		}
		if c.TypeOID == tsvector {
			search = append(search, name)
		}
	}
	text := "only generated columns differ, " + strings.Join(names, ", ") + ": nothing was lost, each server computes them with its own functions from equal values"
	if len(search) > 0 && v.source.major < 19 && v.target.major >= 19 {
		text += fmt.Sprintf("; version %d of the target has other text search stemmers than %d, and searches there use them, too", v.target.major, v.source.major)
	}
	text += ". If the " + v.target.name + "'s values are right, continue with --allow-differences. If not, correct the function"
	if len(stored) > 0 {
		text += fmt.Sprintf(" there and have them computed again: update %s set a column that they depend on to itself", t.source.String())
		if v.target.major >= 17 {
			text += fmt.Sprintf(", or alter table %s alter column %s set expression as (...)", t.source.String(), stored[0])
		}
	}
	r.Hint = text
}

const tsvector = 3614
