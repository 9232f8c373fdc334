package copying

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

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
		Built: func(table catalog.Name, took time.Duration) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.took(table, took, 0)
			c.indexes.TablesDone++
			c.indexing = slices.DeleteFunc(c.indexing, func(t catalog.Name) bool { return t == table })
		},
		Analyzed: func(table catalog.Name, took time.Duration) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.took(table, 0, took)
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
	err = indexes.Wait(false)
	return errors.Join(err, c.keepTook(ctx))
}

// took notes how long the indexes of a table, or its statistics, took; mu is held.
func (c *Copy) took(table catalog.Name, indexes, analyze time.Duration) {
	if c.times == nil {
		c.times = map[catalog.Name][2]time.Duration{}
	}
	t := c.times[table]
	c.times[table] = [2]time.Duration{t[0] + indexes, t[1] + analyze}
}

// wholeMS rounds up, so that what took any time is not taken for what was not measured.
func wholeMS(d time.Duration) int64 { return int64((d + time.Millisecond - 1) / time.Millisecond) }

// keepTook records that, for the report. What a run that is killed has not recorded is not known.
func (c *Copy) keepTook(ctx context.Context) error {
	c.mu.Lock()
	var schemas, names []string
	var indexes, analyze []int64
	for table, took := range c.times {
		schemas, names = append(schemas, table.Schema), append(names, table.Name)
		indexes, analyze = append(indexes, wholeMS(took[0])), append(analyze, wholeMS(took[1]))
	}
	c.times = nil
	c.mu.Unlock()
	if len(names) == 0 {
		return nil
	}
	err := c.Flow.To.Link.Do(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `
update walferry.copy_plan p set indexes_ms = coalesce(p.indexes_ms, 0) + t.built, analyze_ms = nullif(coalesce(p.analyze_ms, 0) + t.analyzed, 0)
  from unnest($2::text[], $3::text[], $4::int8[], $5::int8[]) t(schema_name, table_name, built, analyzed)
 where p.migration = $1 and p.schema_name = t.schema_name and p.table_name = t.table_name`, c.Flow.Name.Migration, schemas, names, indexes, analyze)
		return err
	})
	if err != nil {
		return fmt.Errorf("record how long indexes took: %w", err)
	}
	return nil
}

// Analyzed returns the tables whose statistics were gathered already.
func (c *Copy) Analyzed() []catalog.Name {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.analyzed
}
