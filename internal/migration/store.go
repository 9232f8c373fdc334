package migration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// Phase is how far a migration is. It is persisted on the target.
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
	Finished  Phase = "finished"  // the target is the database now
	Aborted   Phase = "aborted"   // given up; the target's data are unfit
)

// record is the row of walferry.migration.
type record struct {
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
	Tables          []tableState
	Live            Live

	FencedAt, DrainedAt, FinishedAt *time.Time
	PauseMS                         *int64
	SeenAt                          time.Time // when a running migrate last wrote Live, by the target's clock
	Alive                           bool      // a migrate holds the lock now
	Fresh                           bool      // or has written Live a moment ago, and not that it ends: it may be taking the lock again
}

// tableState is what a migration remembers of a table of its selection.
type tableState struct {
	OID uint32 `json:"oid,omitempty"` // the source's; 0 in a record of an older version
	catalog.Name
	Kind       string `json:"kind"`
	InsertOnly bool   `json:"insert_only,omitempty"`

	// Columns are those that travel, as they were when the publication was made.
	Columns []columnState `json:"columns,omitempty"`

	TargetOID uint32            `json:"target_oid,omitempty"` // 0: the target had no such table, or the record is of an older version
	Place     *place            `json:"place,omitempty"`      // nil in a record of an older version
	Indexes   map[string]string `json:"indexes,omitempty"`    // of the source: what indexSum says of each
}

// place is where a table of the source stands among others.
type place struct {
	Parents []string `json:"parents,omitempty"` // as SQL, sorted
	Bound   string   `json:"bound,omitempty"`   // of a partition
	Key     string   `json:"key,omitempty"`     // of a partitioned table
	Others  []string `json:"others,omitempty"`  // its children that are not migrated, as SQL, sorted
}

// columnState is a column of the source as it was.
type columnState struct {
	Number  int16  `json:"num,omitempty"` // attnum; 0 in a record of an older version
	Name    string `json:"name"`
	TypeOID uint32 `json:"type"`
	TypeMod int32  `json:"mod"`
	Target  int16  `json:"to,omitempty"`   // attnum on the target; 0: the target had no such column, or the record is of an older version
	Gone    bool   `json:"gone,omitempty"` // it has been dropped on both sides
}

// Options are the parts of Config that are remembered for a run that resumes: the first four must
// stay what they are. A record of an older version has only those.
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
	Timeout        float64  `json:"timeout,omitempty"` // seconds, of a cutover by itself
	MaxLag         float64  `json:"max_lag,omitempty"` // seconds
	Without        []string `json:"without,omitempty"`
}

const ddl = `
create schema if not exists walferry;
create table if not exists walferry.migration (
    name             text primary key,
    phase            text not null,
    error            text not null default '',
    tool_version     text not null,
    system_id        text not null,
    timeline         int not null,
    database         text not null,
    slot             text not null,
    consistent_point pg_lsn not null default '0/0',
    options          jsonb not null,
    tables           jsonb not null default '[]',
    publications     jsonb not null default '{}',
    schema_dump      bytea,
    refused          jsonb not null default '[]',   -- objects of the dump that the target does not take
    on_open          text[] not null default '{}',  -- what the cutover runs on the target before it opens
    proof            jsonb,                         -- both sides compared as of the cutover
    comparison       jsonb,                         -- what verify has found last, while it follows
    cutover          jsonb,                         -- what it has measured, once it is done
    sequences        jsonb,                         -- the source's as they were defined; null: not known
    live             jsonb not null default '{}',
    fenced_at        timestamptz,
    drained_at       timestamptz,
    finished_at      timestamptz,
    pause_ms         int8,
    created_at       timestamptz not null default clock_timestamp(),
    seen_at          timestamptz not null default clock_timestamp()
);
create table if not exists walferry.request (
    id           int8 generated by default as identity primary key,
    migration    text not null,
    kind         text not null,          -- cutover, abort, hold, advance, release
    args         jsonb not null default '{}',
    steps        text[] not null default '{}',
    requested_at timestamptz not null default clock_timestamp(),
    seen_at      timestamptz not null default clock_timestamp(),  -- the asking process is alive
    taken_at     timestamptz,            -- the runner has begun to carry it out
    withdrawn_at timestamptz,            -- the asking process has taken it back
    answered_at  timestamptz,
    ok           bool,
    answer       jsonb
);
`

