package verify

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const (
	// indexedRows is roughly how many rows are read through an index at a time.
	indexedRows = 1_000_000

	// scannedRows is roughly how many rows are sorted in one scan of a whole table. Sorting them
	// takes some 2 GB of temporary files on the server.
	scannedRows = 16_000_000
)

// narrow finds the rows that make the table's ranges differ.
func (v *Verifier) narrow(ctx context.Context, pair [2]*session, t *table) error {
	for _, condition := range t.batches() {
		if err := v.narrowBatch(ctx, pair, t, condition); err != nil {
			return err
		}
	}
	return nil
}

// batches returns conditions, one per batch, for the rows in the ranges that differ: adjacent
// ranges of the key if indexes find them and they are a small part of the table, else any ranges.
func (t *table) batches() []string {
	if t.ranges.of == "" {
		return []string{""}
	}
	var all, concerned int64
	rows := func(n int) int64 { return max(t.sums[src][n].rows, t.sums[dst][n].rows) }
	for n := range t.ranges.count {
		all += rows(n)
	}
	differing := t.differing()
	for _, n := range differing {
		concerned += rows(n)
	}
	indexed := t.lead != "" && t.sides[src].leading && t.sides[dst].leading && concerned < all/4
	limit := int64(scannedRows)
	if indexed {
		limit = indexedRows
	}

	var conditions []string
	var batch []int
	var size int64
	flush := func() {
		if len(batch) > 0 {
			conditions = append(conditions, t.condition(batch, indexed))
		}
		batch, size = nil, 0
	}
	for _, n := range differing {
		if size+rows(n) > limit || (indexed && len(batch) > 0 && batch[len(batch)-1] != n-1) {
			flush()
		}
		batch, size = append(batch, n), size+rows(n)
	}
	flush()
	return conditions
}

// condition returns the condition for some ranges; contiguous: they are adjacent, and an index is
// to find them.
func (t *table) condition(batch []int, contiguous bool) string {
	if !contiguous {
		numbers := strings.Join(strings.Fields(strings.Trim(fmt.Sprint(batch), "[]")), ",")
		return " where " + t.ranges.of + " = any ('{" + numbers + "}'::int4[])"
	}
	var terms []string
	if first := batch[0]; first > 0 {
		terms = append(terms, fmt.Sprintf("%s >= '%s'::%s", t.lead, t.ranges.bounds[first-1], t.ranges.typeName))
	}
	if next := batch[len(batch)-1] + 1; next < t.ranges.count {
		terms = append(terms, fmt.Sprintf("%s < '%s'::%s", t.lead, t.ranges.bounds[next-1], t.ranges.typeName))
	}
	if len(terms) == 0 {
		return ""
	}
	return " where " + strings.Join(terms, " and ")
}

// narrowQuery returns key, hash, hash of the columns that are not generated, and ctid of the rows
// that satisfy a condition, ordered by key and hash. bytea is ordered by its bytes everywhere.
// Without a key the hash replaces it, without generated columns if there are any: so rows that
// differ only in these are paired.
func (t *table) narrowQuery(which int, condition string) string {
	from := " from only " + t.sides[which].name
	decoded := func(digest string) string { return "decode(" + digest + ", 'hex')" }
	hash, given := decoded(digest(t.forms)), "''::bytea"
	if t.key != nil {
		var forms []string
		for _, i := range t.key {
			forms = append(forms, t.forms[i])
		}
		if t.given != nil {
			given = decoded(digest(t.given))
		}
		return "select " + rowBytes(forms) + ", " + hash + ", " + given + ", concat(ctid)" + from + condition + " order by 1, 2"
	}
	key := digest(t.forms)
	if t.given != nil {
		key = digest(t.given)
	} else {
		hash = "''::bytea"
	}
	// The range is that of the key's hash, which the condition calls h.
	return "select decode(k, 'hex'), w, decode(k, 'hex'), place from (select k, w, place, " + number("k") + " h from (select " + key + " k, " + hash + " w, concat(ctid) place" + from + " offset 0) r) s" + condition + " order by 1, 2"
}

