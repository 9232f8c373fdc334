package migration

import (
	"errors"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/slot"
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

// gapError is an error after which the migration can only be begun anew.
type gapError struct {
	error
	advice string
}

func (e *gapError) Unwrap() error { return e.error }

// Hint is what the operator can do.
func (e *gapError) Hint() string { return e.advice }

// explainGap says how a migration is begun anew, where the decoder or the applier says that
// the copy has to be made again.
func explainGap(err error) error {
	var (
		unusable    *slot.Error
		publication *slot.PublicationError
		identity    *decoder.IdentityError
		progress    *applier.ProgressError
		advice      string
	)
	switch {
	case errors.As(err, &unusable) && unusable.Reason == slot.Foreign:
		advice = "gap: the migration's slot is gone, and another has its name: that of a migration of another database of this server, then begin with another --name; or, if nobody needs it, select pg_drop_replication_slot(" + catalog.Literal(unusable.Slot) + "); then begin anew"
	case errors.As(err, &unusable) && (unusable.Reason == slot.Missing || unusable.Reason == slot.Lost || unusable.Reason == slot.Ahead):
		advice = unusable.Hint()
	case errors.As(err, &publication) && !publication.Exists && !publication.Renamed:
		advice = publication.Hint()
	case errors.As(err, &identity) && (identity.What == "timeline" || identity.What == "WAL position"):
		advice = identity.Hint()
	case errors.As(err, &progress) && (progress.Lost() || progress.Missing):
		advice = progress.Hint()
	default:
		return err
	}
	return &gapError{err, advice + ": `walferry abort`, `walferry cleanup`, empty the target, `walferry migrate`"}
}

func list(names []string) string { return catalog.List(names) }
