package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/internal/catalog"
)

// Config specifies what to compare.
type Config struct {
	Source, Target string // connection strings, see internal/session

	// SourceIs and TargetIs are what the sides are called in reports and errors. Empty means source and target.
	SourceIs, TargetIs string

	// Tables are the source's, with their columns. Partitioned tables are skipped: their rows are
	// in the leaves.
	Tables []catalog.Table

	// Jobs is the number of sessions on each side. Zero means 4.
	Jobs int

	// LockFor locks each table against TRUNCATE from its side's snapshot on, if the lock is free at
	// that moment: for small tables that are truncated so often that the comparison never finds
	// them as they were in the snapshot. A TRUNCATE of such a table waits, and so does everything
	// queued behind it. So the locks are released once Compare has been running for that long, at
	// the end of the current part of a table; the rest is read without locks, as with zero. It
	// implies one session on each side: a second one would queue behind the TRUNCATE.
	LockFor time.Duration

	// RowsPerRange is roughly how many rows share one hash. With fewer, the rows of a differing
	// range are found faster; with more, the first pass returns less. Zero means 20,000.
	RowsPerRange int

	// MaxRows is how many differing rows are named per table; all are counted. Zero means 20.
	MaxRows int

	// Progress is called after every part of a table; it must return quickly. May be nil.
	Progress func(Progress)

	// Logger may be nil.
	Logger *slog.Logger
}

// Verifier compares two databases once. Its methods are called in order: New, Connect if the
// opening must be quick, OpenSource, OpenTarget, Compare, Close.
type Verifier struct {
	config         Config
	source, target *side

	mu       sync.Mutex // guards the fields below, and the tables' results
	progress Progress
}

// Run compares two databases, each under a snapshot that it takes: those show the same state only
// if there are no writes.
func Run(ctx context.Context, c Config) (Report, error) {
	v, err := New(c)
	if err != nil {
		return Report{}, err
	}
	defer v.Close()
	opening, openingCtx := errgroup.WithContext(ctx)
	opening.Go(func() error { return v.OpenSource(openingCtx, "") })
	opening.Go(func() error { return v.OpenTarget(openingCtx) })
	if err := opening.Wait(); err != nil {
		return Report{}, err
	}
	return v.Compare(ctx)
}

// New checks the configuration; it does not connect.
func New(c Config) (*Verifier, error) {
	if c.Source == "" || c.Target == "" {
		return nil, errors.New("verify: two connection strings are needed")
	}
	if c.Jobs < 0 || c.RowsPerRange < 0 || c.MaxRows < 0 {
		return nil, errors.New("verify: a number in the configuration is negative")
	}
	c.Jobs = cmp.Or(c.Jobs, 4)
	if c.LockFor > 0 {
		c.Jobs = 1
	}
	c.RowsPerRange = cmp.Or(c.RowsPerRange, 20_000)
	c.MaxRows = cmp.Or(c.MaxRows, 20)
	c.SourceIs, c.TargetIs = cmp.Or(c.SourceIs, "source"), cmp.Or(c.TargetIs, "target")
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Verifier{config: c, source: &side{name: c.SourceIs}, target: &side{name: c.TargetIs}}, nil
}

// Connect opens the connections, so that OpenSource and OpenTarget take no longer than their
// snapshots do.
func (v *Verifier) Connect(ctx context.Context) error {
	if err := v.source.connect(ctx, v.config.Source, v.config.Jobs); err != nil {
		return err
	}
	return v.target.connect(ctx, v.config.Target, v.config.Jobs)
}

// OpenSource opens the sessions on the source, all under the named snapshot, or under a new one if
// the name is empty. Once it has returned nil the exporter of the snapshot is no longer needed.
func (v *Verifier) OpenSource(ctx context.Context, snapshot string) error {
	return v.open(ctx, v.source, v.config.Source, snapshot)
}

// OpenTarget opens the sessions on the target, all under one new snapshot. What is committed on the
// target after it has returned nil does not count.
func (v *Verifier) OpenTarget(ctx context.Context) error {
	return v.open(ctx, v.target, v.config.Target, "")
}

func (v *Verifier) open(ctx context.Context, s *side, dsn, snapshot string) error {
	if err := s.connect(ctx, dsn, v.config.Jobs); err != nil {
		return err
	}
	var lock []string
	if v.config.LockFor > 0 {
		for _, t := range v.config.Tables {
			lock = append(lock, t.String())
		}
	}
	return s.open(ctx, snapshot, lock)
}

