package schema

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
)

// BuilderConfig is what a Builder works with.
type BuilderConfig struct {
	Target      string // connection string
	Application string // of its sessions
	Jobs        int    // how many it has

	// Beside is for a Builder that works while rows are still being copied. What a target that
	// crashes loses of its work is built once the copy is done.
	Beside bool

	// Analyze reports whether a table's statistics are gathered once its indexes are there.
	Analyze func(table catalog.Name) bool

	// Refused is told what the target does not take. It is tried again when the rest of the schema
	// is created.
	Refused func(Refused)

	// Indexes is told how many indexes more, or fewer, wait, are being built, and are there. One that is
	// refused is not.
	Indexes func(waiting, building, done int)

	// Built and Analyzed are told of each table that has its indexes, or its statistics, and of the work of all sessions for that.
	Built, Analyzed func(table catalog.Name, took time.Duration)
}

// Builder builds the indexes of complete tables, Jobs at a time, also several of one table, and
// gathers the statistics of those that have theirs. A nil Builder does nothing.
type Builder struct {
	c      BuilderConfig
	dump   *Dump
	group  *errgroup.Group
	cancel context.CancelFunc

	loading sync.Mutex
	found   Present // on the target, before anything was built; nil: not read yet

	mu     sync.Mutex
	failed error
	ready  []indexTask
	left   map[string]int // tasks of a table that are not done
	took   map[string]time.Duration
	more   *sync.Cond
	ended  bool
}

// indexTask is work for one session: the constraints of a table, each of which needs it
// exclusively, or one index, which others may be built beside.
type indexTask struct {
	table   catalog.Name
	indexes []Index
	then    []indexTask
	analyze bool // instead
}

// NewBuilder starts the workers. Wait ends them.
func NewBuilder(ctx context.Context, dump *Dump, c BuilderConfig) *Builder {
	b := &Builder{c: c, dump: dump, left: map[string]int{}, took: map[string]time.Duration{}}
	b.more = sync.NewCond(&b.mu)
	ctx, b.cancel = context.WithCancel(ctx)
	b.group, ctx = errgroup.WithContext(ctx)
	for range c.Jobs {
		b.group.Go(func() error {
			err := b.work(ctx)
			if err != nil {
				b.mu.Lock()
				if b.failed == nil { // later ones have only been told to end
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

// Table hands over a table that is complete. It does not wait.
func (b *Builder) Table(id catalog.Name) error {
	if b == nil {
		return nil
	}
	constraints := indexTask{table: id}
	var others []indexTask
	for _, x := range b.dump.Indexes(id) {
		if x.Constraint() {
			constraints.indexes = append(constraints.indexes, x)
		} else {
			others = append(others, indexTask{table: id, indexes: []Index{x}})
		}
	}
	tasks := others
	if len(constraints.indexes) > 0 || len(others) == 0 {
		constraints.then = others
		tasks = []indexTask{constraints}
	}
	b.c.Indexes(len(constraints.indexes)+len(others), 0, 0)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left[id.String()] = len(tasks)
	b.queue(tasks)
	return b.failed
}

// queue puts tasks behind the others; mu is held.
func (b *Builder) queue(tasks []indexTask) {
	b.ready = append(b.ready, tasks...)
	for range tasks {
		b.more.Signal()
	}
}

func (b *Builder) work(ctx context.Context) error {
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
		if conn == nil { // a session is opened once there is work for it
			var err error
			config := session.Config{DSN: b.c.Target, Application: b.c.Application}
			if b.c.Beside {
				// What a target that crashes loses is built when the copy is done: the record of
				// that is flushed, and what precedes it.
				config.Settings = map[string]string{"synchronous_commit": "off"}
			}
			if conn, err = online.Open(ctx, config); err != nil {
				return err
			}
			if err := Tune(ctx, conn, b.c.Jobs); err != nil {
				return err
			}
		}
		began := time.Now()
		if err := b.do(ctx, conn, task); err != nil {
			return err
		}
		b.done(task, time.Since(began))
	}
}

func (b *Builder) do(ctx context.Context, conn *pgx.Conn, task indexTask) error {
	if task.analyze {
		return AnalyzeTable(ctx, conn, task.table)
	}
	found, err := b.present(ctx, conn)
	if err != nil {
		return err
	}
	for _, x := range task.indexes {
		b.c.Indexes(-1, 1, 0)
		refused, err := Refusals(Build(ctx, conn, found, x))
		if err != nil {
			return fmt.Errorf("build the indexes of %s: %w", task.table.String(), err)
		}
		for _, o := range refused {
			b.c.Refused(o)
		}
		b.c.Indexes(0, -1, 1-min(1, len(refused)))
	}
	return nil
}

// present is read by the first worker that has work, for all of them.
func (b *Builder) present(ctx context.Context, conn *pgx.Conn) (found Present, err error) {
	b.loading.Lock()
	defer b.loading.Unlock()
	if b.found == nil {
		b.found, err = LoadPresent(ctx, conn)
	}
	return b.found, err
}

// take waits for a task; false when there will be no more.
func (b *Builder) take() (indexTask, bool) {
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
func (b *Builder) done(task indexTask, took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := task.table.String()
	if b.left[key] == 0 {
		return // abandoned
	}
	b.took[key] += took
	b.left[key] += len(task.then) - 1
	b.queue(task.then)
	if b.left[key] > 0 {
		return
	}
	if task.analyze {
		b.c.Analyzed(task.table, took)
	} else {
		b.c.Built(task.table, b.took[key])
		if b.c.Analyze(task.table) {
			b.left[key] = 1
			b.queue([]indexTask{{table: task.table, analyze: true}})
			return
		}
	}
	delete(b.left, key)
	b.more.Broadcast() // it may have been the last
}

// Wait returns once every table that was handed over is done, or at once with abandon.
func (b *Builder) Wait(abandon bool) error {
	if b == nil {
		return nil
	}
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
	return err
}
