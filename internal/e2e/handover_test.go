package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/state"
)

// three services: each writes to two tables in one transaction, the second of which counts the rows of the first.
const threeServices = `
create schema billing;
create table billing.invoice (id serial primary key, v text not null unique);
create table billing.total (id int primary key, n int not null);
create table billing.part (k int, v text, primary key (k, v)) partition by range (k);
create table billing.part_0 partition of billing.part for values from (0) to (50);
create table billing.part_1 partition of billing.part for values from (50) to (100);
create schema orders;
create table orders.invoice (id int8 generated always as identity primary key, v text not null unique);
create table orders.total (id int primary key, n int not null);
create table orders.part (k int, v text, primary key (k, v));
create schema stock;
create table stock.invoice (id serial primary key, v text not null unique);
create table stock.total (id int primary key references stock.total, n int not null);
create table stock.part (k int, v text, primary key (k, v));
insert into billing.total values (1, 0); insert into orders.total values (1, 0); insert into stock.total values (1, 0);
`

var serviceNames = []string{"billing", "orders", "stock"}

// service writes where its tables are: refused by one server, it goes to the other one. It also looks on both whether a transaction was torn.
type service struct {
	t     *testing.T
	name  string
	sides [2]string
	halt  chan struct{}
	wait  sync.WaitGroup
	at    atomic.Int32 // the server that has committed last

	mu    sync.Mutex
	acked map[string]bool
}

func startService(t *testing.T, name, old, young string) *service {
	s := &service{t: t, name: name, sides: [2]string{old, young}, halt: make(chan struct{}), acked: map[string]bool{}}
	for n := range 2 {
		s.wait.Go(func() { s.write(n) })
	}
	s.wait.Go(s.read)
	t.Cleanup(s.stop)
	return s
}

func (s *service) stop() {
	select {
	case <-s.halt:
	default:
		close(s.halt)
	}
	s.wait.Wait()
}

func (s *service) halted(pause time.Duration) bool {
	select {
	case <-s.halt:
		return true
	case <-time.After(pause):
		return false
	}
}

func (s *service) connect() (conns [2]*pgx.Conn) {
	for i, dsn := range s.sides {
		config, err := pgx.ParseConfig(dsn)
		if err != nil {
			s.t.Error(err)
			return conns
		}
		config.RuntimeParams["application_name"] = s.name
		conn, err := pgx.ConnectConfig(context.Background(), config)
		if err != nil {
			s.t.Error(err)
			return conns
		}
		conns[i] = conn
	}
	return conns
}

func (s *service) write(writer int) {
	conns := s.connect()
	defer conns[0].Close(context.Background())
	defer conns[1].Close(context.Background())
	side := 0
	for i := 0; !s.halted(5 * time.Millisecond); i++ {
		v := fmt.Sprintf("%d.%d", writer, i)
		sql := strings.NewReplacer("SERVICE", s.name, "VALUE", v, "KEY", fmt.Sprint(i%100)).Replace(`begin; update SERVICE.total set n = n + 1 where id = 1;
insert into SERVICE.invoice (v) values ('VALUE'); insert into SERVICE.part values (KEY, 'VALUE'); commit`)
		_, err := conns[side].Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol)
		if err == nil {
			s.mu.Lock()
			s.acked[v] = true
			s.mu.Unlock()
			s.at.Store(int32(side))
			continue
		}
		conns[side].Exec(context.Background(), `rollback`) //nolint:errcheck // the next statement tells
		if !refusal(err) {
			s.t.Errorf("%s, %s on server %d: %v", s.name, v, side, err)
			return
		}
		side = 1 - side
	}
}

// read looks on both servers whether a transaction is there in part.
func (s *service) read() {
	conns := s.connect()
	defer conns[0].Close(context.Background())
	defer conns[1].Close(context.Background())
	for !s.halted(10 * time.Millisecond) {
		for side := range conns {
			var a, b, c int
			err := conns[side].QueryRow(context.Background(), strings.ReplaceAll(
				`select (select n from SERVICE.total), (select count(*) from SERVICE.invoice), (select count(*) from SERVICE.part)`, "SERVICE", s.name)).Scan(&a, &b, &c)
			if err != nil || a != b || b != c {
				s.t.Errorf("%s on server %d has %d, %d and %d of its transactions: %v", s.name, side, a, b, c, err)
				return
			}
		}
	}
}

