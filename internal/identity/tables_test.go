package identity

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// A migration's tables are known by what they were: a table that comes later is not copied, one
// that goes is still named, and either stops a cutover.
func TestTables(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	const ddl = `create table a (id int primary key); create table log (id int); create table other (id int primary key)`
	pgtest.Exec(t, source, ddl)
	pgtest.Exec(t, target, ddl)
	from, to := lend(t, source), lend(t, target)
	store := state.At(to, "test")
	if err := store.Begin(t.Context(), &state.Record{SystemID: "1", Timeline: 1, Database: "d", Slot: "walferry_test"}); err != nil {
		t.Fatal(err)
	}
	tables := &Tables{
		From: from, To: to, Store: store, Selection: Selection{Exclude: []string{"public.other"}}, Logger: slog.New(slog.DiscardHandler),
	}
	selected := func(onlyKnown bool, want ...string) {
		t.Helper()
		if err := tables.Select(t.Context(), onlyKnown); err != nil {
			t.Fatal(err)
		}
		if got := names(tables.Selected()); !slices.Equal(got, want) {
			t.Errorf("selected %q, want %q", got, want)
		}
	}
	gate := func() error {
		_, err := tables.Gate(t.Context(), from)
		return err
	}

	selected(false, "public.a", "public.log")
	was, err := tables.Describe(t.Context(), []string{"public.log"})
	if err != nil {
		t.Fatal(err)
	}
	tables.Remember(was)
	if got, want := names(tables.InsertOnly()), []string{"public.log"}; !slices.Equal(got, want) {
		t.Errorf("only inserted into are %q, want %q", got, want)
	}
	if err := gate(); err != nil {
		t.Errorf("nothing has changed, and the gate says: %v", err)
	}

	pgtest.Exec(t, source, `create table later (id int primary key)`)
	selected(false, "public.a", "public.later", "public.log")
	selected(true, "public.a", "public.log")
	wantGate(t, gate(), `does not follow: "public"."later"`)
	tables.Lenient = true
	if err := gate(); err != nil {
		t.Errorf("tables may come, and the gate says: %v", err)
	}

	pgtest.Exec(t, source, `drop table log; create table log (id int)`)
	wantGate(t, gate(), `"public"."log" was dropped on the source and made again`)
	migrated, err := tables.Migrated(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(migrated), []string{"public.a", "public.log"}; !slices.Equal(got, want) || migrated[1].OID != was[1].OID {
		t.Errorf("migrated are %q, want %q, the second of which as it was", got, want)
	}
}

// A column that is dropped on both sides is marked in the record, and not in what was returned
// before.
func TestTables_Marked(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	for _, dsn := range []string{source, target} {
		pgtest.Exec(t, dsn, `create table a (id int primary key, b int)`)
	}
	from, to := lend(t, source), lend(t, target)
	store := state.At(to, "test")
	if err := store.Begin(t.Context(), &state.Record{SystemID: "1", Timeline: 1, Database: "d", Slot: "walferry_test"}); err != nil {
		t.Fatal(err)
	}
	tables := &Tables{From: from, To: to, Store: store, Logger: slog.New(slog.DiscardHandler)}
	if err := tables.Select(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	was, err := tables.Describe(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tables.Remember(was)
	before := tables.Remembered()
	for _, dsn := range []string{source, target} {
		pgtest.Exec(t, dsn, `alter table a drop column b`)
	}
	if found, err := tables.Changes(t.Context(), from); err != nil || !found.Marked {
		t.Errorf("found %+v, %v", found, err)
	}
	if before[0].Columns[1].Gone || !tables.Remembered()[0].Columns[1].Gone {
		t.Errorf("before %+v, now %+v", before[0].Columns, tables.Remembered()[0].Columns)
	}
	var kept []state.Table
	if _, err := store.Values().Get(t.Context(), state.Tables, &kept); err != nil || !kept[0].Columns[1].Gone {
		t.Errorf("kept is %+v, %v", kept, err)
	}
}

func lend(t *testing.T, dsn string) *session.Link {
	t.Helper()
	link, err := session.OpenLink(t.Context(), session.Config{DSN: dsn, Application: "identity test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(link.Close)
	return link
}

func names(tables []catalog.Table) (names []string) {
	for i := range tables {
		names = append(names, tables[i].Plain())
	}
	return names
}

func wantGate(t *testing.T, err error, says string) {
	t.Helper()
	gate := fail.Find(err, fail.Gate)
	if gate == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("the gate says %v, want %q", err, says)
	}
}