// UnderTarget runs a query of one row under the target's snapshot, between OpenTarget and Compare.
func (v *Verifier) UnderTarget(ctx context.Context, sql string, args []any, into ...any) error {
	if len(v.target.sessions) == 0 {
		return errors.New("the target's sessions are not open")
	}
	return v.target.sessions[0].conn.QueryRow(ctx, sql, args...).Scan(into...)
}

// Close ends all sessions, and with them the snapshots.
func (v *Verifier) Close() {
	v.source.close()
	v.target.close()
}

// Compare reads all tables on both sides. An error means that the comparison was not completed,
// because of a lost connection or the end of ctx; differences, and tables that cannot be compared,
// are in the report.
func (v *Verifier) Compare(ctx context.Context) (Report, error) {
	for _, s := range []*side{v.source, v.target} {
		for _, session := range s.sessions {
			session.until = time.Now().Add(v.config.LockFor)
		}
	}
	tables, err := v.plan(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("verify: %w", err)
	}
	if err := v.hashAll(ctx, tables); err != nil {
		return Report{}, fmt.Errorf("verify: %w", err)
	}
	if err := v.narrowAll(ctx, tables); err != nil {
		return Report{}, fmt.Errorf("verify: %w", err)
	}
	report := Report{Tables: []TableReport{}}
	for _, t := range tables {
		t.conclude()
		v.explainGenerated(t)
		report.Tables = append(report.Tables, t.report)
	}
	report.Conclude()
	return report, nil
}

// hashAll is the first pass: each side's sessions take that side's parts, the largest first.
func (v *Verifier) hashAll(ctx context.Context, tables []*table) error {
	var queues [2]chan part // computed for both sides before any read: they share the tables
	for which, s := range []*side{v.source, v.target} {
		var parts []part
		for _, t := range tables {
			if t.err == nil && t.report.Gone == "" {
				parts = append(parts, t.parts(which, s, v.config.Jobs)...)
			}
		}
		slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(b.pages, a.pages) })
		v.progress.Parts += len(parts)
		queues[which] = make(chan part, len(parts))
		for _, p := range parts {
			queues[which] <- p
		}
		close(queues[which])
	}
	group, ctx := errgroup.WithContext(ctx)
	for which, s := range []*side{v.source, v.target} {
		for _, session := range s.sessions {
			group.Go(func() error {
				for p := range queues[which] {
					if err := v.hashPart(ctx, session, which, p); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	return group.Wait()
}

// hashPart reads one part and adds it to its table's ranges.
func (v *Verifier) hashPart(ctx context.Context, s *session, which int, p part) error {
	t := p.table
	v.mu.Lock()
	failed := t.err != nil
	v.mu.Unlock()
	ranges := map[int]sum{}
	var err error
	if !failed {
		err = s.read(ctx, t.sides[which], func() error { return s.hash(ctx, t, which, p, ranges) })
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil {
		if s.lost(ctx) {
			return fmt.Errorf("read table %s on the %s: %w", t.source.String(), s.side, err)
		}
		t.fail(s.side, err)
	}
	for n, add := range ranges {
		t.sums[which][n] = t.sums[which][n].plus(add)
		v.progress.Rows += add.rows
	}
	v.progress.PartsDone++
	t.partsLeft--
	if t.partsLeft == 0 {
		v.progress.TablesDone++
	}
	v.tell()
	return nil
}

// narrowAll is the second pass, over the tables that differ. A worker has a session on each side.
func (v *Verifier) narrowAll(ctx context.Context, tables []*table) error {
	queue := make(chan *table, len(tables))
	for _, t := range tables {
		if t.err == nil && len(t.differing()) > 0 {
			queue <- t
			v.progress.Narrowing++
		}
	}
	close(queue)
	if len(queue) == 0 {
		return nil
	}
	v.tell()
	group, ctx := errgroup.WithContext(ctx)
	for i := range v.source.sessions {
		pair := [2]*session{v.source.sessions[i], v.target.sessions[i]}
		group.Go(func() error {
			for t := range queue {
				if err := v.narrow(ctx, pair, t); err != nil {
					if pair[0].lost(ctx) || pair[1].lost(ctx) {
						return fmt.Errorf("compare table %s: %w", t.source.String(), err)
					}
					t.err = err
				}
				v.mu.Lock()
				v.progress.Narrowing--
				v.tell()
				v.mu.Unlock()
			}
			return nil
		})
	}
	return group.Wait()
}

// tell calls Config.Progress; mu is held, or nothing else is running.
func (v *Verifier) tell() {
	if v.config.Progress != nil {
		v.config.Progress(v.progress)
	}
}
