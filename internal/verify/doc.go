// Package verify compares the tables of two databases at one position while both are in use.
//
// Every session of a side reads under one snapshot. The caller times the snapshots so that both
// show the same position of the source:
//
//	v, err := verify.New(verify.Config{Source: …, Target: …, Tables: tables})
//	defer v.Close()
//	// the applier is paused; a temporary slot exports a snapshot that belongs to an LSN
//	err = v.OpenSource(ctx, exported.Name) // the exporter may go now
//	// the applier advances to exactly that LSN and holds
//	err = v.OpenTarget(ctx)
//	// the applier resumes
//	report, err := v.Compare(ctx)
//
// For two databases without writers, [Run] does it all.
//
// # How rows are compared
//
// A first pass reads every table once on each side, in page order, and hashes every row in the
// server. Rows are grouped into ranges of the key, and for each range the servers return the number
// of rows and the sum of their hashes: nothing is sorted, and a table can be read in parts by
// several sessions. A second pass reads only the ranges that differ, sorted by key, and finds the
// keys that are missing, extra or different. Memory is bounded on this side, however large the
// tables and the differences are.
//
// Rows are hashed in the binary form of their values, which is the same on all versions, with a few
// exceptions; see columnForm. No user-defined cast, operator or function is part of a query: all
// are the server's own, on its own types.
//
// A table that is truncated or rewritten while it is compared can no longer be read as it was; its
// report then has an Error. No lock is held for longer than it takes to read one part of a table.
package verify
