package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/wait"
)

// Phase is how far a migration is.
type Phase string

// The phases in their order, and Aborted, which may follow any but Finished.
const (
	New       Phase = "new"       // recorded; nothing that must be kept exists yet
	Prepared  Phase = "prepared"  // schema, publication and slot exist; nothing is copied
	Copying   Phase = "copying"   // some tables hold rows
	Indexing  Phase = "indexing"  // every table is copied; indexes and constraints are being built
	Following Phase = "following" // the target equals the source as it was at `applied`
	Fenced    Phase = "fenced"    // the source is being, or is, fenced; the last changes drain
	Drained   Phase = "drained"   // the target has the last change; sequences are being set
	Switched  Phase = "switched"  // the target is the database now, and what is written there flows back to the source
	Finished  Phase = "finished"  // the target is the database now
	Aborted   Phase = "aborted"   // given up; the target's data are unfit
)

// Record is what is kept of a migration and read whenever it is looked at. Values that are large,
// or needed in one place only, are kept beside it: see Value.
type Record struct {
	Name        string
	Phase       Phase
	Error       string // why the last run stopped; empty: it did not fail
	ToolVersion string

	SystemID string
	Timeline int32
	Database string

	Slot            string
	ConsistentPoint pglogrepl.LSN
	Options         Options
	Tables          []Table
	Live            Live

	FencedAt, DrainedAt, FinishedAt *time.Time
	PauseMS                         *int64
	SeenAt                          time.Time // when a running migrate last wrote Live, by the home's clock
	Alive                           bool      // a migrate holds the lock now
	Fresh                           bool      // or has written Live a moment ago, and not that it is ending: it may be taking the lock again
}

// Options are what is remembered for a run that resumes: the first four must stay what they
// are. A record of an older version has only those.
type Options struct {
	Include    []string `json:"include,omitempty"`
	Exclude    []string `json:"exclude,omitempty"`
	InsertOnly []string `json:"insert_only,omitempty"`
	Schema     string   `json:"schema"`

	Until          string   `json:"until,omitempty"`
	Cutover        string   `json:"cutover,omitempty"` // auto or manual
	Verify         bool     `json:"verify,omitempty"`
	MaxRetainedWAL int64    `json:"max_retained_wal,omitempty"` // bytes; 0: no limit
	OnNewTable     string   `json:"on_new_table,omitempty"`
	Timeout        float64  `json:"timeout,omitempty"` // seconds, of an automatic cutover
	MaxLag         float64  `json:"max_lag,omitempty"` // seconds
	Without        []string `json:"without,omitempty"`
	FallBack       string   `json:"fall_back,omitempty"` // auto, require or off; empty: off

	MaxRetainedWALTarget int64 `json:"max_retained_wal_target,omitempty"` // bytes; 0: no limit
}

// lockKey is the advisory lock that the one runner of a migration, $1, holds on the home. The
// first half keeps it apart from an application's keys.
const lockKey = `1463897158, hashtext($1)`

const (
	// fresh: the runner has written what it does a moment ago, and not that it ends.
	fresh = `seen_at > clock_timestamp() - interval '15 seconds' and coalesce((live ->> 'ended')::bool, false) is false`
	// locked: somebody has the lock of the migration %s.
	locked = `exists(select from pg_locks where locktype = 'advisory' and classid = 1463897158 and objid = hashtext(%s)::oid
                and database = (select oid from pg_database where datname = current_database()) and granted)`
)

// Begin makes the tables, where they are missing, and records a new migration in them.
func (s *Store) Begin(ctx context.Context, r *Record) error {
	options, err := json.Marshal(r.Options)
	if err != nil {
		return err
	}
	err = s.home.Do(ctx, func(conn *pgx.Conn) error {
		var there bool
		if err := conn.QueryRow(ctx, laterThere()).Scan(&there); err != nil {
			return err
		}
		sql := TablesSQL()
		if there { // to alter them, be it for nothing, takes locks of all that an asker of a running migration takes in another order
			sql = ""
		}
		if err := catalog.Own(ctx, conn, sql); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, `
insert into walferry.migration (name, phase, tool_version, system_id, timeline, database, slot, options)
values ($1, 'new', $2, $3, $4, $5, $6, $7::text::jsonb)`,
			s.name, r.ToolVersion, r.SystemID, r.Timeline, r.Database, r.Slot, string(options))
		return err
	})
	if err != nil {
		return fmt.Errorf("record migration %q on the target: %w", s.name, err)
	}
	return nil
}

// Load returns the record, or nil when there is none.
func (s *Store) Load(ctx context.Context) (*Record, error) {
	ok, err := s.exists(ctx)
	if err != nil || !ok {
		return nil, err
	}
	r := &Record{Name: s.name}
	var options, tables, live []byte
	var phase string
	err = s.home.Row(ctx, `
select phase, error, tool_version, system_id, timeline, database, slot, consistent_point::text, options::text, tables::text, live::text,
       fenced_at, drained_at, finished_at, pause_ms, seen_at,
       `+fresh+`,
       `+fmt.Sprintf(locked, "$1")+`
  from walferry.migration where name = $1`, []any{s.name},
		&phase, &r.Error, &r.ToolVersion, &r.SystemID, &r.Timeline, &r.Database, &r.Slot, &r.ConsistentPoint, &options, &tables, &live,
		&r.FencedAt, &r.DrainedAt, &r.FinishedAt, &r.PauseMS, &r.SeenAt, &r.Fresh, &r.Alive)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read migration %q from the target: %w", s.name, err)
	}
	r.Phase = Phase(phase)
	for _, part := range []struct {
		from []byte
		to   any
	}{{options, &r.Options}, {tables, &r.Tables}, {live, &r.Live}} {
		if err := json.Unmarshal(part.from, part.to); err != nil {
			return nil, fmt.Errorf("read migration %q from the target: %w", s.name, err)
		}
	}
	return r, nil
}

