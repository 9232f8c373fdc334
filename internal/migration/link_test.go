package migration

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

// A connection whose server has restarted while nobody used it is made again before it is used.
func TestLink_EndedWhileItRested(t *testing.T) {
	source, _ := pgtest.Pair(t, 15, 15)
	l, err := openLink(t.Context(), source, "link test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	var pid uint32
	if err := l.do(t.Context(), func(conn *pgx.Conn) error { pid = conn.PgConn().PID(); return nil }); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, source, fmt.Sprintf(`select pg_terminate_backend(%d)`, pid))
	for pgtest.Query(t, source, fmt.Sprintf(`select count(*) from pg_stat_activity where pid = %d`, pid))[0][0] != "0" {
		time.Sleep(5 * time.Millisecond)
	}
	l.used = time.Now().Add(-2 * restLimit)
	if err := l.exec(t.Context(), `select 1`); err != nil {
		t.Errorf("the first statement after it: %v", err)
	}
}
