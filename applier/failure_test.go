package applier

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
)

// once runs do at its first call only.
func once(do func()) func() {
	var done atomic.Bool
	return func() {
		if done.CompareAndSwap(false, true) {
			do()
		}
	}
}

// kill ends the applier's session, as an administrator or a failover would.
func (g *target) kill() {
	g.exec(fmt.Sprintf(`select pg_terminate_backend(%d)`, g.session.backend.pid))
	g.eventually(fmt.Sprintf(`select count(*) from pg_stat_activity where pid = %d`, g.session.backend.pid), "0")
}

// eventually waits until a query has a result.
func (g *target) eventually(query, want string) {
	g.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		got := string(g.exec(query)[0][0])
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("%s: got %s, want %s", query, got, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// The session ends at each moment of a transaction: before its COMMIT, after it, and before the
// acknowledgement. A table without a key shows what is there twice.
func TestRun_SessionLost(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table log (line text)`)
	r := relation("log", 'd', "line")
	for _, moment := range []struct {
		name string
		hook *func()
	}{{"before commit", &g.hooks.beforeCommit}, {"after commit", &g.hooks.afterCommit}, {"before ack", &g.hooks.beforeAck}} {
		*moment.hook = once(g.kill)
		f := newFeed(g.tx(insert(r, moment.name+" 1")), g.tx(insert(r, moment.name+" 2")))
		g.run(f)
		if acks := f.acks(); acks[len(acks)-1] != g.lsn+0x30 {
			t.Errorf("%s: acknowledged %v, want %s at last", moment.name, acks, g.lsn+0x30)
		}
	}
	g.want(`select line from log order by line`, "after commit 1", "after commit 2", "before ack 1", "before ack 2", "before commit 1", "before commit 2")
}

// Without Run an error is returned, and the target is as before.
func TestApply_SessionLost(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table log (line text)`)
	r := relation("log", 'd', "line")
	g.hooks.beforeCommit = once(g.kill)
	tx := g.tx(insert(r, "a"))
	if err := g.Apply(t.Context(), tx); err == nil {
		t.Fatal("no error though the session was lost")
	}
	g.want(`select count(*) from log`, "0")
	if err := g.Apply(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	g.want(`select count(*) from log`, "1")
}

// An applier that was presumed dead wakes up: it commits nothing and reports why.
func TestApply_TwoAppliers(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table log (line text)`)
	r := relation("log", 'd', "line")
	zombie := openTarget(t, g.url, Config{Name: "test"})
	first, second := g.tx(insert(r, "a")), g.tx(insert(r, "b"))
	if err := g.Apply(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	check := func(err error) {
		t.Helper()
		var moved *ProgressError
		if !errors.As(err, &moved) || moved.Have != first.EndLSN || moved.Want != 0 || moved.Lost() || moved.Hint() == "" {
			t.Fatalf("got %v (%+v)", err, moved)
		}
	}
	check(zombie.Apply(t.Context(), first, second))
	check(zombie.Run(t.Context(), newFeed(first, second)))
	zombie.kill() // nor does it take over when it connects again
	check(zombie.Run(t.Context(), newFeed(first, second)))
	g.want(`select line from log`, "a")
	if err := g.Apply(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	g.want(`select line from log order by line`, "a", "b")
}

// The target was restored from a backup that is older than what was acknowledged: continuing would
// lose what came between.
func TestRun_TargetWentBack(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table log (line text)`)
	r := relation("log", 'd', "line")
	first := g.tx(insert(r, "a"))
	g.apply(first.Changes...)
	g.exec(`update walferry.progress set applied = '0/1'`)
	g.kill()
	var moved *ProgressError
	if err := g.Run(t.Context(), newFeed(g.tx(insert(r, "b")))); !errors.As(err, &moved) || !moved.Lost() {
		t.Fatalf("got %v, want that durable data was lost", err)
	}
	g.exec(`delete from walferry.progress`)
	if err := g.Run(t.Context(), newFeed(g.tx(insert(r, "b")))); !errors.As(err, &moved) || !moved.Missing {
		t.Fatalf("got %v, want that the row is gone", err)
	}
	g.want(`select line from log`, "a")
}

// A user's session on the target and the applier wait for each other. The applier is the one that
// gives way, and tries again.
func TestRun_Deadlock(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key, v text); insert into t values (1, ''), (2, '')`)
	r := relation("t", 'd', "id*", "v")
	g.exec(`set deadlock_timeout = '1h'; begin; update t set v = 'user' where id = 2`)
	f := newFeed(g.tx(update(r, nil, row("1", "a")), update(r, nil, row("2", "a"))))
	g.start(f)
	watch := &target{t: t, other: otherConn(t, g.url)}
	watch.eventually(fmt.Sprintf(`select count(*) from pg_stat_activity where wait_event_type = 'Lock' and pid = %d`, g.session.backend.pid), "1")
	g.exec(`update t set v = 'user' where id = 1; commit`) // goes through once the applier has given way
	f.wait(t, g.lsn+0x30)
	g.want(`select * from t order by id`, "1|a", "2|a")
}

// Somebody cancels the applier's statement, another time-out ends it.
func TestRun_Canceled(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key, v text); insert into t values (1, '')`)
	r := relation("t", 'd', "id*", "v")
	g.exec(`begin; update t set v = 'user'`)
	f := newFeed(g.tx(update(r, nil, row("1", "a"))))
	g.start(f)
	waiting := fmt.Sprintf(`select count(*) from pg_stat_activity where wait_event_type = 'Lock' and pid = %d`, g.session.backend.pid)
	watch := &target{t: t, other: otherConn(t, g.url)}
	watch.eventually(waiting, "1")
	watch.exec(fmt.Sprintf(`select pg_cancel_backend(%d)`, g.session.backend.pid))
	g.exec(`commit`)
	f.wait(t, g.lsn+0x30)
	g.want(`select v from t`, "a")
}

