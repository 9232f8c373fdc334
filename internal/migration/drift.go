package migration

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
)

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
	err = r.aside(ctx, func(source, target *pgx.Conn) error {
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
		altered = append(altered, schema.Alterations(r.rec.Tables, r.tables, there, r.c.Schema == "none")...)
		indexes, err := schema.AlteredIndexes(ctx, r.rec.Tables, r.tables, source, target, r.c.Schema == "none")
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

// driftError is a SchemaError with the DDL that mends the target.
type driftError struct {
	error
	advice string
}

func (e *driftError) Unwrap() error { return e.error }

// Hint is what the operator can do.
func (e *driftError) Hint() string { return e.advice }

// explainDrift adds to an error about altered columns the DDL for the target. It is
// text for the operator: nothing here is ever run.
func (r *runner) explainDrift(ctx context.Context, err error) error {
	var drift *applier.SchemaError
	if !errors.As(err, &drift) || len(drift.Columns) == 0 {
		return err
	}
	var m schema.Repair
	explained := r.source.Do(ctx, func(conn *pgx.Conn) (err error) {
		m, err = r.repair(ctx, conn, drift)
		return err
	})
	switch {
	case explained != nil:
		return err
	case m.Gone:
		return &driftError{err, "both sides have dropped the column, and this is of before: the target's had to be there until it was applied; begin anew: " + anew}
	case len(m.SQL) == 0:
		return err
	case m.Again:
		return &driftError{err, "the last column was dropped and added again: what was written to the new one before this cannot be told from what was in the old one; begin anew: " + anew}
	}
	advice := "on the target: " + strings.Join(m.SQL, " ")
	if m.Back {
		advice += " Both sides have dropped it, and this is of before; drop it again once it is applied;"
	}
	if m.Rewritten {
		advice += " But the source has written the rows of this table anew, for a default or an expression that is not constant: those values do not come by themselves. " +
			"Bring them over by hand (`walferry verify --table` names the rows), or begin anew;"
	}
	return &driftError{err, advice + " then the same command: it goes on where it stopped"}
}

// repair is the DDL for the columns of a drift.
func (r *runner) repair(ctx context.Context, conn *pgx.Conn, drift *applier.SchemaError) (m schema.Repair, err error) {
	i := slices.IndexFunc(r.rec.Tables, func(t state.Table) bool { return t.Plain() == drift.Table })
	if i < 0 {
		return m, nil
	}
	was := r.rec.Tables[i]
	var filenode string
	err = r.target.Row(ctx, `select coalesce(max(filenode), '') from walferry.copy_plan where migration = $1 and schema_name = $2 and table_name = $3`,
		[]any{r.c.Name, was.Schema, was.Name.Name}, &filenode)
	if err != nil {
		return m, err
	}
	return schema.RepairColumns(ctx, conn, r.target, was, drift.Columns, filenode)
}
