package snapshot

import (
	"testing"
	"time"

	"github.com/walferry/walferry/internal/pgtest"
)

// Databases and roles often set timeouts; the holder of the snapshot sits idle in a transaction,
// just what they are made for.
func TestExport_Timeouts(t *testing.T) {
	source, target := pgtest.Pair(t, 18, 18)
	pgtest.Exec(t, source, `create table a (i int); insert into a values (1);
do $$ declare d text := current_database(); begin
  execute format('alter database %I set idle_in_transaction_session_timeout = ''50ms''', d);
  execute format('alter database %I set transaction_timeout = ''50ms''', d);
  execute format('alter database %I set idle_session_timeout = ''50ms''', d);
  execute format('alter database %I set statement_timeout = ''50ms''', d); end $$`)
	pgtest.Exec(t, target, `create table a (i int)`)
	e := snapshotOf(t, source)
	time.Sleep(300 * time.Millisecond)
	run(t, config(source, target, e, Table{Schema: "public", Name: "a"}))
	if got := count(t, target, "a"); got != "1" {
		t.Errorf("got %s rows", got)
	}
}
