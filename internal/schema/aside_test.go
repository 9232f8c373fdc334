package schema

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// joints are foreign keys of every kind that a version has. outside is not migrated.
func joints(major int) string {
	sql := `
create table a (id int primary key, up int constraint up references a deferrable initially deferred);
create table "B ""b""" (id int primary key, a int constraint "b ""a""" references a on update cascade on delete set null, b int);
create table outside (id int primary key, a int constraint from_outside references a);
create table c (id int primary key, o int constraint to_outside references outside);
create table p (k int not null, a int) partition by list (k);
create table p_1 partition of p for values in (1);
create table p_2 partition of p for values in (2) partition by list (k);
create table p_2_2 partition of p_2 for values in (2);
alter table p_1 add constraint own foreign key (a) references a match full on delete cascade;
alter table "B ""b""" add constraint loose foreign key (b) references a not valid;
comment on constraint up on a is 'it''s \ up';
comment on constraint "b ""a""" on "B ""b""" is 'b';
`
	if major >= 11 {
		sql += `alter table p add constraint whole foreign key (a) references a on delete cascade;
comment on constraint whole on p is 'of all';
`
	}
	if major >= 12 {
		sql += `create table q (id int, k int, primary key (id, k)) partition by list (k);
create table q_1 partition of q for values in (1);
alter table c add q int, add k int, add constraint to_parts foreign key (q, k) references q;
`
	}
	if major >= 15 {
		sql += `alter table c add constraint one foreign key (q, k) references q on delete set null (q);
`
	}
	if major >= 18 {
		sql += `alter table c add constraint not_enforced foreign key (q) references a not enforced;
alter table p add constraint whole_loose foreign key (a) references a not valid;
`
	}
	return sql + `insert into a values (1, 1), (2, 1); insert into "B ""b""" values (1, 1); insert into p values (1, 1), (2, 2)`
}

const jointsOf = `select c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid), c.convalidated, coalesce(obj_description(c.oid, 'pg_constraint'), '')
  from pg_constraint c where contype = 'f' and coninhcount = 0 and connamespace = 'public'::regnamespace order by 1::text, 2`

// aside is a record whose server has joints, and a role that may not set session_replication_role.
type aside struct {
	t      *testing.T
	dsn    string // of that role
	tables []catalog.Table
	*Pending
}

