package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/shop"
)

// TestShop moves shop while clients write at full speed and a reader looks at the
// target the whole time. The clients switch over by themselves; no transaction that
// one of them was told of is missing, and none is there twice.
//
// WALFERRY_TEST_PAIRS=all moves it between every pair of versions, old to newer; 13-19,18-19 between those.
func TestShop(t *testing.T) {
	if chosen := os.Getenv("WALFERRY_TEST_PAIRS"); chosen != "" {
		for _, pair := range pairs(t, chosen) {
			t.Run(fmt.Sprintf("%d-%d", pair[0], pair[1]), func(t *testing.T) { moveShop(t, pair[0], pair[1], 5, 0, 50) })
		}
		return
	}
	for _, pair := range [][2]int{{13, 17}, {15, 18}} {
		t.Run(fmt.Sprintf("%d-%d", pair[0], pair[1]), func(t *testing.T) { moveShop(t, pair[0], pair[1], 20, 0, 500) })
	}
	for _, pair := range [][2]int{{10, 12}, {10, 18}, {11, 18}, {12, 18}, {14, 18}, {16, 18}, {13, 19}, {18, 19}} {
		t.Run(fmt.Sprintf("%d-%d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			moveShop(t, pair[0], pair[1], 4, 40, 50)
		})
	}
}

// pairs reads WALFERRY_TEST_PAIRS.
func pairs(t *testing.T, chosen string) (found [][2]int) {
	if chosen == "all" {
		for from := pgtest.Oldest; from < pgtest.Newest; from++ {
			for to := from + 1; to <= pgtest.Newest; to++ {
				found = append(found, [2]int{from, to})
			}
		}
		return found
	}
	for text := range strings.SplitSeq(chosen, ",") {
		var pair [2]int
		if _, err := fmt.Sscanf(text, "%d-%d", &pair[0], &pair[1]); err != nil {
			t.Fatalf("WALFERRY_TEST_PAIRS=%s: %q is not of the form 13-19", chosen, text)
		}
		found = append(found, pair)
	}
	return found
}

// moveShop moves a shop of so many MB. Each client does tps transactions a second, or as many as
// it can if that is 0, and all of them together have done some while migrate follows before the cutover.
func moveShop(t *testing.T, from, to, size int, tps float64, transactions int64) {
	source, target := pgtest.Pair(t, from, to)
	ctx := t.Context()
	if err := shop.Load(ctx, source, shop.Options{Size: size}); err != nil {
		t.Fatal(err)
	}
	m := newMoving(t, fmt.Sprintf("shop_%d_%d", from, to), source, target)
	m.InsertOnly = shopInsertOnly
	m.Prove = migration.On
	if _, err := schema.Find(ctx, from, to); err != nil {
		bringShop(t, m, size)
	}
	w, err := shop.Start(ctx, shop.Config{Source: source, Target: target, Migration: m.Name, Clients: 3, TPS: tps, Seed: uint64(from*100 + to), Batch: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	reader := &shop.Reader{DSN: target, Migration: m.Name}
	reading, endReading := context.WithCancel(ctx)
	read := make(chan error, 1)
	go func() { read <- reader.Run(reading) }()
	defer endReading()

	r := m.start()
	r.waitFor(migration.Following)
	begun := w.Report().Source
	m.eventually("transactions followed and snapshots read", func() bool {
		return w.Report().Source >= begun+transactions && reader.Snapshots() >= 5 || len(read) > 0
	})
	m.verified()
	result := m.cutover(r)
	m.eventually("writes on the target by every client", func() bool { return w.Report().Switched >= 3 || len(read) > 0 })
	report := w.Stop()
	endReading()
	if err := <-read; err != nil {
		t.Errorf("reader: %v", err)
	}
	t.Logf("%d on the source, %d on the target, paused %d ms, %d snapshots: %+v", report.Source, report.Target, result.PauseMS, reader.Snapshots(), report)
	if err := w.Check(ctx, target); err != nil {
		t.Errorf("check: %v", err)
	}
	for class, n := range report.Errors {
		if strings.HasPrefix(class, string(shop.Other)) {
			t.Errorf("clients got %d errors that no application expects: %s", n, class)
		}
	}
	// As of the cutover: rows of the target that came later are not in it.
	proof, err := migration.Verify(ctx, m.Config, migration.VerifyOptions{})
	if err != nil || !proof.AllEqual() || !proof.AsOfCutover {
		t.Errorf("the comparison as of the cutover: %+v, %v", proof, err)
	}
	for _, compared := range proof.Tables {
		if !compared.Equal { // such as shop.staging, which the clients truncate as soon as they are let in
			t.Errorf("the comparison as of the cutover: %+v", compared)
		}
	}
	sourceKeeps(t, w, source, report)
	m.cleanup()
}

// sourceKeeps looks at the source, which the fence has kept as it was: what it has
// is what was committed there.
func sourceKeeps(t *testing.T, w *shop.Writers, source string, report shop.Report) {
	t.Helper()
	if err := shop.Check(t.Context(), source); err != nil {
		t.Errorf("check of the source: %v", err)
	}
	if got := one[int64](t, source, `select count(*) from shop.ledger`); got < report.Source {
		t.Errorf("the source has %d transactions, its clients were told of %d", got, report.Source)
	}
}

// shopInsertOnly are the tables of shop that have no key and only grow.
var shopInsertOnly = []string{"shop.events"}

// bringShop is what a user does whose pg_dump is older than the source: the schema
// is made by the application's own means, without rows.
func bringShop(t *testing.T, m *moving, size int) {
	t.Helper()
	m.Schema = "none"
	if err := shop.Load(t.Context(), m.Target, shop.Options{Size: 1, Major: one[int](t, m.Source, `select current_setting('server_version_num')::int / 10000`)}); err != nil {
		t.Fatal(err)
	}
	var tables []string
	for table := range tablesOf(t, m.Target) {
		tables = append(tables, table)
	}
	pgtest.Exec(t, m.Target, `set session_replication_role = replica; truncate `+strings.Join(tables, ", ")+" cascade")
}
