package fleet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/config"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// some are a few options, as whoever has the command line makes them.
var some = Options{
	Names: []string{"jobs", "verify", "fall-back", "max-retained-wal-target", "exclude"},
	Make: func(where string, values map[string]any) (c config.Migration, err error) {
		for key, value := range values {
			switch key {
			case "jobs":
				jobs, ok := value.(int)
				if !ok {
					return c, &fail.Error{Kind: fail.Usage, Problem: where + ": jobs is not a whole number"}
				}
				c.Jobs = jobs
			case "verify":
				c.Prove = config.On
			case "fall-back":
				c.FallBack = config.FallBackMode(fmt.Sprint(value))
			case "max-retained-wal-target":
				c.MaxRetainedWALTarget = 1 << 30
			case "exclude":
				c.Exclude = []string{fmt.Sprint(value)}
			}
		}
		c.Heartbeat = 500 * time.Millisecond
		return c, nil
	},
}

// write writes a fleet's file.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const good = `
defaults: {jobs: 2, verify: true}
limits: {copying: 3, following: none, per-source: {copying: none, following: 4}, per-target: {copying: 1}}
instances:
  old1:
    source: {host: old1, port: 5433, user: mover, password: "${env:FLEET_PASSWORD}"}
    target: postgres://mover:${env:FLEET_PASSWORD}@new1
    options: {jobs: 3}
    databases:
      - '*'
      - '!scratch*'
      - billing: {wave: 2, name: money, target-database: billing2, jobs: 8}
  old2:
    source: postgres://old2/postgres
    target: postgres://new1
    wave: 3
    databases: app
waves:
  1: {approve: auto}
  2: {after: 1, approve: manual, approved: anna, window: "Sun 02:00-05:00 UTC", stop-after: 2}
`

func TestRead(t *testing.T) {
	t.Setenv("FLEET_PASSWORD", `s'ecr et@`)
	f, err := Read(write(t, good), some)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Limits{Bounds{Copying: 3}, Bounds{Following: 4}, Bounds{Copying: 1}}); f.Limits != want {
		t.Errorf("limits: got %+v, want %+v", f.Limits, want)
	}
	if f.Open {
		t.Error("it is said to hold a password itself")
	}
	i := f.Instances[0]
	for _, dsn := range []string{i.Source, i.Target} {
		if !strings.Contains(dsn, `s\'ecr et@`) && !strings.Contains(dsn, "s%27ecr%20et%40") {
			t.Errorf("the password is not in %s", dsn)
		}
	}
	p := i.Databases[2]
	if p.Wave != 2 || p.Name != "money" || p.Target != "billing2" || p.options.values["jobs"] != 8 || p.options.values["verify"] != true || i.Databases[0].options.values["jobs"] != 3 {
		t.Errorf("%+v", p)
	}
	var waves []int
	for _, w := range f.Waves {
		waves = append(waves, w.Number)
	}
	if w := f.Wave(2); !slices.Equal(waves, []int{1, 2, 3}) || w.After != 1 || w.Approve != Manual || w.Approved != "anna" || w.StopAfter != 2 || f.Wave(3).Approve != Asked {
		t.Errorf("waves %v, %+v", waves, f.Wave(2))
	}
	used := map[*Pattern]bool{}
	for name, want := range map[string]*Pattern{"app": i.Databases[0], "billing": p, "scratch1": nil, "postgres": nil, "a\nb": i.Databases[0]} {
		if got := i.chosen(name, used); got != want {
			t.Errorf("%q is chosen by %+v, want %+v", name, got, want)
		}
	}
}

