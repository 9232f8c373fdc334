package catalog

import "github.com/jackc/pgx/v5"

// Name is the name of a table, or of what else has one within a schema. It is what maps
// are keyed by, so that a table is never looked up by a text that may be quoted or not.
type Name struct{ Schema, Name string }

// String is the name as SQL, always quoted.
func (n Name) String() string { return pgx.Identifier{n.Schema, n.Name}.Sanitize() }
