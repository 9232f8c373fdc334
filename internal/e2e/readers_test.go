package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/slot"
)

// subscriber is a database of the application's own that subscribes to everything that a
// source has.
type subscriber struct {
	t      *testing.T
	server *pgtest.Server
	dsn    string
	source string
	n      int
}

func subscribe(t *testing.T, server *pgtest.Server, source string) *subscriber {
	t.Helper()
	s := &subscriber{t: t, server: server, dsn: server.Database(t), source: source}
	pgtest.Exec(t, source, `create table t (a int primary key, b text)`)
	pgtest.Exec(t, source, `create publication everything for all tables`)
	pgtest.Exec(t, s.dsn, `create table t (a int primary key, b text)`)
	name := migrationName("theirs")
	pgtest.Exec(t, s.dsn, fmt.Sprintf(`create subscription %s connection '%s' publication everything`, name, source))
	t.Cleanup(func() {
		l := &line{dsn: s.dsn}
		defer l.hangUp()
		if _, err := l.ask(`drop subscription ` + name); err != nil && err.Error() != "EOF" {
			t.Errorf("drop the subscription: %v", err)
		}
	})
	return s
}

// goesOn writes on the source and waits for the row.
func (s *subscriber) goesOn(when string) {
	s.t.Helper()
	s.n++
	pgtest.Exec(s.t, s.source, fmt.Sprintf(`insert into t values (%d, '%s')`, s.n, when))
	l := newLine(s.t, s.dsn)
	eventually(s.t, "the subscriber's row "+when, func() (bool, string) {
		rows, err := l.ask(`select count(*) from t`)
		return rows == strconv.Itoa(s.n), fmt.Sprintf("%s rows, %v; its log: %s", rows, err, tail(s.server.Log()))
	})
	for line := range strings.Lines(s.server.Log()) {
		if strings.Contains(line, "ERROR:") {
			s.t.Errorf("the subscriber, %s: %s", when, line)
		}
	}
}

func newSubscriberServer(t *testing.T) *pgtest.Server {
	return pgtest.New(t, pgtest.Options{Major: 15})
}

// Somebody else reads the source by a publication FOR ALL TABLES, and cannot take a table
// that he does not have. A migration, from its beginning to its clean-up, is nothing to him.
func TestReaders(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, 14, 15, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			source, target := pgtest.Pair(t, major, 18)
			s := subscribe(t, newSubscriberServer(t), source)
			s.goesOn("before")
			m := newMoving(t, "readers", source, target)
			if major == 18 { // whose pg_dump is not on every machine
				m.Schema = "none"
				pgtest.Exec(t, target, `create table t (a int primary key, b text)`)
			}
			r := m.start()
			r.waitFor(migration.Following)
			s.goesOn("while it follows")
			m.caughtUp(r)
			m.cutover(r)
			if left, err := migration.Cleanup(t.Context(), m.Config); err != nil || len(left) > 0 {
				t.Errorf("cleanup leaves %+v, %v", left, err)
			}
			s.goesOn("after")
			sourceHasNothing(t, source)
		})
	}
}

func sourceHasNothing(t *testing.T, source string) {
	t.Helper()
	for _, row := range pgtest.Query(t, source, `
select 'schema ' || nspname from pg_namespace where nspname ~ 'walferry'
union all select 'trigger ' || tgname from pg_trigger where tgname ~ 'walferry'
union all select 'publication ' || pubname from pg_publication where pubname ~ 'walferry'
union all select 'slot ' || slot_name from pg_replication_slots where slot_name ~ 'walferry' and database = current_database()`) {
		t.Errorf("the source still has %s", row[0])
	}
}

// Version 10 tells of a TRUNCATE by a row in a table of ours only: the preflight says what that does to
// those who get it, and what they can do. When it is done they go on.
func TestReaders_Version10(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 10, 18)
	s := subscribe(t, newSubscriberServer(t), source)
	s.goesOn("before")
	m := newMoving(t, "readers_10", source, target)
	report, err := migration.Check(t.Context(), m.Config)
	if err != nil {
		t.Fatal(err)
	}
	var sql []string
	for _, f := range report.Findings {
		if f.ID == "source-published" && f.Severity == check.Block {
			sql = f.SQL
		}
	}
	if len(sql) == 0 {
		t.Fatalf("the preflight does not block: %+v", report.Findings)
	}
	for _, dsn := range []string{s.dsn, source} {
		for _, one := range sql {
			pgtest.Exec(t, dsn, one)
		}
	}
	r := m.start()
	r.waitFor(migration.Following)
	pgtest.Exec(t, source, `create table unrelated (a int)`) // decoded, empty, and not for us
	pgtest.Exec(t, source, `drop table unrelated`)
	s.goesOn("while it follows")
	pgtest.Exec(t, source, `begin; truncate t; insert into t values (100, 'after it'); commit`)
	s.n++ // version 10 does not tell them either
	s.goesOn("after a TRUNCATE")
	m.caughtUp(r)
	if got := one[int](t, target, `select count(*) from t`); got != 2 {
		t.Errorf("%d rows on the target, want 2", got)
	}
	m.cutover(r)
	if left, err := migration.Cleanup(t.Context(), m.Config); err != nil || len(left) > 0 {
		t.Errorf("cleanup leaves %+v, %v", left, err)
	}
	s.goesOn("after")
	sourceHasNothing(t, source)
}