// upgradeDDL adds what a record that an older version has made lacks.
const upgradeDDL = `
alter table walferry.migration add column if not exists cutover jsonb;
alter table walferry.migration add column if not exists comparison jsonb;
alter table walferry.migration add column if not exists sequences jsonb;
alter table walferry.migration add column if not exists refused jsonb not null default '[]';
alter table walferry.migration add column if not exists run text not null default '';
alter table walferry.request add column if not exists taken_at timestamptz;
alter table walferry.request add column if not exists withdrawn_at timestamptz`

// store reads and writes the schema walferry on the target.
type store struct {
	*session.Link
	name    string
	run     string // of a process that has taken the migration over; empty: it only looks and asks
	trusted bool   // nobody else has a hand in schema walferry; only used by a function of do
	reading bool   // see read
}

// has tells whether the target has a table of our schema. Before anything of it is read it
// makes sure that nobody else has a hand in it: it might be a view, and run functions of
// whoever made it.
func (s *store) has(ctx context.Context, conn *pgx.Conn, table string) (yes bool, err error) {
	if !s.trusted && !s.reading {
		if err := catalog.Trust(ctx, conn); err != nil {
			return false, fmt.Errorf("target: %w", err)
		}
		s.trusted = true
	}
	err = conn.QueryRow(ctx, `select to_regclass('walferry.' || $1) is not null`, table).Scan(&yes)
	if err != nil || !yes || !s.reading {
		return yes, err
	}
	if _, err := conn.Exec(ctx, `lock table walferry.`+table+` in access share mode`); err != nil {
		return false, fmt.Errorf("lock walferry.%s on the target: %w", table, err)
	}
	if err := catalog.TrustAsLocked(ctx, conn); err != nil {
		return false, fmt.Errorf("target: %w", err)
	}
	return true, nil
}

// read runs f, which only reads, with any role that may: also as a superuser where the
// migration is another role's. What has looks at stays as it is until f has ended.
func (s *store) read(ctx context.Context, f func() error) error {
	if err := s.Exec(ctx, `begin read only`); err != nil {
		return err
	}
	s.reading = true
	err := f()
	s.reading = false
	if rollback := s.Exec(ctx, `rollback`); err == nil && rollback != nil {
		return rollback
	}
	return err
}

func (s *store) exists(ctx context.Context) (yes bool, err error) {
	err = s.Do(ctx, func(conn *pgx.Conn) error {
		yes, err = s.has(ctx, conn, "migration")
		return err
	})
	return yes, err
}

// lockKey is the advisory lock that the one runner of a migration holds on the
// target. The first half keeps it apart from an application's keys.
const lockKey = `1463897158, hashtext($1)`

