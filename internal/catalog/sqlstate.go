package catalog

import (
	"errors"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// The SQLSTATEs that decisions depend on, by their names in
// https://www.postgresql.org/docs/current/errcodes-appendix.html.
const (
	FeatureNotSupported      = "0A000"
	InvalidGrantOperation    = "0LP01"
	DivisionByZero           = "22012"
	CharacterNotInRepertoire = "22021"
	InvalidParameterValue    = "22023"
	UniqueViolation          = "23505"
	CheckViolation           = "23514"
	ReadOnlyTransaction      = "25006"
	IdleInTransactionTimeout = "25P03"
	TransactionTimeout       = "25P04"
	DependentObjects         = "2BP01" // DEPENDENT_OBJECTS_STILL_EXIST
	InvalidCatalogName       = "3D000"
	InvalidSchemaName        = "3F000"
	SerializationFailure     = "40001"
	DeadlockDetected         = "40P01"
	InsufficientPrivilege    = "42501"
	UndefinedColumn          = "42703"
	UndefinedFunction        = "42883"
	UndefinedTable           = "42P01"
	UndefinedObject          = "42704"
	DuplicateSchema          = "42P06"
	DuplicateTable           = "42P07"
	DuplicateObject          = "42710"
	DuplicateFunction        = "42723"
	OutOfMemory              = "53200"
	ObjectNotInRequiredState = "55000" // OBJECT_NOT_IN_PREREQUISITE_STATE
	ObjectInUse              = "55006"
	LockNotAvailable         = "55P03"
	QueryCanceled            = "57014"
	UndefinedFile            = "58P01"
	DuplicateFile            = "58P02"
	InternalError            = "XX000"
)

// Their classes, the first two characters.
const (
	classConnection           = "08"
	classData                 = "22"
	classTransactionState     = "25"
	classAuthorization        = "28"
	classCatalogName          = "3D"
	classRollback             = "40"
	classSyntaxOrAccess       = "42"
	classResources            = "53"
	classOperatorIntervention = "57"
	classSystem               = "58"
	classInternal             = "XX"
)

// State returns the SQLSTATE of a server's error; empty if err contains none.
func State(err error) string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code
	}
	return ""
}

// Class returns the class of a SQLSTATE, its first two characters.
func Class(state string) string { return state[:min(2, len(state))] }

// Passes reports whether a retry may succeed without any other change: the connection was lost, a
// server is starting, stopping or a standby at the moment, a transaction was chosen as a victim or
// its statement was canceled, a lock was not available, a resource is short.
//
// An error without a server's answer passes, since there was none: callers must rule out their own
// errors first.
func Passes(err error) bool {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return true
	}
	switch class := Class(server.Code); class {
	case classConnection, classRollback, classResources,
		classOperatorIntervention: // also a statement canceled by someone: walferry never cancels one and keeps the connection
		return true
	case classSystem:
		return server.Code != UndefinedFile && server.Code != DuplicateFile
	case classAuthorization, classCatalogName, classSyntaxOrAccess:
		return false // also as FATAL: the login was refused, or there is no such database
	}
	switch server.Code {
	case LockNotAvailable,
		ObjectInUse,              // by a backend that is about to exit: a slot, a replication origin
		ReadOnlyTransaction,      // a standby before it is promoted, or a primary that was demoted
		IdleInTransactionTimeout, // of a process that was stopped for a while
		TransactionTimeout:
		return true
	}
	return Closed(server) || StalePlan(server)
}

// LostLock reports whether a statement did not get its lock, because of a timeout or as the victim
// of a deadlock: it can be retried.
func LostLock(err error) bool {
	return slices.Contains([]string{LockNotAvailable, DeadlockDetected}, State(err))
}

// LastWord reports whether a server has rejected a statement for good: the error does not pass, and
// concerns the statement, not the state of the transaction or of the server.
func LastWord(err error) bool {
	state := State(err)
	return state != "" && !Passes(err) && !slices.Contains([]string{classTransactionState, classSystem, classInternal}, Class(state))
}

// Closed reports whether the server has closed the connection with its answer.
func Closed(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && (server.SeverityUnlocalized == "FATAL" || server.SeverityUnlocalized == "PANIC")
}

// StalePlan reports "cached plan must not change result type", after which a statement is planned
// again; its SQLSTATE is that of every unsupported feature.
func StalePlan(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && server.Code == FeatureNotSupported && server.Routine == "RevalidateCachedQuery"
}
