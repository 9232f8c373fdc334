package migration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/snapshot"
)

// ordinary are the selected tables that hold rows.
func (r *runner) ordinary() []catalog.Table {
	var out []catalog.Table
	for i := range r.tables {
		if r.tables[i].Kind == 'r' {
			out = append(out, r.tables[i])
		}
	}
	return out
}

func (r *runner) copied() []snapshot.Table {
	var out []snapshot.Table
	for _, t := range r.ordinary() {
		out = append(out, snapshot.Table{Schema: t.Schema, Name: t.Name})
	}
	return out
}

// beginCopy is run when the phase is Prepared. A run that was stopped since has
// lost the snapshot; then the slot is made again.
func (r *runner) beginCopy(ctx context.Context) error {
	if r.exported != nil {
		return nil
	}
	return r.export(ctx)
}

// mostRounds is how often tables that the application rewrites meanwhile are put aside, to be
// copied under a later snapshot.
const mostRounds = 5

// snapshotPatience is how long a source that cannot be reached is asked for another snapshot.
const snapshotPatience = 10 * time.Minute

// copy copies every table and builds the indexes of each as soon as it is complete.
//
// The slot's snapshot ends with the process that holds it. What is missing then, and
// tables that were rewritten before they were read, are copied under later ones, of which the position is
// known as well: converge brings all of it to one commit. The stream still begins at the slot's first position.
func (r *runner) copy(ctx context.Context) error {
	if err := r.readCopyState(ctx); err != nil {
		return err
	}
	resumes := r.exported == nil
	if resumes {
		if err := r.continuous(ctx); err != nil {
			return err
		}
	}
	tables, jobs := r.copied(), r.c.Jobs
	for round := 1; ; round++ {
		if r.exported == nil {
			if err := r.exportAgain(ctx); err != nil {
				return err
			}
		}
		err := r.copyUnder(ctx, tables, jobs, resumes, round < mostRounds)
		var rewritten *snapshot.RewrittenError
		var lost *snapshot.SnapshotLostError
		switch {
		case errors.As(err, &rewritten):
			r.c.Logger.Info("tables are copied again under a later snapshot", "tables", rewritten.Error(), "round", round)
			tables, jobs = rewritten.Tables, 1 // and so fast that it is not rewritten again
		case errors.As(err, &lost):
			r.c.Logger.Warn("the snapshot is lost, for the source has ended every session that had it: the copy goes on under another one")
		default:
			return err
		}
		r.exported.Close(ctx) //nolint:errcheck // it is not wanted any more
		r.exported, resumes = nil, true
	}
}

// readCopyState makes the tables for it, and notes as of when tables were copied so far.
func (r *runner) readCopyState(ctx context.Context) error {
	err := r.store.do(ctx, func(conn *pgx.Conn) error { return snapshot.Prepare(ctx, conn) })
	if err != nil {
		return err
	}
	return r.readWindows(ctx)
}

// continuous makes sure that the stream can be read from the slot's first position. If not,
// going on with the copy would be of no use.
func (r *runner) continuous(ctx context.Context) error {
	c, err := r.streamConfig(ctx, r.rec.ConsistentPoint)
	if err != nil {
		return err
	}
	stream, err := decoder.Open(ctx, r.c.Source, c)
	if err != nil {
		return err
	}
	return stream.Close()
}