func newAside(t *testing.T, major int) *aside {
	t.Helper()
	dsn := pgtest.Shared(t, major).Database(t)
	pgtest.Exec(t, dsn, `do $$ begin create role aside_plain login; exception when duplicate_object or unique_violation then null; end $$`)
	pgtest.Exec(t, dsn, `do $$ begin execute format('alter database %I owner to aside_plain', current_database()); end $$; alter schema public owner to aside_plain`)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("aside_plain")
	a := &aside{t: t, dsn: u.String()}
	pgtest.Exec(t, a.dsn, joints(major))
	if a.tables, err = catalog.Tables(t.Context(), open(t, a.dsn)); err != nil {
		t.Fatal(err)
	}
	a.tables = slices.DeleteFunc(a.tables, func(t catalog.Table) bool { return t.Name.Name == "outside" })
	a.Pending = a.run()
	if err := a.Store.Begin(t.Context(), &state.Record{}); err != nil {
		t.Fatal(err)
	}
	if err := a.Store.Take(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a
}

// run is that of another process.
func (a *aside) run() *Pending {
	a.t.Helper()
	link, err := session.OpenLink(a.t.Context(), session.Config{DSN: a.dsn}, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(link.Close)
	return &Pending{Link: link, DSN: a.dsn, Store: state.At(link, "m_back"), Jobs: 2}
}

func (a *aside) put() {
	a.t.Helper()
	if _, err := a.PutAside(a.t.Context(), a.tables, func(string) {}); err != nil {
		a.t.Fatal(err)
	}
}

// create creates them, as inside a fence.
func (a *aside) create() {
	a.t.Helper()
	keys, err := a.PrepareAside(a.t.Context())
	if err != nil || keys == nil {
		a.t.Fatalf("prepare: %v, %v", keys, err)
	}
	defer keys.Close(a.t.Context())
	if err := keys.Create(a.t.Context(), func(string) {}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *aside) has() [][]string { return pgtest.Query(a.t, a.dsn, jointsOf) }

// recorded are the keys that are put aside, in an order of their own.
func (a *aside) recorded() string {
	a.t.Helper()
	keys, err := a.Aside(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	var lines []string
	for _, k := range keys {
		lines = append(lines, fmt.Sprintf("%s %s: %s %s", k.Name, k.Key, strings.Join(strings.Fields(k.SQL), " "), strings.TrimSuffix(k.Comment, ";")))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (a *aside) unvalidated() int {
	a.t.Helper()
	list, _, err := a.List(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	return len(list)
}

// A server that has been the database follows the other one, several times, also before its foreign keys are validated: each comes
// back as it was. Those of a table that is not migrated, and those that nobody enforces, stay.
func TestPutAside(t *testing.T) {
	for major := 10; major <= 18; major++ {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			a := newAside(t, major)
			before := fmt.Sprint(a.has())
			a.put()
			for _, row := range a.has() {
				if !strings.Contains(row[1], "outside") && row[1] != "not_enforced" {
					t.Errorf("after it was put aside there is %v", row)
				}
			}
			first := a.recorded()
			a.put()
			if got := a.recorded(); got != first {
				t.Errorf("put aside twice, recorded is\n%s\nwant\n%s", got, first)
			}

			// A switch that is undone.
			a.create()
			if n := a.unvalidated(); n == 0 {
				t.Error("nothing is to be validated")
			}
			a.put()
			if got, n := a.recorded(), a.unvalidated(); got != first || n != 0 {
				t.Errorf("after a switch that was undone %d are to be validated, and recorded is\n%s\nwant\n%s", n, got, first)
			}

			// One that is done, and the next one back, before anything is validated.
			a.create()
			pgtest.Exec(t, a.dsn, `update walferry.migration set aside = null`)
			a.put()
			if got, n := a.recorded(), a.unvalidated(); got != first || n != 0 {
				t.Errorf("put aside before they were validated: %d are to be validated, and recorded is\n%s\nwant\n%s", n, got, first)
			}

			if err := a.PutBack(t.Context(), func(string) {}); err != nil {
				t.Fatal(err)
			}
			if err := a.Validate(t.Context(), func(string) {}); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(a.has()); got != before {
				t.Errorf("at last there are\n%s\nwant\n%s", got, before)
			}
			if got := a.recorded(); got != "" {
				t.Errorf("recorded is still\n%s", got)
			}
		})
	}
}

// A process that was taken for dead drops nothing: the server may be open by then.
func TestPutAside_Overtaken(t *testing.T) {
	a := newAside(t, 15)
	before := fmt.Sprint(a.has())
	if err := a.run().Store.Take(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.PutAside(t.Context(), a.tables, func(string) {}); !errors.Is(err, state.ErrOvertaken) {
		t.Errorf("put aside: %v, want that another one has it", err)
	}
	if got := fmt.Sprint(a.has()); got != before {
		t.Errorf("there are\n%s\nwant\n%s", got, before)
	}
	a.Pending = a.run()
	if err := a.Store.Take(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.put()
	a.create()
	if err := a.run().Store.Take(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.PutAside(t.Context(), a.tables, func(string) {}); !errors.Is(err, state.ErrOvertaken) {
		t.Errorf("drop what is recorded: %v, want that another one has it", err)
	}
}

// Somebody reads the server that is to follow. Who waits for him says so, and gives up when its time is over.
func TestPutAside_Reader(t *testing.T) {
	a := newAside(t, 15)
	reader := open(t, a.dsn)
	if err := execute(t.Context(), reader, `begin; set local application_name = 'the reader'; select from public.a`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	told := ""
	_, err := a.PutAside(ctx, a.tables, func(text string) { told += text; cancel() })
	if err == nil || !strings.Contains(err.Error(), "the reader") || !strings.Contains(told, `"public"."a"`) || !strings.Contains(told, "the reader") {
		t.Errorf("it ended with %v; told was %q", err, told)
	}
	if err := execute(t.Context(), reader, `rollback`); err != nil {
		t.Fatal(err)
	}
	a.put()
	if n := len(a.has()); n != 2 {
		t.Errorf("%d foreign keys are left, want those of outside", n)
	}
}
