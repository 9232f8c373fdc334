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
	"github.com/walferry/walferry/internal/opening"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/verify"
	"github.com/walferry/walferry/snapshot"
)

// Status is where a migration stands. Read makes it of what the two servers hold, for any process;
// the running migrate of what it knows. Its JSON is stable.
type Status struct {
	Name    string      `json:"name"`
	Phase   state.Phase `json:"phase"`
	Error   string      `json:"error"`
	Running bool        `json:"running"` // a migrate is at work
	Runner  string      `json:"runner,omitempty"`
	Note    string      `json:"note,omitempty"`
	// Options are those that a resumed migrate has, as on a command line, without defaults.
	Options string `json:"options,omitempty"`
	// Known are the migrations that the target has, if it has none of this name.
	Known []string `json:"known,omitempty"`

	Source  SourceStatus      `json:"source"`
	Target  TargetStatus      `json:"target"`
	Copy    state.CopyStatus  `json:"copy"`
	Indexes state.IndexStatus `json:"indexes"`
	Stream  StreamStatus      `json:"stream"`
	Cutover CutoverStatus     `json:"cutover"`

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

	// Unvalidated are statements that look at rows of foreign keys which the cutover has created
	// without that: the target is open, and migrate runs them, or is to be run again.
	Unvalidated []string `json:"foreign_keys_to_validate"`

	// NewTables were created on the source after the migration had begun; they are not followed.
	NewTables []string `json:"new_tables"`

	// Disabled is the SQL that enables on the target what the opening could not.
	Disabled []string `json:"disabled"`

	Doing // known to the running migrate alone
}

// Doing is what a running migrate does at this moment.
type Doing struct {
	Step     string                   `json:"-"` // within the phase
	Tables   []snapshot.TableProgress `json:"-"` // that are being copied
	WayBack  *state.WayBack           `json:"-"` // nil: it is not in phase switched. It is replaced, not changed
	Under    *state.Under             `json:"-"` // the cutover that is under way; nil: none is. It is replaced, not changed
	ByItself bool                     `json:"-"` // once it has caught up it ends, or cuts over, unasked
}

// SourceStatus is what the source reports. Error is set if it could not be asked.
type SourceStatus struct {
	Version       string `json:"version"`
	Database      string `json:"database"`
	Slot          string `json:"slot"`
	SlotActive    *bool  `json:"slot_active"`    // nil: not known
	WALStatus     string `json:"wal_status"`     // reserved, extended, unreserved, lost; missing: no slot; empty before version 13
	RetainedBytes *int64 `json:"retained_bytes"` // WAL that the slot holds back; nil: not known

	// What a running migrate knows of the limit for that, --max-retained-wal or the server's own,
	// and in how many seconds it is reached at the present rate. Nil: there is none, or it is not
	// reached.
	RetainedLimit *int64   `json:"retained_limit_bytes"`
	RetainedLeft  *float64 `json:"retained_left_seconds"`

	Fence *FenceStatus `json:"fence"` // nil: there is none

	Error string `json:"error,omitempty"`
}

// TargetStatus is what the target reports.
type TargetStatus struct {
	Version  string `json:"version"`
	Database string `json:"database"`
}

// FenceStatus is what stands of the fence. One that is neither closed nor sealed lets everybody
// pass.
type FenceStatus struct {
	Tables   int        `json:"tables"` // that have its trigger
	Closed   bool       `json:"closed"`
	Sealed   bool       `json:"sealed"`
	Deadline *time.Time `json:"deadline"` // when it opens on its own; nil: it does not
}

