package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ranges divides the rows of a table, the same way on both sides.
//
// If all servers sort the type of the first key column the same way, the ranges are its values
// between bounds taken from a sample, so an index finds the rows of one. Otherwise a hash of the
// key determines the range: text sorts differently under different collations. Without a key it is
// a hash of the whole row except for generated columns.
type ranges struct {
	count    int      // 1: not divided
	typeName string   // of the bounds
	bounds   []string // count-1 of them, ascending, each the first value of its range
	of       string   // the expression for a row's range, from 0; empty: not divided
}

const maxRanges = 4096

// divide determines the ranges, from the source's statistics or a sample.
func (t *table) divide(ctx context.Context, s *session, rowsPerRange int, sameEncoding bool) error {
	r := &t.ranges
	rows := t.source.Tuples
	if rows <= 0 {
		rows = t.sides[src].pages * 50
	}
	r.count = int(min(rows/int64(rowsPerRange), maxRanges-1)) + 1
	switch {
	case r.count == 1:
		return nil
	case t.lead != "":
		return s.read(ctx, t.sides[src], func() error { return t.sample(ctx, s, rows) })
	case t.key == nil:
		r.of = fmt.Sprintf("((h & 9223372036854775807) %% %d)::int4", r.count)
		return nil
	}
	var forms []string
	for _, i := range t.key {
		forms = append(forms, t.forms[i])
	}
	text := rowBytes(forms)
	if len(forms) == 1 && sameEncoding {
		text = output(forms[0])
	}
	hash := "('x' || md5(" + text + "))::bit(32)::int4"
	r.of = fmt.Sprintf("((%s & 2147483647) %% %d)", hash, r.count)
	return nil
}

// sample takes the bounds from some pages of the source's table: about 30 values per range.
func (t *table) sample(ctx context.Context, s *session, rows int64) error {
	r := &t.ranges
	percent := min(100, max(0.001, 100*30*float64(r.count)/float64(rows)))
	found, err := s.conn.Query(ctx, fmt.Sprintf("select concat(%[1]s) from only %s tablesample system (%f) repeatable (1) order by %[1]s", t.lead, t.sides[src].name, percent))
	if err != nil {
		return err
	}
	values, err := pgx.CollectRows(found, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("sample the key: %w", err)
	}
	for n := 1; n < r.count; n++ {
		if i := n * len(values) / r.count; i < len(values) {
			r.bounds = append(r.bounds, values[i])
		}
	}
	r.bounds = slices.Compact(r.bounds)
	r.count = len(r.bounds) + 1
	if r.count > 1 {
		r.of = fmt.Sprintf(`coalesce(width_bucket(%s, '{"%s"}'::%s[]), 0)`, t.lead, strings.Join(r.bounds, `","`), r.typeName)
	}
	return nil
}
