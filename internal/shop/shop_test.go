package shop

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/pgtest"
)

// Four clients and the nightly batch write while a reader looks. Everything holds, and each kind of
// transaction has happened.
func TestWriters(t *testing.T) {
	for _, major := range []int{10, 13, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			dsn := loaded(t, major)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var reader Reader
			reader.DSN = dsn
			read := make(chan error, 1)
			go func() { read <- reader.Run(ctx) }()

			w, err := Start(ctx, Config{Source: dsn, Clients: 4, Seed: 1, Batch: 200 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			able, _, err := survey(ctx, dsn)
			if err != nil {
				t.Fatal(err)
			}
			wanted := len(able) + 1 - 1 // with the batch, without the one that always aborts
			waitFor(t, "every kind of transaction", func() bool {
				r := w.Report()
				return len(r.Kinds) == wanted && r.Aborted > 0 && reader.Snapshots() > 2 || len(w.seen()) > 0
			})
			r := w.Stop()
			t.Logf("%+v, %d snapshots", r, reader.Snapshots())
			cancel()
			if err := <-read; err != nil {
				t.Errorf("reader: %v", err)
			}
			if err := w.Check(t.Context(), dsn); err != nil {
				t.Errorf("check: %v", err)
			}
			if r.Target != 0 || r.Unknown != 0 {
				t.Errorf("got %d on the target and %d unknown, want none", r.Target, r.Unknown)
			}
		})
	}
}

// The checks can fail: each damage is of a kind that a migration might do.
func TestCheck_FindsDamage(t *testing.T) {
	dsn := loaded(t, 15)
	w, err := Start(t.Context(), Config{Source: dsn, Clients: 2})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "transactions of both clients", func() bool {
		for _, c := range w.clients {
			if c.next() < 10 {
				return false
			}
		}
		return true
	})
	w.Stop()
	if err := w.Check(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}

	for _, damage := range []struct {
		name, do, undo string
		invariant      string
		alone          bool // Check without the clients' logs sees it, too
	}{
		{
			"a transaction in the middle is lost", `create table lost as select * from shop.ledger where client = 1 and n = 5; delete from shop.ledger where client = 1 and n = 5`,
			`insert into shop.ledger select * from lost; drop table lost`, "ledger", true,
		},
		{
			"the last transaction is lost", `create table lost as select * from shop.ledger where client = 2 order by n desc limit 1; delete from shop.ledger l using lost where l.client = 2 and l.n = lost.n`,
			`insert into shop.ledger select * from lost; drop table lost`, "ledger", false,
		},
		{
			"a transaction comes twice", `alter table shop.ledger drop constraint ledger_pkey; insert into shop.ledger select * from shop.ledger where client = 1 and n = 3`,
			`delete from shop.ledger where ctid = (select max(ctid::text)::tid from shop.ledger where client = 1 and n = 3); alter table shop.ledger add primary key (client, n)`, "ledger", true,
		},
		{
			"a transaction that failed is there", `insert into shop.ledger (client, n, attempt, kind) select 1, max(n) + 1, 0, 'x' from shop.ledger where client = 1`,
			`delete from shop.ledger where kind = 'x'`, "ledger", false,
		},
		{
			"half a transfer", `update billing.accounts set balance = balance - 1 where id = 7`,
			`update billing.accounts set balance = balance + 1 where id = 7`, "money", true,
		},
		{
			"seven of eight tables", `update shop.octet_8 set number = number + 1 where id = 3`,
			`update shop.octet_8 set number = number - 1 where id = 3`, "octet", true,
		},
		{
			"an order line changed alone", `update shop."Order Lines" set quantity = quantity + 1 where order_id = (select max(id) from shop.orders) and "Line No" = 1`,
			`update shop."Order Lines" set quantity = quantity - 1 where order_id = (select max(id) from shop.orders) and "Line No" = 1`, "order total", true,
		},
	} {
		t.Run(damage.name, func(t *testing.T) {
			pgtest.Exec(t, dsn, damage.do)
			defer pgtest.Exec(t, dsn, damage.undo)
			var found *Violation
			err := w.Check(t.Context(), dsn)
			if !errors.As(err, &found) || found.Invariant != damage.invariant {
				t.Errorf("Writers.Check: got %v, want a violation of %s", err, damage.invariant)
			}
			found = nil
			if err := Check(t.Context(), dsn); errors.As(err, &found) != damage.alone {
				t.Errorf("Check: got %v, want a violation: %v", err, damage.alone)
			}
			if !damage.alone {
				return
			}
			found = nil
			reader := Reader{DSN: dsn}
			if err := reader.Run(t.Context()); !errors.As(err, &found) || found.Invariant != damage.invariant {
				t.Errorf("Reader: got %v, want a violation of %s", err, damage.invariant)
			}
		})
	}
	if err := w.Check(t.Context(), dsn); err != nil {
		t.Errorf("after the repairs: %v", err)
	}
}

