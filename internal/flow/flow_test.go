package flow

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/progress"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/slot"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
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

// forth and back are made of one type: each has its own names on both servers, and neither knows
// anything of what the other has applied.
func TestFlow_BothWays(t *testing.T) {
	t.Parallel()
	a, b := pgtest.Pair(t, 13, 18)
	for _, dsn := range []string{a, b} {
		pgtest.Exec(t, dsn, `create table goes (id int primary key); create table comes (id int primary key)`)
	}
	start := func(d Direction, from, to session.End, table string) (*Flow, *Running) {
		t.Helper()
		f := &Flow{Name: Name{"test", d}, From: from, To: to, Heartbeat: time.Second, Logger: slog.New(slog.DiscardHandler)}
		conn := connect(t, from.DSN)
		if _, err := slot.CreatePublication(t.Context(), conn, f.Name.Source().Publication, []pgx.Identifier{{"public", table}}, "insert, update, delete, truncate"); err != nil {
			t.Fatal(err)
		}
		published, err := slot.Publication(t.Context(), conn, f.Name.Source().Publication)
		if err != nil {
			t.Fatal(err)
		}
		f.Expect = func(context.Context) (decoder.Identity, error) {
			return decoder.Identity{Publications: map[string]slot.PublicationIdentity{f.Name.Source().Publication: published}}, nil
		}
		exported, err := f.MakeSlot(t.Context(), slot.ExportConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(exported.Close(t.Context()), f.Begin(t.Context(), connect(t, to.DSN), exported.ConsistentPoint)); err != nil {
			t.Fatal(err)
		}
		if _, ok := f.Status(); ok {
			t.Error("a flow that was not started has a status")
		}
		r, err := f.Start(t.Context(), Followed{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", f.Name, err)
			}
			r.Close(ctx)
		})
		return f, r
	}
	old, young := end(t, a), end(t, b)
	forth, runForth := start(Forth, old, young, "goes")
	back, runBack := start(Back, young, old, "comes")
	for _, way := range []struct {
		f     *Flow
		r     *Running
		table string
	}{{forth, runForth, "goes"}, {back, runBack, "comes"}} {
		pgtest.Exec(t, way.f.From.DSN, "insert into "+way.table+" select generate_series(1, 10)")
		if _, err := way.r.Canary(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := pgtest.Query(t, way.f.To.DSN, "select count(*) from "+way.table)[0][0]; got != "10" {
			t.Errorf("%s: %s rows have come, want 10", way.f.Name, got)
		}
		applied, err := way.f.Applied(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := way.f.Status(); !ok || s.Changes != 10 || s.Received < applied || applied == 0 {
			t.Errorf("%s: status %+v, and %s is applied", way.f.Name, s, applied)
		}
		// Whether somebody has passed a fence shows in what was changed.
		if err := way.r.Passed(0); !fail.Is(err, fail.Gate) {
			t.Errorf("%s: a change after the fence: %v", way.f.Name, err)
		}
		if err := way.r.Passed(applied); err != nil {
			t.Errorf("%s: no change after the fence: %v", way.f.Name, err)
		}
	}
}

// An applier is held for one verify, and nobody else moves or releases it.
func TestHold(t *testing.T) {
	t.Parallel()
	h := newHold()
	me, other := Holder{"1", "me"}, Holder{"2", "the other"}
	check := func(who Holder, advance bool, holder string, may bool) {
		t.Helper()
		got, err := h.may(who, advance)
		if got != holder || (err == nil) != may {
			t.Errorf("%s, advance %t: held by %q, error %v; want %q, %t", who.Name, advance, got, err, holder, may)
		}
	}
	check(me, false, "", true)
	check(me, true, "", false)
	h.by = &held{me, time.Now().Add(time.Hour)}
	check(me, false, "", true)
	check(me, true, "", true)
	check(other, false, "me", false)
	check(other, true, "", false)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.exclude(over); !errors.Is(err, context.Canceled) {
		t.Errorf("a cutover began while the applier is held: %v", err)
	}
	h.by = nil
	end, err := h.exclude(over)
	if err != nil {
		t.Fatal(err)
	}
	check(me, false, "", false)
	end()
	check(me, false, "", true)
}

// Two cutovers, one of them that of --cutover auto, are carried out one after the other: one would
// undo what the other has sealed.
func TestAlone(t *testing.T) {
	t.Parallel()
	r := &Running{hold: newHold()}
	end, err := r.Alone(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Alone(over); !errors.Is(err, context.Canceled) {
		t.Errorf("a second cutover began within the first one: %v", err)
	}
	end()
	if end, err = r.Alone(over); err != nil {
		t.Errorf("the next one: %v", err)
	} else {
		end()
	}
}

// A slot ahead of this process is a gap only if the target is not as far: copying everything again
// because another migrate was faster would be bad advice.
func TestOvertaken(t *testing.T) {
	t.Parallel()
	_, target := pgtest.Pair(t, 15, 18)
	conn := connect(t, target)
	if err := progress.Set(t.Context(), conn, "test", 0); err != nil {
		t.Fatal(err)
	}
	f := &Flow{Name: Name{Migration: "test"}, To: end(t, target)}
	for _, test := range []struct {
		applied decoder.LSN
		gap     bool
	}{{0x100, true}, {0x1FF, true}, {0x200, false}, {0x300, false}} {
		if _, err := conn.Exec(t.Context(), `update walferry.progress set applied = $1::text::pg_lsn`, test.applied.String()); err != nil {
			t.Fatal(err)
		}
		ahead := &slot.Error{Slot: "s", Reason: slot.Ahead, Start: 0x100, Confirmed: 0x200}
		got := f.overtaken(t.Context(), ahead)
		var unusable *slot.Error
		if gap := errors.As(got, &unusable); got == nil || gap != test.gap {
			t.Errorf("target at %s: %v", test.applied, got)
		}
	}
	other := &slot.Error{Slot: "s", Reason: slot.Missing}
	if got := f.overtaken(t.Context(), other); !errors.Is(got, other) {
		t.Errorf("a slot that is gone: %v", got)
	}
}

// The lag is how long the last beat took, or the age of one that does not come back.
func TestPulse(t *testing.T) {
	t.Parallel()
	p := newPulse(Name{Migration: "x"}, nil, nil)
	if _, known, _ := p.lagNow(); known {
		t.Error("the lag is known before there was a beat")
	}
	message, old := p.want(beatKey{content: "m"}), p.want(beatKey{xid: 7})
	message.at, old.at = time.Now().Add(-time.Hour), time.Now().Add(-2*time.Hour)
	p.underway = []*beat{old, message}
	if lag, known, _ := p.lagNow(); !known || lag < 2*time.Hour {
		t.Errorf("lag %s, known %t; want the age of the oldest", lag, known)
	}
	if !p.empty(7) || p.empty(8) {
		t.Error("of transactions without a change the stream is to deliver the beats alone")
	}
	p.saw(&decoder.Tx{XID: 7, First: true, Last: true, EndLSN: 0x70})
	p.saw(&decoder.Tx{XID: 8, First: true, Last: true, EndLSN: 0x80, Messages: []decoder.Message{{Content: []byte("m")}}})
	p.landed(0x7F) // the target has the first
	if len(p.underway) != 1 || p.wanted[old.key] != nil || p.wanted[message.key] != message {
		t.Errorf("under way: %d, wanted: %v", len(p.underway), p.wanted)
	}
	p.landed(0x80)
	if lag, known, _ := p.lagNow(); !known || lag < time.Hour || lag > 2*time.Hour || len(p.wanted) > 0 {
		t.Errorf("lag %s, known %t, wanted %v; want the trip of the last one", lag, known, p.wanted)
	}
}

// The names of the forward flow are those of earlier versions: a resumed migration finds its
// objects.
func TestName(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		n    Name
		want [5]string
	}{
		{Name{Migration: "m"}, [5]string{"m", "walferry_m", "walferry_m", "walferry_m_insert", "walferry/m"}},
		{Name{"m", Back}, [5]string{"m_back", "walferry_m_back", "walferry_m_back", "walferry_m_back_insert", "walferry/m_back"}},
	} {
		n := test.n
		if got := [5]string{n.String(), n.Source().Slot, n.Source().Publication, n.Source().Inserts, n.Messages()}; got != test.want {
			t.Errorf("%+v: %q, want %q", n, got, test.want)
		}
		if !OwnMessage(n.Messages()) || OwnMessage("somebody/"+n.Messages()) {
			t.Errorf("%s: which messages are walferry's", n)
		}
	}
}

// A migration must not have the name of what belongs to another one.
func TestTaken(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"m": "", "back": "", "_back": "", "insert": "", "m_backs": "", "m_inserts": "", "backm": "",
		"m_back": "_back", "m_insert": "_insert", "m_back_insert": "_insert", "m_insert_back": "_back",
	} {
		if got := Taken(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, n := range []string{Name{"m", Back}.String(), strings.TrimPrefix(Name{Migration: "m"}.Source().Inserts, "walferry_")} {
		if Taken(n) == "" {
			t.Errorf("%s belongs to m, and can be a migration's name", n)
		}
	}
}

// How fast WAL grows is measured by the last samples alone.
func TestRate(t *testing.T) {
	t.Parallel()
	var r rate
	now := time.Unix(0, 0)
	if got := r.add(now, 100); got != 0 {
		t.Errorf("of one sample: %f", got)
	}
	if got := r.add(now.Add(10*time.Second), 600); got != 50 {
		t.Errorf("got %f, want 50 a second", got)
	}
	for i := range rateSamples {
		now = now.Add(10 * time.Second)
		r.add(now, int64(i))
	}
	if len(r.at) != rateSamples || len(r.value) != rateSamples {
		t.Errorf("%d samples are kept, want %d", len(r.at), rateSamples)
	}
}
