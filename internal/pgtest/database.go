package pgtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Database creates an empty database with a random name and returns its URL. When the test ends the
// database is dropped, and with it its slots, prepared transactions, subscriptions and connections.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	// A server that the test has left stopped has nothing to clean up.
	return freshDatabase(tb, s.URL("postgres"), func() bool { return s.PID() != 0 })
}

// Exec runs one or more SQL statements in a database, as psql -c does: several are one transaction
// unless they say otherwise.
func (s *Server) Exec(tb testing.TB, url, sql string) {
	tb.Helper()
	Exec(tb, url, sql)
}

// Exec runs one or more SQL statements in a database, as psql -c does: several are one transaction
// unless they say otherwise. An error ends the test.
func Exec(tb testing.TB, url, sql string) {
	tb.Helper()
	if _, err := run(tb.Context(), url, sql); err != nil {
		tb.Fatalf("%v\nin: %s", err, sql)
	}
}

// Query runs SQL and returns the rows of its last statement as text, with "NULL" for null. An error
// ends the test.
func Query(tb testing.TB, url, sql string) [][]string {
	tb.Helper()
	rows, err := run(tb.Context(), url, sql)
	if err != nil {
		tb.Fatalf("%v\nin: %s", err, sql)
	}
	return rows
}

// run connects, runs SQL in the simple protocol and returns the last statement's rows as text.
func run(ctx context.Context, url, sql string) ([][]string, error) {
	conn, err := pgconn.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return query(ctx, conn, sql)
}

func query(ctx context.Context, conn *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) == 0 {
		return nil, nil
	}
	var rows [][]string
	for _, values := range results[len(results)-1].Rows {
		row := make([]string, len(values))
		for i, value := range values {
			row[i] = "NULL"
			if value != nil {
				row[i] = string(value)
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// freshDatabase creates a database through the URL of another one. When the test ends it is dropped
// if the server is still there.
func freshDatabase(tb testing.TB, admin string, there func() bool) string {
	tb.Helper()
	name := fmt.Sprintf("test_%s_%08x", nameOf(tb), rand.Uint32())
	// template0: some systems' template1 has things in it.
	if _, err := run(tb.Context(), admin, "create database "+name+" template template0"); err != nil {
		tb.Fatalf("create database %s: %v", name, err)
	}
	tb.Cleanup(func() {
		if !there() {
			return
		}
		if err := dropDatabase(context.Background(), admin, name); err != nil { // the test's own context has ended by now
			tb.Errorf("drop database %s: %v", name, err)
		}
	})
	return withDatabase(admin, name)
}

// nameOf is the test's name as far as it fits in the name of a database.
func nameOf(tb testing.TB) string {
	name := strings.Map(func(r rune) rune {
		if (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') {
			return r
		}
		return '_'
	}, strings.ToLower(strings.TrimPrefix(tb.Name(), "Test")))
	return strings.Trim(name[:min(len(name), 40)], "_")
}

// withDatabase returns a connection string, a URI or in keyword form, with another database.
func withDatabase(address, database string) string {
	if u, err := url.Parse(address); err == nil && strings.HasPrefix(u.Scheme, "postgres") {
		u.Path = "/" + database
		options := u.Query()
		if options.Has("dbname") {
			options.Del("dbname")
			u.RawQuery = options.Encode()
		}
		return u.String()
	}
	return address + " dbname=" + database // the last one counts
}

// Everything in a database that keeps it from being dropped. The first two return statements, to be
// run one by one: each must be a transaction.
const (
	rollbackPrepared = `
		select format('rollback prepared %L', gid) from pg_prepared_xacts where database = current_database()`
	dropSubscriptions = `
		select format(step, subname)
		from pg_subscription s join pg_database d on d.oid = s.subdbid,
			unnest(array['alter subscription %I disable', 'alter subscription %I set (slot_name = none)', 'drop subscription %I'])
				with ordinality as steps(step, n)
		where d.datname = current_database() order by subname, n`
	endWalsenders = `
		select pg_terminate_backend(active_pid) from pg_replication_slots where database = '%s' and active_pid is not null`
	dropSlots = `
		select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = '%s'`
	endBackends = `
		select pg_terminate_backend(pid) from pg_stat_activity where datname = '%s'`
)

// DropDatabase drops a database that a test has made by itself, with everything that would keep it,
// such as a walsender that is about to end.
func (s *Server) DropDatabase(ctx context.Context, name string) error {
	return dropDatabase(ctx, s.URL("postgres"), name)
}

// dropDatabase drops a database with everything that would keep it, within a minute. PostgreSQL
// before 13 has no DROP DATABASE ... FORCE, which drops no slots in any case.
func dropDatabase(ctx context.Context, admin, name string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := pgconn.Connect(ctx, admin)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	found, err := query(ctx, conn, fmt.Sprintf("select from pg_database where datname = '%s'", name))
	if err != nil || len(found) == 0 {
		return err
	}
	// Timeouts that a test has set for the database would end what clears it.
	if _, err := query(ctx, conn, "alter database "+name+" reset all"); err != nil {
		return err
	}
	if err := clearDatabase(ctx, withDatabase(admin, name)); err != nil {
		return err
	}
	if _, err := query(ctx, conn, "alter database "+name+" with allow_connections false"); err != nil {
		return err
	}
	for {
		for _, step := range []string{endWalsenders, dropSlots, endBackends, "drop database %s"} {
			if _, err = query(ctx, conn, fmt.Sprintf(step, name)); err != nil {
				break
			}
		}
		if err == nil || !inUse(err) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// clearDatabase removes what can only be removed from within the database.
func clearDatabase(ctx context.Context, address string) error {
	conn, err := pgconn.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for _, list := range []string{rollbackPrepared, dropSubscriptions} {
		statements, err := query(ctx, conn, list)
		if err != nil {
			return err
		}
		for _, row := range statements {
			if _, err := query(ctx, conn, row[0]); err != nil {
				return err
			}
		}
	}
	return nil
}

// inUse reports whether a retry helps: a process that was told to end has not yet done so.
func inUse(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "55006"
}
