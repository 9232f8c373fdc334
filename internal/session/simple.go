package session

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"
)

// Simple runs SQL with the simple protocol, the only one that a walsender knows, and returns the
// rows of the last statement as text; NULL is empty.
func Simple(ctx context.Context, conn *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) == 0 {
		return nil, nil
	}
	var rows [][]string
	for _, result := range results[len(results)-1].Rows {
		row := make([]string, len(result))
		for i, field := range result {
			row[i] = string(field)
		}
		rows = append(rows, row)
	}
	return rows, nil
}
