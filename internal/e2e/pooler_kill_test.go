package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// steered is a pooled migration with a hook that a test can have wait, or refuse, at an event.
type steered struct {
	*pooled
	dir string
}

// steering is the hook: it notes each event, and does as the files tell it.
const steering = `
echo "$WALFERRY_EVENT $WALFERRY_DRY_RUN $WALFERRY_OPEN_SIDE" >> "$dir/events"
touch "$dir/at-$WALFERRY_EVENT"
while [ -e "$dir/wait-$WALFERRY_EVENT" ]; do sleep 0.02; done
if [ -e "$dir/refuse-$WALFERRY_EVENT" ]; then echo "not at $WALFERRY_EVENT" >&2; exit 1; fi
if [ -e "$dir/once-$WALFERRY_EVENT" ]; then rm "$dir/once-$WALFERRY_EVENT"; exit 1; fi
exit 0
`

func newSteered(t *testing.T, program string, from, to int, more ...string) *steered {
	t.Helper()
	return newSteeredBy(t, 1, program, from, to, more...)
}

func newSteeredBy(t *testing.T, count int, program string, from, to int, more ...string) *steered {
	t.Helper()
	hook, dir := hookScript(t, steering)
	p := newPooledBy(t, count, program, from, to, append([]string{"--hook", hook, "--hook-timeout", "20m", "--hold-timeout", "20m", "--fall-back", "off"}, more...)...)
	return &steered{p, dir}
}

func (s *steered) file(name string) string { return filepath.Join(s.dir, name) }

func (s *steered) touch(name string) {
	s.Helper()
	if err := os.WriteFile(s.file(name), nil, 0o600); err != nil {
		s.Fatal(err)
	}
}

func (s *steered) remove(names ...string) {
	for _, name := range names {
		os.Remove(s.file(name)) //nolint:errcheck // it may not be there
	}
}

// events returns what the hook was called for since it was last asked, without checks and phases.
func (s *steered) events() string {
	s.Helper()
	text, err := os.ReadFile(s.file("events"))
	if err != nil {
		s.Fatal(err)
	}
	s.remove("events")
	var events []string
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if event, rest, _ := strings.Cut(line, " "); event != "check" && event != "phase" {
			events = append(events, strings.TrimSpace(event+" "+strings.TrimSpace(strings.TrimPrefix(rest, "false"))))
		}
	}
	return strings.Join(events, ", ")
}

// until asks for a switch, and returns when the hook waits at an event.
func (s *steered) until(event string, args ...string) {
	s.Helper()
	s.remove("at-" + event)
	s.touch("wait-" + event)
	started(s.T, walferry(s.T, s.Config, append(args, "--timeout", "15m", "--max-lag", "3m")...))
	s.await("the hook at "+event, func() bool { _, err := os.Stat(s.file("at-" + event)); return err == nil })
}

func (s *steered) await(what string, holds func() bool) {
	s.Helper()
	eventually(s.T, what, func() (bool, string) { return holds(), "" })
}

func (s *steered) asked(what, dsn, sql string) {
	s.Helper()
	line := newLine(s.T, dsn)
	eventually(s.T, what, func() (bool, string) {
		answer, err := line.ask(sql)
		return answer == "true" || answer == "t", fmt.Sprintln(answer, err)
	})
}

// blocked waits until a statement of the migration waits for a lock.
func (s *steered) blocked(dsn, statement string) {
	s.Helper()
	s.asked("a statement that waits: "+statement, dsn, fmt.Sprintf(`select (exists(select from pg_stat_activity
 where application_name ~ '^walferry %s' and wait_event_type = 'Lock' and query ~* '%s'))::text`, s.Name, statement))
}

// kill returns while the guard, which writes to the same log, is at work: it may have to wait for what the test holds.
func (s *steered) kill() {
	s.Helper()
	s.migrate.Process.Kill() //nolint:errcheck // Wait tells
	s.migrate.Process.Wait() //nolint:errcheck // killed
}

func (s *steered) sealed() bool {
	s.Helper()
	conn, err := pgx.Connect(context.Background(), s.Source)
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close(context.Background())
	state, err := cutover.Look(context.Background(), conn, s.Name)
	if err != nil {
		s.Fatal(err)
	}
	return state.Sealed
}

// continues fails unless the clients continue by themselves, at a server, without an error.
func (s *steered) continues(what, dsn string) {
	s.Helper()
	s.load.more()
	s.quiet()
	s.await("clients who are not held any more", func() bool { return !s.held() })
	s.at(what, dsn)
	s.asked("a record of that", s.Target, fmt.Sprintf(`select ((clients ->> 'over')::bool is true)::text from walferry.migration where name = '%s'`, s.Name))
}

