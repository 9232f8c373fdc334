package compare

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// When the migration is over both sides are compared as they are. What was found is recorded table by
// table, and stops a cutover until a later comparison finds the tables equal.
func TestBoth_Over(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	for _, dsn := range []string{source, target} {
		pgtest.Exec(t, dsn, `create table a (id int primary key); create table b (id int primary key); insert into a select generate_series(1, 5); insert into b values (1)`)
	}
	link := func(dsn string) session.End {
		l, err := session.OpenLink(t.Context(), session.Config{DSN: dsn, Application: "compare test"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		return session.End{DSN: dsn, Link: l}
	}
	f := &flow.Flow{Name: flow.Name{Migration: "test"}, From: link(source), To: link(target), Logger: slog.New(slog.DiscardHandler)}
	store := state.At(f.To.Link, "test")
	if err := store.Begin(t.Context(), &state.Record{SystemID: "1", Timeline: 1, Database: "d", Slot: "walferry_test"}); err != nil {
		t.Fatal(err)
	}
	var tables []catalog.Table
	err := f.From.Link.Do(t.Context(), func(conn *pgx.Conn) (err error) {
		tables, err = catalog.Tables(t.Context(), conn)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	both := &Both{Flow: f, Store: store, Over: true, Jobs: 2}
	for _, step := range []struct {
		sql    string // on the target
		tables []catalog.Table
		equal  bool
		gate   string // what it says; empty: nothing
	}{
		{"", tables, true, ""},
		{`delete from a where id = 3`, tables, false, "public.a"},
		{"", tables[1:], true, "public.a"}, // of which nothing new is known
		{`insert into a values (3)`, tables[:1], true, ""},
	} {
		if step.sql != "" {
			pgtest.Exec(t, target, step.sql)
		}
		v, err := both.Compare(t.Context(), step.tables)
		if err != nil {
			t.Fatal(err)
		}
		if v.AllEqual() != step.equal || len(v.Tables) != len(step.tables) || !strings.Contains(v.Caveat, "not fenced") {
			t.Errorf("%q: %+v", step.sql, v)
		}
		if err := Keep(t.Context(), store, &v); err != nil {
			t.Fatal(err)
		}
		err = Gate(t.Context(), store, false)
		gate := fail.Find(err, fail.Gate)
		if said := gate != nil; said != (step.gate != "") || said && !strings.Contains(strings.ReplaceAll(err.Error(), `"`, ""), step.gate) {
			t.Errorf("%q: the gate says %v, want %q", step.sql, err, step.gate)
		}
		if err := Gate(t.Context(), store, true); err != nil {
			t.Errorf("%q: differences are allowed, and the gate says %v", step.sql, err)
		}
	}
	if proof, err := Proof(t.Context(), store); proof != nil || err != nil {
		t.Errorf("as of the cutover: %v, %v", proof, err)
	}
}