// The target restarts as a standby and then comes back as the primary.
func TestRun_StandbyAndBack(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{Major: max(targetMajor(), 12)})
	url := server.Database(t)
	pgtest.Exec(t, url, `create table log (line text)`)
	var refused atomic.Bool
	g := openTarget(t, url, Config{Name: "test", Connect: func(ctx context.Context) (*pgx.Conn, error) {
		conn, err := pgx.Connect(ctx, url)
		if err == nil {
			var recovery bool
			if err := conn.QueryRow(ctx, `select pg_is_in_recovery()`).Scan(&recovery); err == nil && recovery {
				refused.Store(true)
			}
		}
		return conn, err
	}})
	r := relation("log", 'd', "line")
	g.apply(insert(r, "a"))
	f := newFeed()
	g.start(f)
	f.wait(t, g.lsn+0x30)

	restart := func() {
		t.Helper()
		if err := errors.Join(server.Stop(t.Context(), "fast"), server.Start(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	signal := filepath.Join(server.DataDir, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	restart()
	f.put(g.tx(insert(r, "b")))
	for deadline := time.Now().Add(time.Minute); !refused.Load(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the applier did not try the standby")
		}
	}
	if err := os.Remove(signal); err != nil {
		t.Fatal(err)
	}
	restart()
	f.wait(t, g.lsn+0x30)
	if got := pgtest.Query(t, url, `select count(*) from log`)[0][0]; got != "2" {
		t.Errorf("got %s rows, want 2", got)
	}
}

// The session is lost between two pieces of a transaction. The pieces are gone, and the caller has
// to begin the stream again.
func TestRun_RestartInPieces(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table log (line text)`)
	r := relation("log", 'd', "line")
	whole := g.tx()
	piece := func(i int) *decoder.Tx {
		tx := &decoder.Tx{XID: whole.XID, CommitLSN: whole.CommitLSN, CommitTime: whole.CommitTime, First: i == 1, Last: i == 3, Changes: []decoder.Change{insert(r, fmt.Sprint(i))}}
		if tx.Last {
			tx.EndLSN = whole.EndLSN
		}
		return tx
	}
	f := newFeed(piece(1))
	done := make(chan error, 1)
	go func() { done <- g.Run(t.Context(), f) }()
	g.eventually(`select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'`, "1")
	pid := string(g.exec(`select pid from pg_stat_activity where datname = current_database() and state = 'idle in transaction'`)[0][0])
	g.exec(`select pg_terminate_backend(` + pid + `)`)
	g.eventually(`select count(*) from pg_stat_activity where pid = `+pid, "0")
	f.put(piece(2))
	err := <-done
	var restart *RestartError
	if !errors.As(err, &restart) || restart.Applied != 0 || restart.XID != whole.XID {
		t.Fatalf("got %v, want a RestartError", err)
	}
	again := newFeed(piece(1), piece(2), piece(3), g.tx(insert(r, "4")))
	g.run(again)
	g.want(`select line from log order by line`, "1", "2", "3", "4")
	g.want(`select transactions, changes from walferry.progress`, "2|4")
}

// A change of one piece fails while the next, which is for a table that is met first, waits for the
// results: the error is that of the change.
func TestRun_FailureBeforeNewTable(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key, v text); insert into t values (1, ''); create table log (line text)`)
	r, log := relation("t", 'd', "id*", "v"), relation("log", 'd', "line")
	whole := g.tx()
	piece := func(first, last bool, changes ...decoder.Change) *decoder.Tx {
		tx := &decoder.Tx{XID: whole.XID, CommitLSN: whole.CommitLSN, CommitTime: whole.CommitTime, First: first, Last: last, Changes: changes}
		if last {
			tx.EndLSN = whole.EndLSN
		}
		return tx
	}
	g.exec(`begin; update t set v = 'user'`)
	f := newFeed(
		piece(true, false, insert(r, "2", "a")),
		piece(false, false, update(r, nil, row("1", "a")), remove(r, "7", nil)),
		piece(false, true, insert(log, "a")),
	)
	done := make(chan error, 1)
	go func() { done <- g.Run(t.Context(), f) }()
	watch := &target{t: t, other: otherConn(t, g.url)}
	watch.eventually(`select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`, "1")
	g.exec(`commit`)
	var conflict *ConflictError
	if err := <-done; !errors.As(err, &conflict) || conflict.Kind != MissingRow {
		t.Errorf("got %v, want a ConflictError for the missing row", err)
	}
	g.want(`select * from t`, "1|user")
	g.want(`select count(*) from log`, "0")
}

// The context ends while only a part of a transaction has come: it is undone. What is in hand whole
// is finished.
func TestRun_Stop(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table log (line text)`)
	r := relation("log", 'd', "line")
	whole := g.tx()
	f := newFeed(&decoder.Tx{XID: whole.XID, CommitLSN: whole.CommitLSN, First: true, Changes: []decoder.Change{insert(r, "part")}})
	stop := g.start(f)
	g.eventually(`select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'`, "1")
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	g.eventually(`select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'`, "0")

	ctx, cancel := context.WithCancelCause(t.Context())
	g.hooks.beforeCommit = once(func() { cancel(errStop) })
	tx := g.tx(insert(r, "whole"))
	f = newFeed(tx)
	if err := g.Run(ctx, f); !errors.Is(err, errStop) {
		t.Fatalf("got %v, want the context's cause", err)
	}
	g.want(`select line from log`, "whole")
	if acks := f.acks(); acks[len(acks)-1] != tx.EndLSN {
		t.Errorf("acknowledged %v, want %s", acks, tx.EndLSN)
	}
}