// What is wrong is said with its line, and without any value.
func TestRead_Wrong(t *testing.T) {
	t.Setenv("FLEET_PASSWORD", "canary")
	const end = "\n    target: postgres://new1\n    databases: ['*']\n"
	for _, c := range []struct{ text, want string }{
		{"", "it is empty"},
		{"- a", "line 1: the file is not a mapping"},
		{"instances: {}", "line 1: instances is empty"},
		{"limits: {}", "line 1: it has no instances"},
		{"a: b: c", "mapping values are not allowed"},
		{"instances:\n  old1:\n    source: *canary", "an alias (*) has no anchor"},
		{strings.Replace(good, "jobs: 8", "jbs: 8", 1), `line 12: instance old1, database billing has no key "jbs"`},
		{strings.Replace(good, "jobs: 8", "jobs: canary", 1), `line 12: jobs is not a whole number`},
		{strings.Replace(good, "jobs: 3}", "jobs: 3, jobs: 3}", 1), `line 8: the key jobs appears twice`},
		{strings.Replace(good, "port: 5433", "port: canary", 1), "line 6: instance old1: source: read connection string: port is not a number"},
		{strings.Replace(good, "host: old1", "hots: canary", 1), `line 6: instance old1: source: read connection string: unknown keyword "hots"`},
		{strings.Replace(good, "${env:FLEET_PASSWORD}@", "${file:/nowhere}@", 1), "line 7: instance old1: target: open /nowhere: no such file"},
		{strings.Replace(good, "per-target: {copying: 1}", "per-target: {copying: 0}", 1), "line 3: limits: per-target: copying, which is not none either, is not a whole number from 1 on"},
		{strings.Replace(good, "old2:", "old_2:", 1), "line 13: an instance's name is"},
		{strings.Replace(good, "name: money", "name: x_back", 1), "line 12: instance old1, database billing: name: it ends in _back"},
		{strings.Replace(good, "billing:", "'bill*':", 1), "line 12: instance old1, database bill*: name goes with a database's whole name"},
		{strings.Replace(good, "'!scratch*'", "'!scratch*': {jobs: 2}", 1), "line 11: instance old1, database scratch*: what is left out has no options"},
		{strings.Replace(good, "after: 1", "after: 7", 1), "line 20: wave 2 comes after wave 7, which does not exist"},
		{strings.Replace(good, "1: {approve: auto}", "1: {approve: auto, after: 2}", 1), "comes after itself"},
		{good + "  9: {}\n", "line 21: wave 9 has no databases"},
		{strings.Replace(good, "approve: auto", "approve: canary", 1), "line 19: wave 1: approve is none of asked, manual, auto"},
		{strings.Replace(good, "Sun 02", "Son 02", 1), `line 20: wave 2: window: there is no day "Son"`},
		{"instances:\n  old1:\n    source: postgres://u:canary@h:x" + end, "line 3: instance old1: source: read connection string"},
		{"instances:\n  old1:" + end, "line 2: instance old1 needs source and target"},
	} {
		_, err := Read(write(t, c.text), some)
		if err == nil || !fail.Is(err, fail.Usage) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error()+fail.Hint(err), "canary") {
			t.Errorf("got %v (%s), want %s in:\n%s", err, fail.Hint(err), c.want, c.text)
		}
	}
	if _, err := Read("/nowhere", some); !fail.Is(err, fail.Usage) {
		t.Errorf("no file: %v", err)
	}
}

// Whatever a file contains: no panic, and only errors of usage.
func FuzzRead(f *testing.F) {
	f.Add(good)
	f.Add("instances: &a {old1: *a}")
	f.Add("instances: {old1: {source: a, databases: [&x {a: *x}]}}")
	path := filepath.Join(f.TempDir(), "fleet.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path, some); err != nil && !fail.Is(err, fail.Usage) {
			t.Errorf("%q: %v is not about usage", text, err)
		}
	})
}

func TestWindow(t *testing.T) {
	t.Parallel()
	at := func(text string) time.Time {
		moment, err := time.Parse("2006-01-02 15:04 MST", text) // 2026-11-29 is a Sunday
		if err != nil {
			t.Fatal(err)
		}
		return moment
	}
	for _, c := range []struct {
		window, at string
		open       bool
	}{
		{"Sun 02:00-05:00 UTC", "2026-11-29 02:00 UTC", true},
		{"Sun 02:00-05:00 UTC", "2026-11-29 05:00 UTC", false},
		{"Sun 02:00-05:00", "2026-11-30 03:00 UTC", false},
		{"02:00-24:00", "2026-11-30 23:59 UTC", true},
		{"Sat 22:00-04:00", "2026-11-29 03:59 UTC", true}, // it began on Saturday
		{"Sat 22:00-04:00", "2026-11-28 03:59 UTC", false},
		{"Fri-Mon 22:00-23:00", "2026-11-29 22:30 UTC", true},
		{"Mon,Wed 00:00-01:00", "2026-12-02 00:30 UTC", true},
		{"Sun 02:00-05:00 Europe/Berlin", "2026-11-29 01:30 UTC", true},
	} {
		w, err := parseWindow(c.window)
		if err != nil {
			t.Errorf("%s: %v", c.window, err)
		} else if got := w.Open(at(c.at)); got != c.open {
			t.Errorf("%s at %s: got %v, want %v", c.window, c.at, got, c.open)
		}
	}
	for _, text := range []string{"", "always", "25:00-26:00", "02:00-02:00", "Sun", "02:00-05:00 Local", "02:00-05:00 Nowhere/Here", "24:30-25:00"} {
		if w, err := parseWindow(text); err == nil {
			t.Errorf("%q: %+v", text, w)
		}
	}
	if !(*Window)(nil).Open(time.Now()) {
		t.Error("no window is closed")
	}
}