// goesTo waits until the service writes on a server.
func (s *service) goesTo(side int) {
	s.t.Helper()
	s.mu.Lock()
	before := len(s.acked)
	s.mu.Unlock()
	eventually(s.t, fmt.Sprintf("%s on server %d", s.name, side), func() (bool, string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return int(s.at.Load()) == side && len(s.acked) > before+10, ""
	})
}

// arrived waits until what was acknowledged is on both servers, once, and nothing else.
func (s *service) arrived() {
	s.t.Helper()
	s.stop()
	rows := strings.ReplaceAll(`select (select string_agg(t::text, ',' order by v) from SERVICE.invoice t) || (select md5(string_agg(t::text, ',' order by v)) from SERVICE.part t) || (select n from SERVICE.total)`, "SERVICE", s.name)
	eventually(s.t, "equal rows of "+s.name, func() (bool, string) {
		return one[string](s.t, s.sides[0], rows) == one[string](s.t, s.sides[1], rows), ""
	})
	for side, dsn := range s.sides {
		if last := one[int](s.t, dsn, `select max(id) from `+s.name+`.invoice`); last > 100_000 { // where sequences are kept ahead nothing is drawn
			s.t.Errorf("%s: the last key of %d is %d", s.name, len(s.acked), last)
		}
		found := map[string]bool{}
		for _, row := range pgtest.Query(s.t, dsn, `select v from `+s.name+`.invoice`) {
			found[row[0]] = true
		}
		for v := range s.acked {
			if !found[v] {
				s.t.Errorf("%s, %s was acknowledged and is not on server %d", s.name, v, side)
			}
		}
		if len(found) != len(s.acked) {
			s.t.Errorf("%s: server %d has %d transactions, %d were acknowledged", s.name, side, len(found), len(s.acked))
		}
	}
}

// askedFor asks for a switch of some tables.
func (m *moving) askedFor(what func(context.Context, migration.Config, func(string)) (*migration.CutoverResult, error), tables []string, loose ...string) (*migration.CutoverResult, error) {
	m.t.Helper()
	c := m.Config
	c.Cut.MaxLag, c.Cut.Timeout, c.Cut.Tables, c.Cut.Loose = patience, patience, tables, loose
	return what(context.Background(), c, func(step string) { m.t.Log(step) })
}

func (m *moving) handed(what func(context.Context, migration.Config, func(string)) (*migration.CutoverResult, error), tables ...string) {
	m.t.Helper()
	result, err := m.askedFor(what, tables)
	if err != nil || result == nil || result.FinishedAt == nil {
		m.t.Fatalf("%s: %+v, %v\n%s", tables, result, err, m.describe())
	}
}

