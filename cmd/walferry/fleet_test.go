package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/walferry/walferry/internal/fleet"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/state"
)

// The table fits half a screen, whatever is in it, and what has failed is said below.
func TestFleetText(t *testing.T) {
	t.Parallel()
	lag, held, pause := 12345.6, int64(999<<30), int64(123456)
	long := strings.Repeat("ü", 40)
	st := &fleet.Status{Waves: []fleet.WaveStatus{{Number: 12, Databases: 100, Following: 99, After: 1, Approval: "manual", Window: "Sun 02:00-05:00 UTC"}}}
	for _, d := range []fleet.DatabaseStatus{
		{Phase: migration.Following, Running: true, LagSeconds: &lag, RetainedBytes: &held},
		{Phase: migration.Copying, Error: "disk full\nof the target", RetainedBytes: &held},
		{Phase: migration.Finished, PauseMS: &pause, Differ: []string{"public.t"}},
		{},
		{Error: "no server"},
	} {
		d.Name, d.Wave = long, 12
		st.Databases = append(st.Databases, d)
	}
	st.Databases[1].Copy.Bytes, st.Databases[1].Copy.BytesTotal = 1, 2
	text := fleetText(st)
	table, rest, _ := strings.Cut(text, "\n\n")
	for line := range strings.Lines(table) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 60 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	for _, want := range []string{"3h25m46s", "999GB", "copying FAIL", "50%", "123456 ms", "waits", "not known"} {
		if !strings.Contains(table, want) {
			t.Errorf("no %s in:\n%s", want, table)
		}
	}
	for _, want := range []string{"wave 12: 0 of 100 switched, 99 ready, 0 failed\n  after wave 1, not approved, Sun 02:00-05:00 UTC (closed)", "disk full; of the target", "1 tables DIFFER: public.t"} {
		if !strings.Contains(rest, want) {
			t.Errorf("no %s in:\n%s", want, rest)
		}
	}
	if fleetPartly(st) == nil || fleetPartly(&fleet.Status{Databases: st.Databases[:4]}) != nil {
		t.Error("which status is complete")
	}
}

// A report has the times of the phases.
func TestMovedText(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 29, 2, 0, 0, 0, time.UTC)
	pause, equal := int64(87), true
	d := fleet.DatabaseStatus{Name: "old1_app", Source: "a|b", Target: "app", Phase: migration.Finished, PauseMS: &pause, Equal: &equal, Phases: []state.Entered{
		{Phase: migration.New, At: at}, {Phase: migration.Following, At: at.Add(90 * time.Second)}, {Phase: migration.Fenced, At: at.Add(time.Hour)}, {Phase: migration.Finished, At: at.Add(time.Hour)},
	}}
	d.Copy.Rows = 1234
	text := movedText((&fleet.Status{Databases: []fleet.DatabaseStatus{d, {Name: "old1_b"}}}).Moved())
	for _, want := range []string{"# 1 of 2 databases moved: 1,234 rows", `| old1_app | a\|b, app | 0 | finished | 1,234 | 0 B | 1m30s | 0 | 2026-11-29 03:00`, "| 87 ms | equal |"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in:\n%s", want, text)
		}
	}
}

// Options of a fleet's command may follow its file.
func TestFilesLast(t *testing.T) {
	t.Parallel()
	app := newApp(&ui{})
	for line, want := range map[string]string{
		"walferry fleet cutover f.yaml --wave 2 --json":    "walferry fleet cutover --wave 2 --json f.yaml",
		"walferry fleet abort NAME f.yaml":                 "walferry fleet abort NAME f.yaml",
		"walferry fleet status f.yaml --watch":             "walferry fleet status --watch f.yaml",
		"walferry fleet cutover --wave=2 f.yaml -- --odd":  "walferry fleet cutover --wave=2 f.yaml -- --odd",
		"walferry --name fleet check --include a --json":   "walferry --name fleet check --include a --json",
		"walferry --log-format=json fleet status f --json": "walferry --log-format=json fleet status --json f",
		"walferry check --jobs 3":                          "walferry check --jobs 3",
		"walferry fleet nothing a --b":                     "walferry fleet nothing a --b",
	} {
		if got := strings.Join(filesLast(app, strings.Fields(line)), " "); got != want {
			t.Errorf("%s: got %s, want %s", line, got, want)
		}
	}
}