// narrowBatch merges the rows of one batch from both sides.
func (v *Verifier) narrowBatch(ctx context.Context, pair [2]*session, t *table, condition string) error {
	return pair[src].read(ctx, t.sides[src], func() error {
		return pair[dst].read(ctx, t.sides[dst], func() error {
			found, err := t.merge(ctx, pair, condition, v.config.MaxRows)
			if err != nil {
				return err
			}
			return t.name(ctx, pair, found)
		})
	})
}

// cursor is an ordered stream of rows with a current one.
type cursor struct {
	rows             pgx.Rows
	key, hash, given []byte
	place            string
	end              bool
}

// next moves to the next row.
func (c *cursor) next() error {
	if !c.rows.Next() {
		c.end = true
		return c.rows.Err()
	}
	return c.rows.Scan(&c.key, &c.hash, &c.given, &c.place)
}

// finding is a row that differs: its ctid on the source, on the target, or on both.
type finding [2]string

// merge counts the differences, and returns the ctids of as many rows as may still be named.
func (t *table) merge(ctx context.Context, pair [2]*session, condition string, maxRows int) ([]finding, error) {
	var cursors [2]cursor
	// Both servers sort at the same time.
	var group errgroup.Group
	for which := range cursors {
		group.Go(func() error {
			rows, err := pair[which].conn.Query(ctx, t.narrowQuery(which, condition))
			if err != nil {
				return err
			}
			cursors[which].rows = rows
			return cursors[which].next()
		})
	}
	err := group.Wait()
	for which := range cursors {
		if cursors[which].rows != nil {
			defer cursors[which].rows.Close()
		}
	}
	if err != nil {
		return nil, err
	}

	m := merging{table: t, report: &t.report, left: maxRows - len(t.report.Missing) - len(t.report.Extra) - len(t.report.Different)}
	for s, d := &cursors[src], &cursors[dst]; !s.end || !d.end; {
		var order int
		switch {
		case s.end:
			order = 1
		case d.end:
			order = -1
		default:
			if order = bytes.Compare(s.key, d.key); order == 0 {
				order = bytes.Compare(s.hash, d.hash)
			}
		}
		switch {
		case order < 0:
			err = m.only(src, s)
		case order > 0:
			err = m.only(dst, d)
		default:
			if err = s.next(); err == nil {
				err = d.next()
			}
		}
		if err != nil {
			return nil, err
		}
	}
	m.settle()
	return m.found, nil
}

// merging is what merge knows of the rows of one key that the other side lacks; there are several
// only if the key is not unique on a side, which is a finding, too.
type merging struct {
	table  *table
	report *TableReport
	found  []finding
	left   int // how many findings may be named

	key    []byte
	alone  [2]int64
	given  [2][]byte // of the last one on each side
	places [2][]string
}

// only takes the row at c, which the other side lacks, and advances c.
func (m *merging) only(which int, c *cursor) error {
	if !bytes.Equal(c.key, m.key) {
		m.settle()
		m.key = append(m.key[:0], c.key...)
	}
	m.alone[which]++
	m.given[which] = append(m.given[which][:0], c.given...)
	if len(m.places[which]) < m.left {
		m.places[which] = append(m.places[which], c.place)
	}
	return c.next()
}

// settle counts and names the rows of a complete key.
func (m *merging) settle() {
	both := min(m.alone[src], m.alone[dst])
	m.report.DifferentRows += both
	if m.table.given != nil && (m.table.key == nil || m.alone == [2]int64{1, 1}) && bytes.Equal(m.given[src], m.given[dst]) {
		m.report.GeneratedRows += both
	}
	m.report.MissingRows += m.alone[src] - both
	m.report.ExtraRows += m.alone[dst] - both
	for i := 0; i < max(len(m.places[src]), len(m.places[dst])) && len(m.found) < m.left; i++ {
		var f finding
		for which := range m.places {
			if i < len(m.places[which]) {
				f[which] = m.places[which][i]
			}
		}
		m.found = append(m.found, f)
	}
	m.alone, m.places = [2]int64{}, [2][]string{}
}
