package identity

import (
	"context"
	"errors"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/sides"
	"github.com/walferry/walferry/slot"
)

// ExplainGap adds how to start over to an error by which the decoder or the applier says that the
// copy has to be made again.
func ExplainGap(err error) error {
	var (
		unusable    *slot.Error
		publication *slot.PublicationError
		identity    *decoder.IdentityError
		progress    *applier.ProgressError
		advice      string
	)
	switch {
	case errors.As(err, &unusable) && unusable.Reason == slot.Foreign:
		advice = "gap: the migration's slot is gone, and another has its name: that of a migration of another database of this server, then begin with another --name; or, if nobody needs it, select pg_drop_replication_slot(" + catalog.Literal(unusable.Slot) + "); then start over"
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
	return &fail.Error{Kind: fail.Run, Advice: advice + ": " + sides.StartOver, Err: err}
}

// ExplainLost returns, for an error by which a stream says that its publication has lost a table, that the table was dropped, if it was.
func (t *Tables) ExplainLost(ctx context.Context, err error) error {
	var lost *slot.PublicationError
	if !errors.As(err, &lost) {
		return err
	}
	if found, looked := t.Changes(ctx, t.From); looked == nil && len(found.Replaced) > 0 {
		return found.MustEnd()
	}
	return err
}
