package status

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/session"
)

// CopyWorker is another process that helps the copy, or has helped it.
type CopyWorker struct {
	Name      string   `json:"name"`
	Connected bool     `json:"connected"` // to the target, now
	Tables    []string `json:"tables"`    // that it copies pieces of now; empty: none, or that is not known, as before version 14 of the target
	Pieces    int      `json:"pieces"`    // that it has copied
	Rows      int64    `json:"rows"`      // of them
}

// copyWorkers reads who helps the copy, from what they have recorded and from their sessions, whose names the server cuts at 63 bytes.
func copyWorkers(ctx context.Context, conn *pgx.Conn, migration string) ([]CopyWorker, error) {
	list := []CopyWorker{}
	rows, err := conn.Query(ctx, `
select worker, count(*), sum(rows)::int8 from walferry.copy_state where migration = $1 and worker <> '' group by 1 order by 1`, migration)
	if err == nil {
		var w CopyWorker
		_, err = pgx.ForEachRow(rows, []any{&w.Name, &w.Pieces, &w.Rows}, func() error {
			list = append(list, w)
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read who has helped the copy: %w", err)
	}
	progress := `(select relid::regclass::text from pg_stat_progress_copy p where p.pid = a.pid)`
	if session.Major(conn.PgConn()) < 14 {
		progress = "null"
	}
	rows, err = conn.Query(ctx, `
select substr(application_name, 18), coalesce(`+progress+`, '') from pg_stat_activity a
 where datname = current_database() and application_name like 'walferry copy by %' order by 1, 2`)
	if err == nil {
		var name, table string
		_, err = pgx.ForEachRow(rows, []any{&name, &table}, func() error {
			i := slices.IndexFunc(list, func(w CopyWorker) bool { return cut(w.Name) == name })
			if i < 0 {
				i = len(list)
				list = append(list, CopyWorker{Name: name})
			}
			list[i].Connected = true
			if table != "" && !slices.Contains(list[i].Tables, table) {
				list[i].Tables = append(list[i].Tables, table)
			}
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read who helps the copy: %w", err)
	}
	return list, nil
}

// cut is a worker's name as far as that of its sessions has it.
func cut(name string) string { return name[:min(len(name), 63-len("walferry copy by "))] }
