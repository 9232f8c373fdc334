// Package migration puts the steps of a move in order: the phases, what is persisted between them,
// and what another process may ask of a running migrate. Nothing else knows their order.
package migration

import "github.com/walferry/walferry/internal/config"

// What a migration is asked for.
type (
	Config         = config.Migration
	CutoverOptions = config.Cutover
	Until          = config.Until
	Switch         = config.Switch
	FallBackMode   = config.FallBackMode
	OnNewTable     = config.OnNewTable
)

// What may be asked for.
const (
	UntilCutover  = config.UntilCutover
	UntilCopied   = config.UntilCopied
	UntilCaughtUp = config.UntilCaughtUp

	NoLimit = config.NoLimit
	On      = config.On
	Off     = config.Off

	NoFallBack      = config.NoFallBack
	FallBackAuto    = config.FallBackAuto
	FallBackRequire = config.FallBackRequire

	StopOnNewTable  = config.StopOnNewTable
	IgnoreNewTables = config.IgnoreNewTables
)
