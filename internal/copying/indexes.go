package copying

import (
	"context"
	"slices"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
)

// builder starts a builder, beside the copy or after it; nil if the target has all indexes. With
// goesOn the tables that an earlier one has done count.
func (c *Copy) builder(ctx context.Context, beside, goesOn bool) (*schema.Builder, error) {
	tables := c.Tables()
	analyze := map[string]bool{} // not partitions, whose statistics their parents' take in
	if beside {
		for i := range tables {
			analyze[tables[i].String()] = !tables[i].IsPartition
		}
	}
	c.mu.Lock()
	if !goesOn || c.indexes == nil {
		c.indexes = &state.IndexStatus{Tables: len(tables)}
	}
	c.mu.Unlock()
	if c.Archive == nil {
		return nil, nil
	}
	dump, err := c.Archive(ctx)
	if err != nil {
		return nil, err
	}
	return schema.NewBuilder(ctx, dump, schema.BuilderConfig{
		Target: c.Flow.To.DSN, Application: c.Flow.Name.String() + " index", Jobs: c.IndexJobs, Beside: beside,
		Analyze: func(table catalog.Name) bool { return analyze[table.String()] },
		Refused: func(o schema.Refused) { c.Flow.Logger.Warn("schema: the target refuses " + o.String()) },
		Indexes: func(waiting, building, done int) {
			c.mu.Lock()
			defer c.mu.Unlock()
			i := c.indexes
			i.Waiting, i.Building, i.Done = i.Waiting+waiting, i.Building+building, i.Done+done
		},
		Built: func(table catalog.Name) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.indexes.TablesDone++
			c.indexing = slices.DeleteFunc(c.indexing, func(t catalog.Name) bool { return t == table })
		},
		Analyzed: func(table catalog.Name) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.analyzed = append(c.analyzed, table)
		},
	}), nil
}

// index hands a table to a builder.
func (c *Copy) index(indexes *schema.Builder, table catalog.Name) error {
	if indexes == nil {
		return nil
	}
	c.mu.Lock()
	if !slices.Contains(c.indexing, table) {
		c.indexing = append(c.indexing, table)
	}
	c.mu.Unlock()
	return indexes.Table(table)
}

// Build builds what is missing of some tables' indexes. With goesOn those that were built before
// count.
func (c *Copy) Build(ctx context.Context, goesOn bool, of func(*catalog.Table) bool) error {
	if c.Archive == nil {
		return nil
	}
	c.Step("build the indexes")
	indexes, err := c.builder(ctx, false, goesOn)
	if err != nil {
		return err
	}
	for _, t := range c.Tables() {
		if !of(&t) {
			continue
		}
		if err := c.index(indexes, t.Name); err != nil {
			break // wait returns why
		}
	}
	return indexes.Wait(false)
}

// Analyzed returns the tables whose statistics were gathered already.
func (c *Copy) Analyzed() []catalog.Name {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.analyzed
}
