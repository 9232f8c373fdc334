package flow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/slot"
)

// both are two servers with the same tables and a flow in each direction.
type both struct {
	t           *testing.T
	old, young  string // as superuser
	forth, back *Flow
	running     map[*Flow]*Running
	published   Published
}

const bothTables = `create schema own; create table own.t (id int primary key, v text); create table own.log (v text)`

// newBoth makes them; plain: for roles that own the tables and may replicate, and nothing else.
func newBoth(t *testing.T, old, young int, plain bool) *both {
	t.Helper()
	oldDSN, youngDSN := pgtest.Pair(t, old, young)
	return newBothOn(t, oldDSN, youngDSN, plain)
}

// newBothOn is newBoth, of two databases.
func newBothOn(t *testing.T, old, young string, plain bool) *both {
	t.Helper()
	b := &both{t: t, old: old, young: young, running: map[*Flow]*Running{}}
	var ends [2]string
	for i, dsn := range []string{b.old, b.young} {
		pgtest.Exec(t, dsn, bothTables)
		ends[i] = dsn
		if plain {
			ends[i] = plainDSN(t, dsn)
			role := pgtest.Query(t, ends[i], `select quote_ident(current_user)`)[0][0]
			pgtest.Exec(t, dsn, fmt.Sprintf(`alter schema own owner to %[1]s; alter table own.t owner to %[1]s; alter table own.log owner to %[1]s`, role))
		}
	}
	name := pgtest.Query(t, b.old, `select substr(md5(current_database()), 1, 12)`)[0][0]
	from, to := end(t, ends[0]), end(t, ends[1])
	b.forth = &Flow{Name: Name{name, Forth}, From: from, To: to, Heartbeat: time.Hour, Logger: slog.New(slog.DiscardHandler)}
	b.back = &Flow{Name: Name{name, Back}, From: to, To: from, Heartbeat: time.Hour, Logger: slog.New(slog.DiscardHandler)}
	b.published = Published{Tables: []catalog.Name{{Schema: "own", Name: "t"}}, Inserts: []catalog.Name{{Schema: "own", Name: "log"}}}
	return b
}

// follow makes the flow forth, as prepare does, and starts it.
func (b *both) follow() {
	b.t.Helper()
	ctx := b.t.Context()
	var published map[string]slot.PublicationIdentity
	err := b.forth.From.Link.Do(ctx, func(conn *pgx.Conn) error {
		marks, err := MakeMark(ctx, conn)
		if err == nil && pgtest.Query(b.t, b.old, `show server_version_num`)[0][0][:2] == "10" {
			err = slot.CreateTruncationTriggers(ctx, conn, identifiers(b.published.Tables))
		}
		if err != nil {
			return err
		}
		published, err = slot.Publish(ctx, conn, b.forth.Name.Source(), append(identifiers(b.published.Tables), marks...), identifiers(b.published.Inserts))
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	exported, err := b.forth.MakeSlot(ctx, slot.ExportConfig{})
	if err != nil {
		b.t.Fatal(err)
	}
	if err := exported.Close(ctx); err != nil {
		b.t.Fatal(err)
	}
	if err := b.forth.To.Link.Do(ctx, func(conn *pgx.Conn) error { return b.forth.Begin(ctx, conn, exported.ConsistentPoint) }); err != nil {
		b.t.Fatal(err)
	}
	b.start(b.forth, decoder.Identity{Publications: published}, 0)
}

// start runs a flow until the test's end, or stop.
func (b *both) start(f *Flow, id decoder.Identity, from decoder.LSN) (stop func()) {
	b.t.Helper()
	f.Expect = func(context.Context) (decoder.Identity, error) { return id, nil }
	r, err := f.Start(b.t.Context(), Followed{Start: from})
	if err != nil {
		b.t.Fatal(err)
	}
	b.running[f] = r
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			b.t.Errorf("%s: %v", f.Name, err)
		}
		r.Close(ctx)
	}
	b.t.Cleanup(stop)
	return stop
}

// through makes sure that everything has come through a flow.
func (b *both) through(f *Flow) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	if _, err := b.running[f].Canary(ctx); err != nil {
		b.t.Fatalf("%s: %v", f.Name, err)
	}
}

func (b *both) rows(dsn, want string) {
	b.t.Helper()
	if got := pgtest.Query(b.t, dsn, `select coalesce(string_agg(id::text, ' ' order by id), '') from own.t`)[0][0]; got != want {
		b.t.Errorf("rows %q, want %q", got, want)
	}
}

