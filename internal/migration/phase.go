package migration

import "github.com/walferry/walferry/internal/state"

// Phase is how far a migration is.
type Phase = state.Phase

// The phases in their order, and Aborted, which may follow any but Finished.
const (
	New       = state.New
	Prepared  = state.Prepared
	Copying   = state.Copying
	Indexing  = state.Indexing
	Following = state.Following
	Fenced    = state.Fenced
	Drained   = state.Drained
	Switched  = state.Switched
	Finished  = state.Finished
	Aborted   = state.Aborted
)