// Migrate is killed while it holds clients: they continue by themselves, on the server that is open, without
// an error, before anybody starts another migrate. That one then goes on.
func TestPoolerKilled(t *testing.T) {
	t.Parallel()
	pgtest.EachBouncer(t, func(t *testing.T, program string) {
		s := newSteered(t, program, 13, 15)
		s.clients(4, simply, connected)
		s.start()
		again := func() {
			t.Helper()
			s.migrate = process(t, s.Config, s.flags...)
			follows(t, s.Config, 0)
		}
		for _, event := range []string{"hold", "fenced", "redirect"} {
			s.until(event, "cutover")
			s.kill()
			s.continues("killed at "+event, s.Source)
			s.remove("wait-" + event)
			again()
		}
		s.until("fenced", "cutover", "--dry-run")
		s.kill()
		s.continues("killed in a rehearsal", s.Source)
		s.remove("wait-fenced")
		again()

		// Redirected, and being sealed: what the dead one has asked for never comes to be.
		function := s.beforeSeal()
		s.kill()
		pgtest.Exec(t, s.Source, fmt.Sprintf(`select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ '^walferry %s fence'`, s.Name))
		function.rollback()
		s.continues("killed before the seal", s.Source)
		again()
		if events := s.events(); !strings.Contains(events, "undo, release source") || strings.Contains(events, "opened") {
			t.Errorf("the hook was called for %s", events)
		}

		if code, _, _ := s.ask("cutover"); code != 0 {
			t.Fatalf("the cutover: exit code %d", code)
		}
		s.load.more()
		s.at("after the cutover", s.Target)
		s.whole(s.Target)
	})
}

// The seal that a dead migrate has asked for may come to be before the guard looks, or after: then the switch is finished, or taken
// back, and the clients are at the server that is open.
func TestPoolerKilled_Sealing(t *testing.T) {
	t.Parallel()
	pgtest.EachBouncer(t, func(t *testing.T, program string) {
		s := newSteered(t, program, 13, 15)
		s.clients(4, simply, connected)
		s.start()
		function := s.beforeSeal()
		s.kill()
		function.rollback()
		s.load.more()
		s.quiet()
		s.await("clients who are not held any more", func() bool { return !s.held() })
		s.asked("a record of that", s.Target, fmt.Sprintf(`select ((clients ->> 'over')::bool is true)::text from walferry.migration where name = '%s'`, s.Name))
		open := s.Source
		if st := status(t, s.Config); st.Phase == migration.Finished {
			open = s.Target
		} else if st.Phase != migration.Following || s.sealed() {
			t.Errorf("phase %s, sealed: %v", st.Phase, s.sealed())
		}
		s.at("killed while it was sealing", open)
		s.load.more()
		s.whole(open)
	})
}

// beforeSeal brings a cutover to where the clients are redirected and the fence is about to be sealed.
func (s *steered) beforeSeal() *held {
	s.Helper()
	s.until("redirect", "cutover")
	function := hold(s.T, s.Source, `lock table pg_proc in share mode`)
	s.remove("wait-redirect")
	s.blocked(s.Source, `raise exception`)
	return function
}

// Migrate is killed when there is no way back: the clients continue on the new server, which somebody
// else than a migrate has to open for them.
func TestPoolerKilled_Sealed(t *testing.T) {
	t.Parallel()
	pgtest.EachBouncer(t, func(t *testing.T, program string) {
		for name, kill := range map[string]func(s *steered){
			"sealed and not open": func(s *steered) {
				function := s.beforeSeal()
				row := hold(s.T, s.Target, fmt.Sprintf(`select 1 from walferry.migration where name = '%s' for update`, s.Name))
				function.rollback()
				s.blocked(s.Target, `finished.*; commit`)
				if !s.sealed() {
					s.Error("the new server is being opened, but the fence is not sealed")
				}
				s.kill()
				pgtest.Exec(s.T, s.Target, fmt.Sprintf(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'walferry %s open'`, s.Name))
				row.rollback()
			},
			"open": func(s *steered) {
				s.until("opened", "cutover")
				s.kill()
				s.remove("wait-opened")
			},
		} {
			t.Run(name, func(t *testing.T) {
				s := newSteered(t, program, 13, 15)
				s.clients(4, simply, connected)
				s.start()
				kill(s)
				s.continues("killed", s.Target)
				waitFor(t, "the end", s.Config, func(st migration.Status) bool { return st.Phase == migration.Finished })
				if events := s.events(); strings.Contains(events, "undo") || !strings.Contains(events, "release target") || !strings.Contains(events, "opened") {
					t.Errorf("the hook was called for %s", events)
				}
				s.whole(s.Target)
			})
		}
	})
}
