package session

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// End is one of two servers between which something moves.
type End struct {
	DSN  string
	Link *Link // for short statements
}

// Link is a connection for short statements that is reopened after a loss: the call that finds it
// gone reconnects. Its methods may be called by several goroutines; one at a time has the
// connection, and each waits for it under its own context.
type Link struct {
	c     Config
	ready func(context.Context, *pgx.Conn) error

	turn chan struct{} // holds a token while the connection is in use
	conn *pgx.Conn
	used time.Time // when it was last used
}

// restLimit is how long a connection may be idle before it is checked: the server may have
// restarted meanwhile, and the first statement would fail for nothing.
const restLimit = time.Second

// OpenLink connects. Each new connection is passed to ready before it is used, unless ready is nil.
func OpenLink(ctx context.Context, c Config, ready func(context.Context, *pgx.Conn) error) (*Link, error) {
	l := &Link{c: c, ready: ready, turn: make(chan struct{}, 1)}
	if err := l.Do(ctx, func(*pgx.Conn) error { return nil }); err != nil {
		return nil, err
	}
	return l, nil
}

// Do runs f on the connection. f must not use the link.
func (l *Link) Do(ctx context.Context, f func(*pgx.Conn) error) error {
	if err := l.take(ctx); err != nil {
		return err
	}
	defer l.release()
	if err := l.connect(ctx); err != nil {
		return err
	}
	return f(l.conn)
}

// take waits until the connection is free.
func (l *Link) take(ctx context.Context) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	default:
	}
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the connection, which is in use: %w", ctx.Err())
	}
}

func (l *Link) release() {
	l.used = time.Now()
	<-l.turn
}

// connect makes sure that there is a connection.
func (l *Link) connect(ctx context.Context) error {
	if l.conn != nil && !l.conn.IsClosed() && time.Since(l.used) > restLimit {
		if err := l.conn.Ping(ctx); err != nil {
			l.conn.Close(context.WithoutCancel(ctx))
		}
	}
	if l.conn != nil && !l.conn.IsClosed() {
		return nil
	}
	conn, err := Open(ctx, l.c)
	if err != nil {
		return err
	}
	if l.ready != nil {
		if err := l.ready(ctx, conn); err != nil {
			conn.Close(context.WithoutCancel(ctx))
			return err
		}
	}
	l.conn = conn
	return nil
}

// Exec runs a statement.
func (l *Link) Exec(ctx context.Context, sql string, args ...any) error {
	return l.Do(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql, args...)
		return err
	})
}

// Row runs a query of one row.
func (l *Link) Row(ctx context.Context, sql string, args []any, into ...any) error {
	return l.Do(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, sql, args...).Scan(into...) })
}

// Close closes the connection once it is free.
func (l *Link) Close() {
	l.turn <- struct{}{}
	defer l.release()
	if l.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		l.conn.Close(ctx)
	}
}

// Lender lends a connection for as long as a function runs. What reads the catalogues of both sides
// takes it for one of them after the other: with many tables each takes a while, and neither
// heartbeats nor the record shall wait for the other side's.
type Lender interface {
	Do(ctx context.Context, f func(*pgx.Conn) error) error
}

// Lend lends a connection that nobody else uses.
func Lend(conn *pgx.Conn) Lender { return lent{conn} }

type lent struct{ conn *pgx.Conn }

func (l lent) Do(_ context.Context, f func(*pgx.Conn) error) error { return f(l.conn) }
