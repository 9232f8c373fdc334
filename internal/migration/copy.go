package migration

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

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

// copy copies every table under the slot's snapshot and builds the indexes of each
// as soon as it is complete.
//
// The snapshot ends with the process that holds it. A run that finds the phase
// Copying without one empties the tables that were begun and starts over, with a
// new slot: rows of two snapshots are never mixed.
func (r *runner) copy(ctx context.Context) error {
	if r.exported == nil {
		r.c.Logger.Warn("the snapshot of the interrupted copy is gone: the copy starts over")
		r.step("empty the tables of the interrupted copy")
		err := r.store.do(ctx, func(conn *pgx.Conn) error { return snapshot.Reset(ctx, conn, r.c.Name, r.copied()) })
		if err != nil {
			return err
		}
		if err := r.export(ctx); err != nil {
			return err
		}
	}
	r.step("copy the tables")
	indexes := r.newIndexBuilder(ctx)
	copier, err := snapshot.New(snapshot.Config{
		Source: r.c.Source, Target: r.c.Target, Migration: r.c.Name,
		Snapshot: r.exported.Name, AsOf: r.exported.ConsistentPoint,
		Tables: r.copied(), Jobs: r.c.Jobs, Logger: r.c.Logger,
		OnTable: func(_ context.Context, t snapshot.Table) error { return indexes.table(t.Schema, t.Name) },
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.copier, r.copyBegan = copier, time.Now()
	r.mu.Unlock()
	err = copier.Run(ctx)
	r.step("build the indexes")
	if indexErr := indexes.wait(err != nil); err == nil {
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
				b.failed = err
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
	if r.c.Schema != "none" {
		r.step("build the indexes")
		indexes := r.newIndexBuilder(ctx)
		for _, t := range r.ordinary() {
			if err := indexes.table(t.Schema, t.Name); err != nil {
				break // wait says why
			}
		}
		if err := indexes.wait(false); err != nil {
			return err
		}
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
