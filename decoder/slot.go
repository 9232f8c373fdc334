package decoder

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/slot"
)

// Types of package slot that a stream's configuration and errors use.
type (
	PublicationIdentity = slot.PublicationIdentity
	PublicationError    = slot.PublicationError
	SlotError           = slot.Error
	SlotReason          = slot.Reason
)

// The reasons of a SlotError.
const (
	SlotMissing = slot.Missing
	SlotLost    = slot.Lost
	SlotAhead   = slot.Ahead
	SlotActive  = slot.Active
	SlotForeign = slot.Foreign
	SlotPending = slot.Pending
)

// CreatePublication is [slot.CreatePublication].
func CreatePublication(ctx context.Context, conn *pgx.Conn, name string, tables []pgx.Identifier, publish string) (uint32, error) {
	return slot.CreatePublication(ctx, conn, name, tables, publish)
}
