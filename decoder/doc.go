// Package decoder reads the transactions of a PostgreSQL logical replication slot (pgoutput,
// versions 10 to 19) in commit order, without a gap.
//
// # Basics
//
// A publication says which tables, and must be committed before the slot is created; package slot
// makes both. A slot keeps what its consumer has not yet confirmed. Open starts a Stream after the
// position that the consumer stored last, Next returns transactions, and Ack confirms what has
// become durable:
//
//	stream, err := decoder.Open(ctx, url, decoder.Config{
//		Slot: "orders", Publications: []string{"orders"}, Start: stored,
//	})
//	...
//	defer stream.Close()
//	for {
//		tx, err := stream.Next(ctx)
//		...
//		// write tx.Changes and, in the same transaction, tx.EndLSN
//		stream.Ack(tx.EndLSN)
//	}
//
// One goroutine owns the connection. It receives into a queue that is bounded in bytes, and sends
// the source a status every few seconds, even while the consumer takes minutes for one transaction.
// If the connection is lost or the source restarts, it reconnects and resumes after the last
// transaction that it received completely.
//
// Open, and every reconnect, compare the server's system identifier, timeline and database, the
// publications' oid and tables, and the slot's confirmed position. For most of what can go wrong
// there the server reports no error and leaves changes out; the stream ends with an error that has
// a Hint method instead.
//
// Decoder does the decoding without a connection, for messages from elsewhere.
//
// Errors that a consumer may want to tell apart are types, for errors.As: [ProtocolError],
// [IdentityError], [RefusedError], and the [SlotError] and [PublicationError] of package slot.
// Nothing after them can be read without the operator.
//
// # Caveats
//
// Values are the text of the type's output function, under the settings that walferry pins (ISO
// dates, UTC, extra_float_digits 3, ...). They share memory with each other: retaining one keeps up
// to a few hundred kilobytes alive, so clone what you retain.
//
// Large transactions come in pieces (Config.PieceBytes), and after a reconnect the pieces may come
// again from the first one on; see Tx. The source sends a transaction only after it has committed,
// so nothing ever has to be undone except a transaction that was not received completely.
//
// Exactly-once is up to the consumer: it must store EndLSN in the transaction that writes the
// changes, and pass it as Start. The slot alone falls back after a crash of the source, to what was
// confirmed before its last checkpoint.
//
// Positions (a Tx with XID 0) must be stored and acknowledged like transactions. Otherwise the
// source keeps WAL that only other databases have written, and its shutdown waits for the consumer.
//
// Sequences, large objects and DDL are not in the stream. An altered table appears as another
// Relation in the changes after that. Version 10 does not decode TRUNCATE; see
// CreateTruncationTriggers.
package decoder
