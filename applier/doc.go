// Package applier applies transactions of one PostgreSQL server, as package decoder reads them from
// a slot, to another: in commit order, each exactly once.
//
// # Basics
//
// An [Applier] belongs to one target and one stream of changes, which has a name. It keeps its
// position in a row of the table walferry.progress on the target, and updates it in the transaction
// that writes the data. What is committed there is the truth: a process that was killed at any
// moment resumes at [Applier.Applied], and nothing is lost or applied twice.
//
//	conn, err := pgx.Connect(ctx, targetURL)
//	target, err := applier.New(ctx, conn, applier.Config{Name: "orders", Start: exported.ConsistentPoint})
//	source, err := decoder.Open(ctx, sourceURL, decoder.Config{
//		Slot: "orders", Publications: []string{"orders"}, Start: target.Applied(),
//	})
//	err = target.Run(ctx, source)
//
// Start is where the tables were copied, by package snapshot; the example CopyAndFollow has all of
// it. [Applier.Apply] is the core: it takes transactions and returns when they are durable.
// [Applier.Run] reads them from a [Source], commits several together while there is a backlog,
// retries after transient errors, and acknowledges.
//
// Where an Applier runs in each direction between two servers, a [Filter] in front of each leaves
// out what the other one has written.
//
// Errors that a caller may want to tell apart are types, for errors.As: [ConflictError] and
// [SchemaError], which say where applying has stopped and resume once the target is repaired,
// [ProgressError], [StartError], and [RestartError], after which Run is called again with a new stream. Each has
// a Hint for the operator.
//
// # How changes are applied
//
// Columns are matched by name, and values stay the text that the source sent: the target's input
// functions read it. Columns that only the target has keep their defaults, the target computes
// generated ones, and a column that the target lacks is a [SchemaError]. So is a table or column
// that has been given the name of another, if Originals of [Config] describe what it was.
//
// UPDATE and DELETE find their row by the source's replica identity. Where that is FULL, they use a
// key of the target, which the source need not have: its constraint rejects what the target cannot
// hold. Without such a key they compare all columns byte for byte, and take one of the rows that
// are equal. They must find exactly one row, otherwise the target has diverged and Apply returns a
// [ConflictError].
//
// # Caveats
//
// The target's tables belong to the applier. With session_replication_role = replica, which a
// superuser may set, from version 15 on whoever was granted it, and rds_superuser on RDS, their
// triggers and foreign keys do not fire. Otherwise (see [Applier.ReplicaRole]) triggers have to be
// disabled and foreign keys created later, because what they do arrives from the source as well.
//
// In that role the server does not check DEFERRABLE constraints; the source has checked them.
//
// A table without a key is scanned completely for each row that changes, unless one of its columns
// has an index.
//
// Only one process applies a stream at a time. If there are two, one finds that the other has moved
// the progress row, and stops with a [ProgressError] before it has committed anything.
package applier
