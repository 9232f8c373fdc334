package slot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

// writer begins a transaction that has written, and ends it with the test.
func writer(t *testing.T, url, application string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["application_name"] = application
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	if _, err := conn.Exec(t.Context(), "begin; create table written (a int)"); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestMain(m *testing.M) { pgtest.Main(m) }

// slotFor is a name that no other test on the server has.
func slotFor(t *testing.T) string {
	return fmt.Sprintf("x_%d_%x", time.Now().UnixNano()%1e9, t.Name()[:2])
}

func slots(t *testing.T, url, slot string) string {
	t.Helper()
	return pgtest.Query(t, url, fmt.Sprintf(`select count(*) from pg_replication_slots where slot_name = '%s'`, slot))[0][0]
}

// A slot waits for transactions in all databases of the server, so these
// tests have servers of their own.
func TestExport_Blocked(t *testing.T) {
	for _, major := range []int{10, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			server := pgtest.New(t, pgtest.Options{Major: major})
			url, other := server.Database(t), server.Database(t)
			conn := writer(t, other, "nightly batch")
			pgtest.Exec(t, url, `create table p (a int); begin; insert into p values (1); prepare transaction 'left over'`)

			var seen [][]Blocker
			_, err := Export(t.Context(), url, ExportConfig{
				Slot: "blocked", LockTimeout: 50 * time.Millisecond, Wait: 500 * time.Millisecond,
				OnBlocked: func(b []Blocker) { seen = append(seen, b) },
			})
			var blocked *BlockedError
			if !errors.As(err, &blocked) {
				t.Fatalf("got error %v, want a BlockedError", err)
			}
			for _, want := range []string{"nightly batch", fmt.Sprint("pid ", conn.PgConn().PID()), "idle in transaction", `prepared transaction "left over"`, "user postgres"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error does not tell %q: %v", want, err)
				}
			}
			if hint := blocked.Hint(); !strings.Contains(hint, fmt.Sprintf("pg_terminate_backend(%d)", conn.PgConn().PID())) || !strings.Contains(hint, "rollback prepared 'left over'") {
				t.Errorf("hint: %s", hint)
			}
			if len(seen) < 2 {
				t.Errorf("OnBlocked was called %d times, want one for each attempt", len(seen))
			}
			if got := slots(t, url, "blocked"); got != "0" {
				t.Errorf("a slot stayed: %s", got)
			}

			// Once the blockers end, the same call that waits gets its slot.
			pgtest.Exec(t, url, `commit prepared 'left over'`)
			e, err := Export(t.Context(), url, ExportConfig{
				Slot: "blocked", LockTimeout: 50 * time.Millisecond,
				OnBlocked: func([]Blocker) { conn.Exec(context.Background(), "commit") },
			})
			if err != nil {
				t.Fatal(err)
			}
			e.Close(t.Context())
			if got := slots(t, url, "blocked"); got != "1" {
				t.Errorf("after Close there are %s slots, want the one", got)
			}

			_, err = Export(t.Context(), url, ExportConfig{Slot: "blocked"})
			var exists *ExistsError
			if !errors.As(err, &exists) {
				t.Errorf("second slot of the name: got error %v", err)
			}
		})
	}
}

func TestExport_CancelledWhileWaiting(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{Major: 15})
	url := server.Database(t)
	writer(t, url, "")
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	go func() {
		for { // until the half-made slot is there
			if rows := pgtest.Query(t, url, `select 1 from pg_stat_activity where wait_event = 'transactionid'`); len(rows) > 0 {
				cancel(enough)
				return
			}
		}
	}()
	_, err := Export(ctx, url, ExportConfig{Slot: "cancelled"})
	if !errors.Is(err, enough) {
		t.Errorf("got error %v, want the reason of the cancellation", err)
	}
	if got := slots(t, url, "cancelled"); got != "0" {
		t.Errorf("a slot stayed: %s", got)
	}
	if rows := pgtest.Query(t, url, `select pid, state, query from pg_stat_activity where application_name like 'walferry%'`); len(rows) > 0 {
		t.Errorf("a connection stayed: %q", rows)
	}
}

func TestExport_Temporary(t *testing.T) {
	source, _ := pgtest.Pair(t, 18, 18)
	slot := slotFor(t)
	e, err := Export(t.Context(), source, ExportConfig{Slot: slot, Temporary: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := slots(t, source, slot); got != "1" {
		t.Errorf("%s slots while it lives", got)
	}
	e.Close(t.Context())
	for deadline := time.Now().Add(30 * time.Second); slots(t, source, slot) != "0"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the temporary slot does not end")
		}
	}
}

func TestExport_Name(t *testing.T) {
	for _, name := range []string{"", "Upper", "da-sh", `q"uote`, strings.Repeat("x", 64), "ü"} {
		if _, err := Export(t.Context(), "host=/nonexistent", ExportConfig{Slot: name}); err == nil || !strings.Contains(err.Error(), "1 to 63") {
			t.Errorf("slot name %q: got error %v", name, err)
		}
	}
}
