package status

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/verify"
)

// LastComparison is what verify found last while the migration followed. A comparison of some
// tables keeps what was found of the others.
type LastComparison struct {
	At       time.Time `json:"at"`       // by the clock of the host that compared
	Position string    `json:"position"` // of the source, as an LSN
	Compared int       `json:"compared"` // tables, by the last one
	Differ   []string  `json:"differ"`   // tables, by the last one that compared each
	Rows     int64     `json:"rows"`     // of the source, that were compared by all comparisons together; those of an older version are not counted
	// Hints explain the differences of those of these tables where they are known: only generated
	// columns differ.
	Hints map[string]string `json:"hints"`
}

// Compared reads it; nil: nobody has compared.
func Compared(ctx context.Context, s *state.Store) (last *LastComparison, err error) {
	_, err = s.Values().Get(ctx, state.Comparison, &last)
	if last != nil {
		last.fill()
	}
	return last, err
}

// fill makes no difference an empty list: an older version recorded null.
func (l *LastComparison) fill() {
	if l.Differ == nil {
		l.Differ = []string{}
	}
	if l.Hints == nil {
		l.Hints = map[string]string{}
	}
}

// Add adds what another comparison has found.
func (l *LastComparison) Add(v *verify.Verified, at time.Time) {
	l.fill()
	l.Rows += v.Rows
	l.At, l.Position, l.Compared = at.UTC().Truncate(time.Second), v.Position, v.Compared
	for _, t := range v.Tables {
		if t.Error != "" {
			continue // nothing is known of it
		}
		name := catalog.Name{Schema: t.Schema, Name: t.Name}.String()
		known := slices.Index(l.Differ, name)
		delete(l.Hints, name)
		switch {
		case t.Equal && known >= 0:
			l.Differ = slices.Delete(l.Differ, known, known+1)
		case !t.Equal && known < 0:
			l.Differ = append(l.Differ, name)
		}
		if !t.Equal && t.Hint != "" {
			l.Hints[name] = t.Hint
		}
	}
}

// Gate is the error of a cutover for which no table may differ; nil: none does. Tables whose
// differences a hint explains have no rows to repair.
func (l *LastComparison) Gate() error {
	if len(l.Differ) == 0 {
		return nil
	}
	var repair, advice []string
	for _, name := range l.Differ {
		if l.Hints[name] == "" {
			repair = append(repair, name)
		}
	}
	if len(repair) > 0 {
		rows := "the rows"
		if len(repair) < len(l.Differ) {
			rows = "the rows of " + catalog.List(repair)
		}
		advice = append(advice, "repair "+rows+" (`walferry verify` names them), verify again, and ask again; or switch all the same with --allow-differences")
	}
	for _, name := range l.Differ {
		if hint := l.Hints[name]; hint != "" {
			advice = append(advice, name+": "+hint)
		}
		if len(advice) == mostHints && len(l.Hints) > mostHints {
			advice = append(advice, "`walferry verify` explains the others")
			break
		}
	}
	return &fail.Error{
		Kind:    fail.Gate,
		Problem: fmt.Sprintf("the last comparison, at %s, has found that tables differ: %s", l.Position, catalog.List(l.Differ)),
		Advice:  strings.Join(advice, "; "),
	}
}

// mostHints is how many of the hints a gate repeats.
const mostHints = 3
