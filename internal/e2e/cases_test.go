package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

const casesDir = "../../testdata/cases"

// testCase is a directory of testdata/cases; its README says what each file is.
type testCase struct {
	name  string
	pairs [][2]int
	migration.Config
	blocked string // a finding of the preflight that must block, or empty
	since   int    // major version of the source that has what the case is about; 0: all have
}

// TestCases migrates the database of every case.
func TestCases(t *testing.T) {
	directories, err := filepath.Glob(casesDir + "/*/README")
	if err != nil || len(directories) == 0 {
		t.Fatalf("no cases in %s: %v", casesDir, err)
	}
	turns := make(chan struct{}, 3)
	for _, readme := range directories {
		c := readCase(t, filepath.Dir(readme))
		for _, pair := range c.pairs {
			name := c.name
			if len(c.pairs) > 1 {
				name = fmt.Sprintf("%s/%d-%d", c.name, pair[0], pair[1])
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				turns <- struct{}{}
				defer func() { <-turns }()
				c.run(t, pair)
			})
		}
	}
}

// readCase reads the options in the README: lines that begin with a colon.
func readCase(t *testing.T, dir string) testCase {
	t.Helper()
	from, to := pgtest.Default()
	c := testCase{name: filepath.Base(dir), pairs: [][2]int{{from, to}}}
	text, err := os.ReadFile(filepath.Join(dir, "README"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		option, ok := strings.CutPrefix(line, ":")
		if !ok {
			continue
		}
		key, value, _ := strings.Cut(strings.TrimSpace(option), " ")
		switch key {
		case "servers":
			c.pairs = nil
			for _, text := range strings.Fields(value) {
				var pair [2]int
				if _, err := fmt.Sscanf(text, "%d-%d", &pair[0], &pair[1]); err != nil {
					t.Fatalf("%s: %q: %v", c.name, line, err)
				}
				c.pairs = append(c.pairs, pair)
			}
		case "insert-only":
			c.InsertOnly = strings.Fields(value)
		case "exclude":
			c.Exclude = strings.Fields(value)
		case "since":
			if c.since, err = strconv.Atoi(value); err != nil {
				t.Fatalf("%s: %q: %v", c.name, line, err)
			}
		case "blocked":
			c.blocked = value
		case "heartbeat":
			if c.Heartbeat, err = time.ParseDuration(value); err != nil {
				t.Fatalf("%s: %q: %v", c.name, line, err)
			}
		default:
			t.Fatalf("%s: unknown option %q", c.name, line)
		}
	}
	if c.file(t, "target.sql") != "" {
		c.Schema = "none"
	}
	return c
}

// file returns a file of the case; one that is not there is empty.
func (c *testCase) file(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(casesDir, c.name, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

func (c *testCase) run(t *testing.T, pair [2]int) {
	source, target := pgtest.Pair(t, pair[0], pair[1])
	if major := one[int](t, source, `select current_setting('server_version_num')::int / 10000`); major < c.since {
		t.Skipf("version %d, which the environment gives as the source, has nothing of what this is about; %d has", major, c.since)
	}
	runScript(t, source, c.file(t, "schema.sql"))
	runScript(t, source, c.file(t, "seed.sql"))
	runScript(t, target, c.file(t, "target.sql"))
	m := newMoving(t, c.name, source, target)
	m.Schema, m.InsertOnly, m.Exclude = c.Schema, c.InsertOnly, c.Exclude
	m.Heartbeat = cmp.Or(c.Heartbeat, m.Heartbeat)
	if c.blocked != "" {
		c.runBlocked(m)
		return
	}

	r := m.start()
	r.waitFor(migration.Following)
	runScript(t, source, c.file(t, "changes.sql"))
	if stops := c.file(t, "stops"); stops != "" {
		r = c.runStopped(m, r, stops)
	}
	m.caughtUp(r)
	if c.file(t, "recopied") == "" && c.file(t, "refused") == "" {
		sameRows(t, source, target)
		m.verified()
	}
	c.expect(t, "expect.sql", source, target)
	if refused := c.file(t, "refused"); refused != "" {
		c.runRefused(m, refused)
	}
	c.recopied(t, m.cutover(r).Recopied)
	sameRows(t, source, target)
	sameSequences(t, source, target)
	if c.Schema != "none" {
		sameShape(t, source, target)
	}
	// The application's first steps on its new database.
	runScript(t, target, c.file(t, "after.sql"))
	c.expect(t, "after.expect.sql", target)
	m.cleanup()
}

// runBlocked expects that the preflight refuses, and that nothing was made.
func (c *testCase) runBlocked(m *moving) {
	m.t.Helper()
	_, err := m.start().end()
	var blocked *migration.CheckError
	if !errors.As(err, &blocked) {
		m.t.Fatalf("migrate ended with %v, want that its preflight blocks", err)
	}
	if text := fmt.Sprintf("%+v", blocked.Report); !strings.Contains(text, c.blocked) {
		m.t.Errorf("the preflight does not name %q: %s", c.blocked, text)
	}
	m.nothingLeft()
}

// runStopped expects that the changes stop migrate with an error that holds every
// line of the file stops, or one of what " | " parts in it: who is the first to notice may be the applier or the
// look of every minute; and nothing of that transaction on the target; then
// repair.sql is run there, repair.source.sql on the source, and the same command
// goes on.
func (c *testCase) runStopped(m *moving, r *run, stops string) *run {
	m.t.Helper()
	_, err := r.end()
	if err == nil {
		m.t.Fatal("migrate ended without an error, want that the changes stop it")
	}
	for line := range strings.Lines(stops) {
		line = strings.TrimSpace(line)
		if !slices.ContainsFunc(strings.Split(line, " | "), func(s string) bool { return strings.Contains(err.Error(), s) }) {
			m.t.Errorf("the error does not name %q: %v", line, err)
		}
	}
	if st, statusErr := migration.ReadStatus(context.Background(), m.Config); statusErr != nil || st.Phase != migration.Following || st.Error == "" {
		m.t.Errorf("status after the stop: %+v, %v; want phase following and the error", st, statusErr)
	}
	c.expect(m.t, "stopped.expect.sql", m.Target)
	// Without the repair it stops at the same place.
	if _, again := m.start().end(); again == nil {
		m.t.Fatal("migrate went on without the repair")
	}
	c.expect(m.t, "stopped.expect.sql", m.Target)
	runScript(m.t, m.Source, c.file(m.t, "repair.source.sql"))
	runScript(m.t, m.Target, c.file(m.t, "repair.sql"))
	return m.start()
}

// runRefused expects that the cutover is refused with an error that holds every
// line of the file refused, and that everything goes on; then mend.source.sql and
// mend.target.sql are run.
func (c *testCase) runRefused(m *moving, refused string) {
	m.t.Helper()
	config := m.Config
	config.Cut.MaxLag, config.Cut.Timeout = patience, patience
	_, err := migration.Cutover(context.Background(), config, nil)
	if err == nil {
		m.t.Fatal("the cutover was done, want that it is refused")
	}
	for line := range strings.Lines(refused) {
		if line = strings.TrimSpace(line); !strings.Contains(err.Error(), line) {
			m.t.Errorf("the refusal does not name %q: %v", line, err)
		}
	}
	if st, statusErr := migration.ReadStatus(context.Background(), m.Config); statusErr != nil || st.Phase != migration.Following || !st.Running {
		m.t.Errorf("status after the refusal: %+v, %v; want that it follows", st, statusErr)
	}
	runScript(m.t, m.Source, c.file(m.t, "mend.source.sql"))
	runScript(m.t, m.Target, c.file(m.t, "mend.target.sql"))
}

// recopied expects that the cutover has copied again what the file recopied lists.
func (c *testCase) recopied(t *testing.T, got []string) {
	t.Helper()
	var want []string
	for _, table := range strings.Fields(c.file(t, "recopied")) {
		want = append(want, `"public"."`+table+`"`)
	}
	got = slices.Sorted(slices.Values(got))
	if !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("the cutover copied again %q, want %q", got, want)
	}
}

// expect runs queries; every row of every one must be true.
func (c *testCase) expect(t *testing.T, file string, databases ...string) {
	t.Helper()
	for _, statement := range statements(c.file(t, file)) {
		if strings.TrimSpace(statement) == "" {
			continue
		}
		for _, dsn := range databases {
			for _, row := range pgtest.Query(t, dsn, statement) {
				if row[0] != "t" {
					t.Errorf("%s: got %q from %s", file, row, strings.TrimSpace(statement))
				}
			}
		}
	}
}