// Services move one after the other, and back; what writes to tables of two owners is refused whole. At the end all are on the new server, fall back as
// a whole, and switch again.
func TestHandOver(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{13, 17}, {10, 18}, {17, 19}} {
		t.Run(fmt.Sprintf("%d-%d", pair[0], pair[1]), func(t *testing.T) {
			t.Parallel()
			old, young := pgtest.Pair(t, pair[0], pair[1])
			schema := threeServices
			if pair[0] == 10 { // which has no keys of partitioned tables
				schema = strings.ReplaceAll(schema, "(k int, v text, primary key (k, v)) partition by", "(k int, v text) partition by") + `
alter table billing.part_0 add primary key (k, v); alter table billing.part_1 add primary key (k, v)`
			}
			pgtest.Exec(t, old, schema)
			pgtest.Exec(t, old, `create table orders.log (v text); create function orders.log() returns trigger language plpgsql as 'begin insert into orders.log values (new.v); return null; end';
create trigger log after insert on orders.invoice for each row execute procedure orders.log()`)
			m := newMoving(t, fmt.Sprint("handover_", pair[0]), old, young)
			m.MaxRetainedWALTarget, m.InsertOnly = 1<<40, []string{"orders.log"}
			r := m.start()
			r.waitFor(migration.Following)
			services := map[string]*service{}
			for _, name := range serviceNames {
				services[name] = startService(t, name, old, young)
				services[name].goesTo(0)
			}
			owners := func(billing, orders, stock int) {
				t.Helper()
				for i, side := range []int{billing, orders, stock} {
					services[serviceNames[i]].goesTo(side)
				}
			}
			pgtest.Exec(t, old, `update orders.log set v = v`) // so that it is copied again
			m.handed(migration.Cutover, "billing.*")
			owners(1, 0, 0)
			for _, dsn := range []string{old, young} {
				refusedWhole(t, dsn, `insert into orders.invoice (v) values ('border'); insert into billing.invoice (v) values ('border')`)
				refusedWhole(t, dsn, `insert into billing.invoice (v) values ('border'); insert into orders.invoice (v) values ('border')`)
			}
			m.handed(migration.Cutover, "orders.*")
			owners(1, 1, 0)
			m.owned("new new old", "mixed")
			m.ahead(old, young, "billing.invoice_id_seq")
			m.ahead(young, old, "stock.invoice_id_seq")
			m.written(r, "stock", "orders")
			m.verified()
			echo := "begin; update walferry.progress set applied = applied where stream = '" + m.Name + "_back'; " // which the flow forth leaves out
			m.past(echo + `update orders.part set k = k + 1000 where v = '0.0'; commit`)
			v, err := migration.Verify(context.Background(), m.Config, migration.VerifyOptions{})
			if err != nil || v.AllEqual() || v.SourceIs != "mixed" {
				t.Errorf("a row that the owner does not have: %+v, %v", v, err)
			}
			if _, err := m.askedFor(migration.Fallback, []string{"orders.*"}); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "orders") {
				t.Errorf("a fallback despite a difference: %v", err)
			}
			m.past(echo + `update orders.part set k = k - 1000 where v = '0.0'; commit`)
			m.verified()
			m.handed(migration.Fallback, "billing.*")
			owners(0, 1, 0)
			pgtest.Exec(t, young, `update orders.log set v = v where v = '0.0'; delete from orders.log where v = '0.1'`) // and there, for the old one
			m.handed(migration.Cutover, "billing.*")
			owners(1, 1, 0)
			if err := migration.Abort(context.Background(), m.Config); !fail.Is(err, fail.Gate) {
				t.Errorf("abort while the new server owns groups: %v", err)
			}
			if _, err := migration.Finish(context.Background(), m.Config); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "the old server owns the rest") {
				t.Errorf("finish while the old server owns tables: %v", err)
			}
			m.handed(migration.Fallback) // all groups
			owners(0, 0, 0)
			m.handed(migration.Cutover, "orders.*")
			owners(0, 1, 0)
			m.asked(migration.Cutover)
			r.waitFor(migration.Switched)
			owners(1, 1, 1)
			m.asked(migration.Fallback)
			r.waitFor(migration.Following)
			owners(0, 0, 0)
			m.handed(migration.Cutover, "stock.*")
			owners(0, 0, 1)
			m.asked(migration.Cutover)
			r.waitFor(migration.Switched)
			owners(1, 1, 1)
			if pair[0] != 13 { // of which TestHandOver_Killed does it
				c := m.Config
				c.Cut.MaxLag, c.Cut.Timeout, c.Cut.Tables, c.Cut.DryRun = patience, patience, []string{"orders.*"}, true
				if result, err := migration.Fallback(context.Background(), c, func(step string) { t.Log(step) }); err != nil || !result.DryRun || result.FencedAt == nil {
					t.Errorf("a rehearsal of what goes back of the whole: %+v, %v", result, err)
				}
				r.waitFor(migration.Switched)
				m.handed(migration.Fallback, "orders.*") // a part of the whole, which that makes groups
				owners(1, 0, 1)
				m.owned("new old new", "mixed")
				m.handed(migration.Fallback, "billing.*")
				owners(0, 0, 1)
				m.handed(migration.Cutover, "orders.*")
				m.handed(migration.Cutover, "billing.*")
				r.waitFor(migration.Switched) // nothing is the old server's
				owners(1, 1, 1)
			}
			if _, err := m.askedFor(migration.Cutover, []string{"orders.*"}); !fail.Is(err, fail.Gate) {
				t.Errorf("a hand-over where everything is handed over: %v", err)
			}
			for _, s := range services {
				s.arrived()
			}
			for side, dsn := range []string{old, young} { // but the row that was deleted
				if n, want := one[int](t, dsn, `select count(*) from orders.log`), len(services["orders"].acked)-1; n != want {
					t.Errorf("orders.log of server %d has %d rows, want %d", side, n, want)
				}
			}
			if _, err := migration.Finish(context.Background(), m.Config); err != nil {
				t.Fatal(err)
			}
			if _, err := r.end(); err != nil {
				t.Fatal(err)
			}
			m.cleanup()
		})
	}
}