var errStop = errors.New("stop")

// Without the right to set session_replication_role or an origin, constraints are deferred as in
// the source's transaction, and their violation is found.
func TestApply_PlainRole(t *testing.T) {
	t.Parallel()
	g, role := plainTarget(t, `create table own.t (id int primary key, u int unique deferrable); insert into own.t values (1, 1), (2, 2)`)
	if g.ReplicaRole() || g.Origin() != "" {
		t.Errorf("a plain role has replica role %v, origin %q", g.ReplicaRole(), g.Origin())
	}
	r := relation("t", 'd', "id*", "u")
	r.Namespace = "own"
	g.apply(update(r, nil, row("1", "2")), update(r, nil, row("2", "1")))
	g.want(`select id, u from own.t order by id`, "1|2", "2|1")

	tx := g.tx(update(r, nil, row("1", "1")))
	var conflict *ConflictError
	if err := g.Apply(t.Context(), tx); !errors.As(err, &conflict) || conflict.Constraint != "t_u_key" || conflict.Table != "own.t" || conflict.LSN != tx.CommitLSN {
		t.Errorf("got %v (%+v), want a conflict at COMMIT", err, conflict)
	}
	g.want(`select id, u from own.t order by id`, "1|2", "2|1")

	// A privilege that is revoked meanwhile does not come back by trying again. With it, the same
	// transaction goes through.
	g.exec(`revoke insert on own.t from ` + role)
	tx = g.tx(insert(r, "3", "3"))
	var refused *pgconn.PgError
	if err := g.Run(t.Context(), newFeed(tx)); !errors.As(err, &refused) || refused.Code != "42501" || !strings.Contains(err.Error(), "permission denied for table t") {
		t.Errorf("got %v, want that the permission is denied", err)
	}
	g.want(`select count(*) from own.t`, "2")
	g.exec(`grant insert on own.t to ` + role)
	if err := g.Apply(t.Context(), tx); err != nil {
		t.Error(err)
	}
	g.want(`select count(*) from own.t`, "3")
}

