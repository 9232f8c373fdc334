package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/shop"
)

// TestKilledWhileCopying kills migrate again and again in the middle of the copy of shop, whose
// clients change rows, keys and large values all the time, and those who help it. What was copied stays, the rest comes
// under other snapshots, every piece by one process, and in the end both sides are equal. WALFERRY_TEST_SEEDS
// is how many times, once unless given; WALFERRY_TEST_SEED where it begins.
func TestKilledWhileCopying(t *testing.T) {
	t.Parallel()
	seeds, first := 1, uint64(time.Now().UnixNano())%1e9
	if n, err := strconv.Atoi(os.Getenv("WALFERRY_TEST_SEEDS")); err == nil {
		seeds = n
	}
	if n, err := strconv.ParseUint(os.Getenv("WALFERRY_TEST_SEED"), 10, 64); err == nil {
		first = n
	}
	for seed := first; seed < first+uint64(seeds); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { killedWhileCopying(t, seed) })
	}
}

func killedWhileCopying(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 3))
	from, to := pgtest.Default()
	source, target := pgtest.Pair(t, from, to)
	if err := shop.Load(t.Context(), source, shop.Options{Size: 20}); err != nil {
		t.Fatal(err)
	}
	w, err := shop.Start(t.Context(), shop.Config{Source: source, Clients: 3, TPS: 60, Seed: seed, Batch: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	p := pgtest.ProxyFor(t, source)
	direct := migration.Config{Source: source, Target: target, Name: migrationName("resume")}
	through := direct
	through.Source = p.Through(source)
	args := []string{"--insert-only", "shop.events", "--jobs", "2", "--piece-size", "64kB"}

	asked := newLine(t, target)
	copied := func() int64 {
		if now, _ := asked.ask(phaseOf(direct)); now != string(migration.Copying) {
			return -1
		}
		st, err := migration.ReadStatus(t.Context(), direct)
		if err != nil || st.Phase != migration.Copying {
			return -1
		}
		return int64(st.Copy.PiecesDone)
	}
	// The copy takes some seconds, so that there is something to interrupt.
	p.Set(pgtest.Network{Rate: 2 << 20})
	workers := make([]*exec.Cmd, 3)
	for range 1 + random.IntN(4) {
		cmd := process(t, through, args...)
		eventually(t, "a copy that has begun", func() (bool, string) { return copied() > 0, "" })
		for i := range workers {
			if workers[i] == nil {
				workers[i] = started(t, walferry(t, through, "copy-worker", "--jobs", "1", "--worker", fmt.Sprint("host", i)))
			}
		}
		if i := random.IntN(2 * len(workers)); i < len(workers) {
			workers[i].Process.Kill() //nolint:errcheck // Wait tells
			workers[i].Wait()         //nolint:errcheck // killed
			workers[i] = nil
		}
		time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
		cmd.Process.Kill() //nolint:errcheck // Wait tells
		cmd.Wait()         //nolint:errcheck // killed
	}
	p.Set(pgtest.Network{})
	done := copied()
	cmd := process(t, through, args...)
	follows(t, direct, 1)
	kept := one[int](t, target, `select count(*) from walferry.copy_state where migration = $1 and as_of < (select max(as_of) from walferry.copy_state where migration = $1)`, direct.Name)
	mixed := one[int](t, target, `select count(*) from (select from walferry.copy_state where migration = $1 group by schema_name, table_name having count(distinct as_of) > 1) x`, direct.Name)
	helped := one[int](t, target, `select count(*) from walferry.copy_state where migration = $1 and worker <> ''`, direct.Name)
	t.Logf("%d pieces were done before the last run, %d of an earlier snapshot stayed; %d tables had rows of several snapshots; others have copied %d pieces", done, kept, mixed, helped)
	for _, w := range workers {
		if w != nil {
			if err := w.Wait(); err != nil {
				t.Errorf("a copy-worker has ended with %v", err)
			}
		}
	}
	if done > 4 && kept == 0 {
		t.Errorf("%d pieces were done, none of them was kept", done)
	}
	w.Stop()
	position := one[string](t, source, `select pg_current_wal_insert_lsn()::text`)
	eventually(t, "everything to be applied", func() (bool, string) {
		applied, _ := asked.ask(`select applied >= '` + position + `' from walferry.progress where stream = '` + direct.Name + `'`)
		return applied == "t", ""
	})
	if v, err := migration.Verify(t.Context(), direct, migration.VerifyOptions{}); err != nil || !v.AllEqual() {
		t.Errorf("verify: %+v, %v", v, err)
	}
	if err := w.Check(t.Context(), target); err != nil {
		t.Errorf("check: %v", err)
	}
	cmd.Process.Kill() //nolint:errcheck // Wait tells
	cmd.Wait()         //nolint:errcheck // killed
	if err := migration.Abort(t.Context(), direct); err != nil {
		t.Error(err)
	}
}