// Names are a migration's, and different for whatever differs.
func TestNameOf(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, database := range []string{"app", "App", "app_back", "app_insert", "a b", "a-b", "ü", "a_b", "x" + strings.Repeat("y", 50), "x" + strings.Repeat("y", 51), "", "\n"} {
		name := nameOf("old1", database)
		if err := nameError(name); err != nil || !strings.HasPrefix(name, "old1_") {
			t.Errorf("%q: %s: %v", database, name, err)
		}
		if was, twice := seen[name]; twice {
			t.Errorf("%q and %q are both %s", was, database, name)
		}
		seen[name] = database
	}
	if nameOf("old1", "app") != "old1_app" {
		t.Error(nameOf("old1", "app"))
	}
}

// resolve reads and resolves a file.
func resolve(t *testing.T, text string) (*Fleet, error) {
	t.Helper()
	f, err := Read(write(t, text), some)
	if err != nil {
		t.Fatal(err)
	}
	return Resolve(t.Context(), f, some)
}

// Patterns become databases; what cannot be is refused with its line, and what cannot be asked holds up nobody.
func TestResolve(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Default()
	from, to := pgtest.New(t, pgtest.Options{Major: source, Settings: map[string]string{"max_replication_slots": "3", "max_wal_senders": "4", "max_connections": "20"}}), pgtest.Shared(t, target)
	for _, sql := range []string{`create database app`, `create database "App 2"`, `create database scratch1`, `create database one_x`, `create database other`} {
		pgtest.Exec(t, from.URL("postgres"), sql)
	}
	servers := fmt.Sprintf("    source: %s\n    target: %s\n", from.URL(""), to.URL(""))
	f, err := resolve(t, "limits: {per-source: {copying: 2}}\ninstances:\n  one:\n"+servers+"    databases: ['*', '!scratch*', app: {wave: 2, jobs: 7}]\n"+
		"  gone:\n    source: postgres://127.0.0.1:1\n    target: postgres://127.0.0.1:1\n    databases: ['*']\n")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range f.Databases {
		names = append(names, fmt.Sprintf("%s:%d:%d", d.Name, d.Wave, d.Config.Jobs))
	}
	if want := []string{nameOf("one", "App 2") + ":1:0", "one_one_x:1:0", "one_other:1:0", "one_app:2:7"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	if len(f.Problems) != 1 || f.Problems[0].Instance.Name != "gone" || len(f.Servers()) != 2 {
		t.Errorf("%+v, %d servers", f.Problems, len(f.Servers()))
	}
	report, err := f.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, s := range report.Servers {
		for _, one := range s.Findings {
			found = append(found, one.ID)
		}
	}
	slices.Sort(found)
	// Each of the four has room alone; together they do not.
	if want := []string{"fleet-connections", "fleet-senders", "fleet-slots"}; !slices.Equal(found, want) || !report.Blocks() {
		t.Errorf("found %q, want %q: %+v", found, want, report.Servers)
	}
	shared := report.Shared()
	if len(shared) < 4 || shared[0].ID != "target-database" || !strings.Contains(shared[0].SQL[0], "create database") {
		t.Errorf("%+v", shared)
	}
	if f, err := resolve(t, "\ninstances:\n  one:\n"+servers+"    databases: ['*', app: {wave: 2}]\nwaves: {1: {over: true}, 2: {after: 1}}\n"); err != nil || len(f.Databases) != 1 || f.Databases[0].Source != "app" {
		t.Errorf("a wave that is over: %+v, %v", f, err)
	}
	for _, c := range []struct{ databases, want string }{
		{"['nothing*']", `line 6: no database of instance one is chosen by "nothing*"`},
		{"[nothing]", `line 6: instance one has no database "nothing"`},
		{"[app: {name: a}, other: {name: a}]", "line 6: database other of instance one has the name a, as one of line 6 has"},
		{"[app: {target-database: x}, other: {target-database: x}]", "has the target database x"},
		{"[app]\n  two:\n" + servers + "    databases: [app]", "line 10: database app of instance two has the source database app, as one of line 6"},
		{"[app]\n  two:\n" + strings.Replace(servers, to.URL(""), from.URL(""), 1) + "    databases: [other]", "database other is its own target"},
	} {
		if _, err := resolve(t, "\ninstances:\n  one:\n"+servers+"    databases: "+c.databases+"\n"); err == nil || !strings.Contains(err.Error(), c.want) || !fail.Is(err, fail.Usage) {
			t.Errorf("%s: got %v, want %s", c.databases, err, c.want)
		}
	}
	if _, err := f.Find("one_ap"); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("a migration that is not there: %v", err)
	}
}
