// Package status is where a migration stands, for everybody who looks.
package status

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/cutover"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/groups"
	"github.com/walferry/walferry/internal/opening"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/tally"
	"github.com/walferry/walferry/internal/verify"
	"github.com/walferry/walferry/snapshot"
)

// Status is where a migration stands. Read makes it of what the two servers hold, for any process;
// the running migrate of what it knows. Its JSON is stable.
type Status struct {
	Name    string      `json:"name"`
	Phase   state.Phase `json:"phase"`
	Owner   *string     `json:"owner"` // old or new: the server where applications belong; mixed: see Groups; nil: a one-time copy has been made
	Error   string      `json:"error"`
	Running bool        `json:"running"` // a migrate is at work
	Runner  string      `json:"runner,omitempty"`
	Note    string      `json:"note,omitempty"`
	Step    string      `json:"step,omitempty"` // what a running migrate does in a phase before following, and whom that waits for
	// Options are those that a resumed migrate has, as on a command line, without defaults.
	Options string `json:"options,omitempty"`
	// Known are the migrations that the target has, if it has none of this name.
	Known []string `json:"known,omitempty"`

	// Groups are those of tables that belong to the new server while the rest belongs to the old one.
	Groups []Group `json:"groups"`

	// Writes is who writes where, as the running migrate sees it.
	Writes state.WritesOn `json:"writes"`

	Source  SourceStatus      `json:"source"`
	Target  TargetStatus      `json:"target"`
	Copy    state.CopyStatus  `json:"copy"`
	Indexes state.IndexStatus `json:"indexes"`
	Stream  StreamStatus      `json:"stream"`
	WayBack WayBack           `json:"way_back"`
	Cutover CutoverStatus     `json:"cutover"`

	// CopyWorkers are other processes that help the copy, or have helped it.
	CopyWorkers []CopyWorker `json:"copy_workers"`

	// Requests are what the running migrate was asked for and has not answered, in the order in which
	// it carries them out. nil: none runs.
	Requests []Request `json:"requests"`

	// Verifying reports that sessions of a comparison read the source's database; nil: it was not asked.
	Verifying *bool `json:"verifying"`

	// InsertOnlyBroken are --insert-only tables that were updated or deleted from since they were
	// copied; they are copied again while following.
	InsertOnlyBroken []string `json:"insert_only_broken"`

	// LastComparison is what verify found last; nil: nobody has compared.
	LastComparison *LastComparison `json:"last_comparison"`

	// Refused are objects of the source that the target does not take, and why.
	Refused []schema.Refused `json:"refused"`

	// Phases are those that were entered, in their order, and Switches the last cutovers, fallbacks and rehearsals that have ended.
	// An older version has recorded neither.
	Phases   []state.Entered `json:"phases"`
	Switches []state.Ran     `json:"switches"`

	// Unvalidated are statements that look at rows of foreign keys which the cutover has created
	// without that: the target is open, and migrate runs them, or is to be run again.
	Unvalidated []string `json:"foreign_keys_to_validate"`

	// NewTables were created after the migration had begun on the server that is the database, or after the new one had become that; they
	// are not followed.
	NewTables []string `json:"new_tables"`

	// Disabled is the SQL that enables on the target what the opening could not.
	Disabled []string `json:"disabled"`

	// NextSteps are the commands that make sense now, the usual one first. Empty: the migration does what it has to, and there is nothing to do but wait.
	NextSteps []string `json:"next_steps"`

	Doing // known to the running migrate alone
}

// Doing is what a running migrate does at this moment.
type Doing struct {
	Tables   []snapshot.TableProgress `json:"-"` // that are being copied
	Back     *state.WayBack           `json:"-"` // nil: it is not in phase switched. It is replaced, not changed
	Indexing []catalog.Name           `json:"-"` // tables that are copied and have no indexes yet
	Under    *state.Under             `json:"-"` // the cutover that is under way; nil: none is. It is replaced, not changed
	Counts   *state.FlowCounts        `json:"-"` // of the flow that is followed, or was last; nil: of none
	Hooks    map[string]tally.Spread  `json:"-"` // how long their calls have taken, in seconds, by event
	FailedAt time.Time                `json:"-"` // when the run has ended of which Error is; zero: there is none
	ByItself bool                     `json:"-"` // once it has caught up it ends, or cuts over, unasked
}

// SourceStatus is what the source reports. Error is set if it could not be asked.
type SourceStatus struct {
	Version  string `json:"version"`
	Database string `json:"database"`
	SlotStatus

	// What a running migrate knows of the limit for that, --max-retained-wal or the server's own,
	// and in how many seconds it is reached at the present rate. Nil: there is none, or it is not
	// reached.
	RetainedLimit *int64   `json:"retained_limit_bytes"`
	RetainedLeft  *float64 `json:"retained_left_seconds"`

	Fence *FenceStatus `json:"fence"` // nil: there is none

	Error string `json:"error,omitempty"`
}

