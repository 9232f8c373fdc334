package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/groups"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

const services = `
create schema billing;
create table billing.invoice (id int primary key);
create table billing.line (id int primary key, invoice int references billing.invoice);
create table orders (id int primary key);
create table stock (id int primary key);
create table log (id int, day int);
create table visit (id int, day int) partition by list (day);
create table visit1 partition of visit for values in (1);
create table visit2 partition of visit for values in (2);
create table animal (id int primary key);
create table dog (primary key (id)) inherits (animal);
create sequence number;
create table card (id int primary key default nextval('number'));
create table coupon (id int primary key default nextval('number'));
create sequence nobodys;
create table account (id int primary key);
create table audit (id int primary key);
create function audited() returns trigger language plpgsql as $$ begin insert into audit values (new.id); return null; end $$;
create trigger audited after insert on account for each row execute procedure audited();
create table ruled (id int primary key);
create table "Ruled By" (id int primary key);
create rule twice as on insert to ruled do also insert into "Ruled By" values (new.id);
create schema books;
create table books.page (id int primary key);
create table books."Note" (id int primary key);
create function books.noted() returns trigger language plpgsql as $$
begin -- insert into alone: not so
  update only "Note" set id = id where id = new.id; delete from books.page where id = -1; return null; end $$;
create trigger noted after insert on books.page for each row execute procedure books.noted();
create table alone (id int primary key);
alter table log replica identity full;
alter table visit1 replica identity full;
alter table visit2 replica identity full;
alter table alone add other int references alone;
`

// groupsNow returns what belongs together as text: each group with what joins it.
func (m *moving) groupsNow() string {
	m.t.Helper()
	r, err := migration.Groups(context.Background(), m.Config)
	if err != nil {
		m.t.Fatalf("groups: %v", err)
	}
	var lines []string
	for _, g := range r.Groups {
		line := strings.Join(g.Tables, " ")
		for _, j := range g.Joints {
			if j.Kind == groups.ByTransactions && (j.XID == 0 || j.LSN == "" || j.At == nil) {
				m.t.Errorf("no example: %+v", j)
			}
			line += fmt.Sprintf("; %s %s", j.Kind, strings.Join(j.Tables, "-"))
			if j.Count > 0 {
				line += fmt.Sprintf(" %d", j.Count)
			}
		}
		lines = append(lines, fmt.Sprintf("%s, %d: %s", g.Owner, g.Partitions, line))
	}
	return strings.ReplaceAll(strings.Join(lines, "\n"), "public.", "")
}

// What belongs together shows before the migration begins as far as the catalogue knows it; what transactions join, also by
// triggers, when the stream has shown it. It is kept over runs, and has its owner.
func TestGroups(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 13, 18)
	pgtest.Exec(t, source, services)
	m := newMoving(t, "groups", source, target)
	const before = `old, 0: billing.invoice billing.line; foreign key billing.line-billing.invoice
old, 0: books.Note books.page; trigger books.page-books.Note
old, 0: Ruled By ruled; rule ruled-Ruled By
old, 0: account audit; trigger account-audit
old, 0: animal dog; inheritance dog-animal
old, 0: card coupon; sequence card-coupon
old, 0: alone
old, 0: log
old, 0: orders
old, 0: stock
old, 2: visit`
	if got := m.groupsNow(); got != before {
		t.Errorf("before the migration:\n%s\nwant\n%s", got, before)
	}
	r := m.start()
	r.waitFor(migration.Following)
	if got := m.groupsNow(); got != before {
		t.Errorf("before any transaction:\n%s\nwant\n%s", got, before)
	}
	write := func(n int) {
		pgtest.Exec(t, source, fmt.Sprintf(`begin; insert into orders values (%[1]d); insert into stock values (%[1]d); insert into orders values (-%[1]d); commit;
begin; insert into visit values (%[1]d, 1), (%[1]d, 2); insert into log values (%[1]d, 1); commit;
begin; insert into alone values (%[1]d); commit; insert into account values (%[1]d)`, n))
	}
	write(1)
	write(2)
	m.caughtUp(r)
	after := func(n int) string {
		return fmt.Sprintf(`old, 0: billing.invoice billing.line; foreign key billing.line-billing.invoice
old, 0: books.Note books.page; trigger books.page-books.Note
old, 0: Ruled By ruled; rule ruled-Ruled By
old, 0: account audit; trigger account-audit; transactions account-audit %[1]d
old, 0: animal dog; inheritance dog-animal
old, 0: card coupon; sequence card-coupon
old, 2: log visit; transactions visit-log %[1]d
old, 0: orders stock; transactions orders-stock %[1]d
old, 0: alone`, n)
	}
	eventually(t, "what was written together is kept", func() (bool, string) {
		got := m.groupsNow()
		return got == after(2), got
	}, m.describe)
	r.cancel()
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	r = m.start()
	r.waitFor(migration.Following)
	write(3)
	m.cutover(r)
	if got, want := m.groupsNow(), strings.ReplaceAll(after(3), "old", "new"); got != want {
		t.Errorf("after the cutover:\n%s\nwant\n%s", got, want)
	}
	report, err := migration.Groups(t.Context(), m.Config)
	if err != nil || report.Phase != migration.Finished || report.Since == nil || report.Transactions < 12 || fmt.Sprint(report.Unowned) != "[public.nobodys]" {
		t.Errorf("the report: %+v, %v", report, err)
	}
	m.cleanup()
}
