package state

import (
	"errors"
	"fmt"
	"strings"

	"github.com/walferry/walferry/internal/fail"
)

// NoMigration says that the target has no migration of a name, and which it has.
func NoMigration(name string, known []string) error {
	advice := "check --target and --name; the target has no migration at all"
	if len(known) > 10 {
		known = append(known[:10:10], fmt.Sprintf("and %d more", len(known)-10))
	}
	if len(known) > 0 {
		advice = "check --target and --name; the target has: " + strings.Join(known, ", ")
	}
	return &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("the target knows no migration %q", name), Advice: advice}
}

var (
	// ErrOvertaken ends what a process does that stood still while another one took the migration
	// over: its lock was gone, as after a restart of the target, and it did not know.
	ErrOvertaken = &fail.Error{
		Kind:    fail.Gate,
		Problem: "another process has taken this migration over meanwhile: this one leaves everything as that one has it",
		Advice:  "`walferry status` shows where it stands",
	}

	// ErrNoRunner is returned by what needs a running migrate.
	ErrNoRunner = &fail.Error{
		Kind:    fail.Gate,
		Problem: "no migrate is running for this migration",
		Advice:  "start `walferry migrate`, which resumes it, and ask again",
	}

	// ErrUnanswered is that of a request whose runner has ended.
	ErrUnanswered = &fail.Error{Kind: fail.Run, Problem: "the running migrate ended before it answered", Advice: "look at its output and at `walferry status`"}

	// ErrDone is that of a switch that was asked for, whose runner has ended without an answer: it
	// is done, and Outcome has what it has measured.
	ErrDone = errors.New("the switch is done")

	// ErrNotBegun is returned to an asker that was interrupted before anything was done.
	ErrNotBegun = &fail.Error{Kind: fail.Gate, Problem: "the request was taken back before it began: everything is as before", Advice: "ask again when it is wanted"}

	// ErrWithdrawn ends a cutover whose asker has taken it back.
	ErrWithdrawn = &fail.Error{Kind: fail.Gate, Problem: "the request was taken back by the process that asked for it", Advice: "ask again when it is wanted"}

	// ErrDeserted ends a cutover whose asker was killed, or is cut off from the target: nobody
	// would see its outcome.
	ErrDeserted = &fail.Error{Kind: fail.Gate, Problem: "the request was taken back: the process that asked for it has been silent for " + staleAfter.String(), Advice: "ask again when it is wanted"}

	// ErrAborting ends a cutover when the migration is to be given up.
	ErrAborting = &fail.Error{Kind: fail.Gate, Problem: "the cutover was taken back: walferry abort was asked for", Advice: "see `walferry status`"}
)
