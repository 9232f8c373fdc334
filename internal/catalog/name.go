package catalog

import "github.com/jackc/pgx/v5"

// Name is the unquoted name of a table, or of anything else in a schema. It is the key of maps; it
// becomes text only where a server or a person reads it.
type Name struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
}

// String returns the name as SQL, always quoted.
func (n Name) String() string { return pgx.Identifier{n.Schema, n.Name}.Sanitize() }

// Plain returns the name as people write it, without quotes: for messages and patterns.
func (n Name) Plain() string { return n.Schema + "." + n.Name }