// ahead expects that a sequence stands far ahead of that of the server which owns it.
func (m *moving) ahead(of, owner, sequence string) {
	m.t.Helper()
	at := `select last_value from ` + sequence
	eventually(m.t, sequence+" is kept ahead", func() (bool, string) {
		a, b := one[int](m.t, of, at), one[int](m.t, owner, at)
		return a > b+400_000, fmt.Sprint(a, b)
	}, m.describe)
}

// owned expects who owns the groups of the services, and how status calls that.
func (m *moving) owned(want, owner string) {
	m.t.Helper()
	r, err := migration.Groups(context.Background(), m.Config)
	if err != nil {
		m.t.Fatal(err)
	}
	var got []string
	for _, name := range serviceNames {
		for _, g := range r.Groups {
			if slices.Contains(g.Tables, name+".invoice") {
				got = append(got, string(g.Owner))
			}
		}
	}
	if strings.Join(got, " ") != want {
		m.t.Errorf("groups are owned by %s, want %s", got, want)
	}
	st, err := migration.ReadStatus(context.Background(), m.Config)
	handed := 0
	for _, g := range st.Groups {
		handed += len(slices.DeleteFunc(slices.Clone(g.Tables), func(t string) bool { return !strings.HasSuffix(t, ".invoice") }))
	}
	if err != nil || st.Owner == nil || *st.Owner != owner || handed != strings.Count(want, "new") {
		m.t.Errorf("status: %+v, %v; want owner %s", st, err, owner)
	}
}

// written expects that status shows who writes to a service's tables on the old server, and on the new one to another's, and not the other way round.
func (m *moving) written(r *run, old, young string) {
	m.t.Helper()
	eventually(m.t, "who writes where", func() (bool, string) {
		st, err := migration.ReadStatus(context.Background(), m.Config)
		if err != nil || st.Writes.Old == nil || st.Writes.New == nil {
			return false, fmt.Sprintf("%+v, %v", st.Writes, err)
		}
		text, _ := json.Marshal(st.Writes)
		return writes(st.Writes.Old, old) && writes(st.Writes.New, young) && !writes(st.Writes.New, old), string(text)
	}, m.describe)
}

// writes reports whether writes to a service's tables were counted, and somebody was seen at it.
func writes(w *state.Writes, service string) bool {
	counted := slices.ContainsFunc(w.Tables, func(t state.TableWrites) bool { return t.Table == service+".invoice" && t.Rate > 0 })
	seen := slices.ContainsFunc(w.Writers, func(by state.Writer) bool {
		return by.Caught > 0 && by.Application == service && by.Role != "" && slices.Contains(by.Tables, service+".total")
	})
	return counted && seen
}

// refusedWhole expects that the fence refuses a transaction, and that nothing of it stays.
func refusedWhole(t *testing.T, dsn, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), "begin; "+sql+"; commit", pgx.QueryExecModeSimpleProtocol); !refusal(err) {
		t.Errorf("what writes to tables of both servers: %v", err)
	}
	if n := one[int](t, dsn, `select (select count(*) from orders.invoice where v = 'border') + (select count(*) from billing.invoice where v = 'border')`); n != 0 {
		t.Errorf("%d rows of it stay", n)
	}
}

