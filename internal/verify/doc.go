// Package verify compares the tables of two databases at one position while both
// are in use.
//
// Every session of a side reads under one snapshot. The caller chooses the moments so
// that both snapshots show the same position of the source:
//
//	v, err := verify.New(verify.Config{Source: …, Target: …, Tables: tables})
//	defer v.Close()
//	// the applier is paused; a temporary slot exports a snapshot that belongs to an LSN
//	err = v.OpenSource(ctx, exported.Name) // the exporter may go now
//	// the applier advances to exactly that LSN and holds
//	err = v.OpenTarget(ctx)
//	// the applier goes on
//	report, err := v.Compare(ctx)
//
// For two databases that nobody writes to, [Run] does it all.
//
// # How rows are compared
//
// A first pass reads every table once on each side, in the order of its pages, and
// hashes every row in the server. Rows are gathered into ranges of the key, and for each
// range the servers return the number of rows and the sum of their hashes: nothing is
// sorted, and a table can be read in parts by several sessions. A second pass reads
// only the ranges that differ, sorted by key, and tells which keys are missing, extra
// or different. Memory is bounded on this side whatever the sizes and the differences.
//
// Rows are hashed in the binary form of their values, which is the same on all
// versions. A few types have none that is; see columnForm. No cast, operator or function
// that somebody has made is part of a query: all are the server's own, of its own types.
//
// A table that is truncated or rewritten while it is compared can no longer be read as
// it was; its report has an Error then. No lock is held for longer than one
// part of a table is read.
package verify
