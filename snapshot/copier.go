package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// closeTimeout bounds the orderly closing of a connection.
const closeTimeout = 10 * time.Second

// Config configures a Copier.
type Config struct {
	// Source and Target are connection strings, URIs or in keyword form.
	Source, Target string

	// Migration names the copy on the target, where its state is kept.
	Migration string

	// Snapshot is the name of the exported snapshot, and AsOf its position: Exported.Name and
	// Exported.ConsistentPoint.
	Snapshot string
	AsOf     decoder.LSN

	// PutAside leaves out tables that TRUNCATE, VACUUM FULL or CLUSTER has rewritten since the
	// snapshot was taken: see [RewrittenError]. False: after a TRUNCATE the table is copied empty,
	// as the slot has the TRUNCATE, and a large table that was rewritten is a *ChangedError.
	PutAside bool

	// Resume continues the copy where earlier runs under other snapshots stopped. The target is
	// then not as of one commit until the changes up to the end of the last of the [Windows] are
	// applied accordingly. False: a run under another snapshot is a *StateError.
	Resume bool

	// OnResume is called before a table receives rows of another snapshot, for which the target
	// needs the index of its replica identity and must not have other unique indexes. Nil: nothing
	// is called.
	OnResume func(context.Context, Table) error

	// Tables are the tables to copy. Their columns are matched by name.
	Tables []Table

	// Jobs is the number of workers, each with a connection to both sides. Zero: 4.
	Jobs int

	// PieceBytes is the size on the source above which a table is cut. Zero: the total size / (4 *
	// Jobs), but at least 64 MiB and at most 1 GiB.
	PieceBytes int64

	// Retry is how long a piece is retried, from its first failure on, while its errors are
	// transient: a lost connection, a restarting server, a deadlock. Zero: 5 minutes.
	Retry time.Duration

	// Worker is how a process calls itself that helps another one's copy: see Help. Run leaves it empty.
	Worker string

	// OnTable is called once for every table whose rows are all on the target, including those that
	// an earlier run finished. It is the time to build its indexes. The workers call it, several at
	// a time, and the caller waits for it: let it hand the table over. An error ends the run. Nil:
	// nothing is called.
	OnTable func(context.Context, Table) error

	// Logger logs what happens. Nil: nothing is logged.
	Logger *slog.Logger
}

// Copier copies tables under one snapshot.
type Copier struct {
	config Config
	byPage bool // large tables are cut into ranges of pages, not of keys

	mu       sync.Mutex
	exported []string // the snapshot, by other names; see openSource
	tables   []*tableCopy
	byName   map[catalog.Name]*tableCopy
	aside    []Table // to be copied under a later snapshot

	own struct { // what this process has copied
		pieces      int
		rows, bytes int64
	}

	unsure atomic.Bool // a commit may have been made and not be counted
	told   atomic.Bool // that it waits for others
}

// tableCopy is a table that is being copied. The fields below the blank line are guarded by
// Copier.mu.
type tableCopy struct {
	*matched
	bounds []string // of its pieces
	bytes  int64    // size on the source

	have         []bool // the pieces that are done
	done         int    // how many
	rows, stream int64  // of the pieces done
	announced    bool
	running      map[*pipe]struct{}
}

func (t *tableCopy) key() catalog.Name { return catalog.Name{Schema: t.Schema, Name: t.Name} }

// complete reports whether all pieces are done.
func (t *tableCopy) complete() bool { return t.done == len(t.bounds) }

// put counts a piece, once.
func (t *tableCopy) put(number int, rows, bytes int64) {
	if number < len(t.have) && !t.have[number] {
		t.have[number] = true
		t.done++
		t.rows += rows
		t.stream += bytes
	}
}

type piece struct {
	table  *tableCopy
	number int
}

