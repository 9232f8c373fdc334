// Package wayback is the flow against the direction of a switch: armed outside of its fence, read but not applied until the
// switch is certain, and the budget of WAL that the server that it comes from has for it. It knows no phases.
package wayback

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/identity"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/slot"
)

// Way is the flow against the direction of a switch, which arms it; it implements cutover.WayBack. While it is armed it is read,
// and nothing of it is applied. It is used once.
type Way struct {
	Flow      *flow.Flow
	Store     *state.Store     // of its record
	Tables    *identity.Tables // which has those of Switched afterwards, as they are where they are to come from
	Switched  *identity.Tables // of the switch
	Sequences *cutover.Carrier
	Export    slot.ExportConfig
	Options   state.Options // of the record
	Tool      string        // version, of the record

	Pass   string // lets it through the fence of the switch
	Stands bool   // the fence of an earlier switch in its direction

	// Gate is asked before anything is made whether it can be armed, for tables and for those of --insert-only.
	Gate func(ctx context.Context, tables, inserts []catalog.Name) error
	// Recorded is called when its record is written, which is to be read then: the stream must belong to what that says.
	Recorded func(context.Context) error
	// Retire removes what it has on both servers.
	Retire func(context.Context) error
	Logger *slog.Logger

	armed   state.Armed
	running *flow.Running
	end     context.CancelFunc
	ended   chan struct{}
}

// Arm implements cutover.WayBack.
func (w *Way) Arm(ctx context.Context, tell func(string)) error {
	if err := w.gate(ctx); err != nil {
		return err
	}
	states, err := w.describe(ctx)
	if err != nil {
		return err
	}
	if only := state.InsertOnly(states); len(only) > 0 {
		words := flow.WordsOf(w.Flow.Name, w.Flow.From.Link, w.Flow.To.Link, w.Store, only)
		if err := w.Flow.From.Link.Do(ctx, func(conn *pgx.Conn) error { return words.Watch(ctx, conn) }); err != nil {
			return err
		}
	}
	c := w.Export
	c.OnBlocked = func(blockers []slot.Blocker) {
		for _, b := range blockers {
			tell("the way back waits for a transaction that writes to the server to be opened: " + b.String())
		}
	}
	armed, err := w.Flow.Arm(ctx, published(states), c)
	if err != nil {
		return err
	}
	record := &state.Record{
		ToolVersion: w.Tool, SystemID: armed.Identity.SystemID, Timeline: armed.Identity.Timeline, Database: armed.Identity.Database,
		Slot: armed.Slot, ConsistentPoint: armed.ConsistentPoint, Tables: states, Options: w.Options,
	}
	if w.Flow.Name.Direction == flow.Forth { // the cutover before stays what it was until the old server is the database again
		was, err := w.Store.Load(ctx)
		if err != nil {
			return err
		}
		if was != nil {
			record.FencedAt, record.DrainedAt, record.FinishedAt = was.FencedAt, was.DrainedAt, was.FinishedAt
		}
	}
	w.armed = state.Armed{Pass: w.Pass, Stands: w.Stands}
	if w.Flow.Name.Direction == flow.Back { // the options say which tables of the old server the migration has
		w.Tables.Remember(states)
		if w.armed.Beside, err = w.Tables.Others(ctx); err != nil {
			return err
		}
	}
	if err := w.Store.Arm(ctx, record, armed.Identity.Publications, w.armed); err != nil {
		return err
	}
	if err := w.Recorded(ctx); err != nil {
		return err
	}
	if err := w.Sequences.Remember(ctx); err != nil {
		return err
	}
	if err := w.Sequences.ReadEnds(ctx); err != nil {
		return err
	}
	return w.read(ctx)
}

// gate reports what a preflight would, as it is now.
func (w *Way) gate(ctx context.Context) error {
	var tables, inserts []catalog.Name
	for _, t := range w.Switched.Remembered() {
		if t.InsertOnly {
			inserts = append(inserts, t.Name)
		} else {
			tables = append(tables, t.Name)
		}
	}
	return w.Gate(ctx, tables, inserts)
}