// What a reader has seen must not go away again, even if what is left looks whole.
func TestReader_StateGoesBack(t *testing.T) {
	dsn := loaded(t, 15)
	pgtest.Exec(t, dsn, `insert into shop.ledger (client, n, attempt, kind) select 1, n, n, 'x' from generate_series(1, 5) n`)
	reader := Reader{DSN: dsn}
	read := make(chan error, 1)
	go func() { read <- reader.Run(t.Context()) }()
	waitFor(t, "a snapshot", func() bool { return reader.Snapshots() > 0 })
	pgtest.Exec(t, dsn, `delete from shop.ledger where n > 3`)
	var found *Violation
	if err := <-read; !errors.As(err, &found) || !strings.Contains(found.Detail, "transaction 5 was there") {
		t.Errorf("got %v, want that transaction 5 is gone", err)
	}
}

// A fence refuses the clients; they try on until the target is ready, and go there with the
// transaction in hand. Target and source are two fresh databases here; the test carries the ledger
// over.
func TestWriters_SwitchOver(t *testing.T) {
	from := loaded(t, 15)
	w, err := Start(t.Context(), Config{Source: from, Clients: 3, Target: loaded(t, 15), Seed: 2})
	if err != nil {
		t.Fatal(err)
	}
	to := w.c.Target
	waitFor(t, "transactions", func() bool { return w.Report().Source > 50 })
	pgtest.Exec(t, from, fence)
	waitFor(t, "a refusal", func() bool { return w.Report().Refused > 10 })
	if got := w.Report().Target; got != 0 {
		t.Errorf("%d transactions on a target that is not ready", got)
	}
	// The last of the source's transactions arrive, then the target is opened.
	ledger := pgtest.Query(t, from, `select format('insert into shop.ledger (client, n, attempt, kind) values (%s, %s, %s, %L)', client, n, attempt, kind) from shop.ledger`)
	var moves strings.Builder
	for _, row := range ledger {
		moves.WriteString(row[0] + ";\n")
	}
	pgtest.Exec(t, to, moves.String())
	pgtest.Exec(t, to, `create schema walferry; create table walferry.migration (name text, phase text); insert into walferry.migration values ('default', 'finished')`)
	waitFor(t, "all clients on the target", func() bool { r := w.Report(); return r.Switched == 3 && r.Target > 50 })
	r := w.Stop()
	t.Logf("%+v", r)
	if err := w.Check(t.Context(), to); err != nil {
		t.Error(err)
	}
	if err := Check(t.Context(), from); err != nil {
		t.Error(err)
	}
	got := pgtest.Query(t, from, `select count(*) from shop.ledger`)[0][0]
	if want := fmt.Sprint(r.Source); got != want {
		t.Errorf("the source's ledger has %s rows, want %s", got, want)
	}
	if r.Switch == 0 || r.Pause < r.Switch {
		t.Errorf("got a switch of %v in a longest pause of %v", r.Switch, r.Pause)
	}
}

// A fence that comes down again, as after a dry run, stops no client for good.
func TestWriters_FenceIsLifted(t *testing.T) {
	dsn := loaded(t, 15)
	w, err := Start(t.Context(), Config{Source: dsn, Clients: 2, Target: dsn})
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, dsn, fence)
	waitFor(t, "a refusal", func() bool { return w.Report().Refused > 0 })
	before := w.Report().Source
	pgtest.Exec(t, dsn, `drop function public.fence() cascade`)
	waitFor(t, "transactions afterwards", func() bool { return w.Report().Source > before+20 })
	w.Stop()
	if err := w.Check(t.Context(), dsn); err != nil {
		t.Error(err)
	}
}

// Sessions are ended and the server is killed under the clients: each transaction whose COMMIT got
// no answer is found out.
func TestWriters_ConnectionsLost(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{Major: 15})
	dsn := server.Database(t)
	if err := Load(t.Context(), dsn, Options{Size: 3}); err != nil {
		t.Fatal(err)
	}
	w, err := Start(t.Context(), Config{Source: dsn, Clients: 4})
	if err != nil {
		t.Fatal(err)
	}
	const end = `select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'shop'`
	for round := range 10 {
		before := w.Report().Source
		pgtest.Exec(t, dsn, end)
		if round == 5 {
			if err := server.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := server.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		waitFor(t, "transactions", func() bool { return w.Report().Source > before+20 })
	}
	r := w.Stop()
	t.Logf("%+v", r)
	if r.Errors["lost 57P01"] == 0 && r.Errors["lost"] == 0 {
		t.Errorf("got errors %v, want lost connections", r.Errors)
	}
	if err := w.Check(t.Context(), dsn); err != nil {
		t.Error(err)
	}
}

// fence is the kind of trigger that walferry puts up.
const fence = `
create function public.fence() returns trigger language plpgsql as $$
begin
  raise exception 'walferry: %.% is fenced: this database is moving to another server', tg_table_schema, tg_table_name using errcode = 'WF001';
end $$;
create trigger walferry_fence before insert or update or delete or truncate on shop.ledger execute procedure public.fence();
alter table shop.ledger enable always trigger walferry_fence`

// loaded is a fresh small shop.
func loaded(t *testing.T, major int) string {
	t.Helper()
	dsn := pgtest.Shared(t, major).Database(t)
	if err := Load(t.Context(), dsn, Options{Size: 3}); err != nil {
		t.Fatal(err)
	}
	return dsn
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
