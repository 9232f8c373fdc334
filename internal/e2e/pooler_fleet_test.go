package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// A PgBouncer that dies while the clients of two are held keeps nobody waiting at the other: not before the seal, when the switch is
// taken back, nor after it. When it is back its clients are where the others are.
func TestPooler_OneDies(t *testing.T) {
	t.Parallel()
	pgtest.EachBouncer(t, func(t *testing.T, program string) {
		s := newSteeredBy(t, 2, program, 13, 15)
		second := s.all[1]
		s.clients(4, simply)
		s.start()
		continues := func() { // those of the first
			t.Helper()
			s.await("the first, which does not hold its clients", func() bool { _, _, paused := s.place(s.all[0]); return !paused })
			s.load.more()
		}
		for _, event := range []string{"hold", "fenced", "redirect"} {
			s.until(event, "cutover")
			second.Signal(t, syscall.SIGKILL)
			s.remove("wait-" + event)
			continues()
			second.Restart(t)
			s.await("the end of what could not be undone", func() bool { return !s.recorded() })
			s.load.more()
			s.at("the second had died at "+event, s.Source)
		}
		// It was restarted before the redirect: it would let its clients through to a server that is not open.
		s.until("redirect", "cutover")
		second.Signal(t, syscall.SIGKILL)
		second.Restart(t)
		s.remove("wait-redirect")
		continues()
		s.await("the end of that switch", func() bool { return !s.recorded() && !s.sealed() })
		s.at("the second was restarted before the redirect", s.Source)

		function := s.beforeSeal()
		second.Signal(t, syscall.SIGKILL)
		function.rollback()
		continues()
		second.Restart(t)
		waitFor(t, "the end", s.Config, func(st migration.Status) bool { return st.Phase == migration.Finished })
		s.await("a record of that", func() bool { return !s.recorded() })
		s.load.more()
		s.at("the second had died before the seal", s.Target)
		s.load.stop()
		for _, err := range s.load.failed() {
			if !ofDeath(err) && !strings.Contains(err, "WF001") { // those of one that was restarted come to the fence
				t.Errorf("a client saw: %s", err)
			}
		}
		s.kept(s.Target)
	})
}

// ofDeath reports whether an error is that of a connection whose other end has died, or is not there.
func ofDeath(text string) bool {
	for _, s := range []string{"EOF", "connection refused", "reset by peer", "broken pipe", "conn closed"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// recorded reports whether there is a record of clients who are held.
func (s *steered) recorded() bool {
	s.Helper()
	answer, err := newLine(s.T, s.Target).ask(fmt.Sprintf(`select (clients is not null and (clients ->> 'over')::bool is not true)::text from walferry.migration where name = '%s'`, s.Name))
	if err != nil {
		s.Fatal(err)
	}
	return answer == "true"
}

// Migrate is killed at random moments of cutovers and fallbacks whose clients come through two PgBouncers. Whatever the moment, the clients
// continue by themselves, without an error, and all of them at one server.
func TestPooler_RandomKills(t *testing.T) {
	t.Parallel()
	rounds, seed := 4, rand.Uint64()
	if text := os.Getenv("WALFERRY_TEST_POOLER_ROUNDS"); text != "" {
		rounds, _ = strconv.Atoi(text)
	}
	if text := os.Getenv("WALFERRY_TEST_POOLER_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	pgtest.EachBouncer(t, func(t *testing.T, program string) {
		t.Logf("WALFERRY_TEST_POOLER_SEED=%d", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		p := newPooledBy(t, 2, program, 13, 15, "--fall-back", "require", "--max-retained-wal-target", "50GB")
		p.clients(4, simply, connected)
		p.start()
		way := "cutover"
		ready := func() {
			t.Helper()
			waitFor(t, "a migrate that can switch", p.Config, func(st migration.Status) bool {
				return st.Running && (way == "cutover" && st.Phase == migration.Following || way == "fallback" && st.Phase == migration.Switched)
			})
		}
		code, _, r := p.ask("cutover", "--dry-run")
		if code != 0 || r.HeldMS == nil {
			t.Fatalf("the rehearsal: exit code %d, %+v", code, r)
		}
		held := time.Duration(*r.HeldMS) * time.Millisecond
		for range rounds {
			ready()
			cmd := walferry(t, p.Config, way, "--max-lag", "1m")
			says, err := cmd.StderrPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			// From just before the hold to some time after the end.
			for lines := bufio.NewScanner(says); lines.Scan() && !strings.Contains(lines.Text(), "to let the clients continue by hand"); {
			}
			after := time.Duration(random.Int64N(int64(2 * held)))
			time.Sleep(after)
			p.migrate.Process.Kill() //nolint:errcheck // Wait tells
			p.migrate.Process.Wait() //nolint:errcheck // killed
			cmd.Process.Kill()       //nolint:errcheck // Wait tells
			if err := cmd.Wait(); err != nil && cmd.ProcessState == nil {
				t.Fatal(errors.Unwrap(err))
			}
			p.load.more()
			eventually(t, "clients who are not held any more", func() (bool, string) { return !p.held(), "" })
			p.load.more()
			p.quiet()
			st := status(t, p.Config)
			if st.Owner == nil {
				t.Fatalf("%s, killed after %s, phase %s: nobody owns the database", way, after, st.Phase)
			}
			open := map[string]string{"old": p.Source, "new": p.Target}[*st.Owner] // the phase is that of the last run, until the next one
			p.at(fmt.Sprintf("%s, killed after %s, phase %s, owner %s", way, after, st.Phase, *st.Owner), open)
			way = map[string]string{p.Source: "cutover", p.Target: "fallback"}[open]
			p.migrate = process(t, p.Config, p.flags...)
		}
		ready()
		if code, _, _ := p.ask(way); code != 0 {
			t.Fatalf("the last %s: exit code %d", way, code)
		}
		p.load.more()
		end := map[string]string{"cutover": p.Target, "fallback": p.Source}[way]
		p.at("at the end", end)
		p.whole(end)
	})
}
