package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
)

// printed returns what a function writes to stdout and stderr.
func printed(t *testing.T, f func(*ui)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "printed")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	f(newUI(file, file))
	file.Close()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A server's error is shown on one line, whatever it contains, and without the values of a row.
func TestFail(t *testing.T) {
	for name, c := range map[string]struct {
		err        error
		want, shun string
	}{
		"a row's values": {
			&pgconn.PgError{Severity: "ERROR", Code: "23505", Message: `duplicate key value violates unique constraint "t_key"`, Detail: "Key (mail)=(wren@example.com) already exists."},
			`constraint "t_key" (SQLSTATE 23505)`, "wren",
		},
		"a detail": {
			&pgconn.PgError{Severity: "ERROR", Code: "55006", Message: "database is being accessed", Detail: "There is 1 other session."},
			"There is 1 other session.", "",
		},
		"a forged line": {errors.New("copy table public.a\nwalferry: caught up\x1b[2J\r\u009b1m"), "public.a; walferry: caught up?[2J??1m\n", "\x1b"},
		"verbs":         {errors.New("100%s %!d(MISSING) %n"), "walferry: 100%s %!d(MISSING) %n\n", ""},
		"ten megabytes": {errors.New(strings.Repeat("x", longest-6) + "canary" + strings.Repeat("y", 10<<20)), " bytes left out)\n", "can"},
	} {
		got := printed(t, func(u *ui) {
			u.hide("postgres://u:canaryyyy@h/d")
			u.fail(c.err)
		})
		if !strings.HasPrefix(got, "walferry: ") || !strings.Contains(got, c.want) || strings.Count(got, "\n") != 1 || len(got) > longest+100 {
			t.Errorf("%s: got %.300q, want a line with %q", name, got, c.want)
		}
		if c.shun != "" && strings.Contains(got, c.shun) {
			t.Errorf("%s: %q is shown", name, c.shun)
		}
	}
}

// A name cannot forge a line of the log or of a report, nor move the cursor.
func TestNames_OneLine(t *testing.T) {
	const name = "public.a\n0 block\r\n12:00:00 phase finished\x1b[31m"
	for _, format := range []string{"text", "json"} {
		got := printed(t, func(u *ui) {
			if err := u.setLog("info", format, "n"); err != nil {
				t.Fatal(err)
			}
			u.logger.Info("copied", "table", name)
		})
		if strings.Count(got, "\n") != 1 || strings.ContainsAny(got, "\x1b\r") {
			t.Errorf("%s: got %q", format, got)
		}
		var line struct{ Table string }
		if format == "json" && (json.Unmarshal([]byte(got), &line) != nil || line.Table != name) {
			t.Errorf("as JSON: got %q", line.Table)
		}
	}
	for what, f := range map[string]func(u *ui){
		"check": func(u *ui) {
			finding := check.Finding{ID: "x", Severity: check.Block, On: "source", Object: name, Seen: name, Do: name, SQL: []string{name}}
			u.printReport(u.stdout, check.Report{Findings: []check.Finding{finding}}) //nolint:errcheck // a file
		},
		"status": func(u *ui) {
			fmt.Fprint(u.stdout, clean(statusText(migration.Status{Name: "n", Phase: "following", Error: name, NewTables: []string{name}})))
		},
	} {
		got := printed(t, f)
		for line := range strings.Lines(got) {
			if strings.HasPrefix(line, "0 block\n") || strings.HasPrefix(line, "0 block?") || strings.HasPrefix(line, "12:00:00") || strings.ContainsAny(line, "\x1b\r") {
				t.Errorf("%s: a line is %q", what, line)
			}
		}
		if !strings.Contains(got, "public.a\n ") {
			t.Errorf("%s: the name is not shown:\n%s", what, got)
		}
	}
}

// A log for programs has nothing between its records, a position is written as PostgreSQL writes
// it, and each record names its migration.
func TestLog_JSON(t *testing.T) {
	finding := check.Finding{ID: "wal-level", Severity: check.Block, On: "source", Seen: "it is replica", Do: "set it", SQL: []string{"alter system"}}
	got := printed(t, func(u *ui) {
		if err := u.setLog("info", "json", "orders"); err != nil {
			t.Fatal(err)
		}
		u.findings(check.Report{Findings: []check.Finding{finding, {ID: "fyi", Severity: check.Info}}})
		u.note("caught up")
		u.step("cutover", "drained")
		u.logger.Info("at", "lsn", decoder.LSN(0x1600000001), "pause", 1500*time.Millisecond)
		u.fail(&fail.Error{Kind: fail.Gate, Problem: "it lags", Advice: "wait"})
	})
	want := []map[string]any{
		{"finding": "wal-level", "severity": "block", "level": "ERROR", "do": "set it"},
		{"msg": "caught up"},
		{"msg": "cutover: drained"},
		{"lsn": "16/1", "pause": 1.5},
		{"msg": "it lags", "hint": "wait", "exit_code": 4.0},
	}
	lines := strings.Split(strings.TrimSpace(got), "\n")
	if len(lines) != len(want) {
		t.Fatalf("got %d lines, want %d:\n%s", len(lines), len(want), got)
	}
	for i, line := range lines {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		want[i]["migration"] = "orders"
		for key, value := range want[i] {
			if record[key] != value {
				t.Errorf("%s: got %v, want %v in %s", key, record[key], value, line)
			}
		}
	}
}