// exportAgain makes a later snapshot whose position is known: that of a slot that ends with it.
func (r *runner) exportAgain(ctx context.Context) (err error) {
	r.step("take another snapshot")
	c := r.exportConfig(fmt.Sprintf("walferry_copy_%08x", rand.Uint32()))
	c.Temporary = true
	began := time.Now()
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		if r.exported, err = snapshot.Export(ctx, r.c.Source, c); err == nil {
			r.c.Logger.Info("the copy goes on under another snapshot", "consistent_point", r.exported.ConsistentPoint)
			return nil
		}
		var server *pgconn.PgError
		var blocked *snapshot.BlockedError
		if ctx.Err() != nil || errors.As(err, &blocked) || errors.As(err, &server) && !strings.HasPrefix(server.Code, "57P") || time.Since(began) > snapshotPatience {
			return fmt.Errorf("take another snapshot for the rest of the copy: %w", err)
		}
		r.c.Logger.Warn("the source gives no snapshot; trying again", "error", err, "in", pause)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// copyUnder copies what is missing under the snapshot that there is.
func (r *runner) copyUnder(ctx context.Context, tables []snapshot.Table, jobs int, resume, putAside bool) error {
	r.step("copy the tables")
	indexes := r.newIndexBuilder(ctx)
	copier, err := snapshot.New(snapshot.Config{
		Source: r.c.Source, Target: r.c.Target, Migration: r.c.Name,
		Snapshot: r.exported.Name, AsOf: r.exported.ConsistentPoint,
		Resume: resume, OnResume: r.onResume, PutAside: putAside,
		Tables: tables, Jobs: jobs, PieceBytes: r.c.PieceBytes, Logger: r.c.Logger,
		OnTable: func(_ context.Context, t snapshot.Table) error {
			if r.mixed(t.Schema, t.Name) {
				return nil
			}
			return indexes.table(t.Schema, t.Name)
		},
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	if all := r.copied(); len(tables) == len(all) || r.copier == nil { // else the view stays that of all
		r.copier, r.copyBegan = copier, time.Now()
	}
	r.mu.Unlock()
	err = copier.Run(ctx)
	r.step("build the indexes")
	var rewritten *snapshot.RewrittenError
	failed := err != nil && !errors.As(err, &rewritten)
	if indexErr := indexes.wait(failed); indexErr != nil && !failed {
		err = indexErr
	}
	if err != nil {
		return err
	}
	r.exported.Close(ctx) //nolint:errcheck // every worker has imported the snapshot, and is done with it
	r.exported = nil
	return nil
}

// indexBuilder builds the indexes of complete tables beside the copy, IndexJobs at a time,
// also several of one table.
type indexBuilder struct {
	r      *runner
	dump   *schema.Dump
	err    error
	group  *errgroup.Group
	cancel context.CancelFunc

	mu     sync.Mutex
	failed error
	ready  []indexTask
	left   map[string]int // tasks of a table that are not done
	more   *sync.Cond
	ended  bool
}

// indexTask is work for one session: the constraints of a table, which each need it for
// themselves, or one index, which others may be built beside.
type indexTask struct {
	table   pgx.Identifier
	indexes []schema.Index
	then    []indexTask
}

func (r *runner) newIndexBuilder(ctx context.Context) *indexBuilder {
	b := &indexBuilder{r: r, left: map[string]int{}}
	b.more = sync.NewCond(&b.mu)
	tables := len(r.ordinary())
	r.mu.Lock()
	r.view.Indexes = IndexStatus{Tables: tables}
	r.mu.Unlock()
	ctx, b.cancel = context.WithCancel(ctx)
	b.group, ctx = errgroup.WithContext(ctx)
	if r.c.Schema == "none" {
		return b
	}
	if b.dump, b.err = r.archive(ctx); b.err != nil {
		return b
	}
	for range r.c.IndexJobs {
		b.group.Go(func() error {
			err := b.work(ctx)
			if err != nil {
				b.mu.Lock()
				if b.failed == nil { // those after it have only been told to end
					b.failed = err
				}
				b.mu.Unlock()
				b.more.Broadcast()
			}
			return err
		})
	}
	return b
}

// table hands over a table that is complete. It does not wait.
func (b *indexBuilder) table(schemaName, name string) error {
	if b.err != nil || b.dump == nil {
		return b.err
	}
	id := pgx.Identifier{schemaName, name}
	constraints := indexTask{table: id}
	var others []indexTask
	for _, x := range b.dump.Indexes(id) {
		if x.Constraint() {
			constraints.indexes = append(constraints.indexes, x)
		} else {
			others = append(others, indexTask{table: id, indexes: []schema.Index{x}})
		}
	}
	tasks := others
	if len(constraints.indexes) > 0 || len(others) == 0 {
		constraints.then = others
		tasks = []indexTask{constraints}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left[id.Sanitize()] = len(tasks)
	b.queue(tasks)
	return b.failed
}

// queue puts tasks behind the others; mu is held.
func (b *indexBuilder) queue(tasks []indexTask) {
	b.ready = append(b.ready, tasks...)
	for range tasks {
		b.more.Signal()
	}
}

func (b *indexBuilder) work(ctx context.Context) error {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			conn.Close(context.WithoutCancel(ctx))
		}
	}()
	for {
		task, ok := b.take()
		if !ok {
			return nil
		}
		if conn == nil { // a session is opened by whoever has something to do
			var err error
			if conn, err = session.Open(ctx, session.Config{DSN: b.r.c.Target, Application: b.r.c.Name + " index"}); err != nil {
				return err
			}
			if err := schema.Tune(ctx, conn, b.r.c.IndexJobs); err != nil {
				return err
			}
		}
		if err := schema.Build(ctx, conn, task.indexes...); err != nil {
			return fmt.Errorf("build the indexes of %s: %w", task.table.Sanitize(), err)
		}
		b.done(task)
	}
}

// take waits for a task; false when there will be no more.
func (b *indexBuilder) take() (indexTask, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.ready) == 0 && (!b.ended || len(b.left) > 0 && b.failed == nil) {
		b.more.Wait()
	}
	if len(b.ready) == 0 {
		return indexTask{}, false
	}
	task := b.ready[0]
	b.ready = b.ready[1:]
	return task, true
}

// done queues what had to wait for a task.
func (b *indexBuilder) done(task indexTask) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := task.table.Sanitize()
	if b.left[key] == 0 {
		return // abandoned
	}
	b.left[key] += len(task.then) - 1
	b.queue(task.then)
	if b.left[key] > 0 {
		return
	}
	delete(b.left, key)
	b.more.Broadcast() // it may have been the last
	b.r.mu.Lock()
	b.r.view.Indexes.TablesDone++
	b.r.mu.Unlock()
}

