// Package shop makes the database of testdata/shop, writes to it as the applications of a
// mail-order firm would, and checks whether its contents can be true: the workload of the demo, the
// end-to-end tests and the benchmarks.
//
//	err := shop.Load(ctx, source, shop.Options{Size: 300})
//	writers, err := shop.Start(ctx, shop.Config{Source: source, Target: target, Clients: 4})
//	reader := &shop.Reader{DSN: target, Migration: "default"}
//	go reader.Run(ctx)
//	… the migration …
//	report := writers.Stop()
//	err = writers.Check(ctx, target)
//
// Every transaction of a writer appends a row (client, n, attempt) to shop.ledger, with n counting
// from 1 without a gap, and moves money from billing.accounts to billing.reserves or back, whose
// sum is that of billing.books. What the client was told of each is kept here, not in the database.
// So a transaction that was lost, doubled, torn or reordered is seen by [Writers.Check] when all is
// over, and mostly by a [Reader] while it happens.
package shop