// The SQL of check waits for no lock for long, except to build an index; what has no SQL is told, on
// a line that psql ignores, and so is the other side.
func TestPrintSQL(t *testing.T) {
	here := []check.Finding{
		{ID: "a", Severity: check.Block, On: "source", Object: "t\nu", Seen: "no\r\nkey", Do: "make\none"},
		{ID: "b", Severity: check.Block, On: "tool", Seen: "one database", Do: "give another"},
		{ID: "d", Severity: check.Warn, On: "source", Seen: "unseen", Do: "look"},
		{ID: "e", Severity: check.Warn, On: "source", Object: "v", Seen: "slow", Do: "index it", SQL: []string{"alter table v x", "Create Index ConCurrently i on v (a);"}},
		{ID: "f", Severity: check.Warn, On: "source", Object: "w", Seen: "slow", SQL: []string{"alter table v x;", "alter table w x"}},
	}
	there := check.Finding{ID: "c", Severity: check.Block, On: "target", Seen: "not empty"}
	for _, c := range []struct {
		side     string
		findings []check.Finding
		want     string
	}{
		{"source", append(here, there), `-- BLOCK a t u: no  key -> make one
-- BLOCK b: one database -> give another
-- What cannot have its lock at once fails, instead of making everybody queue behind it: run this again until check finds nothing.
set lock_timeout = '2s';
-- WARN e v: slow
alter table v x;
set lock_timeout = 0;
Create Index ConCurrently i on v (a);
set lock_timeout = '2s';
-- WARN f w: slow
alter table w x;
`},
		{"target", append(here, there), "-- BLOCK b: one database -> give another\n-- BLOCK c: not empty\n"},
		{"target", here, "-- BLOCK b: one database -> give another\n-- Nothing blocks on the target, but on the source: see `walferry check --name m1 --sql source`.\n"},
		{"source", here[2:3], ""},
	} {
		got := printed(t, func(u *ui) {
			if err := u.setLog("", "", "m1"); err != nil {
				t.Error(err)
			}
			if err := u.printSQL(check.Report{Findings: c.findings}, c.side); err != nil {
				t.Error(err)
			}
		})
		if got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.side, got, c.want)
		}
	}
}

// A command in a hint acts on the migration that it is about when it is copied.
func TestNamed(t *testing.T) {
	for text, want := range map[string]string{
		"run `walferry cutover` when ready (`walferry cutover --dry-run` rehearses it)": "run `walferry cutover --name m1` when ready (`walferry cutover --name m1 --dry-run` rehearses it)",
		"`walferry abort`, `walferry cleanup`, empty the target, `walferry migrate`":    "`walferry abort --name m1`, `walferry cleanup --name m1`, empty the target, `walferry migrate --name m1`",
		"`walferry status`\n`walferry verify --table`, `walferry check`":                "`walferry status --name m1`\n`walferry verify --name m1 --table`, `walferry check --name m1`",
		"see `walferry migrate --help`":                                                 "see `walferry migrate --help`",
		"`walferry status --name m2`":                                                   "`walferry status --name m2`",
		"`walferry version`, walferry abort":                                            "`walferry version`, walferry abort",
	} {
		for name, want := range map[string]string{"m1": want, "default": text} {
			for _, format := range []string{"text", "json"} {
				u := &ui{}
				if err := u.setLog("", format, name); err != nil {
					t.Fatal(err)
				}
				if got := u.named(text); got != want {
					t.Errorf("%s: got %s, want %s", name, got, want)
				}
			}
		}
	}
}

// Whatever is printed for people names the migration: errors with their hints, notes, the log, the
// end of a migrate, and the findings; also the hints in a log for programs.
func TestNamed_Printed(t *testing.T) {
	const command, want = "`walferry cleanup`", "`walferry cleanup --name m1`"
	for _, format := range []string{"text", "json"} {
		got := printed(t, func(u *ui) {
			if err := u.setLog("", format, "m1"); err != nil {
				t.Fatal(err)
			}
			u.fail(&fail.Error{Kind: fail.Gate, Problem: "see " + command, Advice: "run " + command})
			u.note("run %s", command)
			u.logger.Warn("run "+command, "hint", command)
			if err := u.finished(migration.Outcome{Phase: migration.Finished}); err != nil {
				t.Error(err)
			}
			if err := u.printReport(u.stdout, check.Report{Findings: []check.Finding{{ID: "a", Seen: command, Do: "run " + command}}}); err != nil {
				t.Error(err)
			}
		})
		if strings.Contains(got, command) || strings.Count(got, want) != 8 {
			t.Errorf("%s: got %d of 8:\n%s", format, strings.Count(got, want), got)
		}
	}
}
