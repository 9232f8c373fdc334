package shop

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Fenced reports whether a statement was refused by walferry's fence: the database is moving, and
// the same transaction is to be retried on the new one.
func Fenced(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "WF001" && strings.Contains(pg.Message, "walferry")
}

// Class is how an attempt at a transaction went wrong, as a client tells errors apart.
type Class string

const (
	Lost       Class = "lost"       // the connection, before COMMIT was sent: nothing happened
	Conflict   Class = "conflict"   // serialization failure, deadlock, timeout: the same again may work
	Refused    Class = "fenced"     // see Fenced
	Constraint Class = "constraint" // the data does not allow it: reported to the client's caller
	Other      Class = "other"      // an error no application expects
)

// classify sorts the error of a statement other than COMMIT.
func classify(err error, fenced func(error) bool) Class {
	if fenced(err) {
		return Refused
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return Lost
	}
	switch {
	case pg.Code == "40001", pg.Code == "40P01", pg.Code == "55P03", pg.Code == "57014":
		return Conflict
	case strings.HasPrefix(pg.Code, "08"), strings.HasPrefix(pg.Code, "57P"), pg.Code == "53300", pg.Code == "25006":
		// 53300: too many connections; 25006: a standby, for the moment that a failover takes.
		return Lost
	case pg.Code == "23P01", pg.Code == "23503":
		// Two carriers want the same dock; the order that is paid for was deleted.
		return Constraint
	}
	return Other
}

// uncertain reports whether a COMMIT that ended with err may have succeeded.
func uncertain(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return true
	}
	// A server that ends a session says so with FATAL, also when the commit was already local and
	// waited for a standby.
	return strings.HasPrefix(pg.Code, "57P") || pg.Severity == "FATAL" || pg.Severity == "PANIC"
}
