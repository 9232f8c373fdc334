package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/verify"
	"github.com/walferry/walferry/internal/wayback"
)

// past writes to a table of the old server past its fence, as an operator does who is told how.
func (m *moving) past(sql string) {
	m.t.Helper()
	pgtest.Exec(m.t, m.Source, wayback.Past(m.Name)+"; "+sql)
}

// compared verifies while the old server follows the new one.
func (m *moving) compared() verify.Verified {
	m.t.Helper()
	v, err := migration.Verify(context.Background(), m.Config, migration.VerifyOptions{})
	if err != nil {
		m.t.Fatalf("verify: %v\n%s", err, m.describe())
	}
	if v.SourceIs != "new" || v.Position == "" {
		m.t.Errorf("the comparison is %+v, want the new server as its source", v)
	}
	return v
}

// While the old server follows the new one, verify compares them at one position of the new server, under writes. What it finds
// is a gate of the fallback, as it is one of the cutover.
func TestFallBack_Verify(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 13, 17)
	pgtest.Exec(t, source, `create table t (id serial primary key, v text); insert into t (v) select 'old' from generate_series(1, 100);
create table u (a int, b text); alter table u replica identity full; insert into u values (1, 'x')`)
	m := newMoving(t, "fallback_verify", source, target)
	m.FallBack = migration.FallBackRequire
	r := m.start()
	r.waitFor(migration.Following)
	m.asked(migration.Cutover)
	r.waitFor(migration.Switched)
	stop := make(chan struct{})
	written := make(chan int)
	go func() {
		conn := newLine(t, target)
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				written <- n
				return
			default:
				if _, err := conn.ask(fmt.Sprintf(`insert into t (v) values ('new %d') returning id`, n)); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	if v := m.compared(); !v.AllEqual() || v.Compared != 2 {
		t.Errorf("verify finds %+v", v.Report)
	}
	close(stop)
	if n := <-written; n == 0 {
		t.Error("nothing was written meanwhile")
	}

	m.past(`update t set v = 'by hand' where id = 7; delete from t where id = 8`)
	v := m.compared()
	if table := v.Tables[0]; !v.Differs() || table.Name != "t" || table.DifferentRows != 1 || table.MissingRows != 1 || table.Missing[0].Key != "id=8" {
		t.Errorf("verify finds %+v, want a row that differs and one that is missing on the old server", v.Report)
	}
	c := m.Config
	c.Cut.MaxLag, c.Cut.Timeout, c.Cut.DryRun = patience, patience, true
	if _, err := migration.Fallback(context.Background(), c, nil); !refusedGate(err, "the last comparison") {
		t.Errorf("fallback: %v", err)
	}
	c.Cut.AllowDifferences = true
	if _, err := migration.Fallback(context.Background(), c, nil); err != nil {
		t.Errorf("fallback that allows differences: %v", err)
	}
	if st, err := migration.ReadStatus(context.Background(), m.Config); err != nil || st.Cutover.FinishedAt == nil || st.Cutover.PauseMS == nil {
		t.Errorf("after a rehearsal of a fallback the cutover is %+v, %v", st.Cutover, err)
	}
	m.past(`update t set v = 'old' where id = 7; insert into t values (8, 'old')`)
	if v := m.compared(); !v.AllEqual() {
		t.Errorf("verify finds %+v", v.Report)
	}
	m.asked(migration.Fallback)
	r.waitFor(migration.Following)
	refuses(t, source, "old server", false)
	m.verified()
	if st, err := migration.ReadStatus(context.Background(), m.Config); err != nil || *st.Owner != "old" || st.Cutover.FinishedAt != nil || st.Target.Fence == nil || !st.Target.Fence.Sealed {
		t.Errorf("after a fallback: %+v, %v", st, err)
	}

	m.asked(migration.Cutover)
	r.waitFor(migration.Switched)
	m.past(`delete from t where id = 9`)
	pgtest.Exec(t, target, `update t set v = 'newer' where id = 9`)
	m.eventually("an interrupted way back", func() bool { return m.back().State == state.BackInterrupted })
	if do := m.back().Do; !strings.HasSuffix(do, wayback.Past(m.Name)) {
		t.Errorf("what can be done is %q", do)
	}
	m.past(`insert into t values (9, 'old')`)
	m.eventually("the row as it is on the new server", func() bool { return one[string](t, source, `select v from t where id = 9`) == "newer" })

	// What keeps the way back from following keeps a comparison from meeting.
	pgtest.Exec(t, target, `alter table t add w int; insert into t (v, w) values ('wide', 1)`)
	m.eventually("an interrupted way back", func() bool { return m.back().State == state.BackInterrupted })
	if _, err := migration.Verify(context.Background(), m.Config, migration.VerifyOptions{}); !refusedGate(err, "the way back is interrupted since") {
		t.Errorf("verify: %v", err)
	}
	r.cancel()
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	if _, err := migration.Verify(context.Background(), m.Config, migration.VerifyOptions{}); !refusedGate(err, "no migrate is running") {
		t.Errorf("verify without a migrate: %v", err)
	}
}