// TargetStatus is what the target reports. Error is set if it could not be asked, and what is known is what the source keeps of the way
// back.
type TargetStatus struct {
	Version  string `json:"version"`
	Database string `json:"database"`

	Fence *FenceStatus `json:"fence"` // that of a fallback; nil: there is none

	Error string `json:"error,omitempty"`
}

// FenceStatus is what stands of the fence. One that is neither closed nor sealed lets everybody
// pass.
type FenceStatus struct {
	Tables   int        `json:"tables"` // that have its trigger
	Closed   bool       `json:"closed"`
	Sealed   bool       `json:"sealed"`
	Deadline *time.Time `json:"deadline"` // when it opens on its own; nil: it does not

	covers func([]catalog.Table) bool // that all of them have its trigger
}

// readFence asks a server for a fence. One whose deadline is past is open.
func readFence(ctx context.Context, conn *pgx.Conn, name string) (*FenceStatus, error) {
	fence, err := cutover.Look(ctx, conn, name)
	if err != nil || fence.Triggers == 0 {
		return nil, err
	}
	f := &FenceStatus{Tables: fence.Triggers, Closed: fence.Raised, Sealed: fence.Sealed, covers: fence.Covers}
	if fence.Raised && !fence.Deadline.IsZero() {
		f.Deadline = &fence.Deadline
		err = conn.QueryRow(ctx, `select clock_timestamp() < $1::timestamptz`, fence.Deadline).Scan(&f.Closed)
	}
	return f, err
}

// StreamStatus is the stream's positions, as text LSNs; empty before there is one. Each is read
// before the one that it is never ahead of: acked <= applied <= source.
type StreamStatus struct {
	ReceivedLSN  string   `json:"received_lsn"`
	AppliedLSN   string   `json:"applied_lsn"`
	AckedLSN     string   `json:"acked_lsn"`
	SourceLSN    string   `json:"source_lsn"`
	LagBytes     *int64   `json:"lag_bytes"`   // nil: the source was not asked, or it does not follow
	LagSeconds   *float64 `json:"lag_seconds"` // nil: nobody has measured it, or it does not follow
	Transactions int64    `json:"transactions"`
	Changes      int64    `json:"changes"`
}

// CutoverStatus is when the steps of the cutover were done; nil: not yet.
type CutoverStatus struct {
	FencedAt   *time.Time `json:"fenced_at"`
	DrainedAt  *time.Time `json:"drained_at"`
	FinishedAt *time.Time `json:"finished_at"`
	PauseMS    *int64     `json:"pause_ms"`

	Steps []state.Taken `json:"-"` // of the last cutover or rehearsal of this run, or the last one

	*cutover.Comparison // both sides as of the cutover; nil: not asked for, or not done
}

// Read asks both servers. A source that cannot be reached is not an error: it is reported in
// Status.Source.Error; nor is a target, where the source has the record of a way back. A target that knows no such migration
// gives an empty Phase.
func Read(ctx context.Context, source, target session.Config, name string) (st Status, r *state.Record, err error) {
	st.Name = name
	to, err := session.OpenLink(ctx, target, nil)
	if err != nil {
		if known := st.withoutNew(ctx, source, err); known && ctx.Err() == nil {
			st.NextSteps = []string{} // without the new server there is nothing to do but to bring it back
			return st, nil, nil
		}
		return st, nil, err
	}
	defer to.Close()
	s := state.At(to, name)
	if r, err = st.readRecord(ctx, to, s); err != nil {
		return st, r, err
	}
	if r != nil {
		if err := to.Do(ctx, func(conn *pgx.Conn) error { return st.readNew(ctx, conn, r) }); err != nil {
			return st, r, err
		}
	}
	from, away := session.OpenLink(ctx, source, nil)
	if away == nil {
		defer from.Close()
		away = from.Do(ctx, func(conn *pgx.Conn) error { return st.readSlot(ctx, conn, r) })
	}
	if r != nil {
		if err := st.readTarget(ctx, to, s, r); err != nil {
			return st, r, err
		}
	}
	if away == nil {
		away = st.askSource(ctx, from, to, s, r)
	}
	if away != nil {
		st.Source.Error = away.Error()
		st.Stream.LagSeconds = nil // what the running migrate measured last says nothing of a source that is away
	}
	if r != nil {
		if err := to.Do(ctx, func(conn *pgx.Conn) error { return st.lagBack(ctx, conn, r) }); err != nil {
			return st, r, err
		}
		st.Owner = st.owner(r)
		st.lists(r)
	}
	st.NextSteps = st.nextSteps(r != nil && r.Options.Cutover == "auto")
	return st, r, nil
}

