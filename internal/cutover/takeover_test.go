package cutover

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
)

// Tables go from one sealed fence to another and back while somebody keeps trying to write to them, and others read: nobody gets through but who has the pass.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	for _, major := range []int{10, 13, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			dsn, _ := pgtest.Pair(t, major, major)
			pgtest.Exec(t, dsn, `create schema walferry; create table a (id int); create table b (id int); create table p (id int) partition by range (id); create table p1 partition of p for values from (0) to (9)`)
			conn := connect(t, dsn)
			all, err := catalog.Tables(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			var some []catalog.Table
			for _, table := range all {
				if table.Name.Name != "b" {
					some = append(some, table)
				}
			}
			whole, part := Fence{Name: "x", Run: "1", Tables: all, Pass: "secret"}, Fence{Name: "x.g1", Run: "1", Tables: some, Pass: "secret"}
			for range 2 { // the second time it stands
				if err := whole.Stand(t.Context(), conn, time.Minute); err != nil {
					t.Fatal(err)
				}
			}
			ctx, stop := context.WithCancel(context.Background())
			ended := make(chan error, 2)
			for _, sql := range []string{`insert into a values (1); insert into p values (1)`, `select count(*) from a, p, b`} {
				app := connect(t, dsn)
				go func() { ended <- keepTrying(ctx, app, sql, sql[0] == 'i') }()
			}
			for range 5 {
				if err := part.TakeOver(t.Context(), conn); err != nil {
					t.Fatal(err)
				}
				if stands, err := Look(t.Context(), conn, "x"); err != nil || !stands.Sealed || stands.Triggers != 1 || !stands.Covers(all[1:2]) {
					t.Errorf("what stays under the first: %+v, %v", stands, err)
				}
				if stands, err := Look(t.Context(), conn, "x.g1"); err != nil || !stands.Sealed || !stands.Covers(some) || stands.Triggers != len(some) {
					t.Errorf("what the other one has: %+v, %v", stands, err)
				}
				back := Fence{Name: "x", Run: "1", Tables: some, Pass: "secret"}
				if err := back.TakeOver(t.Context(), conn); err != nil {
					t.Fatal(err)
				}
				if left, err := Remove(t.Context(), conn, "x.g1"); err != nil || len(left) > 0 {
					t.Fatalf("left: %v, %v", left, err)
				}
			}
			stop()
			for range 2 {
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
			if _, err := conn.Exec(t.Context(), `set walferry.pass = 'secret'; insert into a values (2); insert into p values (2)`, pgx.QueryExecModeSimpleProtocol); err != nil {
				t.Errorf("with the pass: %v", err)
			}
		})
	}
}

// keepTrying runs SQL until ctx ends, and expects each time that a fence refuses it, or else that it works.
func keepTrying(ctx context.Context, conn *pgx.Conn, sql string, refused bool) error {
	for ctx.Err() == nil {
		_, err := conn.Exec(context.WithoutCancel(ctx), sql, pgx.QueryExecModeSimpleProtocol)
		var p *pgconn.PgError
		if was := errors.As(err, &p) && p.Code == SQLState; was != refused || err != nil && !was {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}
