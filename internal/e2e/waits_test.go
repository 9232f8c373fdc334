package e2e

import (
	"context"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// Whoever looks at status sees whom migrate waits for before it has its slot, and whom a verify waits for before it has asked.
func TestStatus_WaitsFor(t *testing.T) {
	t.Parallel()
	server := pgtest.New(t, pgtest.Options{Major: 15})
	source, target := server.Database(t), pgtest.Shared(t, 18).Database(t)
	pgtest.Exec(t, source, `create table t (id int primary key); create table log (v text)`)
	m := newMoving(t, "waits_for", source, target)
	m.InsertOnly = []string{"public.log"}
	read := func() migration.Status {
		st, err := migration.ReadStatus(context.Background(), m.Config)
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	writer := hold(t, source, `set application_name = 'nightly report'; select txid_current()`)
	holder := hold(t, source, `set application_name = 'log rotation'; lock table log in row exclusive mode`)
	r := m.start()
	m.eventually("a migrate that says whose lock it waits for", func() bool {
		step := read().Step
		return strings.HasPrefix(step, `waiting for a lock of "public"."log", held by `) && strings.Contains(step, "log rotation")
	})
	holder.rollback()
	m.eventually("a migrate that says whom it waits for", func() bool {
		st := read()
		return st.Phase == migration.New && strings.HasPrefix(st.Step, "waiting for 1 open transactions") && strings.Contains(st.Step, "nightly report")
	})
	writer.rollback()
	r.waitFor(migration.Following)
	m.eventually("nothing that it waits for", func() bool { return read().Step == "" })

	writer = hold(t, source, `set application_name = 'monthly report'; select txid_current()`)
	m.old(source)
	done := make(chan error, 1)
	go func() {
		_, err := migration.Verify(context.Background(), m.Config, migration.VerifyOptions{Patience: patience})
		done <- err
	}()
	m.eventually("a verify that waits", func() bool {
		asked := read().Requests
		return len(asked) == 1 && asked[0].Kind == "verify" && !asked[0].Begun && len(asked[0].Holders) == 1 && asked[0].Holders[0].Application == "monthly report"
	})
	writer.rollback()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	m.eventually("nobody who waits", func() bool { return len(read().Requests) == 0 })
	m.cutover(r)
	m.cleanup()
}
