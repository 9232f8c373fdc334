// Package shopdata holds the SQL of the database shop: a mail-order firm with the
// tables, types and habits of real ones. Package internal/shop loads it.
package shopdata

import "embed"

// Files are schema.sql (tables without keys), load_*.sql (data computed from the
// settings shop.*, which hold row counts), keys_*.sql, foreign.sql and code.sql
// (functions, triggers, views, policies), to be run in this order. A file such as
// schema.from12.sql goes after schema.sql on major version 12 and newer,
// schema.until10.sql on 10 and older.
//
//go:embed *.sql
var Files embed.FS
