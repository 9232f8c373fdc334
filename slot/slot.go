package slot

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/wait"
)

// Info is a row of pg_replication_slots.
type Info struct {
	Name, Plugin, Database string
	Here                   bool // Database is the one that was asked
	Logical, Temporary     bool

	Active      bool
	PID         int32  // of the walsender that reads it; 0: none
	Application string // its application_name, where we may see it

	Restart   pglogrepl.LSN // WAL is kept from here on
	Confirmed pglogrepl.LSN // what the consumer has confirmed; 0 while the slot is being created

	WALStatus string // reserved, extended, unreserved or lost; empty before version 13
	Invalid   string // why it is of no use any more (16 and newer); empty: it still is
}

// Read returns what the server knows of a slot; the connection may be a walsender's. The error is
// an *Error with Missing if there is none of that name.
func Read(ctx context.Context, conn *pgconn.PgConn, name string) (Info, error) {
	rows, err := session.Simple(ctx, conn, readSQL(session.Major(conn), name))
	if err != nil {
		return Info{}, fmt.Errorf("read replication slot %q: %w", name, err)
	}
	if len(rows) == 0 {
		return Info{}, &Error{Slot: name, Reason: Missing, Detail: "the server has none of that name"}
	}
	r := rows[0]
	pid, err1 := strconv.ParseInt(r[5], 10, 32)
	restart, err2 := pglogrepl.ParseLSN(r[7])
	confirmed, err3 := pglogrepl.ParseLSN(r[8])
	if err := errors.Join(err1, err2, err3); err != nil {
		return Info{}, fmt.Errorf("read replication slot %q: %w", name, err)
	}
	return Info{
		Name: name, Plugin: r[0], Database: r[1], Here: r[11] == "t", Logical: r[2] == "logical", Temporary: r[3] == "t",
		Active: r[4] == "t", PID: int32(pid), Application: r[6],
		Restart: restart, Confirmed: confirmed, WALStatus: r[9], Invalid: r[10],
	}, nil
}

func readSQL(major int, name string) string {
	walStatus, invalid := "''", "''"
	if major >= 13 {
		walStatus = "coalesce(s.wal_status, '')"
	}
	switch {
	case major >= 17:
		invalid = "coalesce(s.invalidation_reason, '')"
	case major >= 16:
		invalid = "case when s.conflicting then 'conflict with recovery' else '' end"
	}
	return `select coalesce(s.plugin, ''), coalesce(s.database, ''), s.slot_type, s.temporary, s.active,
       coalesce(s.active_pid, 0), coalesce(a.application_name, ''),
       coalesce(s.restart_lsn, '0/0'), coalesce(s.confirmed_flush_lsn, '0/0'),
       ` + walStatus + `, ` + invalid + `, coalesce(s.database = current_database(), false)
  from pg_catalog.pg_replication_slots s left join pg_catalog.pg_stat_activity a on a.pid = s.active_pid
 where s.slot_name = ` + catalog.Literal(name)
}

// Usable returns an error unless a stream can start from the slot at start, zero being the slot's
// own position.
func (s Info) Usable(start pglogrepl.LSN) error {
	fail := func(reason Reason, detail string, args ...any) error {
		return &Error{
			Slot: s.Name, Reason: reason, Detail: fmt.Sprintf(detail, args...),
			PID: s.PID, Application: s.Application, Confirmed: s.Confirmed, Start: start,
		}
	}
	switch {
	case !s.Logical:
		return fail(Foreign, "it is a physical slot")
	case s.Plugin != "pgoutput":
		return fail(Foreign, "its output plugin is %s, not pgoutput", s.Plugin)
	case !s.Here:
		return fail(Foreign, "it belongs to database %q", s.Database)
	case s.Temporary:
		return fail(Foreign, "it is temporary and ends with the session that made it")
	case s.WALStatus == "lost":
		return fail(Lost, "WAL that it needs was removed%s", because(s.Invalid))
	case s.Invalid != "":
		return fail(Lost, "it was invalidated%s", because(s.Invalid))
	case s.Confirmed == 0:
		return fail(Pending, "it has no consistent point yet")
	case start != 0 && s.Confirmed > start:
		// The server would start at its own position without an error
		// (CreateDecodingContext in logical.c), and what is between would be missing.
		return fail(Ahead, "it has confirmed %s, the stream must start at %s", s.Confirmed, start)
	case s.Active:
		return fail(Active, "process %d of the server reads it%s", s.PID, because(s.Application))
	}
	return nil
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

const (
	dropPatience = time.Second      // before a walsender of ours is told to end
	dropLimit    = 30 * time.Second // before Drop gives up
)

// Drop drops a logical slot of this database; it is not an error if there is none. A walsender of
// walferry (by its application_name) that still reads it is given a second and then terminated;
// another consumer's is left alone, and the error after half a minute is an *Error with Active.
func Drop(ctx context.Context, conn *pgx.Conn, name string) error {
	began := time.Now()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		info, err := Read(ctx, conn.PgConn(), name)
		if gone := (*Error)(nil); errors.As(err, &gone) && gone.Reason == Missing {
			return nil
		}
		if err != nil {
			return err
		}
		if !info.Logical || info.Plugin != "pgoutput" || !info.Here {
			return info.Usable(0)
		}
		if !info.Active {
			_, err := session.Simple(ctx, conn.PgConn(), "select pg_catalog.pg_drop_replication_slot("+catalog.Literal(name)+")")
			if err == nil {
				return nil
			}
			if code := catalog.State(err); code != catalog.ObjectInUse && code != catalog.UndefinedObject {
				return fmt.Errorf("drop replication slot %q: %w", name, err)
			}
		}
		switch waited := time.Since(began); {
		case waited > dropLimit:
			return &Error{
				Slot: name, Reason: Active, PID: info.PID, Application: info.Application,
				Detail: fmt.Sprintf("process %d of the server reads it%s", info.PID, because(info.Application)),
			}
		case info.Active && waited > dropPatience && strings.HasPrefix(info.Application, "walferry"):
			if err := Terminate(ctx, conn.PgConn(), info.PID); err != nil {
				return fmt.Errorf("drop replication slot %q: %w", name, err)
			}
			pause = 20 * time.Millisecond // its stream will connect again in a second: the slot has to be gone by then
		}
		if err := wait.Sleep(ctx, pause); err != nil {
			return fmt.Errorf("drop replication slot %q: %w", name, err)
		}
	}
}

// Terminate ends a server process that is known to be a walsender of ours.
func Terminate(ctx context.Context, conn *pgconn.PgConn, pid int32) error {
	if _, err := session.Simple(ctx, conn, fmt.Sprintf("select pg_catalog.pg_terminate_backend(%d)", pid)); err != nil {
		return fmt.Errorf("terminate walsender %d: %w", pid, err)
	}
	return nil
}