// What is joined to tables that stay is refused, with the joint named, unless that is cut knowingly.
func TestHandOver_Joined(t *testing.T) {
	t.Parallel()
	old, young := pgtest.Pair(t, 13, 18)
	pgtest.Exec(t, old, threeServices+`alter table stock.invoice add billed int references billing.invoice; create sequence nobodys;
create table orders.log (id int primary key); create function log() returns trigger language plpgsql as 'begin return null; end';
create trigger log after insert on orders.log execute procedure log(); alter table orders.log enable always trigger log`)
	m := newMoving(t, "handover_joined", old, young)
	m.MaxRetainedWALTarget = 1 << 40
	r := m.start()
	r.waitFor(migration.Following)
	refused := func(want string, tables []string, loose ...string) {
		t.Helper()
		_, err := m.askedFor(migration.Cutover, tables, loose...)
		var f *fail.Error
		if !errors.As(err, &f) || f.Kind != fail.Gate && f.Kind != fail.Usage || !strings.Contains(f.Problem, want) {
			t.Errorf("%s, loose %s: %v; want %q", tables, loose, err, want)
		}
	}
	refused("stock.invoice refers to billing.invoice (foreign key", []string{"billing.*"})
	refused("sequence public.nobodys belongs to no table", []string{"billing.*", "stock.*"})
	refused("matches no table", []string{"nosuch.*"})
	refused("of which a part was named", []string{"billing.part_0"})
	refused("trigger \"log\" of \"orders\".\"log\" fires for rows that are applied", []string{"orders.*"}, "nobodys")
	pgtest.Exec(t, old, `begin; insert into billing.invoice (v) values ('both'); insert into orders.invoice (v) values ('both'); commit`)
	m.caughtUp(r)
	refused("a transaction has written to billing.invoice and orders.invoice", []string{"billing.*", "stock.*"}, "nobodys")
	if n := one[int](t, young, `select count(*) from pg_trigger where tgname ~ '^walferry'`); n != 0 {
		t.Errorf("a refused hand-over has left %d triggers", n)
	}
	if _, err := m.askedFor(migration.Cutover, []string{"billing.*", "stock.*"}, "nobodys", "orders.invoice"); err != nil {
		t.Fatal(err)
	}
	refusedWhole(t, old, `insert into orders.invoice (v) values ('border'); insert into billing.invoice (v) values ('border')`)
	if _, err := m.askedFor(migration.Fallback, []string{"billing.invoice"}); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "joined to tables that stay") {
		t.Errorf("a part of a group goes back: %v", err)
	}
	m.handed(migration.Fallback)
	pgtest.Exec(t, old, `begin; insert into billing.invoice (v) values ('again'); insert into orders.invoice (v) values ('again'); commit`)
	m.caughtUp(r)
	m.verified()
	m.owned("old old old", "old")
	// What was asked for may have been taken back when both flows run: then the group is no part of them, nor missing when everything is switched.
	asking, end := context.WithCancel(t.Context())
	var taker sync.WaitGroup
	taker.Go(func() {
		for asking.Err() == nil && one[int](t, young, `with w as (update walferry.request set withdrawn_at = clock_timestamp()
 where steps::text ~ 'both flows run' and answered_at is null returning 1) select count(*) from w`) == 0 {
			time.Sleep(2 * time.Millisecond)
		}
	})
	if _, err := m.askedFor(migration.Cutover, []string{"billing.*", "stock.*"}, "nobodys", "orders.invoice"); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "taken back") {
		t.Errorf("a hand-over that was taken back: %v", err)
	}
	end()
	taker.Wait()
	m.owned("old old old", "old")
	pgtest.Exec(t, old, `insert into billing.invoice (v) values ('late')`)
	m.cutover(r) // which opens the fence that the groups have left on the new server
	pgtest.Exec(t, young, `insert into billing.invoice (v) values ('after')`)
	if n := one[int](t, young, `select count(*) from billing.invoice where v in ('late', 'after')`); n != 2 {
		t.Errorf("%d of 2 rows are on the new server", n)
	}
	m.cleanup()
}