// What is written carries the replication origin and the time of the source's commit, each
// transaction its own.
func TestApply_Origin(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{Major: max(targetMajor(), 14), Settings: map[string]string{"track_commit_timestamp": "on"}})
	url := server.Database(t)
	pgtest.Exec(t, url, `create table t (id int primary key)`)
	g := openTarget(t, url, Config{Name: "test"})
	if got, want := g.Origin(), "walferry_test"; got != want {
		t.Fatalf("got origin %q, want %q", got, want)
	}
	r := relation("t", 'd', "id*")
	g.apply(insert(r, "1"))
	g.refuse(new(*ConflictError), remove(r, "7")) // leaves nothing behind in the session
	g.apply(insert(r, "2"))
	g.want(`
select id, o.roname, c.timestamp at time zone 'UTC' from t, pg_xact_commit_timestamp_origin(t.xmin) c left join pg_replication_origin o on o.roident = c.roident
 order by id`, "1|walferry_test|2024-05-01 12:00:01", "2|walferry_test|2024-05-01 12:00:03")
	if err := g.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.exec(`select pg_replication_origin_drop('walferry_test')`)
}

// As many statements as there are sets of columns: only the last ones stay prepared.
func TestApply_ManyShapes(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key, a int, b int, c int, d int, e int, f int, g int, h int, i int, j int); insert into t values (1)`)
	r := relation("t", 'd', "id*", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j")
	var changes []decoder.Change
	for shape := range 1 << 10 {
		values := []any{"1"}
		for column := range 10 {
			if shape&(1<<column) != 0 {
				values = append(values, fmt.Sprint(shape))
			} else {
				values = append(values, unchanged)
			}
		}
		changes = append(changes, update(r, nil, row(values...)))
	}
	g.apply(changes...)
	g.apply(changes...)
	g.want(`select a, j from t`, "1023|1023")
	var prepared int
	if err := g.session.conn.QueryRow(t.Context(), `select count(*) from pg_prepared_statements`, pgx.QueryExecModeExec).Scan(&prepared); err != nil {
		t.Fatal(err)
	}
	if prepared > preparedMax {
		t.Errorf("%d statements are prepared, want at most %d", prepared, preparedMax)
	}
}

func otherConn(t testing.TB, url string) *pgconn.PgConn {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func databaseOf(t testing.TB, url string) string {
	return pgtest.Query(t, url, `select current_database()`)[0][0]
}
