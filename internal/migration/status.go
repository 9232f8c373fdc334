package migration

import (
	"context"

	"github.com/walferry/walferry/internal/groups"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/status"
)

// What everybody sees who looks.
type (
	Status         = status.Status
	SourceStatus   = status.SourceStatus
	SlotStatus     = status.SlotStatus
	WayBack        = status.WayBack
	FenceStatus    = status.FenceStatus
	StreamStatus   = status.StreamStatus
	LastComparison = status.LastComparison
)

// ReadStatus asks both servers. A source that cannot be reached is not an error: it is reported in
// Status.Source.Error. A target that knows no such migration gives an empty Phase.
func ReadStatus(ctx context.Context, c Config) (Status, error) {
	c, err := c.Fill()
	if err != nil {
		return Status{}, err
	}
	application := c.Name + " status"
	st, record, err := status.Read(ctx, session.Config{DSN: c.Source, Application: application}, session.Config{DSN: c.Target, Application: application}, c.Name)
	if record != nil {
		st.Options = record.Options.String()
	}
	return st, err
}

// Groups asks both servers which tables of the migration belong together.
func Groups(ctx context.Context, c Config) (groups.Report, error) {
	c, err := c.Fill()
	if err != nil {
		return groups.Report{}, err
	}
	application := c.Name + " groups"
	return groups.Read(ctx, session.Config{DSN: c.Source, Application: application}, session.Config{DSN: c.Target, Application: application}, c.Name)
}
