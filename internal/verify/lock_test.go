package verify

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/pgtest"
	pinned "github.com/walferry/walferry/internal/session"
)

// lockedTables opens a comparison that locks its tables.
func lockedTables(t *testing.T, source, target string, lockFor time.Duration, told func(Progress)) *Verifier {
	t.Helper()
	v, err := New(Config{Source: source, Target: target, Tables: tables(t, source), LockFor: lockFor, Progress: told})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	if err := v.OpenSource(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if err := v.OpenTarget(t.Context()); err != nil {
		t.Fatal(err)
	}
	return v
}

func exec(t *testing.T, dsn string) func(sql string) error {
	t.Helper()
	conn, err := pinned.Open(t.Context(), pinned.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return func(sql string) error {
		_, err := conn.PgConn().Exec(context.Background(), sql).ReadAll()
		return err
	}
}

// Once the time for locks is over they are released, and what has not been read by then is read
// without: only a table that is really truncated before that is not compared. However slow the
// server, the outcome is the same.
func TestVerifier_LocksLetGo(t *testing.T) {
	source, target := pgtest.Pair(t, 11, 15) // which writes floats differently: the settings for that outlive the locks
	both(t, source, target, `create table public.z (id int primary key); insert into public.z values (1)`)
	want := ""
	for i := range 9 {
		both(t, source, target, fmt.Sprintf(`create type public.f%[1]d as (f float8); create table public.t%[1]d (id int primary key, f public.f%[1]d); insert into public.t%[1]d values (1, row(1 / 3.0::float8)::public.f%[1]d)`, i))
		want += fmt.Sprintf("public.t%d key 1 equal\n", i)
	}
	truncate, first := exec(t, target), true
	v := lockedTables(t, source, target, 1, func(Progress) {
		// One side has read the first table: the others have not been read, and the locks are gone,
		// or about to be.
		if first {
			if err := truncate(`truncate public.z`); err != nil {
				t.Error(err)
			}
		}
		first = false
	})
	if err := exec(t, target)(`set lock_timeout = '100ms'; truncate public.z`); err == nil || !strings.Contains(err.Error(), "55P03") {
		t.Errorf("a table that is locked was truncated: %v", err)
	}
	report, err := v.Compare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := transcript(report); !strings.HasPrefix(got, want) {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
	if z := report.Tables[9]; !z.Rewritten || report.Equal != nil || report.Compared != 9 || report.NotCompared != 1 {
		t.Errorf("got %+v", report)
	}
}

// A table that could not be locked is waited for without holding the others: its holder may be
// about to truncate those.
func TestVerifier_LocksAreNotHeldInWaiting(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	both(t, source, target, `create table public.a (id int primary key); insert into a values (1); create table public.busy (id int primary key); insert into busy values (1)`)
	application := exec(t, target)
	if err := application(`set lock_timeout = '2min'; begin; lock table public.busy in access exclusive mode`); err != nil {
		t.Fatal(err)
	}
	v := lockedTables(t, source, target, time.Hour, nil)
	truncated := make(chan error, 1)
	go func() { truncated <- application(`truncate public.a; rollback`) }()
	report, err := v.Compare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expect(t, report, "public.a key 1 equal\npublic.busy key 1 equal\n")
	if err := <-truncated; err != nil {
		t.Errorf("the application: %v", err)
	}
}
