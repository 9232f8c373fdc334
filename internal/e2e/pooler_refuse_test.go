package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

// What can fail lies before the seal: whatever it is, the clients continue where they were, without an
// error, and the next switch works.
func TestPoolerRefused(t *testing.T) {
	t.Parallel()
	pgtest.EachBouncer(t, func(t *testing.T, program string) {
		s := newSteered(t, program, 13, 15)
		s.clients(4, simply, connected)
		s.start()
		stays := func(what string) {
			t.Helper()
			s.load.more()
			s.at(what, s.Source)
			s.quiet()
		}
		for event, told := range map[string]string{
			"hold": "hold, undo, release source", "fenced": "hold, fenced, undo, release source", "redirect": "hold, fenced, redirect, undo, release source", "check": "",
		} {
			s.remove("events")
			s.touch("events")
			s.touch("refuse-" + event)
			code, text, _ := s.ask("cutover")
			if code != 4 || !strings.Contains(text, "does not agree to "+event) || !strings.Contains(text, "not at "+event) {
				t.Errorf("refused at %s: exit code %d", event, code)
			}
			s.remove("refuse-" + event)
			stays("refused at " + event)
			if got := s.events(); got != told {
				t.Errorf("refused at %s: the hook was called for %s; want %s", event, got, told)
			}
		}

		// Somebody's transaction is open for longer than clients may wait.
		restart := func(more ...string) {
			t.Helper()
			s.kill()
			s.migrate = process(t, s.Config, append(slices.Clone(s.flags), more...)...)
			follows(t, s.Config, 0)
		}
		restart("--hold-timeout", "1s")
		conn, err := pgx.Connect(context.Background(), s.bouncer.URL("app")+"&default_query_exec_mode=simple_protocol")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		tx, err := conn.Begin(context.Background())
		if err == nil {
			_, err = tx.Exec(context.Background(), `select 1`)
		}
		if err != nil {
			t.Fatal(err)
		}
		s.load.stall()
		if code, text, _ := s.ask("cutover"); code != 4 || !strings.Contains(text, "a transaction of theirs is open for longer") {
			t.Errorf("a long transaction: exit code %d", code)
		}
		stays("after a long transaction")
		t.Logf("held for a transaction that does not end: %s", s.load.stall())
		if _, err := tx.Exec(context.Background(), `select 2`); err != nil {
			t.Errorf("the long transaction: %v", err)
		}
		if err := tx.Commit(context.Background()); err != nil {
			t.Errorf("the long transaction: %v", err)
		}

		restart()

		// The file cannot be read, of which 1.18 says nothing.
		s.bouncer.Rewrite(t, func(text string) string {
			return strings.Replace(text, "[databases]", "[databases]\nnonsense", 1)
		})
		if code, text, _ := s.ask("cutover"); code != 4 || !strings.Contains(text, "redirect clients") {
			t.Errorf("a file that cannot be read: exit code %d", code)
		}
		stays("a file that cannot be read")
		s.bouncer.Rewrite(t, func(text string) string {
			return strings.Replace(text, "[databases]\nnonsense", "[databases]", 1)
		})

		// After the seal there is only the way forward: it is tried again until it works.
		s.touch("once-opened")
		s.touch("once-release")
		if code, _, _ := s.ask("cutover"); code != 0 {
			t.Fatalf("the cutover: exit code %d", code)
		}
		s.load.more()
		s.at("after the cutover", s.Target)
		s.whole(s.Target)
	})
}