// A publication FOR ALL TABLES that is nobody of walferry's does not keep abort and
// cleanup from removing everything.
func TestAbort_AllTablesPublication(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]int{{15, 15}, {10, 18}} {
		t.Run(fmt.Sprint(pair), func(t *testing.T) {
			source, target := pgtest.Pair(t, pair[0], pair[1])
			pgtest.Exec(t, source, `create table t (id int primary key)`)
			m := newMoving(t, "all_tables", source, target)
			r := m.start()
			r.waitFor(migration.Following)
			pgtest.Exec(t, source, `create publication dbz for all tables`)
			if err := migration.Abort(t.Context(), m.Config); err != nil {
				t.Errorf("abort: %v", err)
			}
			r.end() //nolint:errcheck // aborted
			sourceHasNothing(t, source)
			if left, err := migration.Cleanup(t.Context(), m.Config); err != nil || len(left) > 0 {
				t.Errorf("cleanup leaves %+v, %v", left, err)
			}
			pgtest.Exec(t, source, `truncate t`)
		})
	}
}

// Two migrations of one source, to two targets: the end of one is nothing to the other, and the
// last one leaves nothing. On version 10 they share the triggers.
func TestCleanup_SideBySide(t *testing.T) {
	t.Parallel()
	for _, major := range []int{10, 15} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			source, target := pgtest.Pair(t, major, 18)
			_, second := pgtest.Pair(t, major, 18)
			pgtest.Exec(t, source, `create table t (id int primary key)`)
			a, b := newMoving(t, "side_a", source, target), newMoving(t, "side_b", source, second)
			ra, rb := a.start(), b.start()
			ra.waitFor(migration.Following)
			rb.waitFor(migration.Following)
			if err := migration.Abort(t.Context(), a.Config); err != nil {
				t.Errorf("abort: %v", err)
			}
			ra.end() //nolint:errcheck // aborted
			left, err := migration.Cleanup(t.Context(), a.Config)
			if err != nil || migration.NewLeftError(left) != nil {
				t.Errorf("cleanup leaves %+v, %v", left, err)
			}
			for _, l := range left {
				if l.On != "source" || l.Migration != b.Name {
					t.Errorf("left on the %s: %s of %q; want what %s has on the source", l.On, l.Object, l.Migration, b.Name)
				}
			}
			pgtest.Exec(t, source, `insert into t values (1)`)
			pgtest.Exec(t, source, `begin; truncate t; insert into t values (2); commit`)
			b.caughtUp(rb)
			if got := one[string](t, second, `select string_agg(id::text, ' ') from t`); got != "2" {
				t.Errorf("the other migration has the rows %s, want 2", got)
			}
			b.cutover(rb)
			b.cleanup()
		})
	}
}

// The target of one migration is the source of the next one, of the same name: the clean-up of
// the first takes nothing from the second.
func TestCleanup_Onwards(t *testing.T) {
	t.Parallel()
	first, second := pgtest.Pair(t, 13, 15)
	third := pgtest.Shared(t, 18).Database(t)
	pgtest.Exec(t, first, `create table t (id int primary key)`)
	a := newMoving(t, "onwards", first, second)
	ra := a.start()
	ra.waitFor(migration.Following)
	a.cutover(ra)
	b := newMoving(t, "onwards", second, third)
	b.Name = a.Name
	rb := b.start()
	rb.waitFor(migration.Following)
	left, err := migration.Cleanup(t.Context(), a.Config)
	if err != nil || migration.NewLeftError(left) != nil || len(left) == 0 {
		t.Errorf("cleanup leaves %+v, %v; want what the second migration needs", left, err)
	}
	sourceHasNothing(t, first)
	pgtest.Exec(t, second, `insert into t values (1)`)
	b.cutover(rb)
	sameRows(t, second, third)
	b.cleanup()
}

