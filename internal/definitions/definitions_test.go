package definitions

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// newCarrier returns a carrier between two databases, for the tables of the first.
func newCarrier(t *testing.T, source, target string) *Carrier {
	t.Helper()
	c := &Carrier{
		From: session.End{DSN: source, Link: link(t, source)}, To: session.End{DSN: target, Link: link(t, target)},
		Jobs: 2, Step: func(string) {}, Logger: slog.New(slog.DiscardHandler),
	}
	c.Store = state.At(c.To.Link, "test")
	if err := c.Store.Begin(t.Context(), &state.Record{SystemID: "1", Timeline: 1, Database: "d", Slot: "walferry_test"}); err != nil {
		t.Fatal(err)
	}
	var tables []catalog.Table
	err := c.From.Link.Do(t.Context(), func(conn *pgx.Conn) (err error) {
		tables, err = catalog.Tables(t.Context(), conn)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Tables = func() []catalog.Table { return tables }
	return c
}

func link(t *testing.T, dsn string) *session.Link {
	t.Helper()
	l, err := session.OpenLink(t.Context(), session.Config{DSN: dsn, Application: "definitions test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

const shop = `
create table customer (id int primary key, name text);
create table orders (id int primary key, customer int not null references customer, note text);
create index by_note on orders (note);
create sequence counter;
create view v as select * from orders;
`

func count(t *testing.T, dsn, sql string) string {
	t.Helper()
	return pgtest.Query(t, dsn, `select count(*) `+sql)[0][0]
}

// Tables are created before their rows, and only once, the rest after them. Then both sides fit,
// until one of them is altered.
func TestCarrier(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, shop)
	c := newCarrier(t, source, target)
	for range 2 {
		if err := c.Create(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	const indexes, keys = `from pg_index where indrelid in ('customer'::regclass, 'orders'::regclass)`, `from pg_constraint where contype = 'f' and convalidated`
	if got := count(t, target, indexes); got != "0" {
		t.Errorf("before the rows there are %s indexes", got)
	}
	if err := c.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := count(t, target, indexes)+" "+count(t, target, keys), "3 1"; got != want {
		t.Errorf("after the rows there are %s indexes and foreign keys, want %s", got, want)
	}
	gate := func(without ...string) error { return c.Gate(t.Context(), nil, without) }
	if err := gate(); err != nil {
		t.Errorf("both sides are the same, and the gate says: %v", err)
	}

	pgtest.Exec(t, target, `drop index by_note`)
	wantGate(t, gate(), "by_note")
	if err := gate("index:public.by_note"); err != nil {
		t.Errorf("without the index: %v", err)
	}
	pgtest.Exec(t, target, `create index by_note on orders (note); drop sequence counter`)
	wantGate(t, gate(), `lacks sequences: "public"."counter"`)
	pgtest.Exec(t, target, `create sequence counter; alter table orders drop column note cascade`)
	wantGate(t, gate(), "note")
}

// A schema that walferry did not create is compared, and nothing is created.
func TestCarrier_Brought(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, shop)
	pgtest.Exec(t, target, `create table customer (id int primary key, name text); create table orders (id int primary key, customer int not null, note text); create sequence counter`)
	c := newCarrier(t, source, target)
	c.Brought = true
	if err := errors.Join(c.Create(t.Context()), c.Complete(t.Context())); err != nil {
		t.Fatal(err)
	}
	if n, err := c.RefreshViews(t.Context()); n != 0 || err != nil {
		t.Errorf("refreshed %d views, %v", n, err)
	}
	if keys, err := c.FindKeys(t.Context()); keys != nil || err != nil {
		t.Errorf("foreign keys that are to come: %v, %v", keys, err)
	}
	if err := c.Gate(t.Context(), nil, nil); err != nil {
		t.Errorf("an index, a foreign key and a view are missing, as the user has it, and the gate says: %v", err)
	}
	pgtest.Exec(t, target, `alter table orders drop column note`)
	wantGate(t, c.Gate(t.Context(), nil, nil), "note")
}

// What the target refuses is recorded. It is missing until it is created by hand, or the operator
// goes without it.
func TestCarrier_Refused(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 13, 18)
	pgtest.Exec(t, source, `create table t (a int primary key);
create function twice (int) returns int language sql immutable as 'select $1 * 2';
create operator !! (leftarg = int, procedure = twice); -- a postfix operator, which 18 refuses
create view v as select (a !!) from t`)
	c := newCarrier(t, source, target)
	if err := errors.Join(c.Create(t.Context()), c.Complete(t.Context())); err != nil {
		t.Fatal(err)
	}
	refused, err := refused(t.Context(), c.Store)
	if err != nil || !slices.Contains(refusedNames(refused), "view:public.v") {
		t.Fatalf("refused %v, %v", refused, err)
	}
	wantGate(t, c.Gate(t.Context(), nil, nil), "view:public.v")
	if err := c.Gate(t.Context(), nil, refusedNames(refused)); err != nil {
		t.Errorf("without them: %v", err)
	}
	pgtest.Exec(t, target, `create view v as select twice(a) from t`)
	err = c.Gate(t.Context(), nil, nil)
	if err == nil || strings.Contains(err.Error(), "view:public.v") {
		t.Errorf("the view is there by hand, and the gate says: %v", err)
	}
}

func wantGate(t *testing.T, err error, says string) {
	t.Helper()
	gate := fail.Find(err, fail.Gate)
	if gate == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("the gate says %v, want %q", err, says)
	}
}
