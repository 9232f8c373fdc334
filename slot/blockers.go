package slot

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// Blocker is a transaction that a new slot has to wait for. What the role may not see of other
// roles' sessions is empty.
type Blocker struct {
	PID         int32         // 0 for a prepared transaction
	GID         string        // of a prepared transaction
	User        string        // empty for the server's own processes
	Database    string        //
	Application string        // or the kind of a process of the server
	Client      string        // address; empty: the unix socket
	State       string        // such as "active" or "idle in transaction"
	Age         time.Duration // since the transaction began, or was prepared; 0: unknown
}

// String describes the blocker in a line.
func (b Blocker) String() string {
	var s strings.Builder
	if b.GID != "" {
		fmt.Fprintf(&s, "prepared transaction %q", b.GID)
	} else {
		fmt.Fprintf(&s, "pid %d", b.PID)
	}
	for _, part := range []struct{ name, value string }{
		{"user", b.User}, {"database", b.Database}, {"application", b.Application}, {"client", b.Client},
	} {
		if part.value != "" {
			s.WriteString(" " + part.name + " " + part.value)
		}
	}
	if b.State != "" {
		s.WriteString(", " + b.State)
	}
	if b.Age > 0 {
		s.WriteString(", for " + b.Age.Round(time.Second).String())
	}
	return s.String()
}

// End returns the SQL that ends the transaction, to be run in its database.
func (b Blocker) End() string {
	if b.GID != "" {
		return "rollback prepared " + catalog.Literal(b.GID) + "; /* in database " + catalog.Quote(b.Database) + " */"
	}
	return fmt.Sprintf("select pg_terminate_backend(%d);", b.PID)
}

// Whoever has a transaction id holds a lock on it, which everybody may see; the
// rest of pg_stat_activity is hidden from roles without pg_read_all_stats.
// Transactions younger than $1 seconds cannot be what an attempt waited for so long.
const selectBlockers = `
select * from (
    select distinct on (l.pid) l.pid, '' as gid, coalesce(a.usename::text, ''), coalesce(a.datname::text, ''),
           coalesce(nullif(a.application_name, ''), nullif(a.backend_type, 'client backend'), ''),
           coalesce(host(a.client_addr), ''), coalesce(a.state, ''),
           coalesce(extract(epoch from clock_timestamp() - a.xact_start), 0)::float8 as age
      from pg_locks l join pg_stat_activity a using (pid)
     where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
       and coalesce(clock_timestamp() - a.xact_start >= make_interval(secs => $1), true)
     union all
    select 0, gid, owner::text, database::text, '', '', '', extract(epoch from clock_timestamp() - prepared)::float8
      from pg_prepared_xacts) b
 order by age desc`

// findBlockers lists the transactions that have been writing for at least the given time.
func findBlockers(ctx context.Context, dsn string, since time.Duration) ([]Blocker, error) {
	conn, err := session.Open(ctx, session.Config{DSN: dsn, Application: "export"})
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, selectBlockers, since.Seconds())
	if err != nil {
		return nil, fmt.Errorf("list running transactions: %w", err)
	}
	blockers, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Blocker, error) {
		var b Blocker
		var age float64
		err := row.Scan(&b.PID, &b.GID, &b.User, &b.Database, &b.Application, &b.Client, &b.State, &age)
		b.Age = time.Duration(age * float64(time.Second))
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("list running transactions: %w", err)
	}
	return blockers, nil
}
