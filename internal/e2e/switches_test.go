package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/shop"
)

// switchesEach is how many switches a migration of TestSwitches makes: an even number would leave the old server open.
const switchesEach = 5

// TestSwitches switches to and fro under shop's writers, while migrate is killed at random moments. What was acknowledged is on both
// servers in the end, once, and whoever reads either of them meanwhile sees nothing that cannot be true.
//
//	WALFERRY_TEST_SWITCHES       how many; 5 unless given. Each migration, of a random pair of versions, makes that many
//	WALFERRY_TEST_SWITCHES_SEED  a run's choices again; what they meet differs
func TestSwitches(t *testing.T) {
	t.Parallel()
	wanted, seed := switchesEach, uint64(time.Now().UnixNano())%1e9
	if n, err := strconv.Atoi(os.Getenv("WALFERRY_TEST_SWITCHES")); err == nil {
		wanted = n
	}
	if n, err := strconv.ParseUint(os.Getenv("WALFERRY_TEST_SWITCHES_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("again: WALFERRY_TEST_SWITCHES=%d WALFERRY_TEST_SWITCHES_SEED=%d", wanted, seed)
	random := rand.New(rand.NewPCG(seed, 4))
	pairs := [][2]int{{10, 18}, {11, 16}, {12, 15}, {13, 17}, {14, 18}, {15, 18}, {18, 18}}
	for done := 0; done < wanted && !t.Failed(); done += switchesEach {
		pair, own := pairs[random.IntN(len(pairs))], rand.New(rand.NewPCG(random.Uint64(), 0))
		t.Run(fmt.Sprintf("%d-%d after %d", pair[0], pair[1], done), func(t *testing.T) { switches(t, pair[0], pair[1], own) })
	}
}

func switches(t *testing.T, from, to int, random *rand.Rand) {
	source, target := pgtest.Pair(t, from, to)
	if err := shop.Load(t.Context(), source, shop.Options{Size: 2}); err != nil {
		t.Fatal(err)
	}
	m := newMoving(t, fmt.Sprintf("switches_%d_%d", from, to), source, target)
	m.InsertOnly, m.FallBack = shopInsertOnly, migration.FallBackRequire
	if _, err := schema.Find(t.Context(), from, to); err != nil {
		bringShop(t, m, 2)
	}
	r := m.start()
	r.waitFor(migration.Following)
	r.cancel()
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	k := m.keep(m.Config, 100)
	readers := map[string]*shop.Reader{"old": {DSN: source}, "new": {DSN: target}}
	reading, endReading := context.WithCancel(t.Context())
	var read sync.WaitGroup
	for side, reader := range readers {
		read.Go(func() {
			if err := reader.Run(reading); err != nil {
				t.Errorf("reader of the %s server: %v", side, err)
			}
		})
	}
	t.Cleanup(func() { endReading(); read.Wait() })
	var all []*shop.Writers
	committed := int64(0)
	for n := range switchesEach {
		sides, phase := [2]string{source, target}, migration.Switched
		if n%2 == 1 {
			sides, phase = [2]string{target, source}, migration.Following
		}
		w, err := shop.Start(t.Context(), shop.Config{
			Source: sides[0], Target: sides[1], Clients: 3, First: 1 + 10*n, TPS: 30, Seed: random.Uint64(),
			Ready: func(context.Context) (bool, error) { return k.phase() == string(phase), nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		all = append(all, w)
		m.eventually("writes before the switch", func() bool { return w.Report().Source >= 20 })
		var killing sync.WaitGroup
		killing.Go(func() {
			for range random.IntN(3) {
				time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
				k.kill()
			}
		})
		k.ask(phase)
		killing.Wait()
		m.eventually("writes after the switch by every client", func() bool { return w.Report().Switched >= 3 })
		report := w.Stop()
		committed += report.Source + report.Target
		for class, n := range report.Errors {
			if strings.HasPrefix(class, string(shop.Other)) {
				t.Errorf("clients got %d errors that no application expects: %s", n, class)
			}
		}
	}
	count := `select count(*) from shop.ledger`
	m.eventually("the last of the ledger", func() bool { return one[int](t, source, count) == one[int](t, target, count) })
	endReading()
	read.Wait()
	for side, dsn := range map[string]string{"old": source, "new": target} {
		for _, w := range all {
			if err := w.Check(t.Context(), dsn); err != nil {
				t.Errorf("check of the %s server: %v", side, err)
			}
		}
		if readers[side].Snapshots() == 0 {
			t.Errorf("nobody has read the %s server", side)
		}
	}
	sameRows(t, target, source)
	t.Logf("%d transactions, %d and %d snapshots read", committed, readers["old"].Snapshots(), readers["new"].Snapshots())
	if _, err := migration.Finish(context.Background(), m.Config); err != nil {
		t.Fatal(err)
	}
	m.eventually("phase finished", func() bool { return k.phase() == string(migration.Finished) })
	k.end()
	m.cleanup()
}
