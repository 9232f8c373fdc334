package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience bounds every wait for something that must come. It is long because the
// machine may be busy; nothing is expected to take any part of it.
const patience = 3 * time.Minute

// migrationName makes a name that no other test on the shared servers has: slots
// belong to a server and not to a database.
func migrationName(label string) string {
	label = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToLower(label))
	return fmt.Sprintf("%s_%06x", label[:min(len(label), 30)], rand.N(1<<24))
}

// moving is a migration between two fresh databases.
type moving struct {
	t *testing.T
	migration.Config
}

func newMoving(t *testing.T, label, source, target string) *moving {
	return &moving{t, migration.Config{
		Source: source, Target: target, Name: migrationName(label), Jobs: 2, Heartbeat: 500 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
	}}
}

// run is a Migrate that runs in the background.
type run struct {
	m       *moving
	cancel  context.CancelFunc
	done    chan struct{}
	outcome migration.Outcome
	err     error
}

// start runs Migrate until it ends, stop is called, or the test ends.
func (m *moving) start() *run {
	if m.FallBack != "" && m.MaxRetainedWALTarget == 0 {
		m.MaxRetainedWALTarget = 8 << 30 // a way back needs a limit; nearly no test is about it
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &run{m: m, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.outcome, r.err = migration.Migrate(ctx, m.Config, migration.Observer{})
	}()
	m.t.Cleanup(func() { cancel(); <-r.done })
	return r
}

// over tells whether Migrate has ended.
func (r *run) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// end waits for Migrate's own end.
func (r *run) end() (migration.Outcome, error) {
	r.m.t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.m.t.Fatalf("migrate has not ended: %s", r.m.describe())
	}
	return r.outcome, r.err
}

// waitFor waits until the run's migration is in a phase, and reads the slot if it follows.
func (r *run) waitFor(phase migration.Phase) {
	r.m.t.Helper()
	target := newLine(r.m.t, r.m.Target)
	r.m.eventually("phase "+string(phase), func() bool {
		select {
		case <-r.done:
			if r.err != nil || phase != r.outcome.Phase {
				var blocked *migration.CheckError
				if errors.As(r.err, &blocked) {
					r.m.t.Logf("the preflight: %+v", blocked.Report)
				}
				r.m.t.Fatalf("migrate ended before phase %s: %+v, %v", phase, r.outcome, r.err)
			}
		default:
		}
		if now, _ := target.ask(phaseOf(r.m.Config)); now != string(phase) {
			return false
		}
		st, err := migration.ReadStatus(context.Background(), r.m.Config)
		return err == nil && st.Phase == phase && (phase != migration.Following || st.Running && st.Source.Active())
	})
}

// eventually waits for a condition.
func (m *moving) eventually(what string, holds func() bool) {
	m.t.Helper()
	eventually(m.t, what, func() (bool, string) { return holds(), "" }, m.describe)
}

// eventually waits for a condition. What it returns beside, and more, say how things are where it is waited for in vain.
func eventually(t *testing.T, what string, holds func() (bool, string), more ...func() string) {
	t.Helper()
	pause := 5 * time.Millisecond
	for deadline := time.Now().Add(patience); ; time.Sleep(pause) {
		ok, state := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			for _, say := range more {
				state += say()
			}
			t.Fatalf("waited in vain for %s: %s", what, state)
		}
		pause = min(2*pause, 100*time.Millisecond)
	}
}

func (m *moving) describe() string {
	st, err := migration.ReadStatus(context.Background(), m.Config)
	return fmt.Sprintf("%+v, %v", st, err)
}

// caughtUp waits until what is committed on the source by now is applied: a row
// that is written now must have come through.
func (m *moving) caughtUp(r *run) {
	m.t.Helper()
	position := one[string](m.t, m.Source, `select pg_current_wal_insert_lsn()::text`)
	target := newLine(m.t, m.Target)
	m.eventually("everything before "+position, func() bool {
		select {
		case <-r.done:
			m.t.Fatalf("migrate ended before it had caught up: %+v, %v", r.outcome, r.err)
		default:
		}
		applied, _ := target.ask(`select applied >= '` + position + `' from walferry.progress where stream = '` + m.Name + `'`)
		return applied == "t"
	})
}

