package decoder

// Window is the range of snapshots under which the rows of a table were read: what a copy leaves
// behind, and an applier has to know of a table that was not copied under the snapshot of its
// stream's first position. A zero field means that position.
type Window struct {
	// From: every row was read under a snapshot of this position or a later one. Changes of
	// transactions whose commit record starts before it are already in the rows, and are left out.
	From LSN

	// To: no row was read under a snapshot of a later position. Between From and To, the table has
	// rows of several positions: some have a change already, some exist twice under two keys, or
	// not at all. Changes are applied so that the rows become those of the source at To: an
	// existing row is replaced, a missing one is inserted, and one to delete need not exist.
	To LSN
}

// Mixed reports whether there may be rows of several positions.
func (w Window) Mixed() bool { return w.From != w.To }
