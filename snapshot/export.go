package snapshot

import (
	"context"

	"github.com/walferry/walferry/slot"
)

// Types of package slot, which creates the slot and the snapshot under which tables are copied.
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