// readRecord reads what the target has of the migration itself; nil: nothing.
func (st *Status) readRecord(ctx context.Context, to *session.Link, s *state.Store) (r *state.Record, err error) {
	err = to.Row(ctx, `select current_setting('server_version'), current_database()`, nil, &st.Target.Version, &st.Target.Database)
	if err != nil {
		return nil, fmt.Errorf("ask the target: %w", err)
	}
	var result *cutover.Result
	err = s.Read(ctx, func() error {
		switch r, err = s.Load(ctx); {
		case err == nil && r == nil:
			st.Known, err = s.Known(ctx)
		case err == nil && r.Phase == state.Finished:
			_, err = s.Values().Get(ctx, state.Result, &result)
		case err == nil && (r.Phase == state.Following || r.Phase == state.Fenced || r.Phase == state.Drained):
			err = st.readGroups(ctx, to, s)
		}
		return err
	})
	if err != nil || r == nil {
		return nil, err
	}
	st.fromRecord(r)
	st.recordedBack(r, result)
	if result != nil {
		st.Cutover.Comparison = result.Comparison
	}
	return r, nil
}

// readTarget reads what else the target has.
func (st *Status) readTarget(ctx context.Context, to *session.Link, s *state.Store, r *state.Record) error {
	err := s.Read(ctx, func() error {
		list, _, err := (&schema.Pending{Link: to, Store: s}).List(ctx)
		st.Unvalidated = schema.Statements(list)
		err = errors.Join(err, st.ReadProgress(ctx, to, s))
		if err == nil && r.Alive {
			err = st.readRequests(ctx, s, r)
		}
		return err
	})
	if err == nil && r.Phase == state.Finished {
		st.Disabled, err = opening.SQL(ctx, to, st.Name)
	}
	return err
}

// askSource asks the source, after the target was asked for its position.
func (st *Status) askSource(ctx context.Context, from, to *session.Link, s *state.Store, r *state.Record) error {
	err := from.Do(ctx, func(conn *pgx.Conn) error { return st.readSource(ctx, conn, st.Name, r) })
	if err == nil && follows(r) {
		words := flow.WordsOf(flow.Name{Migration: st.Name}, from, to, s, state.InsertOnly(r.Tables))
		words.Owned = func(ctx context.Context) (func(catalog.Name) bool, error) {
			handed, err := groups.ReadHanded(ctx, to, s)
			away := groups.Away(handed)
			return func(t catalog.Name) bool { return !away[t] }, err
		}
		err = st.readBroken(ctx, s, words)
	}
	if err != nil || r == nil || r.Phase == state.New {
		return err
	}
	b, err := readBackRecord(ctx, from, st.Name)
	if err != nil {
		return err
	}
	st.fromOld(b, r)
	if st.followsBack() && b.record != nil {
		return st.readBroken(ctx, b.store, flow.WordsOf(b.name, to, from, b.store, state.InsertOnly(b.record.Tables)))
	}
	return nil
}

// owner is the server where applications belong: it changes when the other one is open for them.
func (st *Status) owner(r *state.Record) *string {
	owner := "old"
	switch {
	case r.Phase == state.Finished && r.Options.Until == "copied":
		return nil
	case r.Phase == state.Switched && st.followsBack(), r.Phase == state.Finished:
		owner = "new"
	case len(st.Groups) > 0:
		owner = "mixed"
	}
	return &owner
}

// lists makes empty lists of those that are known to have nothing, for programs; what is not known stays
// nil.
func (st *Status) lists(r *state.Record) {
	known := []*[]string{&st.Unvalidated, &st.Disabled}
	if st.WayBack.Unidentified == nil && r.Phase != state.Switched {
		st.WayBack.Unidentified = []Unidentified{}
	}
	if r.Alive || !follows(r) {
		known = append(known, &st.NewTables) // which the running migrate looks for
	}
	if st.Source.Error == "" || !follows(r) && r.Phase != state.Switched {
		known = append(known, &st.InsertOnlyBroken)
	}
	for _, list := range known {
		if *list == nil {
			*list = []string{}
		}
	}
	if st.Phases == nil {
		st.Phases = []state.Entered{}
	}
	if st.Switches == nil {
		st.Switches = []state.Ran{}
	}
	if st.Refused == nil {
		st.Refused = []schema.Refused{}
	}
}

