// Package flow is one direction: what is changed in tables of one server is applied to another. It
// has the names of its objects on both, the stream and its applier, the beats that measure the lag,
// and those who hold the applier.
//
// It knows no phase of a migration, and not which of the two servers is the old one.
package flow

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/progress"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/slot"
)

// Flow is one direction between two servers. Its fields do not change once it is in use.
type Flow struct {
	Name     Name
	From, To session.End

	// Expect returns what the stream must belong to: the server and its database, and the
	// publications as they were made. It is called whenever a stream is opened.
	Expect func(context.Context) (decoder.Identity, error)

	// Pass lets the flow through the fence of the server that it goes to. Empty: it has none.
	Pass string

	// Heartbeat is how often a beat is written, for the lag that Status shows. Whatever looks at
	// the flow now and then does so once every few beats.
	Heartbeat time.Duration
	Logger    *slog.Logger

	mu      sync.Mutex
	running *Running // the last one that was started
}

// Followed is what is known of the tables that a flow follows.
type Followed struct {
	Originals map[catalog.Name]applier.Original
	Windows   *applier.Windows  // nil: all tables are as of the stream's first position
	Words     Words             // of --insert-only
	Start     decoder.LSN       // applier.FilterConfig.Start: NotOpen while the flow is armed only
	Saw       func(*decoder.Tx) // is told of each Tx that is to be applied, before it is; nil: nobody wants to know
}

// OriginalsOf returns, for the applier, what the source's tables were, and where they were copied to.
func OriginalsOf(tables []state.Table) map[catalog.Name]applier.Original {
	originals := map[catalog.Name]applier.Original{}
	for _, t := range tables {
		o := applier.Original{OID: t.OID, Target: t.TargetOID}
		for _, c := range t.Columns {
			o.Columns = append(o.Columns, applier.OriginalColumn{Name: c.Name, TypeOID: c.TypeOID, TypeMod: c.TypeMod, Number: c.Number, Target: c.Target})
		}
		originals[t.Name] = o
	}
	return originals
}

// MakeSlot creates the flow's slot and returns its snapshot: the flow begins at its consistent
// point. A slot of this name is dropped: it is from an attempt of which nothing is kept.
func (f *Flow) MakeSlot(ctx context.Context, c slot.ExportConfig) (*slot.Exported, error) {
	c.Slot = f.Name.Source().Slot
	err := f.From.Link.Do(ctx, func(conn *pgx.Conn) error { return slot.Drop(ctx, conn, c.Slot) })
	if err != nil {
		return nil, err
	}
	return slot.Export(ctx, f.From.DSN, c)
}

// Begin sets the position at which the flow begins, whatever it was. It comes long before Start: in
// between, other processes read it.
func (f *Flow) Begin(ctx context.Context, conn *pgx.Conn, at decoder.LSN) error {
	return progress.Set(ctx, conn, f.Name.String(), at)
}

// Start makes the applier of what is followed. The caller has to close what it returns.
func (f *Flow) Start(ctx context.Context, what Followed) (*Running, error) {
	conn, err := f.connect(ctx)
	if err != nil {
		return nil, err
	}
	a, err := applier.New(ctx, conn, applier.Config{
		Name: f.Name.String(), Logger: f.Logger, Originals: what.Originals, Windows: what.Windows, Table: targetTable, Connect: f.connect,
	})
	if err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	r := &Running{flow: f, applier: a, pulse: newPulse(f.Name, f.From.Link, a.Applied), hold: newHold(), words: &what.Words, start: what.Start, saw: what.Saw}
	if len(r.words.Tables) > 0 {
		r.keeper = &keeper{r: r, words: r.words, turns: make(chan turn)}
	}
	f.mu.Lock()
	f.running = r
	f.mu.Unlock()
	return r, nil
}

// connect opens a session for the applier.
func (f *Flow) connect(ctx context.Context) (*pgx.Conn, error) {
	return f.open(ctx, applying)
}

// open connects to the server that the flow goes to, to write to its tables.
func (f *Flow) open(ctx context.Context, what string) (*pgx.Conn, error) {
	c := session.Config{DSN: f.To.DSN, Application: f.Name.String() + what}
	if f.Pass != "" {
		c.Settings = map[string]string{PassSetting: f.Pass}
	}
	return session.Open(ctx, c)
}

// PassSetting is the setting that lets a session through a fence whose secret it holds.
const PassSetting = "walferry.pass"

// applying is the name of the applier's session, after the flow's name.
const applying = " apply"

// targetTable leaves out what the publication has of walferry itself: the mark, and what an older version has added
// there for its canary.
func targetTable(namespace, name string) (pgx.Identifier, bool) {
	return pgx.Identifier{namespace, name}, namespace != "walferry"
}

// Stream is the configuration of the stream from a position on.
func (f *Flow) Stream(ctx context.Context, start decoder.LSN) (decoder.Config, error) {
	expect, err := f.Expect(ctx)
	if err != nil {
		return decoder.Config{}, err
	}
	c := decoder.Config{Slot: f.Name.Source().Slot, Start: start, Logger: f.Logger, Expect: expect}
	for name, p := range expect.Publications {
		c.Publications = append(c.Publications, name)
		for _, t := range p.Tables {
			if schema, name, _ := strings.Cut(slot.TruncationTable, "."); t == (catalog.Name{Schema: schema, Name: name}).String() {
				c.Truncations = slot.TruncationTable
			}
		}
	}
	return c, nil
}

// Continuous makes sure that the stream can be read from a position on.
func (f *Flow) Continuous(ctx context.Context, start decoder.LSN) error {
	c, err := f.Stream(ctx, start)
	if err != nil {
		return err
	}
	stream, err := decoder.Open(ctx, f.From.DSN, c)
	if err != nil {
		return err
	}
	return stream.Close()
}

// Applied asks the server that the flow goes to for its position, whichever process has brought it
// there.
func (f *Flow) Applied(ctx context.Context) (decoder.LSN, error) {
	var applied decoder.LSN
	err := f.To.Link.Row(ctx, `select applied::text from walferry.progress where stream = $1`, []any{f.Name.String()}, &applied)
	return applied, err
}

// InApplierWay returns whose locks the applier waits for now, also when ctx has ended.
func (f *Flow) InApplierWay(ctx context.Context) (holders []online.Holder) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := f.To.Link.Do(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, `
select `+online.HolderColumns+`
  from pg_stat_activity w cross join lateral unnest(pg_blocking_pids(w.pid)) as l(pid) left join pg_stat_activity a on a.pid = l.pid
 where w.datname = current_database() and w.application_name = $1
 group by l.pid order by 4 desc`, "walferry "+f.Name.String()+applying)
		if err != nil {
			return err
		}
		holders, err = pgx.CollectRows(rows, pgx.RowToStructByPos[online.Holder])
		return err
	})
	if err != nil {
		f.Logger.Debug("look for who is in the applier's way", "error", err)
	}
	return holders
}

// Status is how far a flow is.
type Status struct {
	Applied      decoder.LSN
	Received     decoder.LSN // 0: nothing yet, in this run
	Transactions int64
	Changes      int64

	Lag      time.Duration // the age of the oldest beat that has not come back, or how long the last one took that has
	LagKnown bool
	LagBytes int64

	Counts *state.FlowCounts

	Note string // what keeps it from advancing, or is done besides
}

// Status reports how far the flow is since it was last started; ok: it has been.
func (f *Flow) Status() (s Status, ok bool) {
	f.mu.Lock()
	r := f.running
	f.mu.Unlock()
	if r == nil {
		return s, false
	}
	return r.status(), true
}
