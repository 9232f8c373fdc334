package catalog

import (
	"errors"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
)

// The SQLSTATEs that something is decided by, under the names of
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

// State is the SQLSTATE of what a server has answered; empty: err holds no server's answer.
func State(err error) string {
	var server *pgconn.PgError
	if errors.As(err, &server) {
		return server.Code
	}
	return ""
}

// Class is the first two characters of a SQLSTATE, which say what kind of error it is.
func Class(state string) string { return state[:min(2, len(state))] }

// Passes reports whether what failed may succeed when the same is tried again, with nobody
// having changed anything: the connection was lost, a server starts, ends or is a standby just
// now, a transaction was chosen to give way or its statement was cancelled, a lock was not to be
// had, a resource is short.
//
// An error that holds no server's answer passes, for nobody has answered: whoever asks
// rules out before what is an error of its own.
func Passes(err error) bool {
	var server *pgconn.PgError
	if !errors.As(err, &server) {
		return true
	}
	switch class := Class(server.Code); class {
	case classConnection, classRollback, classResources,
		classOperatorIntervention: // also a statement that somebody has cancelled: nothing of ours cancels one and goes on with the connection
		return true
	case classSystem:
		return server.Code != UndefinedFile && server.Code != DuplicateFile
	case classAuthorization, classCatalogName, classSyntaxOrAccess:
		return false // also as FATAL: the login was refused, or there is no such database
	}
	switch server.Code {
	case LockNotAvailable,
		ObjectInUse,              // by a backend that is about to end: a slot, a replication origin
		ReadOnlyTransaction,      // a standby before it is promoted, or a primary that was demoted
		IdleInTransactionTimeout, // of a process that was stopped for a while
		TransactionTimeout:
		return true
	}
	return Closed(server) || StalePlan(server)
}

// LostLock reports whether a statement did not get its lock, by a timeout or as the victim of
// a deadlock: it can be asked for again.
func LostLock(err error) bool {
	return slices.Contains([]string{LockNotAvailable, DeadlockDetected}, State(err))
}

// LastWord reports whether a server has refused a statement for good: the refusal does not pass, and
// says something of the statement, not of the state of the transaction or of the server.
func LastWord(err error) bool {
	state := State(err)
	return state != "" && !Passes(err) && !slices.Contains([]string{classTransactionState, classSystem, classInternal}, Class(state))
}

// Closed reports whether the server has closed the connection with its answer.
func Closed(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && (server.SeverityUnlocalized == "FATAL" || server.SeverityUnlocalized == "PANIC")
}

// StalePlan reports "cached plan must not change result type", after which a statement is
// planned anew; its SQLSTATE is that of all features that are not supported.
func StalePlan(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && server.Code == FeatureNotSupported && server.Routine == "RevalidateCachedQuery"
}
