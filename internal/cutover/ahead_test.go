package cutover

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// following is a server, to, that follows another, and whose sequences are kept ahead.
type following struct {
	*testing.T
	from, to string
	*Carrier
	ahead *Ahead
}

func newFollowing(t *testing.T, from, to int, ddl string) *following {
	t.Helper()
	f := &following{T: t}
	f.to, f.from = pgtest.Pair(t, to, from)
	for _, dsn := range []string{f.from, f.to} {
		pgtest.Exec(t, dsn, ddl)
	}
	link := func(dsn string) *session.Link {
		l, err := session.OpenLink(t.Context(), session.Config{DSN: dsn, Application: "x"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		return l
	}
	tables, err := catalog.Tables(t.Context(), connect(t, f.from))
	if err != nil {
		t.Fatal(err)
	}
	f.Carrier = &Carrier{From: link(f.from), To: link(f.to), Tables: func() []catalog.Table { return tables }}
	f.Store = state.At(f.To, "x_back")
	f.must(f.Store.Begin(t.Context(), &state.Record{Name: "x_back"}))
	f.must(f.Store.Take(t.Context()))
	f.must(f.Remember(t.Context()))
	f.ahead = &Ahead{Carrier: f.Carrier}
	return f
}

func (f *following) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// at returns where sequences of a server stand.
func (f *following) at(dsn string, names ...string) string {
	f.Helper()
	var parts []string
	for _, name := range names {
		row := pgtest.Query(f.T, dsn, `select last_value, is_called from `+name)[0]
		parts = append(parts, strings.Join(row, " "))
	}
	return strings.Join(parts, ", ")
}

// A sequence is a million draws ahead, or half of what its range, or its column, still has; where it counts down,
// in steps, or in circles. It is moved when half of that is used up, and never back. The switch puts each where the database's is.
func TestAhead(t *testing.T) {
	for _, pair := range [][2]int{{18, 10}, {17, 13}} {
		f := newFollowing(t, pair[0], pair[1], `
create table plain (id bigserial primary key); create table old (id int primary key); create sequence old_id_seq owned by old.id; alter table old alter id set default nextval('old_id_seq');
create table ident (id smallint generated always as identity primary key);
create sequence down increment -3; create sequence steps increment 5 cache 50; create sequence circle minvalue 1 maxvalue 100 cycle;
create sequence fresh start 500; create sequence ending maxvalue 11; create sequence ended maxvalue 7; create sequence floor increment -1 minvalue -9000000000000000000;
create sequence all_of_it minvalue -9223372036854775808 start -9223372036854775808`)
		names := []string{"plain_id_seq", "old_id_seq", "ident_id_seq", "down", "steps", "circle", "fresh", "ending", "ended", "floor", "all_of_it"}
		pgtest.Exec(t, f.from, `select setval('plain_id_seq', 70), setval('old_id_seq', 2147483647 - 1000), setval('ident_id_seq', 32000), setval('down', -30), setval('circle', 80),
  setval('ending', 5), setval('ended', 7), setval('floor', -8999999999999999000), nextval('steps'), nextval('all_of_it')`)
		f.must(f.ahead.Keep(t.Context()))
		const want = "1000070 t, 2147483147 t, 32383 t, -3000030 t, 5000246 t, 29 t, 1000500 t, 8 t, 7 t, -8999999999999999500 t, -9223372036853775808 t"
		if got := f.at(f.to, names...); got != want {
			t.Errorf("%v: %s, want %s", pair, got, want)
		}

		// What is not used up is left alone, and what the database takes back is not.
		pgtest.Exec(t, f.from, `select setval('plain_id_seq', 500070), setval('steps', 1), setval('ident_id_seq', 1), setval('circle', 3)`)
		f.ahead = &Ahead{Carrier: f.Carrier} // that knows no rate
		f.must(f.ahead.Keep(t.Context()))
		if got := f.at(f.to, names...); got != want {
			t.Errorf("%v: half used up: %s, want %s", pair, got, want)
		}
		pgtest.Exec(t, f.from, `select setval('plain_id_seq', 500071), setval('circle', 5)`)
		f.ahead = &Ahead{Carrier: f.Carrier}
		f.must(f.ahead.Keep(t.Context()))
		if got, want := f.at(f.to, "plain_id_seq", "circle"), "1500071 t, 54 t"; got != want {
			t.Errorf("%v: %s, want %s", pair, got, want)
		}
		if _, err := f.again().Set(t.Context(), connect(t, f.from)); err != nil {
			t.Fatal(err)
		}
		if got, want := f.at(f.to, names...), f.at(f.from, names...); got != want {
			t.Errorf("%v: after the switch: %s, want %s", pair, got, want)
		}
	}
}

// again is the Carrier of another run.
func (f *following) again() *Carrier {
	return &Carrier{From: f.From, To: f.To, Store: f.Store, Tables: f.Tables}
}

// The margin grows with what is drawn: for an hour at the rate of the last look.
func TestAhead_Rate(t *testing.T) {
	f := newFollowing(t, 18, 13, `create sequence busy; create table small (id serial)`)
	now := time.Now()
	look := func(at time.Time, position int64) uint64 {
		s := Sequence{Position: Position{position, true}}
		s.Name, s.Increment = catalog.Name{Schema: "public", Name: "busy"}, 2
		margin := f.ahead.margin(s, at)
		f.ahead.remember([]Sequence{s}, at)
		return margin
	}
	for i, c := range []struct {
		after    time.Duration
		position int64
		want     uint64
	}{
		{0, 100, leastMargin},
		{5 * time.Second, 200, leastMargin},
		{5 * time.Second, 10200, 1000 * 3600},
		{5 * time.Second, 100, leastMargin},
		{0, 50_000_000, leastMargin},
	} {
		now = now.Add(c.after)
		if got := look(now, c.position); got != c.want {
			t.Errorf("look %d: %d, want %d", i, got, c.want)
		}
	}
}

// A process that died between recording where it puts a sequence and doing so leaves it where it was: the switch puts it where the database's
// is all the same. One that somebody has drawn from stays: whoever has that value may use it.
func TestAhead_Interrupted(t *testing.T) {
	f := newFollowing(t, 17, 13, `create sequence kept; create sequence drawn; create sequence stays`)
	pgtest.Exec(t, f.from, `select setval('kept', 10), setval('drawn', 10), setval('stays', 10)`)
	f.must(f.ahead.Keep(t.Context()))
	pgtest.Exec(t, f.from, `select setval('kept', 900000), setval('drawn', 900000)`)
	f.ahead = &Ahead{Carrier: f.Carrier}
	hook := connect(t, f.to)
	mustExec(t, hook, `begin; alter sequence kept cache 2`)
	if err := f.ahead.Keep(t.Context()); err == nil || !strings.Contains(err.Error(), `"public"."kept"`) {
		t.Errorf("a sequence that is locked: %v", err)
	}
	mustExec(t, hook, `rollback`)
	if got, want := f.at(f.to, "kept", "drawn", "stays"), "1000010 t, 1900000 t, 1000010 t"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	pgtest.Exec(t, f.to, `select nextval('drawn')`)
	drawn := f.at(f.to, "drawn")
	if _, err := f.again().Set(t.Context(), connect(t, f.from)); err != nil {
		t.Fatal(err)
	}
	if got, want := f.at(f.to, "kept", "drawn", "stays"), "900000 t, "+drawn+", 10 t"; got != want {
		t.Errorf("after the switch: %s, want %s", got, want)
	}
}

// A process that stood still while another one has opened the server moves nothing there that was drawn from since, and does not even try
// once it has lost its record.
func TestAhead_Overtaken(t *testing.T) {
	f := newFollowing(t, 17, 13, `create sequence s`)
	pgtest.Exec(t, f.from, `select setval('s', 10)`)
	err := f.To.Do(t.Context(), func(conn *pgx.Conn) error {
		var seen Sequence
		seen.Name, seen.Position = catalog.Name{Schema: "public", Name: "s"}, Position{1, false}
		pgtest.Exec(t, f.to, `select setval('s', 4000000)`)
		return advance(t.Context(), conn, []placing{{Sequence: seen, to: Position{1000010, true}}})
	})
	if got, want := f.at(f.to, "s"), "4000000 t"; err != nil || got != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	pgtest.Exec(t, f.from, `select setval('s', 4000000)`)
	f.must(state.At(f.To, "x_back").Take(t.Context()))
	if err := f.ahead.Keep(t.Context()); err == nil {
		t.Error("it is kept ahead by a run that was overtaken")
	}
	if got, want := f.at(f.to, "s"), "4000000 t"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// What cannot be kept ahead is named; what can is.
func TestAhead_Short(t *testing.T) {
	f := newFollowing(t, 17, 13, `create sequence fits; create sequence narrow; create sequence turns; create sequence gone`)
	pgtest.Exec(t, f.from, `select setval('fits', 10), setval('narrow', 200); alter sequence turns increment -1 minvalue -100`)
	pgtest.Exec(t, f.to, `alter sequence narrow maxvalue 100; drop sequence gone`)
	err := f.ahead.Keep(t.Context())
	if err == nil || !strings.Contains(err.Error(), `"narrow", which ends at 100 and stands at 200`) || !strings.Contains(err.Error(), `"turns", which counts the other way`) {
		t.Errorf("got %v", err)
	}
	if got, want := f.at(f.to, "fits", "narrow"), "1000010 t, 1 f"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Keys that are drawn on both servers from then on are never the same: in every look, and as the server was when it was opened.
func TestAhead_Start(t *testing.T) {
	m, w := newWayBack(t)
	result, err := m.Run(t.Context(), t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.want("arm begin ahead", "none raised sealed")
	ahead, opened := -1, -1
	for i, s := range result.Steps {
		switch s.Name {
		case stepAhead:
			ahead = i
		case stepOpen:
			opened = i
		}
	}
	if ahead < 0 || opened != ahead+1 {
		t.Errorf("steps: %+v", result.Steps)
	}
	here := pgtest.Query(t, m.From.DSN, `select nextval('t_id_seq')`)[0][0]
	there := pgtest.Query(t, m.To.DSN, `select nextval('t_id_seq')`)[0][0]
	if here != "1011" || there != "11" {
		t.Errorf("%s is drawn on the server that was left, %s on the other", here, there)
	}
}

// A run that finishes a switch whose sequences were put ahead already does not carry those over as they are now.
func TestResume_Ahead(t *testing.T) {
	for _, dies := range []string{stepAhead, stepOpen} {
		m, w := newWayBack(t)
		died := m.die(dies)
		if err, ended := <-died; ended {
			t.Fatalf("it ended with %v: this tests nothing", err)
		}
		next := m.again()
		if done, err := next.Resume(t.Context(), true, nil, nil); err != nil || !done {
			t.Fatalf("done %v, %v", done, err)
		}
		here := pgtest.Query(t, m.From.DSN, `select nextval('t_id_seq')`)[0][0]
		there := pgtest.Query(t, m.To.DSN, `select nextval('t_id_seq')`)[0][0]
		if here != "1011" || there != "11" {
			t.Errorf("dead at %s: %s is drawn on the server that was left, %s on the other; asked for %v", dies, here, there, w.calls)
		}
	}
}

// die runs a switch that dies when a step begins.
func (m *move) die(step string) <-chan error {
	m.Observers = []Observer{func(_ context.Context, s state.Taken) error {
		if s.Name == step && s.Outcome == state.Begun {
			runtime.Goexit()
		}
		return nil
	}}
	died := make(chan error, 1)
	go func() {
		defer close(died)
		_, err := m.Run(m.t.Context(), m.t.Context())
		died <- fmt.Errorf("%w", err)
	}()
	return died
}
