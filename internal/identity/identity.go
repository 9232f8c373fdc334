// Package identity knows the tables of a migration, and checks whether what is followed is still
// what it was when the migration began: tables, columns, and their places among partitions and
// children, on both sides. If not, it explains what can be done; whether a run ends is up to its
// callers.
package identity

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// Changes are the changes of what is followed since the migration began.
type Changes struct {
	Replaced  []string // tables and columns that were replaced: what was in them, or was written since, is not on both sides
	Published error    // a publication that was altered
	Renamed   []string // tables that have another name
	Swapped   []string // columns that swapped names, or were created again, on one side
	Exchanged []string // tables of the target that swapped names
	Places    []string // partitions and children whose place has changed, without loss of rows on either side
	Added     []string // tables that are not followed
	Marked    bool     // the record has changed
}

// catalogs are the tables of both sides, by name.
type catalogs struct {
	All     []catalog.Table // of the source
	Foreign []catalog.Table // of the source
	Source  map[catalog.Name]*catalog.Table
	Target  map[catalog.Name]*catalog.Table
}

// read reads both sides, one after the other, the source as of one moment.
func read(ctx context.Context, source, target session.Lender) (c catalogs, err error) {
	err = source.Do(ctx, func(conn *pgx.Conn) error {
		return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
			c.All, c.Foreign, err = catalog.Outline(ctx, tx)
			return err
		})
	})
	if err != nil {
		return c, fmt.Errorf("read the source's catalogue: %w", err)
	}
	c.Source = byName(c.All)
	err = target.Do(ctx, func(conn *pgx.Conn) error {
		tables, _, err := catalog.Outline(ctx, conn)
		c.Target = byName(tables)
		return err
	})
	if err != nil {
		return c, fmt.Errorf("read the target's catalogue: %w", err)
	}
	return c, nil
}

func byName(tables []catalog.Table) map[catalog.Name]*catalog.Table {
	found := make(map[catalog.Name]*catalog.Table, len(tables))
	for i := range tables {
		found[tables[i].Name] = &tables[i]
	}
	return found
}

// columnsOf returns a table's columns as they are in the stream.
func columnsOf(t *catalog.Table) (columns []state.Column) {
	for i := range t.Columns {
		if c := &t.Columns[i]; c.Generated == 0 {
			columns = append(columns, state.Column{Number: c.Number, Name: c.Name, TypeOID: c.TypeOID, TypeMod: c.TypeMod})
		}
	}
	return columns
}

// describe adds to the record of tables their place in hierarchies, what the target has under their
// names, and their indexes.
func describe(ctx context.Context, q catalog.Querier, states []state.Table, now catalogs) error {
	forms, err := schema.IndexForms(ctx, q)
	if err != nil {
		return err
	}
	migrated, indexes := map[string]*state.Table{}, map[uint32]map[string]string{}
	for i := range states {
		migrated[states[i].String()] = &states[i]
	}
	for _, f := range forms {
		if indexes[f.OID] == nil {
			indexes[f.OID] = map[string]string{}
		}
		indexes[f.OID][f.Name] = f.Sum()
	}
	others := otherChildren(now, migrated)
	for name, table := range migrated {
		key := table.Name
		table.Indexes, table.Place = indexes[table.OID], &state.Place{}
		if s := now.Source[key]; s != nil {
			table.Place = &state.Place{Parents: s.Parents, Bound: s.Bound, Key: s.Key, Others: others[name]}
		}
		if t := now.Target[key]; t != nil {
			table.TargetOID = t.OID
			there := t.ColumnsByName()
			for i := range table.Columns {
				if to := there[table.Columns[i].Name]; to != nil && to.Generated == 0 {
					table.Columns[i].Target = to.Number
				}
			}
		}
	}
	return nil
}
