package catalog

import "github.com/jackc/pgx/v5"

// Name is the name of a table, or of what else has one within a schema, unquoted. It is what
// maps are keyed by; a text is made of it only where a server or a person reads it.
type Name struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
}

// String is the name as SQL, always quoted.
func (n Name) String() string { return pgx.Identifier{n.Schema, n.Name}.Sanitize() }

// Plain is the name as people write it, without quotes: for messages, and for patterns.
func (n Name) Plain() string { return n.Schema + "." + n.Name }
