package migration

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
)

// columnStates are a table's columns as the stream has them.
func columnStates(t *catalog.Table) (states []state.Column) {
	for i := range t.Columns {
		if c := &t.Columns[i]; c.Generated == 0 {
			states = append(states, state.Column{Number: c.Number, Name: c.Name, TypeOID: c.TypeOID, TypeMod: c.TypeMod})
		}
	}
	return states
}

// originals tells the applier what the source's tables were, and where they were copied to.
func (r *runner) originals() map[catalog.Name]applier.Original {
	r.mu.Lock()
	defer r.mu.Unlock()
	originals := map[catalog.Name]applier.Original{}
	for _, t := range r.rec.Tables {
		o := applier.Original{OID: t.OID, Target: t.TargetOID}
		for _, c := range t.Columns {
			o.Columns = append(o.Columns, applier.OriginalColumn{Name: c.Name, TypeOID: c.TypeOID, TypeMod: c.TypeMod, Number: c.Number, Target: c.Target})
		}
		originals[t.Name] = o
	}
	return originals
}

// schemaGate: the source's rows fit into the target's tables, and whatever the source
// has altered since the migration began, the target has too; the applier sees that
// only of tables that change after they were altered. Where the schema is walferry's
// work, every index and constraint is there and valid; foreign keys that the role can
// have only inside the fence are still to come. Every sequence that is to be set can
// be. What it has read of the source's tables is what the cutover goes on with.
func (r *runner) schemaGate(ctx context.Context, without []string) error {
	may, err := r.replicaRole(ctx)
	if err != nil {
		return err
	}
	options, err := r.schemaOptions(ctx)
	if err != nil {
		return err
	}
	if err := r.selectTables(ctx); err != nil { // as they are now
		return err
	}
	var altered, missing, denied []string
	var lost []schema.Loss
	err = r.source.Do(ctx, func(source *pgx.Conn) error {
		return r.target.Do(ctx, func(target *pgx.Conn) error {
			lost, altered = nil, nil
			differences, err := schema.Compare(ctx, source, target, r.tables)
			if err != nil {
				return err
			}
			for _, d := range differences {
				altered = append(altered, d.String())
			}
			there, err := catalog.Tables(ctx, target)
			if err != nil {
				return err
			}
			altered = append(altered, r.alterations(there)...)
			indexes, err := r.alteredIndexes(ctx, source, target)
			if err != nil {
				return err
			}
			altered = append(altered, indexes...)
			from, err := catalog.Sequences(ctx, source)
			if err != nil {
				return err
			}
			to, err := catalog.Sequences(ctx, target)
			if err != nil {
				return err
			}
			absent, refused := catalog.Unsettable(catalog.SequencesOf(from, r.tables), to)
			missing, denied = names(absent), names(refused)
			if r.c.Schema == "none" {
				return nil
			}
			losses, err := schema.LostIndexes(ctx, source, target, options)
			for _, l := range losses {
				if l.NotValid() {
					r.c.Logger.Warn("cutover: " + l.String() + ", which does for new rows")
				} else if may || !strings.HasPrefix(l.Source, "foreign key") {
					lost = append(lost, l)
				}
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	if len(altered) > 0 {
		return &GateError{Problem: "the tables of both sides do not fit any more: " + list(altered), Advice: "alter the target's as the source's were, and ask again"}
	}
	if len(missing) > 0 {
		return &GateError{Problem: "the target lacks sequences: " + list(missing), Advice: "create them on the target as the source has them, or drop them on the source, and ask again"}
	}
	if len(denied) > 0 {
		return &GateError{Problem: "the role of the target may not read and set the sequences " + list(denied), Advice: "GRANT SELECT, UPDATE ON SEQUENCE to it, and ask again"}
	}
	return r.missingGate(ctx, lost, without)
}

func names(sequences []catalog.Sequence) (names []string) {
	for _, s := range sequences {
		names = append(names, s.String())
	}
	return names
}

// alterations are what the source has done to its tables since the migration began
// and the target, of which there are the tables, has not.
func (r *runner) alterations(there []catalog.Table) (found []string) {
	now, target := map[catalog.Name]*catalog.Table{}, map[catalog.Name]*catalog.Table{}
	for i := range r.tables {
		now[r.tables[i].Name] = &r.tables[i]
	}
	for i := range there {
		target[there[i].Name] = &there[i]
	}
	for _, table := range r.rec.Tables {
		s, t := now[table.Name], target[table.Name]
		if s == nil || t == nil {
			continue // told by identityGate, or by schema.Compare
		}
		found = append(found, alterations(table.Columns, s, t)...)
		if r.c.Schema != "none" {
			found = append(found, newGenerated(s, t)...)
		}
	}
	return found
}

// alterations are the columns that the source has dropped, renamed or given another
// type since they were as in was, and the target has not. That both types fit is not
// enough then: the source has written its rows anew. What was different all along is
// not looked at, and what is missing on the target is told by schema.Compare.
func alterations(was []state.Column, s, t *catalog.Table) (found []string) {
	now, there := columnsByName(s), columnsByName(t)
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

// newGenerated are the generated columns of the source that the target lacks.
func newGenerated(s, t *catalog.Table) (found []string) {
	there := columnsByName(t)
	for i := range s.Columns {
		if c := &s.Columns[i]; c.Generated != 0 && there[c.Name] == nil {
			found = append(found, fmt.Sprintf("%s: generated column %s is missing on the target", s, catalog.Quote(c.Name)))
		}
	}
	return found
}

func columnsByName(t *catalog.Table) map[string]*catalog.Column {
	columns := map[string]*catalog.Column{}
	for i := range t.Columns {
		columns[t.Columns[i].Name] = &t.Columns[i]
	}
	return columns
}

// indexSum is as much of an index's form as tells that it is another one.
func indexSum(f schema.IndexForm) string {
	sum := fnv.New64a()
	io.WriteString(sum, f.Form) //nolint:errcheck // a hash takes everything
	return strconv.FormatUint(sum.Sum64(), 36)
}

// indexAlterations are the indexes of both sides that are not the same under the same name. What each side writes of an
// expression in its own way, and, with brought, an index that the user has made otherwise
// from the beginning, counts only where the source's was made anew since.
func (r *runner) indexAlterations(source, target []schema.IndexForm, brought bool) (found []string) {
	there := map[string]schema.IndexForm{}
	for _, t := range target {
		there[t.Name] = t
	}
	was, known := map[string]string{}, map[uint32]bool{}
	for _, table := range r.rec.Tables {
		for name, sum := range table.Indexes {
			was[name] = sum
		}
	}
	for i := range r.tables {
		known[r.tables[i].OID] = true
	}
	for _, s := range source {
		t, ok := there[s.Name]
		if !known[s.OID] || !ok || s.Form == t.Form {
			continue
		}
		if sum, recorded := was[s.Name]; s.Plain && t.Plain && !brought || recorded && sum != indexSum(s) {
			found = append(found, fmt.Sprintf("index %s is %q on the source and %q on the target", s.Name, s.Definition, t.Definition))
		}
	}
	return found
}

// alteredIndexes reads both sides for indexAlterations.
func (r *runner) alteredIndexes(ctx context.Context, source, target catalog.Querier) ([]string, error) {
	from, err := schema.IndexForms(ctx, source)
	if err != nil {
		return nil, err
	}
	to, err := schema.IndexForms(ctx, target)
	if err != nil {
		return nil, err
	}
	return r.indexAlterations(from, to, r.c.Schema == "none"), nil
}
