package verify

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// seen is a row that is read again to be named.
type seen struct {
	key    string
	hashes []string // of each column
}

// name adds findings to the report. The rows are looked up by ctid, which is stable as long as the
// snapshot sees them and the table is locked.
func (t *table) name(ctx context.Context, pair [2]*session, found []finding) error {
	var rows [2]map[string]seen
	for which, s := range pair {
		var places []string
		for _, f := range found {
			if f[which] != "" {
				places = append(places, `"`+f[which]+`"`)
			}
		}
		var err error
		if rows[which], err = t.lookUp(ctx, s, which, places); err != nil {
			return fmt.Errorf("look up rows on the %s: %w", s.side, err)
		}
	}
	r := &t.report
	for _, f := range found {
		source, target := rows[src][f[src]], rows[dst][f[dst]]
		switch {
		case f[dst] == "":
			r.Missing = append(r.Missing, Key{Key: source.key})
		case f[src] == "":
			r.Extra = append(r.Extra, Key{Key: target.key})
		default:
			key := Key{Key: source.key}
			for i := range t.columns {
				if source.hashes[i] != target.hashes[i] {
					key.Columns = append(key.Columns, t.columns[i])
				}
			}
			r.Different = append(r.Different, key)
		}
	}
	return nil
}

func (t *table) lookUp(ctx context.Context, s *session, which int, places []string) (map[string]seen, error) {
	found := map[string]seen{}
	if len(places) == 0 {
		return found, nil
	}
	var keys, hashes []string
	for _, i := range t.key {
		keys = append(keys, output(catalog.Quote(t.columns[i])))
	}
	for _, form := range t.forms {
		hashes = append(hashes, digest([]string{form}))
	}
	rows, err := s.conn.Query(ctx, "select concat(ctid), array["+strings.Join(keys, ", ")+"]::text[], array["+strings.Join(hashes, ", ")+"]::text[] from only "+
		t.sides[which].name+" where ctid = any ("+catalog.Literal("{"+strings.Join(places, ",")+"}")+"::tid[])")
	if err != nil {
		return nil, err
	}
	var place string
	var values, digests []string
	_, err = pgx.ForEachRow(rows, []any{&place, &values, &digests}, func() error {
		row := seen{key: "ctid=" + place, hashes: append([]string(nil), digests...)}
		if t.key != nil {
			var pairs []string
			for n, i := range t.key {
				pairs = append(pairs, column(t.columns[i])+"="+value(values[n]))
			}
			row.key = strings.Join(pairs, ", ")
		}
		found[place] = row
		return nil
	})
	return found, err
}

var (
	plainName  = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)
	plainValue = regexp.MustCompile(`^[0-9A-Za-z_.:+-]+$`)
)

func column(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	return catalog.Quote(name)
}

func value(text string) string {
	if plainValue.MatchString(text) {
		return text
	}
	return catalog.Literal(text)
}