// describe returns the tables of the switch as the server has them that they are to come from.
func (w *Way) describe(ctx context.Context) ([]state.Table, error) {
	was := w.Switched.Remembered()
	w.Tables.Remember(was) // the same ones
	if err := w.Tables.Select(ctx, true); err != nil {
		return nil, err
	}
	now := map[catalog.Name]bool{}
	for _, t := range w.Tables.Selected() {
		now[t.Name] = true
	}
	insertOnly := map[catalog.Name]bool{}
	for i := range was {
		insertOnly[was[i].Name] = was[i].InsertOnly
		if !now[was[i].Name] {
			return nil, &fail.Error{Kind: fail.Gate, Problem: fmt.Sprintf("table %s is not on the server that is to be opened", was[i].Name), Advice: "make it there"}
		}
	}
	states, err := w.Tables.Describe(ctx, nil)
	for i := range states {
		states[i].InsertOnly = insertOnly[states[i].Name]
	}
	return states, err
}

func published(states []state.Table) (p flow.Published) {
	for i := range states {
		switch s := &states[i]; {
		case s.Kind != "r":
		case s.InsertOnly:
			p.Inserts = append(p.Inserts, s.Name)
		default:
			p.Tables = append(p.Tables, s.Name)
		}
	}
	return p
}

// read begins to read the flow, and returns when a beat has come through it.
func (w *Way) read(ctx context.Context) (err error) {
	if w.running, err = w.Flow.Start(ctx, flow.Followed{Originals: flow.OriginalsOf(w.Tables.Remembered()), Start: applier.NotOpen}); err != nil {
		return err
	}
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	w.end, w.ended = end, make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		defer close(w.ended)
		failed <- w.running.Run(running)
		w.running.Close(running)
	}()
	canary := make(chan error, 1)
	asking, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		_, err := w.running.Canary(asking)
		canary <- err
	}()
	select {
	case err = <-canary:
		return err
	case err = <-failed:
		return fmt.Errorf("read the way back: %w", err)
	}
}

// Stop ends the reading of what was armed, for a flow that others run from then on.
func (w *Way) Stop() { w.stop() }

// stop ends the reading.
func (w *Way) stop() {
	if w.end != nil {
		w.end()
		<-w.ended
		w.end = nil
	}
}

// Begin implements cutover.WayBack. It ends the reading: what is committed from the position on is for the run that follows
// it, when what would act on applied rows is held.
func (w *Way) Begin(ctx context.Context) (position decoder.LSN, err error) {
	if err := w.Flow.From.Link.Row(ctx, `select pg_current_wal_insert_lsn()::text`, nil, &position); err != nil {
		return 0, fmt.Errorf("read the position: %w", err)
	}
	if _, err := w.running.Canary(ctx); err != nil { // what committed before has been seen then
		return 0, err
	}
	if c := w.running.LeftOut(); c.First != nil && c.First.LSN < position { // what is from after it comes over
		return 0, &fail.Error{
			Kind:    fail.Gate,
			Problem: fmt.Sprintf("somebody has written to the server that is to be opened: %s", c.First),
			Advice:  "find out who writes there already, and undo what was written; `walferry verify` names the rows",
		}
	}
	w.stop()
	w.armed.Begins = position
	return position, w.Store.PutArmed(ctx, w.armed)
}

// KeepAhead implements cutover.WayBack.
func (w *Way) KeepAhead(ctx context.Context, at []cutover.Sequence) error {
	return (&cutover.Ahead{Carrier: w.Sequences}).Start(ctx, at)
}

// Ahead implements cutover.WayBack.
func (w *Way) Ahead(ctx context.Context) (map[catalog.Name]cutover.Position, error) {
	return w.Sequences.Placed(ctx)
}

// Disarm implements cutover.WayBack.
func (w *Way) Disarm(ctx context.Context) {
	w.stop()
	if err := w.Retire(ctx); err != nil {
		w.Logger.Warn("what the way back has had is left until the next run of migrate, or cleanup", "reason", err)
	}
}
