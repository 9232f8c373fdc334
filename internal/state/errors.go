package state

import (
	"errors"
	"fmt"
	"strings"
)

// GateError says that a condition was not met and that everything is as before: exit code 4.
type GateError struct {
	Problem string
	Advice  string
}

func (e *GateError) Error() string { return e.Problem }

// Hint is what the operator can do.
func (e *GateError) Hint() string { return e.Advice }

// RunError is a failure that another process reports.
type RunError struct {
	Problem string
	Advice  string
}

func (e *RunError) Error() string { return e.Problem }

// Hint is what the operator can do.
func (e *RunError) Hint() string { return e.Advice }

// NoMigration says that the target has no migration of a name, and which it has.
func NoMigration(name string, known []string) error {
	advice := "check --target and --name; the target has no migration at all"
	if len(known) > 10 {
		known = append(known[:10:10], fmt.Sprintf("and %d more", len(known)-10))
	}
	if len(known) > 0 {
		advice = "check --target and --name; the target has: " + strings.Join(known, ", ")
	}
	return &GateError{fmt.Sprintf("the target knows no migration %q", name), advice}
}

var (
	// ErrOvertaken ends what a process does that stood still while another one took the migration
	// over: its lock was gone, as after a restart of the target, and it did not know.
	ErrOvertaken = &GateError{
		"another process has taken this migration over meanwhile: this one leaves everything as that one has it",
		"`walferry status` shows where it stands",
	}

	// ErrNoRunner is returned by what needs a running migrate.
	ErrNoRunner = &GateError{
		"no migrate is running for this migration",
		"start `walferry migrate`, which resumes it, and ask again",
	}

	// ErrUnanswered is that of a request whose runner has ended.
	ErrUnanswered = &RunError{"the running migrate ended before it answered", "look at its output and at `walferry status`"}

	// ErrDone is that of a cutover that was asked for, whose runner has ended without an answer: it
	// is done, and Outcome has what it has measured.
	ErrDone = errors.New("the cutover is done")

	// ErrNotBegun is returned to an asker that was interrupted before anything was done.
	ErrNotBegun = &GateError{"the cutover was taken back before it began: everything is as before", "ask again when it is wanted"}

	// ErrWithdrawn ends a cutover whose asker has taken it back.
	ErrWithdrawn = &GateError{"the cutover was taken back by the process that asked for it", "ask again when it is wanted"}

	// ErrDeserted ends a cutover whose asker was killed, or is cut off from the target: nobody
	// would see its outcome.
	ErrDeserted = &GateError{"the cutover was taken back: the process that asked for it has been silent for " + staleAfter.String(), "ask again when it is wanted"}

	// ErrAborting ends a cutover when the migration is to be given up.
	ErrAborting = &GateError{"the cutover was taken back: walferry abort was asked for", "see `walferry status`"}
)
