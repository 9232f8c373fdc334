package snapshot

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// slotFor is a name that no other test on the server has.
func slotFor(t *testing.T) string {
	return fmt.Sprintf("s_%d_%x", time.Now().UnixNano()%1e9, t.Name()[:2])
}

func snapshotOf(t *testing.T, source string) *Exported {
	t.Helper()
	e, err := Export(t.Context(), source, ExportConfig{Slot: slotFor(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close(context.Background()) })
	return e
}

func config(source, target string, e *Exported, tables ...Table) Config {
	return Config{
		Source: source, Target: target, Migration: "test", Snapshot: e.Name, AsOf: e.ConsistentPoint, Tables: tables, Jobs: 3,
	}
}

func run(t *testing.T, c Config) *Copier {
	t.Helper()
	copier, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := copier.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return copier
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// tablesOf are all tables of a database, partitioned ones too.
func tablesOf(t *testing.T, url string) []Table {
	t.Helper()
	all, err := catalog.Tables(t.Context(), connect(t, url))
	if err != nil {
		t.Fatal(err)
	}
	var tables []Table
	for _, one := range all {
		tables = append(tables, Table{Schema: one.Schema, Name: one.Name.Name})
	}
	return tables
}

// rows are the own rows of a table as text, sorted.
func rows(t *testing.T, url, table, columns string) []string {
	t.Helper()
	var all []string
	set := "set timezone = 'UTC'; set datestyle = 'ISO'; set extra_float_digits = 3; set bytea_output = 'hex'; "
	for _, row := range pgtest.Query(t, url, set+"select "+columns+" from only "+table) {
		all = append(all, strings.Join(row, "|"))
	}
	slices.Sort(all)
	return all
}

func same(t *testing.T, source, target, table, columns string) {
	t.Helper()
	got, want := rows(t, target, table, columns), rows(t, source, table, columns)
	if !slices.Equal(got, want) {
		t.Errorf("%s: target has %d rows, source %d\ntarget: %.600q\nsource: %.600q", table, len(got), len(want), got, want)
	}
}

func count(t *testing.T, url, table string) string {
	t.Helper()
	return pgtest.Query(t, url, "select count(*) from only "+table)[0][0]
}

// connections of walferry to a database; they take a moment to go.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func noConnections(t *testing.T, urls ...string) {
	t.Helper()
	for _, url := range urls {
		eventually(t, "all connections closed", func() bool {
			return pgtest.Query(t, url, `select count(*) from pg_stat_activity where datname = current_database() and application_name = 'walferry copy'`)[0][0] == "0"
		})
	}
}
