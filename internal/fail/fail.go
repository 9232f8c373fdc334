// Package fail has the error that carries a text for the operator and nothing else that a caller
// asks for: what went wrong, what to do about it, and of which kind it is. An error whose fields
// decide what happens next is a type of its own.
package fail

// Kind is what an error means for whoever asked. cmd/walferry makes the exit code of it.
type Kind string

// The kinds of an Error.
const (
	// Run: something failed while running.
	Run Kind = "run"
	// Usage: what was asked for cannot be right.
	Usage Kind = "usage"
	// Gate: a condition was not met, and everything is as before.
	Gate Kind = "gate"
	// Difference: a comparison found differences.
	Difference Kind = "difference"
	// Stopped: a signal came before the end, in a state from which the same command resumes.
	Stopped Kind = "stopped"
)

// Error says what went wrong and what can be done about it.
type Error struct {
	Kind    Kind
	Problem string // empty: what Err says
	Advice  string // may be empty
	Err     error  // the cause; nil where there is none to ask
}

func (e *Error) Error() string {
	if e.Problem == "" && e.Err != nil {
		return e.Err.Error()
	}
	return e.Problem
}

// Unwrap returns the cause, if there is one.
func (e *Error) Unwrap() error { return e.Err }

// Hint returns what the operator can do.
func (e *Error) Hint() string { return e.Advice }

// Find returns the first Error of a kind in the tree of err, in the order of errors.As; nil if there
// is none.
func Find(err error, kind Kind) (found *Error) {
	walk(err, func(err error) bool {
		if e, ok := err.(*Error); ok && e.Kind == kind { //nolint:errorlint // walk goes into what is wrapped
			found = e
		}
		return found != nil
	})
	return found
}

// Is reports whether there is an Error of a kind in the tree of err.
func Is(err error, kind Kind) bool { return Find(err, kind) != nil }

// Hint returns what the operator can do about err: the first hint in its tree that says anything;
// empty if there is none.
func Hint(err error) (hint string) {
	walk(err, func(err error) bool {
		if e, ok := err.(interface{ Hint() string }); ok { //nolint:errorlint // walk goes into what is wrapped
			hint = e.Hint()
		}
		return hint != ""
	})
	return hint
}

// walk visits the tree of err in the order of errors.As, until visit returns true.
func walk(err error, visit func(error) bool) bool {
	if err == nil {
		return false
	}
	if visit(err) {
		return true
	}
	switch inner := err.(type) { //nolint:errorlint // this is the walk
	case interface{ Unwrap() error }:
		return walk(inner.Unwrap(), visit)
	case interface{ Unwrap() []error }:
		for _, err := range inner.Unwrap() {
			if walk(err, visit) {
				return true
			}
		}
	}
	return false
}
