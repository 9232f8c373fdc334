package flow

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/wait"
	"github.com/walferry/walferry/slot"
)

// A fast shutdown waits until every reader of a slot has confirmed everything. That of a flow does so at once, in both directions,
// though it stores positions rarely: being followed costs a server no more than its own restart.
func TestRunning_Shutdown(t *testing.T) {
	t.Parallel()
	for _, majors := range [][2]int{{10, 18}, {13, 15}} {
		t.Run(fmt.Sprint(majors), func(t *testing.T) {
			t.Parallel()
			var servers [2]*pgtest.Server
			var alone [2]time.Duration // three restarts
			for i, major := range majors {
				servers[i] = pgtest.New(t, pgtest.Options{Major: major})
				began := time.Now()
				for range 3 {
					stop(t, servers[i])
				}
				alone[i] = time.Since(began)
			}
			b := newBothOn(t, servers[0].Database(t), servers[1].Database(t), false)
			b.follow()
			a, err := b.back.Arm(t.Context(), b.published, slot.ExportConfig{})
			if err != nil {
				t.Fatal(err)
			}
			b.start(b.back, a.Identity, 0)
			n := 0
			for i, dsn := range []string{b.old, b.young} {
				var followed time.Duration
				for range 3 {
					n++
					pgtest.Exec(t, dsn, fmt.Sprintf(`insert into own.t values (%d, 'x')`, n))
					b.again(b.forth)
					b.again(b.back)
					pgtest.Exec(t, dsn, `select pg_logical_emit_message(true, 'other', 'of which the flow has nothing but the position')`)
					followed += stop(t, servers[i])
				}
				t.Logf("three restarts of %d: %s; three shutdowns while it is followed: %s", majors[i], alone[i], followed)
				if followed > 2*alone[i] {
					t.Errorf("three shutdowns of %d took %s while it was followed; restarted alone %s", majors[i], followed, alone[i])
				}
			}
			b.again(b.forth)
			b.again(b.back)
			b.rows(b.old, "1 2 3 4 5 6")
			b.rows(b.young, "1 2 3 4 5 6")
			b.quiet()
		})
	}
}

// stop stops a server and starts it again, and returns how long the former took.
func stop(t *testing.T, server *pgtest.Server) time.Duration {
	t.Helper()
	began := time.Now()
	if err := server.Stop(t.Context(), "fast"); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return took
}

// again is through, after a server was restarted.
func (b *both) again(f *Flow) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	for {
		_, err := b.running[f].Canary(ctx)
		if err == nil {
			return
		}
		if wait.Sleep(ctx, 50*time.Millisecond) != nil {
			b.t.Fatalf("%s: %v", f.Name, err)
		}
	}
}