// New checks a configuration. It does not connect.
func New(c Config) (*Copier, error) {
	switch {
	case c.Source == "" || c.Target == "":
		return nil, errors.New("copy needs a source and a target")
	case c.Migration == "":
		return nil, errors.New("copy needs the name of a migration")
	case c.Snapshot == "" || c.AsOf == 0:
		return nil, errors.New("copy needs an exported snapshot and its position")
	case c.Jobs < 0 || c.PieceBytes < 0 || c.Retry < 0:
		return nil, errors.New("copy: Jobs, PieceBytes and Retry cannot be negative")
	}
	if c.Jobs == 0 {
		c.Jobs = 4
	}
	if c.Retry == 0 {
		c.Retry = 5 * time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Copier{config: c}, nil
}

// Run copies what is not copied yet and returns when all of it is durable on the target. All
// workers import the snapshot before anything else; a snapshot that is gone is a
// *SnapshotLostError.
//
// If it fails, or ctx ends, the pieces in progress are rolled back and those done remain: Run of a
// new Copier resumes from there if the snapshot still exists, or under another one with Resume;
// without Resume that is a *StateError. If it returns a *RewrittenError all tables are done except
// those put aside. Tables that do not match are a *SchemaError before anything is written. Run must
// be called only once.
func (c *Copier) Run(ctx context.Context) error {
	workers, err := c.hire(ctx)
	defer func() {
		for _, w := range workers {
			w.close(ctx)
		}
	}()
	if err != nil {
		return c.failed(ctx, err)
	}
	pieces, err := c.prepare(ctx, workers[0])
	if err != nil {
		return c.failed(ctx, err)
	}
	c.config.Logger.Info("copy begins", "tables", len(c.tables), "pieces", len(pieces), "as_of", c.config.AsOf.String())

	for {
		if err := c.work(ctx, workers); err != nil {
			return c.failed(ctx, err)
		}
		if err := workers[0].makeDurable(ctx); err != nil {
			return c.failed(ctx, err)
		}
		if pieces, err = c.unrecorded(ctx, workers[0]); err != nil {
			return c.failed(ctx, err)
		}
		if err := c.announceComplete(ctx, c.tables...); err != nil {
			return c.failed(ctx, err)
		}
		if len(pieces) == 0 {
			break
		}
		c.config.Logger.Warn("the target has lost pieces that it had not flushed; copying them again", "pieces", len(pieces))
		err = workers[0].patiently(ctx, func() error {
			if err := workers[0].connect(ctx); err != nil {
				return err
			}
			return c.offer(ctx, workers[0], pieces)
		})
		if err != nil {
			return c.failed(ctx, err)
		}
	}
	if len(c.aside) > 0 {
		return &RewrittenError{Tables: c.aside}
	}
	c.config.Logger.Info("copy done", "tables", len(c.tables), "rows", c.Progress().Rows)
	return nil
}

// work copies pieces, and announces the tables that are complete, whoever has copied them.
func (c *Copier) work(ctx context.Context, workers []*worker) error {
	all, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	group, working := errgroup.WithContext(all)
	for i, w := range workers {
		group.Go(func() error {
			for j := i; j < len(c.tables); j += len(workers) {
				if err := c.announceComplete(working, c.tables[j]); err != nil {
					return err
				}
			}
			return w.work(working)
		})
	}
	if c.config.Worker != "" {
		return group.Wait()
	}
	watched := make(chan error, 1)
	go func() {
		err := c.watchOthers(all)
		stop(err)
		watched <- err
	}()
	err := group.Wait()
	stop(nil)
	return cmp.Or(<-watched, err)
}

// unrecorded returns the pieces that were committed and are not there: a target that crashes loses
// what it had not flushed.
func (c *Copier) unrecorded(ctx context.Context, w *worker) (pieces []piece, err error) {
	var s state
	err = w.patiently(ctx, func() error {
		if err := w.connect(ctx); err != nil {
			return err
		}
		s, err = openState(ctx, w.target, c.config.Migration, 0)
		if err != nil {
			return onTarget(err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c.missing(s), nil
}

// failed prefers the cause of a cancelled context to the resulting error.
func (c *Copier) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("copy: %w", context.Cause(ctx))
	}
	return err
}

// hire starts with the source, as time only matters for the snapshot.
func (c *Copier) hire(ctx context.Context) ([]*worker, error) {
	workers := make([]*worker, c.config.Jobs)
	for i := range workers {
		workers[i] = &worker{copier: c, spare: newSpare()}
	}
	group, hiring := errgroup.WithContext(ctx)
	for _, w := range workers {
		group.Go(func() (err error) {
			w.source, err = c.openSource(hiring)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return workers, err
	}
	for _, w := range workers {
		var err error
		if w.target, err = c.openTarget(ctx); err != nil {
			return workers, err
		}
	}
	return workers, nil
}

// application is the name of the connections.
func (c *Copier) application() string {
	if c.config.Worker == "" {
		return "copy"
	}
	return "copy by " + c.config.Worker
}

// openTarget connects to the target. Commits need not wait for the disk: a crash loses a piece
// together with its row in copy_state, and Run ends with a commit that waits. Triggers and foreign
// keys do not fire if the role may set that.
func (c *Copier) openTarget(ctx context.Context) (*pgx.Conn, error) {
	conn, err := session.Open(ctx, session.Config{
		DSN: c.config.Target, Application: c.application(), Settings: map[string]string{
			"synchronous_commit": "off",
			// What a host that is cut off has claimed is free again after three quarters of a minute.
			"tcp_keepalives_idle": "15", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "6",
		},
	})
	if err != nil {
		return nil, onTarget(err)
	}
	if _, err := conn.Exec(ctx, "set session_replication_role = replica"); err != nil && conn.IsClosed() {
		return nil, onTarget(err)
	}
	return conn, nil
}

// prepare compares the two sides, cuts the tables and returns the pieces that are not there yet,
// those of the largest table first, which it offers to everybody who copies.
func (c *Copier) prepare(ctx context.Context, w *worker) (pieces []piece, err error) {
	asOf := c.config.AsOf
	if c.config.Resume {
		asOf = 0
	}
	if err := Prepare(ctx, w.target); err != nil {
		return nil, err
	}
	said := time.AfterFunc(othersInterval, func() {
		c.config.Logger.Info("waits for pieces that other processes copy for the run before this one: " + endOthers)
	})
	err = withdraw(ctx, w.target, c.config.Migration)
	said.Stop()
	if err != nil {
		return nil, onTarget(err)
	}
	state, err := openState(ctx, w.target, c.config.Migration, asOf)
	if err != nil {
		return nil, err
	}
	tables, err := match(ctx, w.source, w.target, c.config.Tables)
	if err != nil {
		return nil, err
	}
	if c.config.Resume {
		if err := c.resume(ctx, w, state, tables); err != nil {
			return nil, err
		}
	}
	copies, err := c.cut(ctx, w, state, tables)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(copies, func(a, b *tableCopy) int {
		return int(min(max(b.bytes-a.bytes, -1), 1))
	})

	c.setTables(copies)
	pieces = c.missing(state)
	return pieces, c.offer(ctx, w, pieces)
}

// missing counts what is recorded of each table, and returns the pieces that are not recorded,
// except of tables that were put aside.
func (c *Copier) missing(s state) (pieces []piece) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.tables {
		if slices.Contains(c.aside, t.Table) {
			continue
		}
		t.have, t.done, t.rows, t.stream = make([]bool, len(t.bounds)), 0, 0, 0
		finished := s.pieces[t.key()]
		for n := range t.bounds {
			if f, ok := finished[n]; ok {
				t.put(n, f.rows, f.bytes)
				continue
			}
			pieces = append(pieces, piece{table: t, number: n})
		}
	}
	return pieces
}

// cut cuts the tables, or reuses the cuts of an earlier run, and records new ones.
func (c *Copier) cut(ctx context.Context, w *worker, state state, tables []*matched) ([]*tableCopy, error) {
	major := session.Major(w.source.PgConn())
	c.byPage = major >= 14
	cutter := cutter{conn: w.source, major: major, jobs: c.config.Jobs, pieceBytes: c.config.PieceBytes}
	if cutter.pieceBytes == 0 {
		var total int64
		for _, m := range tables {
			total += m.source.bytes
		}
		cutter.pieceBytes = pieceSize(total, c.config.Jobs)
	}
	var copies []*tableCopy
	record := &pgx.Batch{} // flushed: pieces that remain must have their plan
	record.Queue("begin")
	record.Queue("set local synchronous_commit = on")
	for _, m := range tables {
		t := &tableCopy{matched: m, bytes: m.source.bytes, running: map[*pipe]struct{}{}}
		copies = append(copies, t)
		if p, ok := state.plan[catalog.Name{Schema: m.Schema, Name: m.Name}]; ok {
			t.bytes, t.bounds = p.bytes, p.bounds
			continue
		}
		if len(state.pieces[catalog.Name{Schema: m.Schema, Name: m.Name}]) > 0 {
			return nil, fmt.Errorf("resume copy of table %s: walferry.copy_state has pieces of it, walferry.copy_plan has not", m)
		}
		var err error
		if t.bounds, err = cutter.cut(ctx, m); err != nil {
			return nil, err
		}
		schema, name := m.Table.target()
		record.Queue(insertPlan, c.config.Migration, m.Schema, m.Name, schema, name, c.config.AsOf.String(), t.bytes, t.bounds, t.filenode())
	}
	if record.Len() > 2 {
		record.Queue("commit")
		if _, err := execBatch(ctx, w.target, record); err != nil {
			return nil, fmt.Errorf("record the plan of the copy: %w", err)
		}
	}
	if _, err := w.source.PgConn().Exec(ctx, "rollback to savepoint piece").ReadAll(); err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	return copies, nil
}