// left is what of the flow back is on either server.
func (b *both) left() (left []string) {
	b.t.Helper()
	for side, dsn := range map[string]string{"old": b.old, "young": b.young} {
		for _, row := range pgtest.Query(b.t, dsn, strings.ReplaceAll(`
select 'slot ' || slot_name from pg_replication_slots where slot_name = 'walferry_NAME'
union all select 'publication ' || pubname from pg_publication where pubname in ('walferry_NAME', 'walferry_NAME_insert')
union all select 'origin ' || roname from pg_replication_origin where roname = 'walferry_NAME'`, "NAME", b.back.Name.String())) {
			left = append(left, side+": "+row[0])
		}
		if len(pgtest.Query(b.t, dsn, `select from pg_class where relname = 'progress'`)) > 0 {
			for _, row := range pgtest.Query(b.t, dsn, `select stream from walferry.progress where stream = '`+b.back.Name.String()+`'`) {
				left = append(left, side+": position of "+row[0])
			}
		}
	}
	slices.Sort(left)
	return left
}

func eachPair(t *testing.T, test func(t *testing.T, b *both)) {
	for _, pair := range [][2]int{{13, 17}, {10, 18}, {18, 18}} {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d to %d, plain roles %t", pair[0], pair[1], plain), func(t *testing.T) {
				t.Parallel()
				test(t, newBoth(t, pair[0], pair[1], plain))
			})
		}
	}
}

// A flow back is armed while the flow forth runs, as often as one likes. Until it is opened nothing
// comes through it but beats, and what somebody writes is told; from then on all does, and neither
// flow brings back what the other has written. Disarmed, nothing of it is left.
func TestArm(t *testing.T) {
	t.Parallel()
	eachPair(t, func(t *testing.T, b *both) {
		b.follow()
		var armed [2]Armed
		for i := range armed {
			var err error
			if armed[i], err = b.back.Arm(t.Context(), b.published, slot.ExportConfig{}); err != nil {
				t.Fatal(err)
			}
		}
		a := armed[1]
		if a.ConsistentPoint < armed[0].ConsistentPoint || a.Slot != "walferry_"+b.back.Name.String() {
			t.Errorf("armed %+v, then %+v", armed[0], a)
		}
		if want := pgtest.Query(t, b.young, `select system_identifier from pg_control_system()`)[0][0]; a.Identity.SystemID != want {
			t.Errorf("system identifier %s, want %s", a.Identity.SystemID, want)
		}
		if got := slices.Sorted(maps.Keys(a.Identity.Publications)); !slices.Equal(got, []string{a.Slot, a.Slot + "_insert"}) {
			t.Errorf("publications %v", got)
		}
		if !Marked(a.Identity.Publications) || a.Identity.Publications[a.Slot].OID == armed[0].Identity.Publications[a.Slot].OID {
			t.Errorf("publications %+v", a.Identity.Publications)
		}
		if applied, err := b.back.Applied(t.Context()); err != nil || applied != a.ConsistentPoint {
			t.Errorf("it begins at %s, %v; want %s", applied, err, a.ConsistentPoint)
		}

		stop := b.start(b.back, a.Identity, applier.NotOpen)
		r := b.running[b.back]
		pgtest.Exec(t, b.old, `insert into own.t values (1); insert into own.log values ('a')`)
		b.through(b.forth)
		pgtest.Exec(t, b.young, `insert into own.t values (2)`)
		b.through(b.back)
		c := r.LeftOut()
		if c.Strays != 1 || c.Last == nil || c.Last.Table != (catalog.Name{Schema: "own", Name: "t"}) || c.Echoes == 0 {
			t.Errorf("left out: %+v", c)
		}
		b.rows(b.old, "1")
		b.rows(b.young, "1 2")

		early := c.Last.LSN
		if err := r.Open(early); err == nil {
			t.Error("opened where something was left out")
		}
		var open decoder.LSN
		if err := b.back.From.Link.Row(t.Context(), `select pg_current_wal_insert_lsn()::text`, nil, &open); err != nil {
			t.Fatal(err)
		}
		if err := r.Open(open); err != nil {
			t.Error(err)
		}
		pgtest.Exec(t, b.young, `insert into own.t values (3); insert into own.log values ('b'); update own.t set v = 'x' where id = 1`)
		pgtest.Exec(t, b.young, `insert into own.t values (4)`)
		pgtest.Exec(t, b.old, `insert into own.t values (5)`)
		b.through(b.forth)
		b.through(b.back)
		b.through(b.forth)
		b.rows(b.old, "1 3 4 5")
		b.rows(b.young, "1 2 3 4 5")
		for _, dsn := range []string{b.old, b.young} {
			if got := pgtest.Query(t, dsn, `select string_agg(v, ' ' order by v) || ' ' || (select v from own.t where id = 1) from own.log`)[0][0]; got != "a b x" {
				t.Errorf("log and changed row: %q, want a b x", got)
			}
		}
		b.quiet()
		stop()
		for range 2 {
			if err := b.back.Disarm(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left := b.left(); len(left) > 0 {
				t.Errorf("disarmed, and left: %q", left)
			}
		}
		pgtest.Exec(t, b.old, `insert into own.t values (6)`)
		b.through(b.forth)
		b.rows(b.young, "1 2 3 4 5 6")
	})
}

// quiet makes sure that positions of one flow are not answered by positions of the other one: each
// beat is stored, which is an echo in the other direction.
func (b *both) quiet() {
	b.t.Helper()
	const beats = 20
	for _, f := range []*Flow{b.forth, b.back} {
		other := b.back
		if f == b.back {
			other = b.forth
		}
		began, echoes := time.Now(), b.running[other].LeftOut().Echoes
		positions := map[decoder.LSN]bool{}
		for range beats {
			b.through(f)
			at, err := other.Applied(b.t.Context())
			if err != nil {
				b.t.Fatal(err)
			}
			positions[at] = true
		}
		for deadline := time.Now().Add(time.Minute); b.running[other].LeftOut().Echoes < echoes+beats; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				b.t.Fatalf("%s has seen %d echoes of %d beats", other.Name, b.running[other].LeftOut().Echoes-echoes, beats)
			}
		}
		if most := 2 + int(time.Since(began)/(10*time.Second)); len(positions) > most {
			b.t.Errorf("%s has stored %d positions while %s was told %d; want %d at most", other.Name, len(positions), f.Name, beats, most)
		}
	}
}