// readFence asks the source for the fence. One whose deadline is past is open.
func (st *Status) readFence(ctx context.Context, conn *pgx.Conn, name string) error {
	fence, err := cutover.Look(ctx, conn, name)
	if err != nil || fence.Triggers == 0 {
		return err
	}
	st.Source.Fence = &FenceStatus{Tables: fence.Triggers, Closed: fence.Raised, Sealed: fence.Sealed}
	if fence.Raised && !fence.Deadline.IsZero() {
		st.Source.Fence.Deadline = &fence.Deadline
		err = conn.QueryRow(ctx, `select clock_timestamp() < $1::timestamptz`, fence.Deadline).Scan(&st.Source.Fence.Closed)
	}
	return err
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
// Status.Source.Error. A target that knows no such migration gives an empty Phase.
func Read(ctx context.Context, source, target session.Config, name string) (st Status, r *state.Record, err error) {
	st.Name = name
	to, err := session.OpenLink(ctx, target, nil)
	if err != nil {
		return st, r, err
	}
	defer to.Close()
	s := state.At(to, name)
	err = to.Row(ctx, `select current_setting('server_version'), current_database()`, nil, &st.Target.Version, &st.Target.Database)
	if err != nil {
		return st, r, fmt.Errorf("ask the target: %w", err)
	}
	var result *cutover.Result
	err = s.Read(ctx, func() error {
		switch r, err = s.Load(ctx); {
		case err == nil && r == nil:
			st.Known, err = s.Known(ctx)
		case err == nil && r.Phase == state.Finished:
			_, err = s.Values().Get(ctx, state.Result, &result)
		}
		return err
	})
	if err != nil {
		return st, r, err
	}
	if r != nil {
		st.fromRecord(r)
		if result != nil {
			st.Cutover.Comparison = result.Comparison
		}
	}
	from, err := session.OpenLink(ctx, source, nil)
	if err == nil {
		defer from.Close()
		err = from.Do(ctx, func(conn *pgx.Conn) error { return st.readSlot(ctx, conn, r) })
	}
	if r != nil {
		err := s.Read(ctx, func() error {
			list, _, err := (&schema.Pending{Link: to, Store: s}).List(ctx)
			st.Unvalidated = schema.Statements(list)
			err = errors.Join(err, st.ReadProgress(ctx, to, s))
			if err == nil && r.Alive {
				err = st.readRequests(ctx, s, r.Live.Under)
			}
			return err
		})
		if err != nil {
			return st, r, err
		}
		if r.Phase == state.Finished {
			disabled, err := opening.SQL(ctx, to, name)
			if err != nil {
				return st, r, err
			}
			st.Disabled = disabled
		}
	}
	if err == nil {
		err = from.Do(ctx, func(conn *pgx.Conn) error { return st.readSource(ctx, conn, name, r) })
	}
	if err == nil && follows(r) {
		err = st.readBroken(ctx, s, flow.WordsOf(flow.Name{Migration: name}, from, to, s, state.InsertOnly(r.Tables)))
	}
	if err != nil {
		st.Source.Error = err.Error()
		st.Stream.LagSeconds = nil // what the running migrate measured last says nothing of a source that is away
	}
	if r != nil {
		st.lists(r)
	}
	return st, r, nil
}

// lists makes empty lists of those that are known to have nothing, for programs; what is not known stays
// nil.
func (st *Status) lists(r *state.Record) {
	known := []*[]string{&st.Unvalidated, &st.Disabled}
	if r.Alive || !follows(r) {
		known = append(known, &st.NewTables) // which the running migrate looks for
	}
	if st.Source.Error == "" || !follows(r) {
		known = append(known, &st.InsertOnlyBroken)
	}
	for _, list := range known {
		if *list == nil {
			*list = []string{}
		}
	}
	if st.Refused == nil {
		st.Refused = []schema.Refused{}
	}
}

func (st *Status) fromRecord(r *state.Record) {
	st.Phase, st.Error, st.Running = r.Phase, r.Error, r.Alive
	st.Source.Slot = r.Slot
	st.fromLive(&r.Live)
	st.Cutover = CutoverStatus{FencedAt: r.FencedAt, DrainedAt: r.DrainedAt, FinishedAt: r.FinishedAt, PauseMS: r.PauseMS, Steps: r.Live.Steps}
	if !r.Alive {
		st.Runner, st.Note, st.Copy.ETASeconds, st.Source.RetainedLeft = "", "", nil, nil // nobody is at work
	}
	if !r.Alive || !follows(r) {
		st.Stream.LagSeconds = nil
	}
}

// ReadProgress takes what is durable from the tables of applier and snapshot.
func (st *Status) ReadProgress(ctx context.Context, target *session.Link, s *state.Store) error {
	var err error
	if _, err = s.Values().Get(ctx, state.Refused, &st.Refused); err != nil {
		return err
	}
	if st.LastComparison, err = Compared(ctx, s); err != nil {
		return err
	}
	return target.Do(ctx, func(conn *pgx.Conn) error {
		progress, err := s.Has(ctx, conn, "progress")
		if err != nil {
			return fmt.Errorf("ask the target: %w", err)
		}
		copied, err := s.Has(ctx, conn, "copy_state")
		if err != nil {
			return fmt.Errorf("ask the target: %w", err)
		}
		if progress {
			var applied decoder.LSN
			err := conn.QueryRow(ctx, `select applied::text, transactions, changes from walferry.progress where stream = $1`, st.Name).
				Scan(&applied, &st.Stream.Transactions, &st.Stream.Changes)
			if err == nil {
				st.Stream.AppliedLSN = applied.String()
			}
			if err != nil && err != pgx.ErrNoRows {
				return fmt.Errorf("read the progress: %w", err)
			}
		}
		if copied {
			err := conn.QueryRow(ctx, `select count(*), coalesce(sum(rows), 0)::int8 from walferry.copy_state where migration = $1`, st.Name).
				Scan(&st.Copy.PiecesDone, &st.Copy.Rows)
			if err != nil {
				return fmt.Errorf("read the copy's state: %w", err)
			}
		}
		return nil
	})
}

// The positions of a Status are text, as it is JSON. oneForm writes one as versions up to 18 do:
// later ones pad its second half with zeros.
func oneForm(lsn string) string { return parseLSN(lsn).String() }

// parseLSN returns the position that such a text means; 0 if there is none.
func parseLSN(s string) decoder.LSN {
	lsn, _ := pglogrepl.ParseLSN(s)
	return lsn
}

// Active reports whether the slot is known to be in use.
func (s *SourceStatus) Active() bool { return s.SlotActive != nil && *s.SlotActive }

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
	walStatus := "''"
	if session.Major(conn.PgConn()) >= 13 {
		walStatus = "wal_status"
	}
	var acked string
	err = conn.QueryRow(ctx, `
select active, coalesce(`+walStatus+`, ''), coalesce(confirmed_flush_lsn::text, ''), coalesce(pg_current_wal_lsn() - restart_lsn, 0)::int8
  from pg_replication_slots where slot_name = $1`, r.Slot).Scan(&st.Source.SlotActive, &st.Source.WALStatus, &acked, &st.Source.RetainedBytes)
	switch {
	case err == pgx.ErrNoRows:
		st.Source.WALStatus, st.Source.SlotActive, st.Source.RetainedBytes = "missing", new(bool), new(int64)
	case err != nil:
		return fmt.Errorf("ask the source for the slot: %w", err)
	case acked != "":
		st.Stream.AckedLSN = oneForm(acked)
	}
	return nil
}

// readSource asks the source for its position, after the target was asked for its own, and for what
// makes a lag of that.
func (st *Status) readSource(ctx context.Context, conn *pgx.Conn, name string, r *state.Record) error {
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
	if err := st.readFence(ctx, conn, name); err != nil {
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
