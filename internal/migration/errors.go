package migration

// GateError says that a condition was not met and that everything is as before:
// exit code 4.
type GateError struct {
	Problem string
	Advice  string
}

func (e *GateError) Error() string { return e.Problem }

// Hint is what the operator can do.
func (e *GateError) Hint() string { return e.Advice }

// UsageError says that what was asked for cannot be right: exit code 2.
type UsageError struct {
	Problem string
	Advice  string
}

func (e *UsageError) Error() string { return e.Problem }

// Hint is what the operator can do.
func (e *UsageError) Hint() string { return e.Advice }

// RunError is a failure that another process reports.
type RunError struct {
	Problem string
	Advice  string
}

func (e *RunError) Error() string { return e.Problem }

// Hint is what the operator can do.
func (e *RunError) Hint() string { return e.Advice }
