package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// binary builds walferry once for the tests that kill it.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "walferry-e2e-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "walferry")
	out, err := exec.Command("go", "build", "-o", path, "github.com/walferry/walferry/cmd/walferry").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, nil
})

// walferry is the real binary with a migration's servers and name, not started.
func walferry(t *testing.T, c migration.Config, args ...string) *exec.Cmd {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append(args, "--name", c.Name)...)
	cmd.Env = append(os.Environ(), "WALFERRY_SOURCE="+c.Source, "WALFERRY_TARGET="+c.Target)
	return cmd
}

// process starts a walferry migrate; its output goes to the test's log.
func process(t *testing.T, c migration.Config, args ...string) *exec.Cmd {
	t.Helper()
	return started(t, walferry(t, c, append([]string{"migrate"}, args...)...))
}

// started starts a process that ends with the test; its output goes to the test's log.
func started(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill() //nolint:errcheck // it may have ended
			cmd.Wait()         //nolint:errcheck // as above
		}
	})
	return cmd
}

func status(t *testing.T, c migration.Config) migration.Status {
	t.Helper()
	st, err := migration.ReadStatus(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// follows waits until a migrate that is running follows, and has applied more than
// so many transactions.
func follows(t *testing.T, c migration.Config, more int64) {
	t.Helper()
	target := newLine(t, c.Target)
	eventually(t, "a migrate that follows", func() (bool, string) {
		if now, _ := target.ask(phaseOf(c)); now != string(migration.Following) {
			return false, "phase " + now
		}
		st := status(t, c)
		return st.Phase == migration.Following && st.Running && st.Source.Active() && st.Stream.Transactions >= more, fmt.Sprintf("%+v", st)
	})
}

// accounts is a database in which every transaction adds one row to a table
// without a key and moves money between two tables: a transaction that is lost,
// doubled or torn shows.
const accounts = `
create table public.journal (n int8 not null);
create table public.a (id int primary key, money int8 not null);
create table public.b (id int primary key, money int8 not null, filler text);
insert into a select i, 1000 from generate_series(1, 100) i;
insert into b select i, 1000, repeat(md5(i::text), 50) from generate_series(1, 20000) i;
`

// writer writes to accounts until it is stopped, or refused by the fence, and
// returns how many transactions were committed.
func writer(t *testing.T, dsn string) (stop func() int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan int64, 1)
	go func() {
		defer conn.Close(context.Background())
		var n int64
		for ctx.Err() == nil {
			id := 1 + rand.IntN(100)
			err := pgx.BeginFunc(context.Background(), conn, func(tx pgx.Tx) error {
				_, err := tx.Conn().PgConn().Exec(context.Background(), fmt.Sprintf(
					`update a set money = money - 1 where id = %d; insert into journal values (%d); update b set money = money + 1 where id = %d`, id, n+1, id)).ReadAll()
				return err
			})
			if err != nil {
				if !strings.Contains(err.Error(), "WF001") {
					t.Errorf("writer: %v", err)
				}
				break
			}
			n++
			time.Sleep(10 * time.Millisecond)
		}
		done <- n
	}()
	var once sync.Once
	var n int64
	stop = func() int64 {
		once.Do(func() { cancel(); n = <-done })
		return n
	}
	t.Cleanup(func() { stop() })
	return stop
}

// sums is what must be the same on both sides, and is of n transactions.
func sums(t *testing.T, dsn string) string {
	t.Helper()
	return pgtest.Query(t, dsn, `
select format('journal %s rows, %s different, up to %s; money %s', (select count(*) from journal), (select count(distinct n) from journal),
  (select max(n) from journal), (select sum(money) from a) + (select sum(money) from b))`)[0][0]
}

// Walferry is killed again and again, while it copies and while it follows, and
// the same command is run again each time. In the end nothing is lost and nothing
// is there twice, also in a table without a key.
func TestKilled(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, accounts)
	stop := writer(t, source)
	c := migration.Config{Source: source, Target: target, Name: fmt.Sprintf("killed_%d", seed%1e9)}
	for range 3 { // while it prepares, copies and builds indexes
		cmd := process(t, c, "--insert-only", "public.journal")
		time.Sleep(time.Duration(200+random.IntN(1500)) * time.Millisecond)
		cmd.Process.Kill() //nolint:errcheck // Wait tells
		cmd.Wait()         //nolint:errcheck // killed
	}
	for range 3 { // while it follows
		cmd := process(t, c, "--insert-only", "public.journal")
		before := status(t, c).Stream.Transactions
		follows(t, c, before+5)
		time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
		cmd.Process.Kill() //nolint:errcheck // Wait tells
		cmd.Wait()         //nolint:errcheck // killed
	}
	cmd := process(t, c, "--insert-only", "public.journal", "--cutover", "auto", "--verify", "--timeout", "3m", "--max-lag", "1m")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the last migrate: %v", err)
	}
	n := stop()
	want := fmt.Sprintf("journal %d rows, %d different, up to %d; money %d", n, n, n, 100*1000+20000*1000)
	if got := sums(t, target); got != want {
		t.Errorf("target: %s, want %s", got, want)
	}
	if left, err := migration.Cleanup(t.Context(), c); err != nil || len(left) > 0 {
		t.Errorf("cleanup left %v, %v", left, err)
	}
}

// A clean stop and start after every few transactions must not add a row to a
// table without a key, nor lose one: exit code 6, and the same command goes on.
func TestStoppedAndStarted(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table public.log (n int not null)`)
	c := migration.Config{Source: source, Target: target, Name: fmt.Sprintf("stopped_%d", time.Now().UnixNano()%1e9)}
	for i := range 5 {
		cmd := process(t, c, "--insert-only", "public.log")
		follows(t, c, 0)
		for j := range 3 {
			pgtest.Exec(t, source, fmt.Sprintf(`insert into log values (%d)`, 3*i+j))
		}
		eventually(t, "the rows to arrive", func() (bool, string) {
			n := pgtest.Query(t, target, `select count(*) from log`)[0][0]
			return n == fmt.Sprint(3*i+3), n + " rows"
		})
		cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // Wait tells
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 6 {
			t.Fatalf("stopped by SIGTERM: %v, want exit code 6", err)
		}
	}
	if got, want := pgtest.Query(t, target, `select count(*) || ' rows, ' || count(distinct n) || ' different' from log`)[0][0], "15 rows, 15 different"; got != want {
		t.Errorf("target: %s, want %s", got, want)
	}
	if err := migration.Abort(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(pgtest.Query(t, source, `select count(*) from pg_replication_slots where slot_name = 'walferry_`+c.Name+`'`)), "[[0]]"; got != want {
		t.Errorf("after abort: %s slots, want %s", got, want)
	}
}
