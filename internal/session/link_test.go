package session

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

func openTestLink(t *testing.T, dsn string) *Link {
	t.Helper()
	l, err := OpenLink(t.Context(), Config{DSN: dsn, Application: "link test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// A connection whose server has restarted while it was idle is reopened before it is used.
func TestLink_EndedWhileItRested(t *testing.T) {
	source, _ := pgtest.Pair(t, 15, 15)
	l := openTestLink(t, source)
	var pid uint32
	if err := l.Do(t.Context(), func(conn *pgx.Conn) error { pid = conn.PgConn().PID(); return nil }); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, source, fmt.Sprintf(`select pg_terminate_backend(%d)`, pid))
	for pgtest.Query(t, source, fmt.Sprintf(`select count(*) from pg_stat_activity where pid = %d`, pid))[0][0] != "0" {
		time.Sleep(5 * time.Millisecond)
	}
	l.used = time.Now().Add(-2 * restLimit)
	if err := l.Exec(t.Context(), `select 1`); err != nil {
		t.Errorf("the first statement after it: %v", err)
	}
}

// A caller that is canceled while another's statement runs does not wait for that, and leaves it
// the connection.
func TestLink_EndedWhileAnotherHasIt(t *testing.T) {
	source, _ := pgtest.Pair(t, 15, 15)
	l := openTestLink(t, source)
	why := errors.New("told to end")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := l.Do(t.Context(), func(conn *pgx.Conn) error {
		ended := make(chan error)
		go func() { ended <- l.Exec(ctx, `select 1`) }()
		cancel(why)
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the one who was told to end: %v", err)
		}
		return conn.Ping(t.Context())
	})
	if err != nil {
		t.Errorf("the one who had the connection: %v", err)
	}
	if err := l.Exec(t.Context(), `select 1`); err != nil {
		t.Errorf("whoever comes after them: %v", err)
	}
}

// A connection that cannot be made ready is not used, and the next call tries again.
func TestLink_NotReady(t *testing.T) {
	source, _ := pgtest.Pair(t, 15, 15)
	l := openTestLink(t, source)
	unready := errors.New("not ready")
	l.ready = func(context.Context, *pgx.Conn) error { return unready }
	if err := l.conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Exec(t.Context(), `select 1`); !errors.Is(err, unready) {
		t.Errorf("a connection that could not be made ready: %v", err)
	}
	l.ready = nil
	if err := l.Exec(t.Context(), `select 1`); err != nil {
		t.Errorf("the next one: %v", err)
	}
}