func (st *Status) fromRecord(r *state.Record) {
	st.Phase, st.Error, st.Running = r.Phase, r.Error, r.Alive
	st.Source.Slot = r.Slot
	st.fromLive(&r.Live)
	turned := st.Back != nil && len(st.Groups) == 0
	if turned { // what it shows of a stream, and of its slot, is of the one that it follows, or has followed a moment ago
		w := &st.WayBack
		w.Stream.ReceivedLSN, w.Stream.LagSeconds, w.RetainedLeft = st.Stream.ReceivedLSN, st.Stream.LagSeconds, st.Source.RetainedLeft
	}
	if turned || r.Phase == state.Switched {
		st.Stream.ReceivedLSN, st.Stream.LagSeconds, st.Source.RetainedLimit, st.Source.RetainedLeft = "", nil, nil, nil
	}
	st.Cutover = CutoverStatus{FencedAt: r.FencedAt, DrainedAt: r.DrainedAt, FinishedAt: r.FinishedAt, PauseMS: r.PauseMS, Steps: r.Live.Steps}
	if !r.Alive && r.Error != "" {
		st.FailedAt = r.SeenAt
	}
	if !r.Alive {
		st.Step, st.Writes = "", state.WritesOn{}
		st.Runner, st.Note, st.Copy.ETASeconds, st.Source.RetainedLeft = "", "", nil, nil // nobody is at work
		st.WayBack.RetainedLeft = nil
	}
	if !r.Alive || !follows(r) {
		st.Stream.LagSeconds = nil
	}
}

// The positions of a Status are text, as it is JSON. oneForm writes one as versions up to 18 do:
// later ones pad its second half with zeros.
func oneForm(lsn string) string { return parseLSN(lsn).String() }

// parseLSN returns the position that such a text means; 0 if there is none.
func parseLSN(s string) decoder.LSN {
	lsn, _ := pglogrepl.ParseLSN(s)
	return lsn
}

// readSlot asks the source what it is, and for the slot.
func (st *Status) readSlot(ctx context.Context, conn *pgx.Conn, r *state.Record) error {
	var recovering bool
	err := conn.QueryRow(ctx, `select current_setting('server_version'), current_database(), pg_is_in_recovery()`).Scan(&st.Source.Version, &st.Source.Database, &recovering)
	if err != nil {
		return fmt.Errorf("ask the source: %w", err)
	}
	if recovering {
		return fmt.Errorf("the source is a standby: give the writer's address")
	}
	if r == nil {
		return nil
	}
	st.Stream.AckedLSN, err = st.Source.read(ctx, conn)
	return err
}

// readSource asks the source for its position, after the target was asked for its own, and for what
// makes a lag of that.
func (st *Status) readSource(ctx context.Context, conn *pgx.Conn, name string, r *state.Record) (err error) {
	var position decoder.LSN
	if err := conn.QueryRow(ctx, `select pg_current_wal_lsn()::text`).Scan(&position); err != nil {
		return fmt.Errorf("ask the source: %w", err)
	}
	st.Stream.SourceLSN = position.String()
	if name != verify.Application { // whose own sessions are called so
		err := conn.QueryRow(ctx, `select exists(select from pg_stat_activity where datname = current_database() and application_name = $1)`, "walferry "+verify.Application).Scan(&st.Verifying)
		if err != nil {
			return fmt.Errorf("ask the source who compares: %w", err)
		}
	}
	if st.Source.Fence, err = readFence(ctx, conn, name); err != nil {
		return err
	}
	if !follows(r) {
		return nil
	}
	if applied := parseLSN(st.Stream.AppliedLSN); applied != 0 {
		lag := max(0, int64(position)-int64(applied))
		st.Stream.LagBytes = &lag
	}
	if !r.Alive {
		err := conn.QueryRow(ctx, `select greatest(0, extract(epoch from clock_timestamp() - $1::timestamptz))::float8`, r.SeenAt).Scan(&st.Stream.LagSeconds)
		if err != nil {
			return fmt.Errorf("ask the source: %w", err)
		}
	}
	return nil
}

// follows reports whether a migration has a stream that lags.
func follows(r *state.Record) bool {
	return r != nil && (r.Phase == state.Following || r.Phase == state.Fenced)
}

// readBroken asks for the --insert-only tables whose word is broken.
func (st *Status) readBroken(ctx context.Context, s *state.Store, words *flow.Words) error {
	var broken []catalog.Table
	err := s.Read(ctx, func() (err error) {
		broken, err = words.Broken(ctx)
		return err
	})
	for _, t := range broken {
		st.InsertOnlyBroken = append(st.InsertOnlyBroken, t.Plain())
	}
	return err
}