// What somebody has put into the schema walferry is not dropped with it, and abort and cleanup say
// that it is there.
func TestAbort_SchemaInUse(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (id int primary key)`)
	m := newMoving(t, "in_use", source, target)
	r := m.start()
	r.waitFor(migration.Following)
	pgtest.Exec(t, source, `create table walferry.theirs as select 1 as a`)
	err := migration.Abort(t.Context(), m.Config)
	var left *migration.LeftError
	if !errors.As(err, &left) || !strings.Contains(err.Error(), "table walferry.theirs on the source") {
		t.Errorf("abort: %v; want that it names the table", err)
	}
	r.end() //nolint:errcheck // aborted
	if got := one[int](t, source, `select count(*) from walferry.theirs`); got != 1 {
		t.Error("the table is gone")
	}
	pgtest.Exec(t, source, `drop table walferry.theirs`)
	m.cleanup()
}

// A migration that an older version has begun has its table heartbeat in the publication, and beats of
// it may be in the WAL. It goes on without them, and nothing of it stays.
func TestResume_HeartbeatTable(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (id int primary key)`)
	m := newMoving(t, "older", source, target)
	m.Until = migration.UntilCaughtUp
	if _, err := m.start().end(); err != nil {
		t.Fatal(err)
	}
	const heartbeat = `create table walferry.heartbeat (migration text, kind text, id int8 not null, at timestamptz not null, primary key (migration, kind))`
	pgtest.Exec(t, source, heartbeat)
	pgtest.Exec(t, source, `alter publication walferry_`+m.Name+` add table only walferry.heartbeat`)
	pgtest.Exec(t, source, `insert into walferry.heartbeat values ('`+m.Name+`', 'beat', 1, now()); insert into t values (1)`)
	conn, err := pgx.Connect(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	id, err := slot.Publication(t.Context(), conn, "walferry_"+m.Name)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]decoder.PublicationIdentity{"walferry_" + m.Name: id})
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, target, `update walferry.migration set publications = '`+string(text)+`'`)
	m.Until = ""
	r := m.start()
	r.waitFor(migration.Following)
	pgtest.Exec(t, source, `update walferry.heartbeat set id = 2; insert into t values (2)`)
	m.cutover(r)
	sameRows(t, source, target)
	m.cleanup()
}

// A way back writes its own tables on the old server. Whoever reads that by a publication FOR ALL TABLES stops at them: so there is none,
// and he notices nothing, until he has these tables. Then he is sent what comes back, too.
func TestReaders_FallBack(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, 15} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			source, target := pgtest.Pair(t, major, 18)
			s := subscribe(t, newSubscriberServer(t), source)
			s.goesOn("before")
			m := newMoving(t, "readers_back", source, target)
			m.FallBack = migration.FallBackAuto
			r := m.start()
			r.waitFor(migration.Following)
			asked := m.askBeside(patience, "NO WAY BACK")
			<-asked.done
			if asked.err != nil || asked.result.WayBack == nil || !strings.Contains(asked.result.WayBack.None, "FOR ALL TABLES") {
				t.Fatalf("got %+v, %v; want that it goes without a way back", asked.result, asked.err)
			}
			if _, err := r.end(); err != nil {
				t.Fatal(err)
			}
			if left, err := migration.Cleanup(t.Context(), m.Config); err != nil || len(left) > 0 {
				t.Errorf("cleanup leaves %+v, %v", left, err)
			}
			s.goesOn("without a way back")

			pgtest.Exec(t, target, `drop table t`)
			m.Name, m.FallBack = migrationName("readers_back"), migration.FallBackRequire
			report, err := migration.Check(t.Context(), m.Config)
			if err != nil {
				t.Fatal(err)
			}
			var sql []string
			for _, f := range report.Findings {
				if f.ID == "fb-published" && f.On == "source" && f.Severity == check.Block {
					sql = f.SQL
				}
			}
			if len(sql) == 0 {
				t.Fatalf("the preflight does not block: %+v", report.Findings)
			}
			for _, dsn := range []string{s.dsn, source} {
				for _, one := range sql {
					pgtest.Exec(t, dsn, one)
				}
			}
			r = m.start()
			r.waitFor(migration.Following)
			m.asked(migration.Cutover)
			r.waitFor(migration.Switched)
			s.source = target
			s.goesOn("through the old server")
			if _, err := migration.Finish(t.Context(), m.Config); err != nil {
				t.Fatal(err)
			}
			if _, err := r.end(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
