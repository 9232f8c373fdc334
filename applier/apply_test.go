package applier

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
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

// A stream begins where its tables were copied, once: later it is the row that counts. One that was
// copied again is not continued from where the first copy was.
func TestStart(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table t (id int primary key)`)
	open := func(name string, start decoder.LSN) (*Applier, error) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), g.url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
		return New(t.Context(), conn, Config{Name: name, Start: start})
	}
	want := func(name string, start, applied decoder.LSN) *Applier {
		t.Helper()
		a, err := open(name, start)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Applied(); got != applied {
			t.Errorf("%s with Start %s: applied %s, want %s", name, start, got, applied)
		}
		return a
	}
	want("new", 0, 0) // by New without a copy
	want("new", 0x100, 0x100)
	a := want("new", 0x100, 0x100)
	r := relation("t", 'd', "id*")
	if err := a.Apply(t.Context(), &decoder.Tx{XID: 7, CommitLSN: 0x80, EndLSN: 0x90, First: true, Last: true, Changes: []decoder.Change{insert(r, "1")}}); err != nil {
		t.Fatal(err)
	}
	if err := a.Apply(t.Context(), &decoder.Tx{XID: 8, CommitLSN: 0x200, EndLSN: 0x210, First: true, Last: true, Changes: []decoder.Change{insert(r, "2")}}); err != nil {
		t.Fatal(err)
	}
	g.want(`select id from t`, "2") // what is in the snapshot is not applied
	want("new", 0x100, 0x210)
	want("new", 0, 0x210)

	var again *StartError
	if _, err := open("new", 0x300); !errors.As(err, &again) || again.Applied != 0x210 || again.Start != 0x300 {
		t.Fatalf("copied again: %v", err)
	}
	g.want(`select applied from walferry.progress where stream = 'new'`, "0/210")
	conn, err := pgx.Connect(t.Context(), g.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for range 2 {
		if err := Forget(t.Context(), conn, "new"); err != nil {
			t.Fatal(err)
		}
	}
	want("new", 0x300, 0x300)
	var moved *ProgressError // the applier of the first copy does not continue
	if err := a.Apply(t.Context(), &decoder.Tx{XID: 9, CommitLSN: 0x400, EndLSN: 0x410, First: true, Last: true}); !errors.As(err, &moved) {
		t.Errorf("got %v, want a ProgressError", err)
	}
}

// Where nobody has applied anything there is nothing to forget.
func TestForget_Nothing(t *testing.T) {
	t.Parallel()
	_, url := pgtest.Pair(t, sourceMajor(), targetMajor())
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := Forget(t.Context(), conn, "new"); err != nil {
		t.Fatal(err)
	}
}
