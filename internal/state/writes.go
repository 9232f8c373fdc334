package state

import "time"

// WritesOn is what is written on either server of a migration. nil: no flow comes from there now, so that nobody counts.
type WritesOn struct {
	Old *Writes `json:"old"`
	New *Writes `json:"new"`
}

// Writes is what applications have written to the tables of a migration on a server of late. The commits are those that the stream has
// brought, all of them. Who made them is in no stream: it is known of those that were caught, whose session was seen in
// pg_stat_activity while it wrote, in a look now and then. Long transactions are caught more often than short ones.
type Writes struct {
	Seconds float64       `json:"seconds"` // for how long it was counted: some minutes
	Commits int64         `json:"commits"`
	Rate    float64       `json:"commits_per_minute"`
	Tables  []TableWrites `json:"tables"` // those with most commits first; a transaction counts for each of its tables
	Caught  int64         `json:"caught"` // of the commits
	Writers []Writer      `json:"writers"`
	More    int           `json:"more_writers"` // that are not listed
}

// TableWrites are the commits that have written to a table. A partition counts as its topmost parent.
type TableWrites struct {
	Table string  `json:"table"`
	Rate  float64 `json:"commits_per_minute"`
}

// Writer is a role and the application_name of its sessions.
type Writer struct {
	Role        string     `json:"role"`
	Application string     `json:"application"`
	Sessions    int        `json:"sessions"`           // that it has now
	Caught      int64      `json:"caught"`             // of its commits
	Rate        *float64   `json:"commits_per_minute"` // its share of all, by what was caught; nil: too few were
	Tables      []string   `json:"tables"`             // that these have written to
	Last        *time.Time `json:"last"`               // when the last one was caught, by the runner's clock; nil: none was
}
