package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// listing returns what both servers hold.
func listing(ts *testscript.TestScript) (lines []string) {
	for _, name := range []string{"source", "target"} {
		dsn := side(ts, name)
		for _, row := range pgtest.Query(of(ts).tb, dsn, read(of(ts).tb, "catalogue", ts.Getenv("NAME"))) {
			lines = append(lines, name+": "+strings.Join(row, " "))
		}
		for _, statement := range pgtest.Query(of(ts).tb, dsn, read(of(ts).tb, "rows", "")) {
			for _, row := range pgtest.Query(of(ts).tb, dsn, statement[0]) {
				lines = append(lines, name+": rows "+strings.Join(row, " "))
			}
		}
	}
	return lines
}

// read returns a query of testdata for a migration.
func read(tb testing.TB, query, name string) string {
	tb.Helper()
	text, err := os.ReadFile("testdata/" + query + ".sql")
	if err != nil {
		tb.Fatal(err)
	}
	return strings.ReplaceAll(string(text), "NAME", name)
}

// remember keeps what both servers hold, for unchanged.
func remember(ts *testscript.TestScript, _ bool, _ []string) {
	of(ts).before = listing(ts)
	if len(of(ts).before) < 10 {
		ts.Fatalf("a listing of %d lines is none: %q", len(of(ts).before), of(ts).before)
	}
}

// unchanged passes if both servers hold what remember saw.
func unchanged(ts *testscript.TestScript, neg bool, _ []string) {
	before, after := of(ts).before, listing(ts)
	if before == nil {
		ts.Fatalf("nothing was remembered")
	}
	var difference []string
	for _, line := range before {
		if !slices.Contains(after, line) {
			difference = append(difference, "- "+line)
		}
	}
	for _, line := range after {
		if !slices.Contains(before, line) {
			difference = append(difference, "+ "+line)
		}
	}
	if changed := len(difference) > 0; changed != neg {
		ts.Fatalf("changed: %v\n%s", changed, strings.Join(difference, "\n"))
	}
}

// reach waits until the migration is in a phase, and run by a migrate if it is following: reach
// PHASE.
func reach(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: reach PHASE")
	}
	config := migration.Config{Source: side(ts, "source"), Target: side(ts, "target"), Name: ts.Getenv("NAME")}
	ctx := of(ts).tb.Context()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		st, err := migration.ReadStatus(ctx, config)
		ts.Check(err)
		want := migration.Phase(args[0])
		if st.Phase == want && (want != migration.Following || st.Running && st.Stream.LagSeconds != nil) {
			return
		}
		if st.Error != "" || time.Now().After(deadline) {
			ts.Fatalf("phase %s was not reached: %+v", want, st)
		}
	}
}

// arrives waits until a query of a side has a result of one row: arrives SIDE WANT SQL...
func arrives(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: arrives SIDE WANT SQL...")
	}
	got := ""
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if got = strings.Join(pgtest.Query(of(ts).tb, side(ts, args[0]), strings.Join(args[2:], " "))[0], " "); got == args[1] {
			return
		}
	}
	ts.Fatalf("got %s, want %s", got, args[1])
}

// back waits until the way back is in a state: back STATE.
func back(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: back STATE")
	}
	config := migration.Config{Source: side(ts, "source"), Target: side(ts, "target"), Name: ts.Getenv("NAME")}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		st, err := migration.ReadStatus(of(ts).tb.Context(), config)
		ts.Check(err)
		if string(st.WayBack.State) == args[0] {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the way back is not %s: %+v", args[0], st.WayBack)
		}
	}
}

// The listing sees every kind of object that the scripts claim is unchanged.
func TestListing_SeesChanges(t *testing.T) {
	source, _ := pgtest.Default()
	dsn := pgtest.Shared(t, source).Database(t)
	see := func() string { return fmt.Sprint(pgtest.Query(t, dsn, read(t, "catalogue", "none"))) }
	before := see()
	for _, sql := range []string{
		`create schema walferry`, `create table t (a int)`, `alter table t replica identity full`, `create publication p for table t`,
		`select pg_create_logical_replication_slot('see_' || substr(md5(current_database()), 1, 12), 'pgoutput')`,
		`create function f() returns trigger language plpgsql as 'begin return null; end'`,
		`create trigger g before insert on t for each statement execute function f()`, `alter table t disable trigger g`,
	} {
		pgtest.Exec(t, dsn, sql)
		after := see()
		if after == before {
			t.Errorf("not seen: %s", sql)
		}
		before = after
	}
}
