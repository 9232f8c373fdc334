package migration

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/session"
)

// link is a connection to one of the servers for short statements. Its methods may
// be called by several goroutines; a lost connection is made again by the next call.
type link struct {
	dsn   string
	name  string                                 // for application_name
	ready func(context.Context, *pgx.Conn) error // what a new connection is made ready with; nil: nothing

	mu   sync.Mutex
	conn *pgx.Conn
	used time.Time // when it was used last
}

// restLimit is how long a connection may rest before it is looked at: the server may have
// restarted meanwhile, and what is done first on it would fail for nothing.
const restLimit = time.Second

func openLink(ctx context.Context, dsn, name string) (*link, error) {
	return (&link{dsn: dsn, name: name}).open(ctx)
}

func (l *link) open(ctx context.Context) (*link, error) {
	return l, l.do(ctx, func(*pgx.Conn) error { return nil })
}

// do runs f on the connection.
func (l *link) do(ctx context.Context, f func(*pgx.Conn) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.used = time.Now() }()
	if l.conn != nil && !l.conn.IsClosed() && time.Since(l.used) > restLimit {
		if err := l.conn.Ping(ctx); err != nil {
			l.conn.Close(context.WithoutCancel(ctx))
		}
	}
	if l.conn == nil || l.conn.IsClosed() {
		conn, err := session.Open(ctx, session.Config{DSN: l.dsn, Application: l.name})
		if err == nil && l.ready != nil {
			if err = l.ready(ctx, conn); err != nil {
				conn.Close(context.WithoutCancel(ctx))
			}
		}
		if err != nil {
			return err
		}
		l.conn = conn
	}
	return f(l.conn)
}

func (l *link) exec(ctx context.Context, sql string, args ...any) error {
	return l.do(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql, args...)
		return err
	})
}

// row runs a query of one row.
func (l *link) row(ctx context.Context, sql string, args []any, into ...any) error {
	return l.do(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, sql, args...).Scan(into...) })
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		l.conn.Close(ctx)
	}
}
