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

// indexBuilder builds the indexes of complete tables, Jobs tables at a time,
// beside the copy.
type indexBuilder struct {
	r      *runner
	dump   *schema.Dump
	err    error
	group  *errgroup.Group
	cancel context.CancelFunc

	mu     sync.Mutex
	failed error
	ready  []catalog.Table
	more   *sync.Cond
	ended  bool
	byKey  map[[2]string]catalog.Table
}

func (r *runner) newIndexBuilder(ctx context.Context) *indexBuilder {
	b := &indexBuilder{r: r, byKey: map[[2]string]catalog.Table{}}
	b.more = sync.NewCond(&b.mu)
	for _, t := range r.ordinary() {
		b.byKey[[2]string{t.Schema, t.Name}] = t
	}
	r.mu.Lock()
	r.view.Indexes = IndexStatus{Tables: len(b.byKey)}
	r.mu.Unlock()
	ctx, b.cancel = context.WithCancel(ctx)
	b.group, ctx = errgroup.WithContext(ctx)
	if r.c.Schema == "none" {
		return b
	}
	if b.dump, b.err = r.archive(ctx); b.err != nil {
		return b
	}
	for range min(r.c.Jobs, max(len(b.byKey), 1)) {
		b.group.Go(func() error {
			err := b.work(ctx)
			if err != nil {
				b.mu.Lock()
				b.failed = err
				b.mu.Unlock()
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
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready = append(b.ready, b.byKey[[2]string{schemaName, name}])
	b.more.Signal()
	return b.failed
}

func (b *indexBuilder) work(ctx context.Context) error {
	conn, err := session.Open(ctx, session.Config{DSN: b.r.c.Target, Application: b.r.c.Name + " index"})
	if err != nil {
		return err
	}
	defer func() { conn.Close(context.WithoutCancel(ctx)) }()
	if err := schema.Tune(ctx, conn, b.r.c.Jobs); err != nil {
		return err
	}
	for {
		b.mu.Lock()
		for len(b.ready) == 0 && !b.ended {
			b.more.Wait()
		}
		if len(b.ready) == 0 {
			b.mu.Unlock()
			return nil
		}
		t := b.ready[0]
		b.ready = b.ready[1:]
		b.mu.Unlock()
		if err := b.dump.BuildIndexes(ctx, conn, pgx.Identifier{t.Schema, t.Name}); err != nil {
			return fmt.Errorf("build the indexes of %s: %w", &t, err)
		}
		b.r.mu.Lock()
		b.r.view.Indexes.TablesDone++
		b.r.mu.Unlock()
	}
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
