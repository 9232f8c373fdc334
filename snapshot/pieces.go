package snapshot

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

const (
	smallestPiece = 64 << 20
	largestPiece  = 1 << 30
)

// pieceSize balances two goals: with smaller pieces the workers finish closer together, with larger
// ones there are fewer transactions.
func pieceSize(total int64, jobs int) int64 {
	return min(max(total/int64(4*jobs), smallestPiece), largestPiece)
}

// cutter decides how tables are cut; it queries the source under the snapshot.
type cutter struct {
	conn       *pgx.Conn
	major      int
	jobs       int
	pieceBytes int64
}

// cut returns the predicates of a table's pieces. Every row satisfies exactly one: the first and
// the last piece are open-ended.
func (c *cutter) cut(ctx context.Context, m *matched) ([]string, error) {
	whole := []string{""}
	n := (m.source.bytes + c.pieceBytes - 1) / c.pieceBytes
	n = min(n, m.source.pages)
	if n < 2 || len(m.columns) == 0 {
		return whole, nil
	}
	if c.major >= 14 {
		if !m.source.heap {
			return whole, nil
		}
		return ctidRanges(m.source.pages, n), nil
	}
	// Before 14 the server reads the whole table to find a range of ctids.
	bounds, err := c.keyRanges(ctx, m, n)
	if err != nil {
		return nil, fmt.Errorf("cut table %s: %w", m, err)
	}
	return bounds, nil
}

// ctidRanges cuts by pages (https://www.postgresql.org/docs/14/release-14.html: TID range scans). A
// row version that the snapshot sees stays in its place as long as the snapshot exists.
func ctidRanges(pages, n int64) []string {
	step := (pages + n - 1) / n
	var bounds []string
	for from := int64(0); from < pages; from += step {
		b := ""
		if from > 0 {
			b = fmt.Sprintf("ctid >= '(%d,0)'", from)
		}
		if from+step < pages { // the last piece has no end: the table may have grown since
			if b != "" {
				b += " and "
			}
			b += fmt.Sprintf("ctid < '(%d,0)'", from+step)
		}
		bounds = append(bounds, b)
	}
	return bounds
}

// orderable are the types whose values can cut a table: they have a total order and exact text.
var orderable = map[uint32]bool{
	20: true, 21: true, 23: true, 1700: true, // int8, int2, int4, numeric
	2950: true,                         // uuid
	1082: true, 1114: true, 1184: true, // date, timestamp, timestamptz
	25: true, 1042: true, 1043: true, // text, bpchar, varchar
}

// pagesSampled per piece yield some hundred values, more than enough for pieces of about the same
// size.
const pagesSampled = 30

// keyRanges cuts at quantiles of a sample of the primary key's first column.
func (c *cutter) keyRanges(ctx context.Context, m *matched, n int64) ([]string, error) {
	whole := []string{""}
	i := slices.IndexFunc(m.source.columns, func(col column) bool { return col.name == m.source.key })
	if i < 0 || !orderable[m.source.columns[i].typeOID] {
		return whole, nil
	}
	key := &m.source.columns[i]

	// If the key is unrelated to the place of the row, each piece reads the whole table: then one
	// piece per worker is enough.
	var correlation float64
	err := c.conn.QueryRow(ctx, `
select coalesce(max(abs(correlation)), 0)::float8 from pg_stats
 where schemaname = $1 and tablename = $2 and attname = $3 and not inherited`,
		m.Schema, m.Name, key.name).Scan(&correlation)
	if err != nil {
		return nil, fmt.Errorf("read statistics: %w", err)
	}
	if correlation < 0.8 {
		n = min(n, int64(c.jobs))
	}
	if n < 2 {
		return whole, nil
	}

	var fractions []float64
	for i := int64(1); i < n; i++ {
		fractions = append(fractions, float64(i)/float64(n))
	}
	percent := min(100, 100*float64(pagesSampled*n)/float64(m.source.pages))
	var at []string
	column := catalog.Quote(key.name)
	err = c.conn.QueryRow(ctx, `
select coalesce((percentile_disc($1::float8[]) within group (order by `+column+`))::text[], '{}')
  from only `+m.source.String()+` tablesample system ($2) repeatable (0)`, fractions, percent).Scan(&at)
	if err != nil {
		return nil, fmt.Errorf("sample column %s: %w", column, err)
	}
	at = slices.Compact(at)
	if len(at) == 0 {
		return whole, nil
	}
	var bounds []string
	for i := range len(at) + 1 {
		b := ""
		if i > 0 {
			b = column + " >= " + catalog.Literal(at[i-1]) + "::" + key.typeName
		}
		if i < len(at) {
			if b != "" {
				b += " and "
			}
			b += column + " < " + catalog.Literal(at[i]) + "::" + key.typeName
		}
		bounds = append(bounds, b)
	}
	return bounds, nil
}