// verified says whether `walferry verify` finds both sides equal.
func (m *moving) verified() {
	m.t.Helper()
	v, err := migration.Verify(context.Background(), m.Config, migration.VerifyOptions{})
	if err != nil {
		m.t.Fatalf("verify: %v", err)
	}
	if !v.AllEqual() {
		m.t.Errorf("verify finds differences: %+v", v.Report)
	}
}

// cutover asks for a cutover that must succeed, and waits for migrate's end.
func (m *moving) cutover(r *run) *migration.CutoverResult {
	m.t.Helper()
	c := m.Config
	c.Cut.MaxLag, c.Cut.Timeout = patience, patience
	result, err := migration.Cutover(context.Background(), c, nil)
	if err != nil {
		m.t.Fatalf("cutover: %v", err)
	}
	if outcome, err := r.end(); err != nil || outcome.Phase != migration.Finished {
		m.t.Fatalf("migrate ended with %+v, %v; want that it finished", outcome, err)
	}
	return result
}

// cleanup removes everything, and finds nothing left of this migration.
func (m *moving) cleanup() {
	m.t.Helper()
	left, err := migration.Cleanup(context.Background(), m.Config)
	if err != nil {
		m.t.Fatalf("cleanup: %v", err)
	}
	m.nothingLeft()
	for _, l := range left {
		// Other migrations of this test run share the servers, but not the database.
		if !strings.HasPrefix(l.Object, "replication origin") || strings.Contains(l.Object, m.Name) {
			m.t.Errorf("cleanup left on the %s: %s", l.On, l.Object)
		}
	}
}

// nothingLeft looks for anything of walferry by queries of its own.
func (m *moving) nothingLeft() {
	m.t.Helper()
	for side, dsn := range map[string]string{"source": m.Source, "target": m.Target} {
		for _, row := range pgtest.Query(m.t, dsn, `
select 'schema', nspname from pg_namespace where nspname ~ 'walferry'
union all select 'publication', pubname from pg_publication
union all select 'slot', slot_name from pg_replication_slots where database = current_database()
union all select 'trigger', tgname from pg_trigger where tgname ~ 'walferry'
union all select 'function', proname from pg_proc where proname ~ 'walferry'
union all select 'origin', roname from pg_replication_origin where roname ~ '`+m.Name+`'`) {
			m.t.Errorf("the %s still has %s %s", side, row[0], row[1])
		}
	}
}

// hint is what an error says that the operator can do.
func hint(err error) string {
	var h interface{ Hint() string }
	if !errors.As(err, &h) {
		return ""
	}
	return h.Hint()
}

// phaseOf asks the target where a migration stands.
func phaseOf(c migration.Config) string {
	return `select phase from walferry.migration where name = '` + c.Name + `'`
}

// line is a connection for a question that is asked again and again, and is made anew when it was lost.
type line struct {
	dsn  string
	conn *pgconn.PgConn
}

func newLine(t *testing.T, dsn string) *line {
	l := &line{dsn: dsn}
	t.Cleanup(l.hangUp)
	return l
}

func (l *line) hangUp() {
	if l.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		l.conn.Close(ctx) //nolint:errcheck // it may be lost
		l.conn = nil
	}
}

// ask returns the first value of a query as text; of no row, an error.
func (l *line) ask(sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if l.conn == nil || l.conn.IsClosed() {
		conn, err := pgconn.Connect(ctx, l.dsn)
		if err != nil {
			return "", err
		}
		l.conn = conn
	}
	result := l.conn.ExecParams(ctx, sql, nil, nil, nil, nil).Read()
	if result.Err != nil {
		return "", result.Err
	}
	if len(result.Rows) == 0 {
		return "", io.EOF
	}
	return string(result.Rows[0][0]), nil
}

// one runs a query of one value.
func one[T any](t *testing.T, dsn, sql string, args ...any) T {
	t.Helper()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var v T
	if err := conn.QueryRow(ctx, sql, args...).Scan(&v); err != nil {
		t.Fatalf("%v\nin: %s", err, sql)
	}
	return v
}
