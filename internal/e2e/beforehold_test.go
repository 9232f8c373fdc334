package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// refusesToHold verifies, and wants a gate with these words before the applier is held.
func (m *moving) refusesToHold(words, advice string) {
	m.t.Helper()
	asked := one[int](m.t, m.Target, `select count(*) from walferry.request where kind = 'hold'`)
	_, err := migration.Verify(m.t.Context(), m.Config, migration.VerifyOptions{Patience: 2 * time.Second})
	gate := fail.Find(err, fail.Gate)
	if gate == nil || !strings.Contains(gate.Problem, words) || !strings.Contains(gate.Advice, advice) {
		m.t.Errorf("verify ended with %v, hint %s; want a gate with %q, %q", err, hint(err), words, advice)
	}
	if got := one[int](m.t, m.Target, `select count(*) from walferry.request where kind = 'hold'`); got != asked {
		m.t.Errorf("the applier was to be held %d times more", got-asked)
	}
}

// old waits until the oldest transaction of a database that has written is older than a second.
func (m *moving) old(source string) {
	m.t.Helper()
	m.eventually("a transaction that is waited for", func() bool {
		return one[bool](m.t, source, `select coalesce(max(clock_timestamp() - xact_start) > interval '2 seconds', false) from pg_stat_activity where backend_xid is not null`)
	})
}

// Whoever would keep the snapshot of a comparison from being taken, or the applier from standing, is waited
// for and named before the applier is held: an open transaction that has written, in whatever database,
// a prepared one, a lock on the target. Meanwhile changes go on being applied.
func TestVerify_BeforeItHolds(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{Major: 15})
	source, target := server.Database(t), pgtest.Shared(t, 18).Database(t)
	pgtest.Exec(t, source, `create table t (id int primary key)`)
	m := newMoving(t, "before_hold", source, target)
	r := m.start()
	r.waitFor(migration.Following)

	writer := hold(t, server.URL("postgres"), `set application_name = 'nightly report'; select txid_current()`)
	m.old(server.URL("postgres"))
	pgtest.Exec(t, source, `insert into t values (1)`)
	m.refusesToHold(`"nightly report", a transaction of`, fmt.Sprintf("pg_terminate_backend(%d)", writer.conn.PgConn().PID()))
	m.caughtUp(r)
	writer.do(`prepare transaction 'left behind'`)
	m.eventually("a prepared transaction that is waited for", func() bool {
		return one[bool](t, source, `select max(clock_timestamp() - prepared) > interval '2 seconds' from pg_prepared_xacts`)
	})
	m.refusesToHold("a prepared transaction", "pg_prepared_xacts")
	pgtest.Exec(t, server.URL("postgres"), `rollback prepared 'left behind'`)

	lock := hold(t, target, `set application_name = 'someone'; lock table t in share mode`)
	pgtest.Exec(t, source, `insert into t values (2)`)
	m.eventually("an applier that waits", func() bool {
		return one[bool](t, target, `select exists(select from pg_stat_activity where wait_event_type = 'Lock' and application_name like 'walferry % apply' and datname = current_database())`)
	})
	m.refusesToHold(`the applier waits for a lock on the target, held by pid`, fmt.Sprintf("pg_terminate_backend(%d)", lock.conn.PgConn().PID()))
	lock.rollback()

	m.caughtUp(r)
	m.verified()
	m.cutover(r)
	m.cleanup()
}

// REPACK (CONCURRENTLY) of version 19 has a transaction id for as long as it runs, hours with a large table, and
// locks: verify and cutover name it as what it is, and go on once it has ended. It begins by waiting for
// whoever has written, with the lock that the fence's triggers wait for; while its end waits for a reader, even what
// reads the catalogue waits behind it.
func TestPostgres19_Repack(t *testing.T) {
	t.Parallel()
	const named = `REPACK (CONCURRENTLY))`
	for _, c := range []struct{ name, other, waits, lock string }{
		{"begins", `select txid_current()`, `ShareLock`, `of %t% on the source; held by`}, // its second process does, for the transaction
		{"ends", `select count(*) from t`, `AccessExclusiveLock`, `on the source, held by`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := pgtest.New(t, pgtest.Options{Major: 19})
			source, target := server.Database(t), pgtest.Shared(t, 19).Database(t)
			pgtest.Exec(t, source, `create table t (id int primary key, v text); insert into t select i, 'v' from generate_series(1, 1000) i`)
			m := newMoving(t, "repack_"+c.name, source, target)
			r := m.start()
			r.waitFor(migration.Following)

			other := hold(t, source, c.other)
			admin := hold(t, source, `commit`)
			repacked := make(chan error, 1)
			go func() {
				_, err := admin.conn.PgConn().Exec(context.Background(), `repack (concurrently) t`).ReadAll()
				repacked <- err
			}()
			m.eventually("REPACK to wait for the other one", func() bool {
				return one[bool](t, source, `select exists(select from pg_locks where mode = 'ShareUpdateExclusiveLock' and granted and relation = 't'::regclass)
   and exists(select from pg_locks where mode = '`+c.waits+`' and not granted)`)
			})
			m.old(source)
			if c.name == "begins" {
				m.refusesToHold("idle in transaction, BEGIN)", fmt.Sprintf("pg_terminate_backend(%d)", other.conn.PgConn().PID()))
			} else {
				m.refusesToHold(named, fmt.Sprintf("pg_terminate_backend(%d)", admin.conn.PgConn().PID()))
			}

			config := m.Config
			config.Cut.MaxLag, config.Cut.Timeout = patience, patience
			a := m.ask(config)
			m.eventually("the cutover to say whom it waits for", func() bool {
				return one[bool](t, target, `select exists(select from walferry.request, unnest(steps) step where kind = 'cutover'
  and step like '%waiting for a lock `+c.lock+` %`+named+`%')`)
			})
			other.commit()
			if err := <-repacked; err != nil {
				t.Error(err)
			}
			if <-a.done; a.err != nil {
				t.Fatal(a.err)
			}
			<-r.done
			sameRows(t, source, target)
			m.cleanup()
		})
	}
}
