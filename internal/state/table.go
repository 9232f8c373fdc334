package state

import "github.com/walferry/walferry/internal/catalog"

// Table is what a migration remembers of a table of its selection.
type Table struct {
	OID uint32 `json:"oid,omitempty"` // the source's; 0 in a record of an older version
	catalog.Name
	Kind       string `json:"kind"`
	InsertOnly bool   `json:"insert_only,omitempty"`

	// Columns are those that travel, as they were when the publication was made.
	Columns []Column `json:"columns,omitempty"`

	TargetOID uint32            `json:"target_oid,omitempty"` // 0: the target had no such table, or the record is of an older version
	Place     *Place            `json:"place,omitempty"`      // nil in a record of an older version
	Indexes   map[string]string `json:"indexes,omitempty"`    // of the source: what indexSum says of each
}

// InsertOnly are those of tables that the user says are only ever inserted into.
func InsertOnly(tables []Table) (only []catalog.Table) {
	for _, t := range tables {
		if t.InsertOnly {
			only = append(only, catalog.Table{OID: t.OID, Name: t.Name})
		}
	}
	return only
}

// Place is where a table of the source stands among others.
type Place struct {
	Parents []string `json:"parents,omitempty"` // as SQL, sorted
	Bound   string   `json:"bound,omitempty"`   // of a partition
	Key     string   `json:"key,omitempty"`     // of a partitioned table
	Others  []string `json:"others,omitempty"`  // its children that are not migrated, as SQL, sorted
}

// Column is a column of the source as it was.
type Column struct {
	Number  int16  `json:"num,omitempty"` // attnum; 0 in a record of an older version
	Name    string `json:"name"`
	TypeOID uint32 `json:"type"`
	TypeMod int32  `json:"mod"`
	Target  int16  `json:"to,omitempty"`   // attnum on the target; 0: the target had no such column, or the record is of an older version
	Gone    bool   `json:"gone,omitempty"` // it has been dropped on both sides
}
