package slot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// ExportConfig says what slot to create, and how patiently.
type ExportConfig struct {
	// Slot is the name: 1 to 63 lower-case letters, digits and underscores.
	Slot string

	// Temporary makes the slot end with the connection, that is with Close. Nobody else can read
	// its changes: it is for a copy that is not followed.
	Temporary bool

	// LockTimeout is how long the first attempt waits for a single transaction to end before it
	// gives up and the blockers are named. Each later attempt waits twice as long, up to two
	// minutes. Zero means 10 seconds.
	LockTimeout time.Duration

	// Wait is how long to keep trying in all. Zero means 10 minutes.
	Wait time.Duration

	// OnBlocked is called after every attempt that gave up, with the transactions in question, the
	// oldest first. nil: they are only logged.
	OnBlocked func([]Blocker)

	// Logger gets what happens. nil: silence.
	Logger *slog.Logger
}

// Exported is a new slot and its snapshot.
type Exported struct {
	Slot string

	// Name of the snapshot, for SET TRANSACTION SNAPSHOT in the same database. It can be imported
	// until Close; sessions that have imported it by then keep it.
	Name string

	// ConsistentPoint is where the snapshot stands: the transactions whose commit record starts
	// before it are in the snapshot, all others come through the slot.
	ConsistentPoint pglogrepl.LSN

	conn *pgconn.PgConn
}

// Close ends the snapshot for those who have not imported it. A slot that is not temporary stays.
func (e *Exported) Close(ctx context.Context) error {
	err := e.conn.Close(ctx)
	<-e.conn.CleanupDone()
	return err
}

var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

const longestLockTimeout = 2 * time.Minute

// Export creates a slot for pgoutput on the server of dsn, in its database, and exports the
// snapshot of the slot's first position.
//
// The server makes the slot wait until every transaction that has written, in any database,
// prepared ones too, has ended; nobody has to wait for the slot. An attempt that waits too long
// gives up, and is repeated until c.Wait is over: then the error is a *BlockedError. If a slot of
// that name exists already the error is a *ExistsError. When Export fails, or ctx ends, no slot of
// it is left.
//
// The connection that holds the snapshot has every timeout of the server switched off and
// TCP keepalives on.
func Export(ctx context.Context, dsn string, c ExportConfig) (*Exported, error) {
	if !slotName.MatchString(c.Slot) {
		return nil, fmt.Errorf("create slot %q: the name of a slot is 1 to 63 lower-case letters, digits and underscores", c.Slot)
	}
	if c.LockTimeout <= 0 {
		c.LockTimeout = 10 * time.Second
	}
	if c.Wait <= 0 {
		c.Wait = 10 * time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	conn, err := session.OpenReplication(ctx, session.Config{DSN: dsn, Application: "export"})
	if err != nil {
		return nil, err
	}
	exported, err := export(ctx, conn, dsn, c)
	if err != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		conn.Close(closing)
		<-conn.CleanupDone()
		return nil, err
	}
	return exported, nil
}

func export(ctx context.Context, conn *pgconn.PgConn, dsn string, c ExportConfig) (*Exported, error) {
	sql := createSlot(c)
	began := time.Now()
	timeout := c.LockTimeout
	for {
		timeout = max(min(timeout, c.Wait-time.Since(began)), 10*time.Millisecond)
		exported, err := tryExport(ctx, conn, c.Slot, sql, timeout)
		if err == nil {
			c.Logger.Info("slot created", "slot", c.Slot, "lsn", exported.ConsistentPoint.String(), "snapshot", exported.Name, "after", time.Since(began))
			return exported, nil
		}
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || ctx.Err() != nil {
			return nil, fmt.Errorf("create slot %s: %w", c.Slot, err)
		}
		switch {
		case pgErr.Code == catalog.DuplicateObject:
			return nil, &ExistsError{Slot: c.Slot}
		case pgErr.Code == catalog.LockNotAvailable:
			blockers, err := findBlockers(ctx, dsn, timeout)
			if err != nil {
				return nil, fmt.Errorf("create slot %s: %w", c.Slot, err)
			}
			c.Logger.Warn("slot waits for transactions to end", "slot", c.Slot, "blockers", fmt.Sprint(blockers))
			if c.OnBlocked != nil && len(blockers) > 0 {
				c.OnBlocked(blockers)
			}
			if time.Since(began) >= c.Wait {
				return nil, &BlockedError{Slot: c.Slot, Waited: time.Since(began), Blockers: blockers}
			}
			timeout = min(2*timeout, max(longestLockTimeout, c.LockTimeout))
			continue
		case raced(pgErr) && time.Since(began) < c.Wait:
			c.Logger.Info("slot is tried again", "slot", c.Slot, "error", pgErr.Message)
			if err := wait.Sleep(ctx, time.Second); err != nil {
				return nil, fmt.Errorf("create slot %s: %w", c.Slot, err)
			}
		default:
			return nil, fmt.Errorf("create slot %s: %w", c.Slot, err)
		}
	}
}

// raced reports whether an error comes from what other transactions do at that moment: "initial
// slot snapshot too large", and a race with the server's own oldest xid that minors before the end
// of 2025 have.
func raced(err *pgconn.PgError) bool {
	return err.Code == catalog.SerializationFailure || strings.Contains(err.Message, "oldest safe xid")
}

// createSlot is the replication command, in the words that all versions understand.
func createSlot(c ExportConfig) string {
	sql := `CREATE_REPLICATION_SLOT "` + c.Slot + `"`
	if c.Temporary {
		sql += " TEMPORARY"
	}
	return sql + " LOGICAL pgoutput EXPORT_SNAPSHOT"
}

// tryExport makes one attempt. It always waits for the server's answer: if the connection were
// merely cut, a walsender could wait on with a half-made slot that keeps WAL (until the blocker
// ends), or complete it for nobody.
func tryExport(ctx context.Context, conn *pgconn.PgConn, slot, sql string, lockTimeout time.Duration) (*Exported, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	set := fmt.Sprintf("set lock_timeout = '%dms'", lockTimeout.Milliseconds())
	if _, err := conn.Exec(ctx, set).ReadAll(); err != nil {
		return nil, err
	}

	answer, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	asked := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(asked)
		request, cancel := context.WithTimeout(answer, 10*time.Second)
		defer cancel()
		if conn.CancelRequest(request) != nil {
			giveUp() // no way to reach the server: it will notice on its own
		}
	})
	results, err := conn.Exec(answer, sql).ReadAll()
	if !stop() {
		<-asked
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}

	exported, err := readSlot(results)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, dropSlot(ctx, conn, slot))
	}
	exported.conn = conn
	return exported, nil
}

// readSlot reads the answer: slot_name, consistent_point, snapshot_name, output_plugin.
func readSlot(results []*pgconn.Result) (*Exported, error) {
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 3 {
		return nil, errors.New("read the new slot: the server's answer is not a row of at least three columns")
	}
	row := results[0].Rows[0]
	point, err := pglogrepl.ParseLSN(string(row[1]))
	if err != nil {
		return nil, fmt.Errorf("read the new slot's position: %w", err)
	}
	return &Exported{Slot: string(row[0]), Name: string(row[2]), ConsistentPoint: point}, nil
}

// dropSlot drops the slot that this very connection has just created.
func dropSlot(ctx context.Context, conn *pgconn.PgConn, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if _, err := conn.Exec(ctx, `DROP_REPLICATION_SLOT "`+name+`"`).ReadAll(); err != nil {
		return fmt.Errorf("drop slot %s: %w", name, err)
	}
	return nil
}