// Phase reads the phase alone, of a record that belongs to one that was read before; empty: there is none.
func (s *Store) Phase(ctx context.Context) (phase Phase, err error) {
	err = s.home.Row(ctx, `select phase from walferry.migration where name = $1`, []any{s.name}, &phase)
	if err = none(err); err != nil {
		err = fmt.Errorf("read the phase of %s: %w", s.name, err)
	}
	return phase, err
}

// alivePatience is longer than a runner takes to find that its lock is gone.
const alivePatience = 8 * time.Second

// LoadAlive is Load that gives a runner which has lost its lock, as after a restart of the
// home, the time to take it again.
func (s *Store) LoadAlive(ctx context.Context) (*Record, error) {
	for end := time.Now().Add(alivePatience); ; {
		r, err := s.Load(ctx)
		if err != nil || r == nil || r.Alive || !r.Fresh || time.Now().After(end) {
			return r, err
		}
		if err := wait.Sleep(ctx, 200*time.Millisecond); err != nil {
			return r, err
		}
	}
}

// Forget removes the record of a flow that was armed, if there is one.
func (s *Store) Forget(ctx context.Context) error {
	ok, err := s.exists(ctx)
	if err != nil || !ok {
		return err
	}
	if err := s.home.Exec(ctx, `delete from walferry.migration where name = $1`, s.name); err != nil {
		return fmt.Errorf("forget the record of %s: %w", s.name, err)
	}
	return nil
}

// Take makes the migration this process's, which has the lock: whoever had it before, and
// wakes up later, finds that here and by the source's fence, and changes nothing any more.
func (s *Store) Take(ctx context.Context) error {
	if err := s.upgrade(ctx); err != nil {
		return err
	}
	run := fmt.Sprintf("%016x", rand.Uint64())
	if err := s.home.Exec(ctx, `update walferry.migration set run = $2 where name = $1`, s.name, run); err != nil {
		return fmt.Errorf("take the migration over: %w", err)
	}
	s.run = run
	return nil
}

// Run is the mark of the run that has taken the migration over; empty: this process has not.
func (s *Store) Run() string { return s.run }

// Mine returns nil when nobody has taken the migration over since Take; otherwise ErrOvertaken.
func (s *Store) Mine(ctx context.Context) error {
	var run string
	err := s.home.Row(ctx, `select run from walferry.migration where name = $1`, []any{s.name}, &run)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && run != s.run {
		return ErrOvertaken
	}
	return err
}

// SetPhase moves the phase on and clears the error.
func (s *Store) SetPhase(ctx context.Context, phase Phase) error {
	var name string
	err := s.home.Row(ctx, `update walferry.migration set phase = $2, error = '' where name = $1 and run = $3 returning name`, []any{s.name, string(phase), s.run}, &name)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrOvertaken
	}
	if err != nil {
		return fmt.Errorf("record phase %s: %w", phase, err)
	}
	return nil
}

// SetOptions records the options as they are from now on.
func (s *Store) SetOptions(ctx context.Context, o Options) error {
	text, err := json.Marshal(o)
	if err == nil {
		err = s.home.Exec(ctx, `update walferry.migration set options = $2::text::jsonb where name = $1 and run = $3`, s.name, string(text), s.run)
	}
	if err != nil {
		return fmt.Errorf("record the options: %w", err)
	}
	return nil
}

// SetError records why the run has ended; empty: it is in progress.
func (s *Store) SetError(ctx context.Context, text string) error {
	return s.home.Exec(ctx, `update walferry.migration set error = $2 where name = $1 and run = $3`, s.name, text, s.run)
}

// GiveUp records that walferry has given the migration up, and why.
func (s *Store) GiveUp(ctx context.Context, why string) error {
	return s.home.Exec(ctx, `update walferry.migration set phase = 'aborted', error = $2 where name = $1`, s.name, why)
}

// SetFenced records when the source was fenced.
func (s *Store) SetFenced(ctx context.Context, at time.Time) error {
	return s.home.Exec(ctx, `update walferry.migration set fenced_at = $2 where name = $1`, s.name, at)
}

// SetDrained records when the target had the source's last change.
func (s *Store) SetDrained(ctx context.Context, at time.Time) error {
	return s.home.Exec(ctx, `update walferry.migration set drained_at = $2 where name = $1`, s.name, at)
}

// SetUnfenced forgets both, and what an earlier cutover has measured: it was undone, or taken back by a fallback.
func (s *Store) SetUnfenced(ctx context.Context) error {
	return s.home.Exec(ctx, `update walferry.migration set fenced_at = null, drained_at = null, finished_at = null, pause_ms = null where name = $1`, s.name)
}

// SetConsistentPoint records where the slot begins.
func (s *Store) SetConsistentPoint(ctx context.Context, q catalog.Querier, at pglogrepl.LSN) error {
	_, err := q.Exec(ctx, `update walferry.migration set consistent_point = $2::text::pg_lsn where name = $1`, s.name, at.String())
	return err
}
