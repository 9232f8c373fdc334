// Package decoder reads the transactions of a PostgreSQL logical replication slot
// (pgoutput, versions 10 to 19) in commit order, without a gap.
//
// # Basics
//
// A publication says which tables, and must be committed before the slot is
// created; package slot makes both. A slot keeps what its consumer has not yet
// confirmed. Open starts a Stream behind the position that the consumer stored
// last, Next returns transactions, and Ack confirms what has become durable:
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
// One goroutine owns the connection. It receives into a queue that is bounded in
// bytes, and tells the source every few seconds how far we are, also while the
// consumer takes minutes for one transaction. When the connection is lost or the
// source restarts, it connects again and goes on behind the last transaction that
// it had received in full.
//
// Open, and every reconnect, compare the server's system identifier, timeline and
// database, the publications' oid and tables, and the slot's confirmed position. A
// server gives no error for most of what can go wrong there, and leaves changes
// out; the stream ends with an error that has a Hint method instead.
//
// Decoder is the part without a connection, for messages from elsewhere.
//
// # Caveats
//
// Values are the text of the type's output function, under the settings that
// walferry pins (ISO dates, UTC, extra_float_digits 3, ...). They share memory
// with each other: one that is kept keeps up to a few hundred kilobytes alive, so
// clone what is to stay.
//
// Large transactions come in pieces (Config.PieceBytes), and a piece may come
// again from the first one on after a reconnect; see Tx. The source sends a
// transaction only when it has committed, so nothing ever has to be undone but a
// transaction that was not received to its end.
//
// Exactly once is the consumer's part: he must store EndLSN in the transaction
// that holds the changes, and give it back as Start. A slot alone goes back after
// a crash of the source, by what was confirmed since its last checkpoint.
//
// Positions (a Tx with XID 0) must be stored and acknowledged like transactions.
// Otherwise the source keeps WAL that only other databases have written, and its
// shutdown waits for us.
//
// Sequences, large objects and DDL are not in the stream. A changed table shows as
// another Relation in the changes after it. Version 10 does not decode TRUNCATE;
// see CreateTruncationTriggers.
package decoder
