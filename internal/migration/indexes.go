package migration

import (
	"context"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
)

// buildIndexes starts a builder, beside the copy or after it; nil with --schema none. With goesOn
// the tables that an earlier one has done count.
func (r *runner) buildIndexes(ctx context.Context, beside, goesOn bool) (*schema.Builder, error) {
	tables := r.ordinary()
	analyze := map[string]bool{} // not partitions, whose statistics their parents' take in
	if beside {
		for i := range tables {
			analyze[tables[i].String()] = !tables[i].IsPartition
		}
	}
	r.mu.Lock()
	if !goesOn {
		r.status.Indexes = state.IndexStatus{Tables: len(tables)}
	}
	r.mu.Unlock()
	if r.c.Schema == "none" {
		return nil, nil
	}
	dump, err := r.archive(ctx)
	if err != nil {
		return nil, err
	}
	return schema.NewBuilder(ctx, dump, schema.BuilderConfig{
		Target: r.c.Target, Application: r.c.Name + " index", Jobs: r.c.IndexJobs, Beside: beside,
		Analyze: func(table catalog.Name) bool { return analyze[table.String()] },
		Refused: func(o schema.Refused) { r.c.Logger.Warn("schema: the target refuses " + o.String()) },
		Built: func(catalog.Name) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.status.Indexes.TablesDone++
		},
		Analyzed: func(table catalog.Name) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.analyzed = append(r.analyzed, table)
		},
	}), nil
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
	if err := r.indexes(ctx, false, func(t *catalog.Table) bool { return !r.mixed(t.Name) }); err != nil {
		return err
	}
	if err := r.converge(ctx); err != nil {
		return err
	}
	if err := r.indexes(ctx, true, func(t *catalog.Table) bool { return r.mixed(t.Name) }); err != nil {
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
	return schema.Analyze(ctx, r.c.Target, namesOf(r.tables), r.analyzed, r.c.Jobs)
}

// indexes builds what is missing of some tables' indexes.
func (r *runner) indexes(ctx context.Context, goesOn bool, of func(*catalog.Table) bool) error {
	if r.c.Schema == "none" {
		return nil
	}
	r.step("build the indexes")
	indexes, err := r.buildIndexes(ctx, false, goesOn)
	if err != nil {
		return err
	}
	for _, t := range r.ordinary() {
		if !of(&t) {
			continue
		}
		if err := indexes.Table(t.Name); err != nil {
			break // wait says why
		}
	}
	return indexes.Wait(false)
}
