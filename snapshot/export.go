package snapshot

import (
	"context"

	"github.com/walferry/walferry/slot"
)

// What package slot makes and says of a slot and its snapshot, under which tables are copied.
type (
	Exported        = slot.Exported
	ExportConfig    = slot.ExportConfig
	Blocker         = slot.Blocker
	BlockedError    = slot.BlockedError
	SlotExistsError = slot.ExistsError
)

// Export is [slot.Export].
func Export(ctx context.Context, dsn string, c ExportConfig) (*Exported, error) {
	return slot.Export(ctx, dsn, c)
}