// An open transaction on the server that a flow comes from, also a prepared one, keeps the slot from
// being made, and one that alters or vacuums a table the publication. Then nothing of the flow stays,
// and the next attempt does not begin with it.
func TestArm_Blocked(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"open", "prepared", "altering"} {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, plain roles %t", how, plain), func(t *testing.T) {
				t.Parallel()
				b := newBoth(t, 13, 17, plain)
				conn := connect(t, b.young)
				sql := `begin; insert into own.t values (1)`
				end := `rollback`
				switch how {
				case "altering": // it has written nothing
					sql = `begin; lock table own.t in share update exclusive mode`
				case "prepared":
					sql += `; prepare transaction '` + b.back.Name.String() + `'`
					end = `rollback prepared '` + b.back.Name.String() + `'`
				}
				if _, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
					t.Fatal(err)
				}
				ended := false
				release := func() {
					if !ended {
						ended = true
						if _, err := conn.Exec(context.Background(), end, pgx.QueryExecModeSimpleProtocol); err != nil {
							t.Error(err)
						}
					}
				}
				defer release()
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				if a, err := b.back.Arm(ctx, b.published, slot.ExportConfig{}); err == nil {
					t.Errorf("armed: %+v", a)
				}
				if how != "altering" {
					_, err := b.back.Arm(t.Context(), b.published, slot.ExportConfig{Wait: 300 * time.Millisecond})
					if blocked := new(slot.BlockedError); !errors.As(err, &blocked) {
						t.Errorf("%v; want who is in the way", err)
					}
				}
				if left := b.left(); len(left) > 0 {
					t.Errorf("left: %q", left)
				}
				release()
				if _, err := b.back.Arm(t.Context(), b.published, slot.ExportConfig{}); err != nil {
					t.Error(err)
				}
				if err := b.back.Disarm(t.Context()); err != nil {
					t.Error(err)
				}
				if got := pgtest.Query(t, b.old, `select count(*) from pg_class where relname = 'progress'`)[0][0]; got != "0" {
					t.Error("the table of positions, which nobody else has made, is left")
				}
			})
		}
	}
}

// What cannot be armed is a gate, and nothing of it is left.
func TestArm_Gates(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, problem string
		prepare       func(b *both)
	}{
		{"a table without a replica identity", `replica identity on the server that the changes are to come from: "own"."log"`, func(b *both) {
			b.published.Tables, b.published.Inserts = append(b.published.Tables, b.published.Inserts...), nil
		}},
		{"a table that is not there", `not on the server that the changes are to come from: "own"."absent"`, func(b *both) {
			b.published.Tables = append(b.published.Tables, catalog.Name{Schema: "own", Name: "absent"})
		}},
		{"a publication of somebody else on the old server", `FOR ALL TABLES would publish walferry.progress`, func(b *both) {
			pgtest.Exec(b.t, b.old, `create publication everything for all tables`)
		}},
		{"a server of version 10", `does not decode TRUNCATE`, func(b *both) { b.back.From, b.back.To = b.back.To, b.back.From }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := newBoth(t, 10, 18, false)
			test.prepare(b)
			_, err := b.back.Arm(t.Context(), b.published, slot.ExportConfig{})
			if !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), test.problem) || fail.Hint(err) == "" {
				t.Errorf("%v (hint %q); want a gate: %s", err, fail.Hint(err), test.problem)
			}
			if left := b.left(); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}
