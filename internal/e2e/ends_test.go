package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// fenceOf reads the fence of a migration.
func (m *moving) fenceOf() cutover.State {
	m.t.Helper()
	state, err := cutover.Look(context.Background(), hold(m.t, m.Source, "").conn, m.Name)
	if err != nil {
		m.t.Fatal(err)
	}
	return state
}

// Two migrations of one name, on other servers: with the source of the one and the target of
// the other nothing is done, whatever is asked, and both go on. So it is with another database
// of the right server.
func TestEnds_OtherSource(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	other, otherTarget := pgtest.Pair(t, 13, 18)
	neighbour, _ := pgtest.Pair(t, 15, 18)
	for _, dsn := range []string{source, other, neighbour} {
		pgtest.Exec(t, dsn, `create table t (id int primary key); insert into t values (1)`)
	}
	mine := newMoving(t, "other_source", source, target)
	theirs := &moving{t, mine.Config}
	theirs.Source, theirs.Target = other, otherTarget
	run, theirRun := mine.start(), theirs.start()
	run.waitFor(migration.Following)
	theirRun.waitFor(migration.Following)

	attempts := map[string]func(migration.Config) error{
		"abort": func(c migration.Config) error { return migration.Abort(context.Background(), c) },
		"verify": func(c migration.Config) error {
			_, err := migration.Verify(context.Background(), c, migration.VerifyOptions{})
			return err
		},
		"cutover": func(c migration.Config) error { _, err := migration.Cutover(context.Background(), c, nil); return err },
		"cleanup": func(c migration.Config) error { _, err := migration.Cleanup(context.Background(), c); return err },
	}
	try := func(names ...string) {
		t.Helper()
		for what, wrong := range map[string]string{"system identifier": other, "database": neighbour} {
			c := mine.Config
			c.Source = wrong
			for _, name := range names {
				err := attempts[name](c)
				var identity *decoder.IdentityError
				if !errors.As(err, &identity) || identity.What != what {
					t.Errorf("%s with a source of another %s: %v", name, what, err)
				}
			}
		}
	}
	try("abort", "verify", "cutover", "cleanup")
	for _, m := range []*moving{mine, theirs} {
		pgtest.Exec(t, m.Source, `insert into t values (2)`)
	}
	mine.caughtUp(run)
	theirs.caughtUp(theirRun)
	mine.cutover(run)
	theirs.cutover(theirRun)
	try("cleanup")
	for _, m := range []*moving{mine, theirs} {
		if !m.fenceOf().Sealed {
			t.Errorf("the source of %s is not sealed any more", m.Target)
		}
	}
	mine.cleanup()
	if !theirs.fenceOf().Sealed {
		t.Error("the cleanup of one migration has opened the other's source")
	}
	theirs.cleanup()
}

// An abort that was asked while the cutover was still under way, and gets the lock when that
// has come to its end, finds the new phase: the source stays closed.
func TestEnds_AbortWhileFinishing(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table t (id int primary key); create sequence seq; select setval('seq', 7)`)
	m := newMoving(t, "abort_late", source, target)
	r := m.start()
	r.waitFor(migration.Following)
	sequence := hold(t, target, `alter sequence seq cache 7`)
	cut := make(chan error, 1)
	go func() {
		c := m.Config
		c.Cut.MaxLag, c.Cut.Timeout = patience, patience
		_, err := migration.Cutover(context.Background(), c, nil)
		cut <- err
	}()
	asked := newLine(t, target)
	m.eventually("a cutover that waits for the sequence", func() bool {
		phase, err := asked.ask(phaseOf(m.Config))
		return err == nil && phase == string(migration.Drained)
	})

	proxy := pgtest.ProxyFor(t, target)
	arrived, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	proxy.Watch(func(s pgtest.Step) pgtest.Fault {
		if strings.Contains(s.Statement, "pg_try_advisory_lock") {
			once.Do(func() { close(arrived) })
			<-release
		}
		return pgtest.Fault{}
	})
	late := m.Config
	late.Target = proxy.Through(target)
	aborted := make(chan error, 1)
	go func() { aborted <- migration.Abort(context.Background(), late) }()
	<-arrived
	sequence.rollback()
	if err := <-cut; err != nil {
		t.Fatalf("cutover: %v", err)
	}
	if outcome, err := r.end(); err != nil || outcome.Phase != migration.Finished {
		t.Fatalf("migrate ended with %+v, %v", outcome, err)
	}
	close(release)
	err := <-aborted
	gate := fail.Find(err, fail.Gate)
	if gate == nil || !strings.Contains(gate.Problem, "the cutover is done") {
		t.Errorf("abort: %v, want a gate that says that the cutover is done", err)
	}
	if !m.fenceOf().Sealed {
		t.Error("abort has opened the source of a cutover that was done")
	}
	if got := one[string](t, target, phaseOf(m.Config)); got != string(migration.Finished) {
		t.Errorf("the phase is %s", got)
	}
	m.cleanup()
}

// A lock that is still there when its process has gone is waited for by all who take it.
func TestEnds_LockOfTheGone(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 15)
	pgtest.Exec(t, source, `create table t (id int primary key)`)
	m := newMoving(t, "gone", source, target)
	proxy := pgtest.ProxyFor(t, target)
	var lock *held
	var mu sync.Mutex
	tries := 0
	proxy.Watch(func(s pgtest.Step) pgtest.Fault {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(s.Statement, "pg_try_advisory_lock") {
			if tries++; tries == 3 && lock != nil { // two attempts have met it
				lock.rollback()
			}
		}
		return pgtest.Fault{}
	})
	through := &moving{t, m.Config}
	through.Target = proxy.Through(target)
	heldLock := func() {
		mu.Lock()
		defer mu.Unlock()
		tries, lock = 0, hold(t, target, fmt.Sprintf(`select pg_advisory_xact_lock(1463897158, hashtext('%s'))`, m.Name))
	}
	heldLock()
	r := through.start()
	r.waitFor(migration.Following)
	mu.Lock()
	lock = nil
	mu.Unlock()
	r.cancel()
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.eventually("the end of migrate's sessions", func() bool {
		return one[int](t, target, `select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())`) == 0
	})
	pgtest.Exec(t, target, `update walferry.migration set phase = 'indexing'`) // of one that follows abort would ask
	heldLock()
	if err := migration.Abort(context.Background(), through.Config); err != nil {
		t.Errorf("abort: %v", err)
	}
	heldLock()
	if _, err := migration.Cleanup(context.Background(), through.Config); err != nil {
		t.Errorf("cleanup: %v", err)
	}
	m.nothingLeft()
}
