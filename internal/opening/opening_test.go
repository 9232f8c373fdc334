package opening

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// newTarget returns a target with a trigger that acts on applied rows, one that does not, and a rule that does.
func newTarget(t *testing.T) *Target {
	t.Helper()
	_, dsn := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, dsn, `create table a (id int primary key);
create function f() returns trigger language plpgsql as 'begin return new; end';
create trigger acts before insert on a for each row execute function f();
create trigger usual before insert on a for each row execute function f();
create rule acts as on delete to a do also notify a;
alter table a enable always trigger acts;
alter table a enable replica rule acts`)
	link, err := session.OpenLink(t.Context(), session.Config{DSN: dsn, Application: "opening test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(link.Close)
	if err := state.At(link, "test").Begin(t.Context(), &state.Record{SystemID: "1", Timeline: 1, Database: "d", Slot: "walferry_test"}); err != nil {
		t.Fatal(err)
	}
	var tables []catalog.Table
	err = link.Do(t.Context(), func(conn *pgx.Conn) (err error) {
		tables, err = catalog.Tables(t.Context(), conn)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return &Target{
		Link: link, DSN: dsn, Migration: "test", Logger: slog.New(slog.DiscardHandler), Tables: func() []catalog.Table { return tables },
	}
}

// states returns how the triggers and the rule are enabled: D for disabled.
func states(t *testing.T, target *Target) string {
	t.Helper()
	return pgtest.Query(t, target.DSN, `select string_agg(tgname || ' ' || tgenabled::text, ', ' order by tgname) || ', rule ' || (select ev_enabled::text from pg_rewrite where rulename = 'acts')
from pg_trigger where tgrelid = 'a'::regclass`)[0][0]
}

const (
	before = "acts A, usual O, rule R"
	held   = "acts D, usual O, rule D"
)

// What acts on applied rows is held until the opening, which leaves it as it was.
func TestTarget(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	if fresh, err := target.Hold(t.Context()); err != nil || len(fresh) != 2 {
		t.Fatalf("held %v, %v", fresh, err)
	}
	if got := states(t, target); got != held {
		t.Errorf("held: %s, want %s", got, held)
	}
	if fresh, err := target.Hold(t.Context()); err != nil || len(fresh) != 0 {
		t.Errorf("held once more: %v, %v", fresh, err)
	}
	if err := target.Gate(t.Context(), time.Second, func(string) {}); err != nil {
		t.Errorf("the gate says %v", err)
	}
	if got := states(t, target); got != held {
		t.Errorf("tried by the gate: %s, want %s", got, held)
	}
	if ruled, err := target.Ruled(t.Context()); err != nil || len(ruled) != 1 || !ruled[`"public"."a"`] {
		t.Errorf("with rules: %v, %v", ruled, err)
	}

	conn, err := target.Prepare(t.Context(), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close(t.Context()) //nolint:errcheck // which takes it back
	if got := states(t, target); got != held {
		t.Errorf("prepared and taken back: %s, want %s", got, held)
	}
	if sql, recorded, err := target.EnableEach(t.Context()); err != nil || len(sql)+len(recorded) != 0 {
		t.Errorf("left are %q, recorded as %q, %v", sql, recorded, err)
	}
	if got := states(t, target); got != before {
		t.Errorf("opened: %s, want %s", got, before)
	}
}

// What was enabled while rows were applied has acted on them: it is held again, and the gate says so.
func TestTarget_EnabledMeanwhile(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	if _, err := target.Hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, target.DSN, `alter table a enable always trigger usual`)
	if err := target.Gate(t.Context(), time.Second, func(string) {}); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), "usual") {
		t.Errorf("the gate says %v", err)
	}
	if got, want := states(t, target), "acts D, usual D, rule D"; got != want {
		t.Errorf("held again: %s, want %s", got, want)
	}
}

// A lock that somebody has is waited for, and what cannot be enabled then is left, recorded, and enabled later.
func TestTarget_Locked(t *testing.T) {
	t.Parallel()
	target := newTarget(t)
	if _, err := target.Hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), target.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context()) //nolint:errcheck // it is not used any longer
	if _, err := conn.Exec(t.Context(), `begin; lock table a`); err != nil {
		t.Fatal(err)
	}
	var said []string
	err = target.Gate(t.Context(), time.Millisecond, func(text string) { said = append(said, text) })
	gate := fail.Find(err, fail.Gate)
	if gate == nil || !strings.Contains(err.Error(), "cannot be locked") {
		t.Errorf("the gate says %v, and before %q", err, said)
	}
	sql, err := target.EnableRest(t.Context(), 0)
	if err == nil || len(sql) != 2 {
		t.Errorf("left are %q, %v", sql, err)
	}
	if _, err := conn.Exec(t.Context(), `rollback`); err != nil {
		t.Fatal(err)
	}
	if sql, err := target.EnableRest(t.Context(), time.Minute); err != nil || len(sql) != 0 {
		t.Errorf("left are %q, %v", sql, err)
	}
	if got := states(t, target); got != before {
		t.Errorf("opened: %s, want %s", got, before)
	}
}
