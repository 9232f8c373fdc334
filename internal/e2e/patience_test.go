package e2e

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// expired is how each of the time-outs is told.
var expired = regexp.MustCompile(`due to .*timeout`)

// Both servers have time-outs of a second for everything that has one, the copy takes longer
// than that, and then somebody locks a table of the target for several of them. The walsender
// lives, no connection is lost, and the rows arrive when the lock is gone. WALFERRY_TEST_LOCK=10m
// holds it for longer.
func TestTimeoutsOfASecond(t *testing.T) {
	t.Parallel()
	length := 4 * time.Second
	if text := os.Getenv("WALFERRY_TEST_LOCK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	from, to := pgtest.Default()
	servers, dsns := map[string]*pgtest.Server{}, map[string]string{}
	for side, major := range map[string]int{"source": from, "target": to} {
		servers[side] = pgtest.New(t, pgtest.Options{Major: major, Settings: map[string]string{"wal_sender_timeout": "1s"}})
		dsns[side] = servers[side].Database(t)
		pgtest.Exec(t, dsns[side], mover+`; alter role mover set statement_timeout = '1s'; alter role mover set lock_timeout = '1s'; alter role mover set idle_in_transaction_session_timeout = '1s'`)
	}
	source, target := dsns["source"], dsns["target"]
	pgtest.Exec(t, source, `create table t (id int primary key, v text)`)
	const filler = `(select string_agg(md5(n::text), '') from generate_series(1, 30) n)`
	pgtest.Exec(t, source, `insert into t select i, `+filler+` from generate_series(1, 4000) i`)
	p := pgtest.ProxyFor(t, source)
	p.Set(pgtest.Network{Rate: 1 << 20}) // a copy of some seconds, in a snapshot of a session that does nothing
	m := newMoving(t, "timeouts", source, target)
	through := *m
	through.Config.Source, through.Config.Target = asMover(p.Through(source)), asMover(target)
	r := through.start()
	r.m = m
	r.waitFor(migration.Following)
	p.Set(pgtest.Network{})

	const senders = `select coalesce(string_agg(pid::text, ','), '') from pg_stat_replication`
	before := one[string](t, source, senders)
	lock := hold(t, target, `lock table t in access exclusive mode`)
	const writes = 40
	for i := 10000; i < 10000+100*writes; i += 100 {
		pgtest.Exec(t, source, `insert into t select i, `+filler+` from generate_series(`+strconv.Itoa(i)+`, `+strconv.Itoa(i+99)+`) i`)
		time.Sleep(length / writes) // being slow is what this is about
	}
	if n := one[int](t, target, `select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name like 'walferry%'`); n == 0 {
		t.Error("nothing of walferry waits for the lock")
	}
	if after := one[string](t, source, senders); after != before || before == "" {
		t.Errorf("walsender %q has become %q", before, after)
	}
	lock.rollback()
	m.caughtUp(r)
	sameRows(t, source, target)
	m.cutover(r)
	for name, server := range servers {
		for line := range strings.Lines(server.Log()) {
			if expired.MatchString(line) {
				t.Errorf("log of the %s: %s", name, line)
			}
		}
	}
	m.cleanup()
}
