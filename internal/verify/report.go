package verify

import "strings"

// Report is the outcome of a comparison. It contains no values except for key columns.
type Report struct {
	// Equal is true if every table was compared, and the target has all rows and columns of the
	// source and no others; false if something differs; nil if nothing that was compared differs,
	// but not everything was compared, or nothing at all.
	Equal *bool `json:"equal"`

	Compared    int           `json:"compared"`     // tables whose outcome is known
	NotCompared int           `json:"not_compared"` // tables with an Error
	Rows        int64         `json:"rows"`         // compared, on the source
	Tables      []TableReport `json:"tables"`
}

// AllEqual reports whether everything was compared and found equal.
func (r *Report) AllEqual() bool { return r.Equal != nil && *r.Equal }

// Differs reports whether a difference was found.
func (r *Report) Differs() bool { return r.Equal != nil && !*r.Equal }

// Conclude sums up the reports of the tables.
func (r *Report) Conclude() {
	r.Equal, r.Compared, r.NotCompared, r.Rows = nil, 0, 0, 0
	differ := false
	for i := range r.Tables {
		t := &r.Tables[i]
		if t.Error != "" {
			r.NotCompared++
			continue
		}
		r.Compared++
		r.Rows += t.SourceRows
		differ = differ || !t.Equal
	}
	if equal := !differ; differ || r.Compared > 0 && r.NotCompared == 0 {
		r.Equal = &equal
	}
}

// TableReport is the outcome for one table, in the order of Config.Tables.
type TableReport struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`

	// Method is "key" if rows are identified by a key, "multiset" if the table has none.
	Method string `json:"method"`

	Equal      bool  `json:"equal"`
	SourceRows int64 `json:"source_rows"`
	TargetRows int64 `json:"target_rows"`

	// The number of rows on the source only, on the target only, and on both with different values.
	// Without a key a changed row counts as one missing and one extra, unless only generated
	// columns differ.
	MissingRows   int64 `json:"missing_rows"`
	ExtraRows     int64 `json:"extra_rows"`
	DifferentRows int64 `json:"different_rows"`

	// GeneratedRows counts the DifferentRows in which only generated columns differ.
	GeneratedRows int64 `json:"generated_rows,omitempty"`

	// Hint explains the differences and what to do, if that is known.
	Hint string `json:"hint,omitempty"`

	// The first of these rows, Config.MaxRows in all.
	Missing   []Key `json:"missing,omitempty"`
	Extra     []Key `json:"extra,omitempty"`
	Different []Key `json:"different,omitempty"`

	// More is how many differing rows are not named.
	More int64 `json:"more,omitempty"`

	// MissingColumns are columns of the source that the target lacks. The others were compared.
	MissingColumns []string `json:"missing_columns,omitempty"`

	// Gone is set if a side does not have the table: it was dropped or renamed, or another one has
	// its name. That is a difference.
	Gone string `json:"gone,omitempty"`

	// Error is why the table could not be compared. Equal is false then, and nothing is known.
	Error string `json:"error,omitempty"`

	// Rewritten: the Error is that the table was truncated or rewritten after the snapshot was
	// taken; another comparison may succeed.
	Rewritten bool `json:"rewritten,omitempty"`
}

// Key names a row.
type Key struct {
	// Key is the row's key as column=value, column=value; values other than plain words and numbers
	// are SQL literals. Without a key it is ctid=(page,item), on the target for an extra row, on
	// the source for all others, and valid until the row is updated.
	Key string `json:"key"`

	// Columns are those whose values differ, for a row that is on both sides.
	Columns []string `json:"columns,omitempty"`
}

func (k Key) String() string {
	if len(k.Columns) == 0 {
		return k.Key
	}
	return k.Key + " (" + strings.Join(k.Columns, ", ") + ")"
}

// Progress is the progress of a comparison.
type Progress struct {
	Tables     int   // to be compared
	TablesDone int   // read once on both sides
	Parts      int   // parts of tables to be read, on both sides
	PartsDone  int   //
	Rows       int64 // read so far, on both sides
	Narrowing  int   // tables that differ and are being read again
}
