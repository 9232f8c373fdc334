package schema

import (
	"context"
	"fmt"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/state"
)

// Alterations returns what the source has done to its tables since the migration began and the
// target has not: was are the tables as they were, source and target as they are now. brought says
// that somebody else has created the target's schema.
func Alterations(was []state.Table, source, target []catalog.Table, brought bool) (found []string) {
	now, there := map[catalog.Name]*catalog.Table{}, map[catalog.Name]*catalog.Table{}
	for i := range source {
		now[source[i].Name] = &source[i]
	}
	for i := range target {
		there[target[i].Name] = &target[i]
	}
	for _, table := range was {
		s, t := now[table.Name], there[table.Name]
		if s == nil || t == nil {
			continue // reported by package identity, or by Compare
		}
		found = append(found, alterations(table.Columns, s, t)...)
		if !brought {
			found = append(found, newGenerated(s, t)...)
		}
	}
	return found
}

// alterations returns the columns that the source has dropped, renamed or given another type since
// they were as in was, and the target has not. That both types fit is not enough then: the source
// has rewritten its rows. What was different from the beginning is not looked at, and what is
// missing on the target is reported by Compare.
func alterations(was []state.Column, s, t *catalog.Table) (found []string) {
	now, there := s.ColumnsByName(), t.ColumnsByName()
	for _, old := range was {
		c, to := now[old.Name], there[old.Name]
		switch {
		case to == nil:
		case c == nil:
			found = append(found, fmt.Sprintf("%s: column %s was dropped or renamed on the source", s, catalog.Quote(old.Name)))
		case (c.TypeOID != old.TypeOID || c.TypeMod != old.TypeMod) && c.Type != to.Type:
			found = append(found, fmt.Sprintf("%s: column %s has become %s on the source and is %s on the target", s, catalog.Quote(old.Name), c.Type, to.Type))
		}
	}
	return found
}

// newGenerated returns the generated columns of the source that the target lacks.
func newGenerated(s, t *catalog.Table) (found []string) {
	there := t.ColumnsByName()
	for i := range s.Columns {
		if c := &s.Columns[i]; c.Generated != 0 && there[c.Name] == nil {
			found = append(found, fmt.Sprintf("%s: generated column %s is missing on the target", s, catalog.Quote(c.Name)))
		}
	}
	return found
}

// AlteredIndexes returns the altered indexes that Alterations does not look at. tables are those of
// the source that are migrated.
func AlteredIndexes(ctx context.Context, was []state.Table, tables []catalog.Table, source, target catalog.Querier, brought bool) ([]string, error) {
	from, err := IndexForms(ctx, source)
	if err != nil {
		return nil, err
	}
	to, err := IndexForms(ctx, target)
	if err != nil {
		return nil, err
	}
	return indexAlterations(was, tables, from, to, brought), nil
}

// indexAlterations returns the indexes of both sides that are not the same under the same name.
// What each side writes of an expression in its own way, and, with brought, an index that the user
// has created otherwise from the beginning, counts only if the source's was created again since.
func indexAlterations(was []state.Table, tables []catalog.Table, source, target []IndexForm, brought bool) (found []string) {
	there := map[string]IndexForm{}
	for _, t := range target {
		there[t.Name] = t
	}
	sums, known := map[string]string{}, map[uint32]bool{}
	for _, table := range was {
		for name, sum := range table.Indexes {
			sums[name] = sum
		}
	}
	for i := range tables {
		known[tables[i].OID] = true
	}
	for _, s := range source {
		t, ok := there[s.Name]
		if !known[s.OID] || !ok || s.Form == t.Form {
			continue
		}
		if sum, recorded := sums[s.Name]; s.Plain && t.Plain && !brought || recorded && sum != s.Sum() {
			found = append(found, fmt.Sprintf("index %s is %q on the source and %q on the target", s.Name, s.Definition, t.Definition))
		}
	}
	return found
}
