package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// The slot's confirmed position goes on while transactions flow, and while only
// another database of the source's cluster writes: otherwise the source would keep
// WAL without end. The heartbeat, which would help, comes once an hour.
func TestSlotGoesOn(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	other, _ := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (id int primary key, note text)`)
	pgtest.Exec(t, other, `create table elsewhere (note text)`)
	m := newMoving(t, "slot_goes_on", source, target)
	m.Heartbeat = time.Hour
	r := m.start()
	r.waitFor(migration.Following)
	for _, c := range []struct{ what, dsn, write string }{
		{"transactions flow", source, `insert into t select coalesce(max(id), 0) + 1, repeat('x', 1000) from t`},
		{"another database writes", other, `insert into elsewhere values (repeat('x', 1000))`},
	} {
		pgtest.Exec(t, c.dsn, c.write)
		position := one[string](t, source, `select pg_current_wal_lsn()::text`)
		m.eventually("a slot at "+position+" while "+c.what, func() bool {
			pgtest.Exec(t, c.dsn, c.write)
			return one[bool](t, source, `select confirmed_flush_lsn >= $1::text::pg_lsn from pg_replication_slots where slot_name = 'walferry_' || $2`, position, m.Name)
		})
	}
	m.caughtUp(r)
	m.cutover(r)
	sameRows(t, source, target)
	m.cleanup()
}

// A transaction of the source that has a row in each of eight tables is on the
// target in whole or not at all, also one that is so large that it is applied in
// pieces.
func TestNoTransactionInPart(t *testing.T) {
	t.Parallel()
	const tables = 8
	source, target := pgtest.Pair(t, 15, 18)
	var insert, look []string
	for i := range tables {
		pgtest.Exec(t, source, fmt.Sprintf(`create table t%d (id int primary key, filler text)`, i))
		insert = append(insert, fmt.Sprintf(`insert into t%d values (%%[1]d, repeat('x', %%[2]d))`, i))
		look = append(look, fmt.Sprintf(`select coalesce(string_agg(id::text, ' ' order by id), '') from t%d`, i))
	}
	m := newMoving(t, "no_transaction_in_part", source, target)
	r := m.start()
	r.waitFor(migration.Following)

	ctx, cancel := context.WithCancel(context.Background())
	written := make(chan int, 1)
	writer, err := pgx.Connect(ctx, source)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer writer.Close(context.Background())
		n := 0
		for ; ctx.Err() == nil; n++ {
			time.Sleep(5 * time.Millisecond)
			filler := 10
			if n%20 == 0 {
				filler = 300_000 // eight of them are more than a piece holds
			}
			sql := fmt.Sprintf("begin; "+strings.Join(insert, "; ")+"; commit", n+1, filler)
			if _, err := writer.PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
				t.Errorf("write: %v", err)
				break
			}
		}
		written <- n
	}()
	defer cancel()

	reader, err := pgx.Connect(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close(context.Background())
	seen := map[string]bool{}
	eventually(t, "enough different states of the target", func() (bool, string) {
		var states []string
		err := pgx.BeginTxFunc(t.Context(), reader, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			for _, sql := range look {
				var state string
				if err := tx.QueryRow(t.Context(), sql).Scan(&state); err != nil {
					return err
				}
				states = append(states, state)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, state := range states {
			if state != states[0] {
				t.Fatalf("a transaction is there in part: t0 has the rows %s, t%d has %s", states[0], i, state)
			}
		}
		seen[states[0]] = true
		return len(seen) >= 30, fmt.Sprintf("%d states", len(seen))
	})
	cancel()
	n := <-written
	m.caughtUp(r)
	if got := one[int](t, target, `select count(*) from t7`); got != n {
		t.Errorf("%d transactions are on the target, %d were written", got, n)
	}
	m.cutover(r)
	sameRows(t, source, target)
}

// A cutover is not done before the last transaction is on the target: of clients
// that commit until they are refused, and of one that has written before the fence
// was raised and commits while it is.
func TestLastTransactions(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, switching)
	m := newMoving(t, "last_transactions", source, target)
	m.InsertOnly = []string{"public.journal"}
	i := &interruption{T: t, Config: m.Config, clients: startClients(t, source, 6, true)}
	r := m.start()
	r.waitFor(migration.Following)
	i.clients.goOn(20)
	i.prepare()
	writer := i.raiseAround(1)
	done := make(chan error, 1)
	go func() { done <- i.asked.Wait() }()
	// Refused is what begins now; the open transaction keeps the cutover from its end.
	for range 3 {
		i.clients.areRefused()
	}
	if st := status(t, m.Config); st.Phase != migration.Fenced || st.Cutover.DrainedAt != nil || len(done) > 0 {
		t.Fatalf("the cutover has gone past a transaction that is open: %+v", st)
	}
	writer.commit()
	if err := <-done; err != nil {
		t.Fatalf("cutover: %v", err)
	}
	i.clients.check(target)
	if got := one[int](t, target, `select count(*) from held`); got != 1 {
		t.Errorf("the transaction that committed while the fence was being raised: %d rows, want 1", got)
	}
	if outcome, err := r.end(); err != nil || outcome.Phase != migration.Finished {
		t.Errorf("migrate ended with %+v, %v", outcome, err)
	}
}

// A migrate that was killed is told as one that does not run, by what it held on the
// target and not by what it wrote there last.
func TestStatusAfterKill(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (id int primary key)`)
	c := migration.Config{Source: source, Target: target, Name: migrationName("status_after_kill")}
	tell := func() map[string]any {
		t.Helper()
		out, err := walferry(t, c, "status", "--json").Output()
		if err != nil {
			t.Fatalf("status: %v: %s", err, out)
		}
		var st map[string]any
		if err := json.Unmarshal(out, &st); err != nil {
			t.Fatalf("status --json: %v: %s", err, out)
		}
		return st
	}
	cmd := process(t, c)
	follows(t, c, 0)
	if st := tell(); st["running"] != true || !strings.HasSuffix(fmt.Sprint(st["runner"]), fmt.Sprintf("pid %d", cmd.Process.Pid)) {
		t.Errorf("while it runs: %v", st)
	}
	cmd.Process.Kill() //nolint:errcheck // Wait tells
	cmd.Wait()         //nolint:errcheck // killed
	var last map[string]any
	eventually(t, "a status that tells of no migrate", func() (bool, string) {
		last = tell()
		return last["running"] == false, fmt.Sprint(last)
	})
	if runner, told := last["runner"]; told || last["phase"] != "following" || last["error"] != "" {
		t.Errorf("after the kill: runner %v, phase %v, error %v; want none, following, none", runner, last["phase"], last["error"])
	}
	text, err := walferry(t, c, "status").Output()
	if err != nil || !strings.Contains(string(text), "no migrate is running") {
		t.Errorf("status for people: %v: %s", err, text)
	}
	if err := migration.Abort(t.Context(), c); err != nil {
		t.Error(err)
	}
}
