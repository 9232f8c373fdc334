package e2e

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/slot"
)

const marked = `select count(*) from pg_publication_tables where pubname like 'walferry%' and schemaname = 'walferry' and tablename = 'progress'`

// The source publishes the table by whose changes the transactions of a flow back are known, from
// the first day on. Those of that flow do not come; everything else does, also what other streams
// write there. The table goes with the migration.
func TestMark(t *testing.T) {
	t.Parallel()
	for _, major := range []int{10, 13, 15} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, major, 18)
			pgtest.Exec(t, source, `create table t (id int primary key)`)
			m := newMoving(t, fmt.Sprint("mark_", major), source, target)
			r := m.start()
			r.waitFor(migration.Following)
			if got := one[int](t, source, marked); got != 1 {
				t.Errorf("%d publications have the mark, want 1", got)
			}
			if got := one[int](t, target, `select count(*) from pg_class where relname = 'progress' and relnamespace <> 'walferry'::regnamespace`); got != 0 {
				t.Error("the mark's table was migrated")
			}
			mark := `insert into walferry.progress (stream, applied) values ('STREAM', '0/0') on conflict (stream) do update set applied = excluded.applied;`
			mine, others := strings.Replace(mark, "STREAM", m.Name+"_back", 1), strings.Replace(mark, "STREAM", "somebody", 1)
			pgtest.Exec(t, source, `begin;`+mine+`insert into t values (1); commit; begin;`+mine+`insert into t values (2); commit`)
			pgtest.Exec(t, source, `begin;`+others+`insert into t values (3); commit; begin; insert into t values (4);`+mine+`; commit; insert into t values (5)`)
			m.caughtUp(r)
			if got := one[string](t, target, `select string_agg(id::text, ' ' order by id) from t`); got != "3 4 5" {
				t.Errorf("the target has the rows %s, want 3 4 5", got)
			}
			pgtest.Exec(t, source, `delete from walferry.progress where stream = 'somebody'`)
			pgtest.Exec(t, source, `begin;`+mine+`delete from t where id < 3; commit`)
			// a run that begins again takes the publications as they are
			r.cancel()
			if _, err := r.end(); err != nil {
				t.Fatal(err)
			}
			r = m.start()
			r.waitFor(migration.Following)
			m.caughtUp(r)
			m.cutover(r)
			m.cleanup()
			sourceHasNothing(t, source)
		})
	}
}

// A migration whose publications have no mark, as those of an older version, goes on as it was.
func TestMark_NotThere(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 13, 18)
	pgtest.Exec(t, source, `create table t (id int primary key); create publication everything for all tables`)
	m := newMoving(t, "mark_not_there", source, target)
	r := m.start()
	r.waitFor(migration.Following)
	if got := one[int](t, source, marked); got != 0 {
		t.Errorf("%d publications have the mark, want 0: somebody else would be sent it", got)
	}
	if one[bool](t, source, `select to_regclass('walferry.progress') is not null`) {
		t.Error("a table was made that somebody else publishes")
	}
	r.cancel()
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, source, `drop publication everything`)
	r = m.start()
	r.waitFor(migration.Following)
	pgtest.Exec(t, source, `insert into t values (1)`)
	m.caughtUp(r)
	m.cutover(r)
	m.cleanup()
	sourceHasNothing(t, source)
}

// The table is shared by the migrations that come to a server and those that go from it: the end of
// one leaves it to the other.
func TestMark_Onwards(t *testing.T) {
	t.Parallel()
	first, second := pgtest.Pair(t, 13, 15)
	_, third := pgtest.Pair(t, 13, 18)
	pgtest.Exec(t, first, `create table t (id int primary key)`)
	a := newMoving(t, "mark_onwards_a", first, second)
	ra := a.start()
	ra.waitFor(migration.Following)
	b := newMoving(t, "mark_onwards_b", second, third)
	rb := b.start()
	rb.waitFor(migration.Following)
	if got := one[int](t, second, marked); got != 1 {
		t.Errorf("%d publications have the mark, want 1", got)
	}
	pgtest.Exec(t, first, `insert into t values (1)`)
	a.caughtUp(ra)
	b.caughtUp(rb)
	a.cutover(ra)
	if _, err := migration.Cleanup(t.Context(), a.Config); err != nil {
		t.Fatal(err)
	}
	if got := one[int](t, second, `select count(*) from walferry.progress`); got != 0 {
		t.Errorf("%d positions are left", got)
	}
	pgtest.Exec(t, second, `insert into t values (2)`)
	b.caughtUp(rb)
	if got := one[string](t, third, `select string_agg(id::text, ' ' order by id) from t`); got != "1 2" {
		t.Errorf("the third server has the rows %s, want 1 2", got)
	}
	b.cutover(rb)
	if _, err := migration.Cleanup(context.WithoutCancel(t.Context()), b.Config); err != nil {
		t.Fatal(err)
	}
	sourceHasNothing(t, second)
}

