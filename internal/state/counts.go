package state

import (
	"time"

	"github.com/walferry/walferry/internal/tally"
)

// FlowCounts is what has come through a flow since a run has begun to follow it.
type FlowCounts struct {
	Inserts   int64 `json:"inserts"`
	Updates   int64 `json:"updates"`
	Deletes   int64 `json:"deletes"`
	Truncates int64 `json:"truncates"`

	Groups       tally.Spread `json:"groups"` // transactions that were committed together
	Delay        tally.Spread `json:"delay"`  // seconds from their commit to that on the server that the flow goes to
	FailedGroups int64        `json:"failed_groups"`

	ReceivedBytes int64 `json:"received_bytes"`

	// FromReconnects and ToReconnects are connections that were lost and made again, to the server that the flow comes from and to the one
	// that it goes to; FromFailedAt and ToFailedAt when something there has failed last that was tried again, zero: nothing has.
	FromReconnects int64     `json:"from_reconnects"`
	ToReconnects   int64     `json:"to_reconnects"`
	FromFailedAt   time.Time `json:"from_failed_at,omitzero"`
	ToFailedAt     time.Time `json:"to_failed_at,omitzero"`
}
