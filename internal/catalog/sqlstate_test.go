package catalog

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// One table for everything that decides whether to continue: copy, stream, applier, locks and the
// schema's restore differ in what they do about an error, not in what it means.
func TestSQLState_WhatAnErrorMeans(t *testing.T) {
	answer := func(severity, code string) error {
		return fmt.Errorf("do something: %w", &pgconn.PgError{SeverityUnlocalized: severity, Code: code})
	}
	type means struct{ passes, lostLock, lastWord bool }
	for _, c := range []struct {
		what string
		err  error
		want means
	}{
		{"the connection was lost", fmt.Errorf("read: %w", io.ErrUnexpectedEOF), means{passes: true}},
		{"the connection was lost, as a server says it", answer("ERROR", "08006"), means{passes: true}},
		{"a pooler has no server", answer("FATAL", "08P01"), means{passes: true}},

		{"the server shuts down", answer("FATAL", "57P01"), means{passes: true}},
		{"the server has crashed", answer("WARNING", "57P02"), means{passes: true}},
		{"the server is starting", answer("FATAL", "57P03"), means{passes: true}},
		{"the session was idle for too long", answer("FATAL", "57P05"), means{passes: true}},
		{"the transaction was idle for too long", answer("FATAL", "25P03"), means{passes: true}},
		{"the transaction took too long", answer("FATAL", "25P04"), means{passes: true}},
		{"the server is a standby", answer("ERROR", "25006"), means{passes: true}},
		{"somebody has cancelled the statement", answer("ERROR", "57014"), means{passes: true}},

		{"too many connections", answer("FATAL", "53300"), means{passes: true}},
		{"the disk is full", answer("ERROR", "53100"), means{passes: true}},
		{"an I/O error", answer("ERROR", "58030"), means{passes: true}},
		{"a file is not there, such as a library or WAL", answer("ERROR", "58P01"), means{}},

		{"a serialization failure", answer("ERROR", "40001"), means{passes: true}},
		{"a standby's conflict with recovery", answer("FATAL", "40001"), means{passes: true}},
		{"a deadlock", answer("ERROR", "40P01"), means{passes: true, lostLock: true}},
		{"a lock was not to be had", answer("ERROR", "55P03"), means{passes: true, lostLock: true}},
		{"a slot or an origin is in use", answer("ERROR", "55006"), means{passes: true}},

		{"the database takes no connections just now", answer("FATAL", "55000"), means{passes: true}},
		{"a slot was invalidated", answer("ERROR", "55000"), means{lastWord: true}},
		{"an internal error", answer("ERROR", "XX000"), means{}},
		{"an internal error that closed the connection", answer("FATAL", "XX000"), means{passes: true}},
		{"the server panics", answer("PANIC", "XX000"), means{passes: true}},
		{"the transaction has failed before", answer("ERROR", "25P02"), means{}},

		{"the password is wrong", answer("FATAL", "28P01"), means{lastWord: true}},
		{"pg_hba.conf has no entry", answer("FATAL", "28000"), means{lastWord: true}},
		{"there is no such database", answer("FATAL", "3D000"), means{lastWord: true}},
		{"the role may not connect", answer("FATAL", "42501"), means{lastWord: true}},

		{"a unique violation", answer("ERROR", "23505"), means{lastWord: true}},
		{"an invalid value", answer("ERROR", "22P02"), means{lastWord: true}},
		{"an undefined table", answer("ERROR", "42P01"), means{lastWord: true}},
		{"a feature that is not supported", answer("ERROR", "0A000"), means{lastWord: true}},
		{"a plan that does not fit any more", &pgconn.PgError{Code: "0A000", Routine: "RevalidateCachedQuery"}, means{passes: true}},
		{"an exception of a function", answer("ERROR", "P0001"), means{lastWord: true}},
	} {
		if got := (means{Passes(c.err), LostLock(c.err), LastWord(c.err)}); got != c.want {
			t.Errorf("%s (%s): got %+v, want %+v", c.what, State(c.err), got, c.want)
		}
	}
	if got := State(errors.New("no server")); got != "" {
		t.Errorf("the SQLSTATE of an error that no server gave is %q", got)
	}
}