// load returns the migration's row, or nil when there is none.
func (s *store) load(ctx context.Context) (*record, error) {
	ok, err := s.exists(ctx)
	if err != nil || !ok {
		return nil, err
	}
	r := &record{Name: s.name}
	var options, tables, live []byte
	var phase, consistent string
	err = s.Do(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
select phase, error, tool_version, system_id, timeline, database, slot, consistent_point::text, options::text, tables::text, live::text,
       fenced_at, drained_at, finished_at, pause_ms, seen_at,
       seen_at > clock_timestamp() - interval '15 seconds' and coalesce((live ->> 'ended')::bool, false) is false,
       exists(select from pg_locks where locktype = 'advisory' and classid = 1463897158 and objid = hashtext($1)::oid
                and database = (select oid from pg_database where datname = current_database()) and granted)
  from walferry.migration where name = $1`, s.name).Scan(
			&phase, &r.Error, &r.ToolVersion, &r.SystemID, &r.Timeline, &r.Database, &r.Slot, &consistent, &options, &tables, &live,
			&r.FencedAt, &r.DrainedAt, &r.FinishedAt, &r.PauseMS, &r.SeenAt, &r.Fresh, &r.Alive)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read migration %q from the target: %w", s.name, err)
	}
	r.Phase = Phase(phase)
	if r.ConsistentPoint, err = pglogrepl.ParseLSN(consistent); err != nil {
		return nil, fmt.Errorf("read migration %q: %w", s.name, err)
	}
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

// known are the names of the migrations that the target has.
func (s *store) known(ctx context.Context) (names []string, err error) {
	ok, err := s.exists(ctx)
	if err != nil || !ok {
		return nil, err
	}
	err = s.Row(ctx, `select coalesce(array_agg(name order by name), '{}') from walferry.migration`, nil, &names)
	if err != nil {
		return nil, fmt.Errorf("list the target's migrations: %w", err)
	}
	return names, nil
}

func (s *store) noMigration(ctx context.Context) error {
	known, err := s.known(ctx)
	if err != nil {
		return err
	}
	return NoMigration(s.name, known)
}

// setPhase moves the phase on and clears the error.
func (s *store) setPhase(ctx context.Context, phase Phase) error {
	var name string
	err := s.Row(ctx, `update walferry.migration set phase = $2, error = '' where name = $1 and run = $3 returning name`, []any{s.name, string(phase), s.run}, &name)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errOvertaken
	}
	if err != nil {
		return fmt.Errorf("record phase %s: %w", phase, err)
	}
	return nil
}

func (s *store) setError(ctx context.Context, text string) error {
	return s.Exec(ctx, `update walferry.migration set error = $2 where name = $1 and run = $3`, s.name, text, s.run)
}

func (s *store) setLive(ctx context.Context, live Live) error {
	text, err := json.Marshal(live)
	if err != nil {
		return err
	}
	return s.Exec(ctx, `update walferry.migration set live = $2::text::jsonb, seen_at = clock_timestamp() where name = $1 and run = $3`, s.name, string(text), s.run)
}

// request is a row of walferry.request.
type request struct {
	ID   int64
	Kind string
	Args requestArgs
}

type requestArgs struct {
	LSN     string  `json:"lsn,omitempty"`
	Token   string  `json:"token,omitempty"`   // of one verify
	Asker   string  `json:"asker,omitempty"`   // who that is, for people
	Timeout float64 `json:"timeout,omitempty"` // seconds
	MaxLag  float64 `json:"max_lag,omitempty"` // seconds
	DryRun  bool    `json:"dry_run,omitempty"`
	NoFence bool    `json:"no_fence,omitempty"`
	// Without are objects that the target lacks and need not have.
	Without []string `json:"without,omitempty"`
	// AllowDifferences waives the gate of the last comparison.
	AllowDifferences bool `json:"allow_differences,omitempty"`
}

// answer is what a request got.
type answer struct {
	Error   string         `json:"error,omitempty"`
	Hint    string         `json:"hint,omitempty"`
	Gate    bool           `json:"gate,omitempty"`   // nothing was changed, or everything is as before
	Holder  string         `json:"holder,omitempty"` // who holds the applier: it is to be had later
	Cutover *CutoverResult `json:"cutover,omitempty"`

	Progress heldAt `json:"progress"` // of a held applier
}

// staleAfter is the time after which a request whose asker is silent is void: its
// process was killed, and nobody would read the answer.
const staleAfter = 15 * time.Second

// nextRequest takes the oldest open request of the migration but those of a kind, or returns nil.
func (s *store) nextRequest(ctx context.Context, later string) (*request, error) {
	r := &request{}
	var args []byte
	err := s.Do(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
update walferry.request set taken_at = clock_timestamp()
 where id = (select min(id) from walferry.request
              where migration = $1 and answered_at is null and withdrawn_at is null and seen_at > requested_at and seen_at > clock_timestamp() - $2::float8 * interval '1 second' and kind <> $3)
   and withdrawn_at is null
returning id, kind, args::text`, s.name, staleAfter.Seconds(), later).Scan(&r.ID, &r.Kind, &args)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read requests: %w", err)
	}
	return r, json.Unmarshal(args, &r.Args)
}

func (s *store) addStep(ctx context.Context, id int64, step string) error {
	return s.Exec(ctx, `update walferry.request set steps = steps || $2::text where id = $1`, id, step)
}

func (s *store) answer(ctx context.Context, id int64, ok bool, a answer) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return s.Exec(ctx, `update walferry.request set answered_at = clock_timestamp(), ok = $2, answer = $3::text::jsonb where id = $1`, id, ok, string(text))
}

// voidRequests answers what was asked of an earlier runner, which has left a phase.
func (s *store) voidRequests(ctx context.Context, phase Phase) error {
	a := answer{Error: "the migrate that was asked has ended", Gate: true}
	if phase == Fenced || phase == Drained { // this run finishes the cutover, or takes it back
		a.Gate, a.Hint = false, "`walferry status` shows what has become of it"
	}
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return s.Exec(ctx, `update walferry.request set answered_at = clock_timestamp(), ok = false, answer = $2::text::jsonb
 where migration = $1 and answered_at is null`, s.name, string(text))
}
