// Package snapshot copies tables from one PostgreSQL server to another, once, all of them as of one
// commit, while applications keep writing.
//
// [Export] creates a logical replication slot together with the snapshot that belongs to its first
// position: a transaction is either in the snapshot or comes through the slot, never both and never
// neither. [Copier] then copies the rows that this snapshot sees:
//
//	exported, err := snapshot.Export(ctx, source, snapshot.ExportConfig{Slot: "orders"})
//	defer exported.Close(ctx)
//	copier, err := snapshot.New(snapshot.Config{
//		Source: source, Target: target, Migration: "orders",
//		Snapshot: exported.Name, AsOf: exported.ConsistentPoint,
//		Tables: []snapshot.Table{{Schema: "public", Name: "orders"}},
//	})
//	err = copier.Run(ctx)
//
// After that the target is the source as of ConsistentPoint, and the slot has everything since. A
// publication must be created and committed before the slot.
//
// # How
//
// Every worker imports the snapshot before the first row is read, so that the run survives the loss
// of the connection that exported it. Large tables are cut into pieces. A piece is one transaction
// on the target: its rows, moved unread from COPY TO to COPY FROM, and its row in
// walferry.copy_state. What a run did not finish, another run under the same snapshot does, or,
// with Config.Resume, under a later one; a piece is never copied twice. [Windows] then returns
// which changes each table still needs.
//
// Errors that a caller may want to tell apart are types, for errors.As: [SnapshotLostError] and
// [RewrittenError], after which a Run under a later snapshot continues, [ChangedError],
// [StateError], [SchemaError] and [RowCountError]; [ReplaceError] is that of a [Replacement].
//
// # Caveats
//
// The snapshot holds back vacuum on the source as long as it exists, and the slot retains WAL.
//
// A table of the source is locked (ACCESS SHARE) only while a piece of it is being read, so that an
// application's TRUNCATE or ALTER TABLE waits no longer than that. A table that is rewritten in
// between is detected: it is a [ChangedError], or is put aside with a [RewrittenError].
//
// The target's tables should have no indexes yet: the copy is faster, and Config.OnTable is called
// when it is time to build them. Triggers and foreign keys do not fire where the role may set
// session_replication_role.
//
// Generated columns are not copied; the target computes them. Extra columns of the target get their
// defaults. The rows of a table's children, by inheritance or partitioning, are not copied with it:
// list the children as tables. Partitioned tables in the list are skipped.
package snapshot
