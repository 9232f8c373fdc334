package copying

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/slot"
	"github.com/walferry/walferry/snapshot"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// What the first run has copied stays as of the slot's snapshot. What the next one copies is as of
// a later one, since the first has gone with its process; each table is known to be of one of them.
func TestCopy_Resumed(t *testing.T) {
	t.Parallel()
	from, to := pgtest.Pair(t, 13, 18)
	for _, dsn := range []string{from, to} {
		pgtest.Exec(t, dsn, `create table early (id int primary key); create table late (id int primary key)`)
	}
	pgtest.Exec(t, from, `insert into early select generate_series(1, 3); insert into late select generate_series(1, 3)`)
	f := &flow.Flow{
		Name: flow.Name{Migration: "test"}, From: end(t, from), To: end(t, to), Heartbeat: time.Second, Logger: slog.New(slog.DiscardHandler),
	}
	names := f.Name.Source()
	published, err := publish(t, from, names.Publication)
	if err != nil {
		t.Fatal(err)
	}
	f.Expect = func(context.Context) (decoder.Identity, error) {
		return decoder.Identity{Publications: map[string]slot.PublicationIdentity{names.Publication: published}}, nil
	}
	exported, err := slot.Export(t.Context(), from, slot.ExportConfig{Slot: names.Slot})
	if err != nil {
		t.Fatal(err)
	}
	early, late := catalog.Table{Name: catalog.Name{Schema: "public", Name: "early"}}, catalog.Table{Name: catalog.Name{Schema: "public", Name: "late"}}
	copyOf := func(tables ...catalog.Table) *Copy {
		return &Copy{Flow: f, Tables: func() []catalog.Table { return tables }, Jobs: 2, Step: func(string) {}}
	}
	first := copyOf(early)
	if _, _, ok := first.Progress(); ok {
		t.Error("a copy that was not begun has a progress")
	}
	first.Hold(t.Context(), exported)
	if err := errors.Join(first.Read(t.Context()), first.Run(t.Context(), exported.ConsistentPoint)); err != nil {
		t.Fatal(err)
	}
	if first.Holds() {
		t.Error("the snapshot is held when nobody needs it any more")
	}
	if p, _, ok := first.Progress(); !ok || p.Rows != 3 || p.TablesDone != 1 {
		t.Errorf("progress %+v, want 3 rows of 1 table", p)
	}
	pgtest.Exec(t, from, `insert into early values (4); insert into late values (4)`)
	next := copyOf(early, late)
	if err := errors.Join(next.Read(t.Context()), next.Run(t.Context(), exported.ConsistentPoint), next.Read(t.Context())); err != nil {
		t.Fatal(err)
	}
	got := pgtest.Query(t, to, `select (select count(*) from early), (select count(*) from late)`)[0]
	if got[0] != "3" || got[1] != "4" {
		t.Errorf("early has %s rows, late %s; want 3, as of the slot's snapshot, and 4, as of the next", got[0], got[1])
	}
	w := next.Windows()
	if w[early.Name].From != exported.ConsistentPoint || w[late.Name].From <= exported.ConsistentPoint {
		t.Errorf("early is as of %v, late as of %v; the slot begins at %s", w[early.Name], w[late.Name], exported.ConsistentPoint)
	}
	if next.Mixed(early.Name) || next.Mixed(late.Name) {
		t.Error("a table has rows of two snapshots")
	}
	if err := next.onResume(t.Context(), snapshot.Table{Schema: "public", Name: "late"}); err != nil || !next.Mixed(late.Name) {
		t.Errorf("a table that gets rows of another snapshot has rows of two: %v", err)
	}
}

func end(t *testing.T, dsn string) session.End {
	t.Helper()
	link, err := session.OpenLink(t.Context(), session.Config{DSN: dsn, Application: "test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(link.Close)
	return session.End{DSN: dsn, Link: link}
}

func publish(t *testing.T, dsn, name string) (id slot.PublicationIdentity, err error) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	pgtest.Exec(t, dsn, `create publication `+name+` for table early, late`)
	return slot.Publication(t.Context(), conn, name)
}
