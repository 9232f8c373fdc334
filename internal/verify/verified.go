package verify

// Verified is a comparison and the moment it holds for.
type Verified struct {
	Report
	SourceIs    string `json:"source_is"`         // old or new: the server that was the source, as the database was there; mixed: each table was compared with its owner
	Position    string `json:"position"`          // both sides at this LSN of the source; empty: see Caveat
	AsOfCutover bool   `json:"as_of_cutover"`     // made by migrate --verify, of both sides as the target opened
	HeldMS      int64  `json:"held_ms,omitempty"` // how long the applier stood still
	Caveat      string `json:"caveat,omitempty"`  // why differences may be none of walferry's
}
