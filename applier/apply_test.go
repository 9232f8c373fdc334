package applier

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
)

// The ordinary life of a row, and that every step moves the position.
func TestApply_Row(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key, name text, at timestamptz default now())`)
	r := relation("t", 'd', "id*", "name")

	g.apply(insert(r, "1", "one"), insert(r, "2", ""), insert(r, "3", nil))
	g.want(`select id, name, name is null, at is null from t order by id`, "1|one|f|f", "2||f|f", "3|NULL|t|f")
	g.apply(update(r, nil, row("1", "uno")), update(r, row("2", nil), row("22", "due")), remove(r, "3", nil))
	g.want(`select id, name from t order by id`, "1|uno", "22|due")
	if got, want := g.Applied(), decoder.LSN(0x230); got != want {
		t.Errorf("applied %s, want %s", got, want)
	}
	g.want(`select stream, applied, commit_time at time zone 'UTC', transactions, changes from walferry.progress`,
		"test|0/230|2024-05-01 12:00:02|2|6")
}

// Delivering twice is harmless: a table without a key would show it.
func TestApply_Twice(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table log (line text)`)
	r := relation("log", 'd', "line")
	first, second := g.tx(insert(r, "a")), g.tx(insert(r, "b"))
	for _, group := range [][]*decoder.Tx{{first}, {first, second}, {first, second, first}, {second}} {
		if err := g.Apply(t.Context(), group...); err != nil {
			t.Fatal(err)
		}
	}
	g.want(`select line from log order by line`, "a", "b")
	again := openTarget(t, g.url, Config{Name: "test"})
	if err := again.Apply(t.Context(), first, second); err != nil {
		t.Fatal(err)
	}
	g.want(`select count(*) from log`, "2")
}

// An error leaves the target as it was, and the applier usable.
func TestApply_MissingRow(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key, name text)`)
	r := relation("t", 'd', "id*", "name")
	g.apply(insert(r, "1", "one"))
	bad := g.tx(insert(r, "2", "two"), update(r, nil, row("7", "x")), insert(r, "3", "three"))
	err := g.Apply(t.Context(), bad)
	var conflict *ConflictError
	if !errors.As(err, &conflict) {
		t.Fatalf("got %v, want a ConflictError", err)
	}
	if got, want := err.Error(), "apply UPDATE of public.t of transaction 702 (commit at 0/200), key (id): no such row"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	g.want(`select id from t`, "1")
	g.exec(`insert into t values (7, 'repaired')`)
	if err := g.Apply(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	g.want(`select id, name from t order by id`, "1|one", "2|two", "3|three", "7|x")
}

// A copy of the source at a position is continued from there, and only from there.
func TestSetProgress(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key)`)
	g.apply(insert(relation("t", 'd', "id*"), "1"))
	conn, err := pgx.Connect(t.Context(), g.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, stream := range []string{"test", "new"} {
		if err := SetProgress(t.Context(), conn, stream, 0x500); err != nil {
			t.Fatal(err)
		}
	}
	g.want(`select stream, applied, transactions, commit_time is null from walferry.progress order by 1`, "new|0/500|0|t", "test|0/500|0|t")
	again := openTarget(t, g.url, Config{Name: "new"})
	if got, want := again.Applied(), decoder.LSN(0x500); got != want {
		t.Errorf("applied %s, want %s", got, want)
	}
	var moved *ProgressError // the applier that was running does not continue
	if err := g.Apply(t.Context(), g.tx()); !errors.As(err, &moved) {
		t.Errorf("got %v, want a ProgressError", err)
	}
}
