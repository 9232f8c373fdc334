package migration

import (
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/state"
)

// GateError says that a condition was not met and that everything is as before:
// exit code 4.
type GateError = state.GateError

// RunError is a failure that another process reports.
type RunError = state.RunError

// UsageError says that what was asked for cannot be right: exit code 2.
type UsageError struct {
	Problem string
	Advice  string
}

func (e *UsageError) Error() string { return e.Problem }

// Hint is what the operator can do.
func (e *UsageError) Hint() string { return e.Advice }

// sourceGoneError is the source that cannot be reached after the cutover.
type sourceGoneError struct{ error }

func (e *sourceGoneError) Unwrap() error { return e.error }

// Hint is what the operator can do.
func (e *sourceGoneError) Hint() string {
	return "if the old server is gone for good, `drop schema walferry cascade` on the target is what is left for cleanup to do, unless another migration has its state there"
}

func list(names []string) string { return catalog.List(names) }
