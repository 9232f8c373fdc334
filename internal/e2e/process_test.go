package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// The first SIGINT lets migrate finish what is in hand; while that waits for somebody's lock, a
// second one ends it at once. The transaction that was under way is there once, after the next run.
func TestInterruptedTwice(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Default()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, `create table public.log (n int not null)`)
	c := migration.Config{Source: source, Target: target, Name: migrationName("interrupted")}
	cmd := walferry(t, c, "migrate", "--insert-only", "public.log")
	var told logged
	cmd.Stderr = &told
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill() //nolint:errcheck // it may have ended
	follows(t, c, 0)
	lock := hold(t, target, `lock table log in access exclusive mode`)
	pgtest.Exec(t, source, `insert into log values (1)`)
	asked := newLine(t, target)
	eventually(t, "an applier that waits for the lock", func() (bool, string) {
		n, err := asked.ask(`select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name like '% apply' and datname = current_database()`)
		return n == "1", fmt.Sprintln(n, err) + told.String()
	})
	cmd.Process.Signal(os.Interrupt) //nolint:errcheck // the next lines tell
	eventually(t, "an answer to the signal", func() (bool, string) { return strings.Contains(told.String(), "again to stop at once"), told.String() })
	over := make(chan struct{})
	go func() { cmd.Wait(); close(over) }()          //nolint:errcheck // the exit code tells
	eventually(t, "its end", func() (bool, string) { // a signal at once after the first is that one again
		cmd.Process.Signal(os.Interrupt) //nolint:errcheck // it may have ended
		select {
		case <-over:
			return true, ""
		default:
			return false, told.String()
		}
	})
	if cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("interrupted twice: %v, want exit code 1:\n%s", cmd.ProcessState, told.String())
	}
	lock.rollback()
	process(t, c, "--insert-only", "public.log")
	follows(t, c, 0)
	pgtest.Exec(t, source, `insert into log values (2)`)
	eventually(t, "both rows, once", func() (bool, string) {
		rows, err := asked.ask(`select string_agg(n::text, ',' order by n) from log`)
		return rows == "1,2", fmt.Sprintln(rows, err)
	})
}

// Few files, one processor, nobody who reads what it prints: migrate ends with the reason, or
// does its work.
func TestScarceProcess(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Default()
	source, target := pgtest.Pair(t, from, to)
	pgtest.Exec(t, source, accounts)
	c := migration.Config{Source: source, Target: target, Name: migrationName("scarce")}
	within := func(limit string, cmd *exec.Cmd) *exec.Cmd {
		limited := exec.Command("sh", append([]string{"-c", limit + `; exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)...)
		limited.Env = cmd.Env
		return limited
	}
	arguments := []string{"migrate", "--insert-only", "public.journal", "--cutover", "auto", "--verify", "--timeout", "3m", "--max-lag", "1m"}
	var told bytes.Buffer
	few := within("ulimit -n 11", walferry(t, c, arguments...))
	few.Stdout, few.Stderr = &told, &told
	if err := few.Run(); few.ProcessState.ExitCode() != 1 || !strings.Contains(told.String(), "too many open files") {
		t.Errorf("with eleven files: %v, want exit code 1 and why:\n%s", err, told.String())
	}

	enough := within("ulimit -n 48", walferry(t, c, arguments...))
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read.Close()
	defer write.Close()
	enough.Env = append(enough.Env, "GOMAXPROCS=1")
	enough.Stdout, enough.Stderr = write, write
	stop := writer(t, source)
	err = enough.Run()
	n := stop()
	if st := status(t, migration.Config{Source: source, Target: target, Name: c.Name}); st.Phase != migration.Finished {
		t.Fatalf("migrate, whose output nobody reads, ended with %v in phase %s", err, st.Phase)
	}
	if err != nil {
		t.Errorf("migrate has finished, and ended with %v", err)
	}
	if got := one[int64](t, target, `select count(*) from journal`); got != n {
		t.Errorf("the target has %d transactions, %d were committed", got, n)
	}
}

// logged is output that is read while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