// What walferry writes to the tables of the target is marked, also what is not the applier's: a table
// of --insert-only that is copied again.
func TestMark_CopiedAgain(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 13, 15)
	pgtest.Exec(t, source, `create table t (id int primary key); create table log (v text); insert into log select 'x' from generate_series(1, 10)`)
	m := newMoving(t, "mark_again", source, target)
	m.InsertOnly = []string{"public.log"}
	r := m.start()
	r.waitFor(migration.Following)
	const name = "mark_again_looks"
	pgtest.Exec(t, target, `alter table log replica identity full; create publication `+name+` for table t, log, walferry.progress`)
	pgtest.Exec(t, target, `select pg_create_logical_replication_slot('`+name+`', 'pgoutput')`)
	defer pgtest.Exec(t, target, `select pg_drop_replication_slot('`+name+`')`)
	pgtest.Exec(t, source, `insert into t values (1); update log set v = 'y'`)
	m.caughtUp(r)
	m.cutover(r)
	if got := one[string](t, target, `select string_agg(distinct v, ' ') from log`); got != "y" {
		t.Fatalf("the target has %s in the table that was updated, want y", got)
	}
	pgtest.Exec(t, target, `insert into t values (2)`)
	decoded := &decodedSlot{t: t}
	for _, row := range pgtest.Query(t, target, `select encode(data, 'hex') from pg_logical_slot_peek_binary_changes('`+name+`', null, null, 'proto_version', '1', 'publication_names', '`+name+`')`) {
		decoded.add(row[0])
	}
	filter := applier.NewFilter(decoded, applier.FilterConfig{Stream: m.Name})
	var tables []string
	for {
		tx, err := filter.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range tx.Changes {
			tables = append(tables, c.Relation.Name)
		}
	}
	if !slices.Equal(tables, []string{"t"}) || filter.Counts().Echoes < 2 {
		t.Errorf("changes of %q are somebody else's, want one of t; %d echoes", tables, filter.Counts().Echoes)
	}
}

// A flow back that was armed goes with its migration, whichever way that ends, and with it the
// positions that it has left.
func TestMark_CleanupOfArmed(t *testing.T) {
	t.Parallel()
	for _, abort := range []bool{false, true} {
		t.Run(fmt.Sprintf("abort %t", abort), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, 13, 15)
			pgtest.Exec(t, source, `create table t (id int primary key); create table log (v text)`)
			m := newMoving(t, "mark_armed", source, target)
			m.InsertOnly = []string{"public.log"}
			r := m.start()
			r.waitFor(migration.Following)
			back := &flow.Flow{Name: flow.Name{Migration: m.Name, Direction: flow.Back}, From: endOf(t, target), To: endOf(t, source), Logger: m.Logger}
			armed, err := back.Arm(t.Context(), flow.Published{
				Tables: []catalog.Name{{Schema: "public", Name: "t"}}, Inserts: []catalog.Name{{Schema: "public", Name: "log"}},
			}, slot.ExportConfig{})
			if err != nil {
				t.Fatal(err)
			}
			back.Expect = func(context.Context) (decoder.Identity, error) { return armed.Identity, nil }
			running, err := back.Start(t.Context(), flow.Followed{Start: applier.NotOpen}) // it makes the replication origin
			if err != nil {
				t.Fatal(err)
			}
			running.Close(t.Context())
			if abort {
				if err := migration.Abort(t.Context(), m.Config); err != nil {
					t.Fatal(err)
				}
				r.end() //nolint:errcheck // aborted
			} else {
				pgtest.Exec(t, source, `insert into t values (1)`)
				m.caughtUp(r)
				m.cutover(r)
			}
			m.cleanup()
		})
	}
}

func endOf(t *testing.T, dsn string) session.End {
	t.Helper()
	link, err := session.OpenLink(t.Context(), session.Config{DSN: dsn, Application: "test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(link.Close)
	return session.End{DSN: dsn, Link: link}
}

// decodedSlot is an applier.Source of what was read from a slot.
type decodedSlot struct {
	t       *testing.T
	decoder decoder.Decoder
	txs     []*decoder.Tx
}

func (d *decodedSlot) add(text string) {
	d.t.Helper()
	message, err := hex.DecodeString(text)
	if err != nil {
		d.t.Fatal(err)
	}
	tx, err := d.decoder.Decode(message)
	if err != nil {
		d.t.Fatal(err)
	}
	if tx != nil {
		d.txs = append(d.txs, tx)
	}
}

func (d *decodedSlot) Next(context.Context) (*decoder.Tx, error) {
	if len(d.txs) == 0 {
		return nil, io.EOF
	}
	tx := d.txs[0]
	d.txs = d.txs[1:]
	return tx, nil
}

func (d *decodedSlot) Ack(decoder.LSN) {}
