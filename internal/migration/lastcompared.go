package migration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/walferry/walferry/internal/catalog"
)

// LastComparison is what verify has found last while the migration followed. A comparison of some tables
// leaves what was found of the others.
type LastComparison struct {
	At       time.Time `json:"at"`       // by the clock of the host that compared
	Position string    `json:"position"` // of the source, as an LSN
	Compared int       `json:"compared"` // tables, by the last one
	Differ   []string  `json:"differ"`   // tables, by the last one that compared each
}

// keepComparison records what a verify has found, for status and as a gate of the cutover.
func (r *runner) keepComparison(ctx context.Context, v *Verified) error {
	last, err := r.store.lastComparison(ctx)
	if err != nil {
		return err
	}
	if last == nil {
		last = &LastComparison{}
	}
	last.At, last.Position, last.Compared = time.Now().UTC().Truncate(time.Second), v.Position, v.Compared
	for _, t := range v.Tables {
		name := catalog.Name{Schema: t.Schema, Name: t.Name}.String()
		known := slices.Index(last.Differ, name)
		switch {
		case t.Error != "": // nothing is known of it
		case t.Equal && known >= 0:
			last.Differ = slices.Delete(last.Differ, known, known+1)
		case !t.Equal && known < 0:
			last.Differ = append(last.Differ, name)
		}
	}
	text, err := json.Marshal(last)
	if err == nil {
		err = r.store.Exec(ctx, `update walferry.migration set comparison = $2::text::jsonb where name = $1`, r.c.Name, string(text))
	}
	if err != nil {
		return fmt.Errorf("keep the comparison: %w", err)
	}
	return nil
}

// lastComparison reads it; nil: nobody has compared.
func (s *store) lastComparison(ctx context.Context) (last *LastComparison, err error) {
	var text *string
	err = s.Row(ctx, `select to_jsonb(m) ->> 'comparison' from walferry.migration m where name = $1`, []any{s.name}, &text)
	if err == nil && text != nil {
		err = json.Unmarshal([]byte(*text), &last)
	}
	if err != nil {
		return nil, fmt.Errorf("read the last comparison: %w", err)
	}
	return last, nil
}

// comparisonGate: the last comparison has found no differences.
func (r *runner) comparisonGate(ctx context.Context, o CutoverOptions) error {
	last, err := r.store.lastComparison(ctx)
	if err != nil || last == nil || len(last.Differ) == 0 || o.AllowDifferences {
		return err
	}
	return &GateError{
		fmt.Sprintf("the last comparison, at %s, has found that tables differ: %s", last.Position, list(last.Differ)),
		"repair the rows (`walferry verify` names them), verify again, and ask again; or go on over them with --allow-differences",
	}
}