// wait returns when every table that was handed over is done, or at once with
// abandon.
func (b *indexBuilder) wait(abandon bool) error {
	if abandon {
		b.cancel()
	}
	b.mu.Lock()
	b.ended = true
	if abandon {
		b.ready = nil
		clear(b.left)
	}
	b.mu.Unlock()
	b.more.Broadcast()
	err := b.group.Wait()
	b.cancel()
	return errors.Join(b.err, err)
}

// index completes the schema: whatever index an interrupted run left out, foreign
// keys, triggers and the rest, statistics. Everything in it may run twice.
func (r *runner) index(ctx context.Context) error {
	if err := r.readCopyState(ctx); err != nil {
		return err
	}
	if err := r.indexes(ctx, func(t *catalog.Table) bool { return !r.mixed(t.Schema, t.Name) }); err != nil {
		return err
	}
	if err := r.converge(ctx); err != nil {
		return err
	}
	if err := r.indexes(ctx, func(t *catalog.Table) bool { return r.mixed(t.Schema, t.Name) }); err != nil {
		return err
	}
	if r.c.Schema != "none" {
		if err := r.postData(ctx); err != nil {
			return err
		}
	}
	if err := r.holdTriggers(ctx); err != nil {
		return err
	}
	r.step("gather statistics")
	return schema.Analyze(ctx, r.c.Target, identifiers(r.tables), r.c.Jobs)
}

// indexes builds what is missing of some tables' indexes.
func (r *runner) indexes(ctx context.Context, of func(*catalog.Table) bool) error {
	if r.c.Schema == "none" {
		return nil
	}
	r.step("build the indexes")
	indexes := r.newIndexBuilder(ctx)
	for _, t := range r.ordinary() {
		if !of(&t) {
			continue
		}
		if err := indexes.table(t.Schema, t.Name); err != nil {
			break // wait says why
		}
	}
	return indexes.wait(false)
}
