package migration

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
)

// indexBuilder builds the indexes of complete tables beside the copy, IndexJobs at a time,
// also several of one table, and gathers the statistics of those that have theirs.
type indexBuilder struct {
	r      *runner
	dump   *schema.Dump
	err    error
	group  *errgroup.Group
	cancel context.CancelFunc

	beside  bool            // the copy is going on
	analyze map[string]bool // whether a table's statistics are gathered here: not those of partitions, which their parents' take in

	loading sync.Mutex
	found   schema.Present // on the target, before anything was built; nil: not read yet

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
	analyze bool // instead
}

// newIndexBuilder starts the workers. With goesOn the tables that an earlier one has done count.
func (r *runner) newIndexBuilder(ctx context.Context, beside, goesOn bool) *indexBuilder {
	b := &indexBuilder{r: r, beside: beside, analyze: map[string]bool{}, left: map[string]int{}}
	b.more = sync.NewCond(&b.mu)
	tables := r.ordinary()
	if beside {
		for i := range tables {
			b.analyze[tables[i].String()] = !tables[i].IsPartition
		}
	}
	r.mu.Lock()
	if !goesOn {
		r.view.Indexes = IndexStatus{Tables: len(tables)}
	}
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
			config := session.Config{DSN: b.r.c.Target, Application: b.r.c.Name + " index"}
			if b.beside {
				// What a target that crashes forgets is built when the copy is done: the record of that is flushed, and what comes before it.
				config.Settings = map[string]string{"synchronous_commit": "off"}
			}
			if conn, err = online.Open(ctx, config); err != nil {
				return err
			}
			if err := schema.Tune(ctx, conn, b.r.c.IndexJobs); err != nil {
				return err
			}
		}
		if err := b.do(ctx, conn, task); err != nil {
			return err
		}
		b.done(task)
	}
}

func (b *indexBuilder) do(ctx context.Context, conn *pgx.Conn, task indexTask) error {
	if task.analyze {
		return schema.AnalyzeTable(ctx, conn, task.table)
	}
	found, err := b.present(ctx, conn)
	if err != nil {
		return err
	}
	for _, x := range task.indexes {
		// What the target refuses is tried again, and recorded, when the rest of the schema is brought.
		refused, err := schema.Refusals(schema.Build(ctx, conn, found, x))
		if err != nil {
			return fmt.Errorf("build the indexes of %s: %w", task.table.Sanitize(), err)
		}
		for _, o := range refused {
			b.r.c.Logger.Warn("schema: the target refuses " + o.String())
		}
	}
	return nil
}

// present is read by the first worker that has something to do, for all of them.
func (b *indexBuilder) present(ctx context.Context, conn *pgx.Conn) (found schema.Present, err error) {
	b.loading.Lock()
	defer b.loading.Unlock()
	if b.found == nil {
		b.found, err = schema.LoadPresent(ctx, conn)
	}
	return b.found, err
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
	b.r.mu.Lock()
	defer b.r.mu.Unlock()
	if task.analyze {
		b.r.analyzed = append(b.r.analyzed, task.table)
	} else {
		b.r.view.Indexes.TablesDone++
		if b.analyze[key] {
			b.left[key] = 1
			b.queue([]indexTask{{table: task.table, analyze: true}})
			return
		}
	}
	delete(b.left, key)
	b.more.Broadcast() // it may have been the last
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
	// What a run brought that did not come as far as to hold it must not act on what converge applies.
	if _, err := r.holdTriggers(ctx); err != nil {
		return err
	}
	if err := r.indexes(ctx, false, func(t *catalog.Table) bool { return !r.mixed(t.Schema, t.Name.Name) }); err != nil {
		return err
	}
	if err := r.converge(ctx); err != nil {
		return err
	}
	if err := r.indexes(ctx, true, func(t *catalog.Table) bool { return r.mixed(t.Schema, t.Name.Name) }); err != nil {
		return err
	}
	if r.c.Schema != "none" {
		if err := r.postData(ctx); err != nil {
			return err
		}
	}
	if _, err := r.holdTriggers(ctx); err != nil {
		return err
	}
	r.step("gather statistics")
	return schema.Analyze(ctx, r.c.Target, identifiers(r.tables), r.analyzed, r.c.Jobs)
}

// indexes builds what is missing of some tables' indexes.
func (r *runner) indexes(ctx context.Context, goesOn bool, of func(*catalog.Table) bool) error {
	if r.c.Schema == "none" {
		return nil
	}
	r.step("build the indexes")
	indexes := r.newIndexBuilder(ctx, false, goesOn)
	for _, t := range r.ordinary() {
		if !of(&t) {
			continue
		}
		if err := indexes.table(t.Schema, t.Name.Name); err != nil {
			break // wait says why
		}
	}
	return indexes.wait(false)
}
