package verify

import (
	"context"
	"fmt"
	"math/big"

	"github.com/jackc/pgx/v5"
)

// hashQuery returns for each range of a part its number of rows and the sum of their hashes.
func (t *table) hashQuery(which int, p part) string {
	from := " from only " + t.sides[which].name + p.condition()
	hash := number(digest(t.forms))
	switch {
	case t.ranges.of == "":
		return "select 0, count(*), concat(coalesce(sum(" + hash + "), 0))" + from
	case t.key == nil:
		// The range is derived from the hash. offset 0 keeps that from being computed twice.
		columns, summed := hash+" h", "h"
		if t.given != nil {
			columns, summed = hash+" w, "+number(digest(t.given))+" h", "w"
		}
		return "select " + t.ranges.of + ", count(*), concat(sum(" + summed + ")) from (select " + columns + from + " offset 0) s group by 1"
	}
	return "select " + t.ranges.of + ", count(*), concat(sum(" + hash + "))" + from + " group by 1"
}

// hash reads a part and adds the results to sums.
func (s *session) hash(ctx context.Context, t *table, which int, p part, sums map[int]sum) error {
	rows, err := s.conn.Query(ctx, t.hashQuery(which, p))
	if err != nil {
		return err
	}
	var n int
	var count int64
	var text string
	_, err = pgx.ForEachRow(rows, []any{&n, &count, &text}, func() error {
		hash, ok := new(big.Int).SetString(text, 10)
		if !ok {
			return fmt.Errorf("a sum of hashes is %q", text)
		}
		sums[n] = sum{count, hash}
		return nil
	})
	return err
}
