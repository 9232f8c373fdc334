package schema

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// ensureRole creates a role unless the shared server has it.
func ensureRole(t testing.TB, url, name string) {
	t.Helper()
	pgtest.Exec(t, url, `do $$ begin create role `+name+`; exception when duplicate_object or unique_violation then null; end $$`)
}

// loadOdd creates the odd schema on a source, and its roles.
func loadOdd(t testing.TB, source, target string, major int) {
	t.Helper()
	for _, role := range []string{"odd_owner", "odd_reader"} {
		ensureRole(t, source, role)
		ensureRole(t, target, role)
	}
	ensureRole(t, source, "odd_gone")
	for _, file := range []string{"odd.sql", "odd-12.sql", "odd-15.sql"} {
		since, _ := strconv.Atoi(strings.Trim(file[3:], "-.sql"))
		if major < since {
			continue
		}
		sql, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		conn := open(t, source)
		if err := execute(t.Context(), conn, string(sql)); err != nil {
			t.Fatalf("load %s: %v", file, err)
		}
	}
}

func open(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := session.Open(t.Context(), session.Config{DSN: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func dump(t testing.TB, source string, o Options) *Dump {
	t.Helper()
	tools, err := Find(t.Context(), 10, 10)
	if err != nil {
		t.Fatal(err)
	}
	d, err := tools.Dump(t.Context(), source, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// preData runs PreData in a transaction of its own.
func preData(t testing.TB, d *Dump, conn *pgx.Conn) (report Report, err error) {
	t.Helper()
	err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		report, err = d.PreData(t.Context(), tx)
		return err
	})
	return report, err
}

// restore takes all the steps in their order.
func restore(t testing.TB, d *Dump, target string) Report {
	t.Helper()
	conn := open(t, target)
	if _, err := preData(t, d, conn); err != nil {
		t.Fatal(err)
	}
	return afterData(t, d, target)
}

func loadPresent(t testing.TB, conn *pgx.Conn) Present {
	t.Helper()
	present, err := LoadPresent(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	return present
}

// afterData takes the steps after the copy.
func afterData(t testing.TB, d *Dump, target string) Report {
	t.Helper()
	conn := open(t, target)
	if err := Tune(t.Context(), conn, 2); err != nil {
		t.Fatal(err)
	}
	present := loadPresent(t, conn)
	for _, e := range d.entries {
		if e.kind == "TABLE" {
			if err := Build(t.Context(), conn, present, d.Indexes(catalog.Name{Schema: e.namespace, Name: e.tag})...); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := d.ForeignKeys(t.Context(), target, 2); err != nil {
		t.Fatal(err)
	}
	report, err := d.Finish(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// Everything that the source has is on the target afterwards, and doing it all
// twice changes nothing.
func TestDump_EverythingArrives(t *testing.T) {
	for _, majors := range [][2]int{{10, 18}, {13, 17}, {15, 18}} {
		t.Run(fmt.Sprintf("%d to %d", majors[0], majors[1]), func(t *testing.T) {
			source, target := pgtest.Pair(t, majors[0], majors[1])
			loadOdd(t, source, target, majors[0])
			d := dump(t, source, Options{})
			report := restore(t, d, target)
			for _, s := range report.Skipped {
				t.Log(s)
			}
			losses, err := Lost(t.Context(), open(t, source), open(t, target), Options{})
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range losses {
				t.Error(l)
			}
			again, err := Open(slices.Clone(d.Archive), Options{})
			if err != nil {
				t.Fatal(err)
			}
			second := afterData(t, again, target)
			if got, want := fmt.Sprint(second), fmt.Sprint(report); got != want {
				t.Errorf("second run reports\n%s, want\n%s", got, want)
			}
		})
	}
}
