package snapshot

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/session"
)

// relation is what one side has under the name of a table. On the source it is read under the
// snapshot: by now the table may be different, or gone.
type relation struct {
	oid          uint32
	schema, name string
	partitioned  bool
	columns      []column // live ones, in their order

	filenode     uint32 // where the rows are stored; see Copier.changed
	heap         bool   // rows have ctids, which ranges can cut
	bytes, pages int64  // in total, including TOAST; of the heap. Both are current, not of the snapshot
	key          string // first column of the primary key; empty: none
}

type column struct {
	name       string
	typeOID    uint32
	typeName   string // for a cast
	binaryForm string // see binaryForms
	generated  bool
}

func (r *relation) String() string { return catalog.Name{Schema: r.schema, Name: r.name}.String() }

// %s is selectSize or withoutSize.
const selectRelations = `
select c.oid, n.nspname::text, c.relname::text, c.relkind = 'p', c.relfilenode, c.relam in (0, 2), %s
  from unnest($1::text[], $2::text[]) wanted(schema, name)
  join pg_namespace n on n.nspname = wanted.schema
  join pg_class c on c.relnamespace = n.oid and c.relname = wanted.name
 where c.relkind in ('r', 'p')`

// These are only read from the source: sizes are looked up on disk, which takes time for thousands
// of tables. (Not by pg_table_size, which also opens the index of the TOAST table and looks for
// four files of each.)
const (
	selectSize = `
       coalesce(pg_relation_size(c.oid), 0) + coalesce(case when c.reltoastrelid <> 0 then pg_relation_size(c.reltoastrelid) end, 0),
       coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::int8,
       coalesce((select a.attname::text from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
                  where i.indrelid = c.oid and i.indisprimary), '')`
	withoutSize = `0::int8, 0::int8, ''`
)

// %s is whether a column is generated.
const selectColumns = `
select a.attrelid, a.attname::text, a.atttypid, format_type(a.atttypid, -1), %s
  from pg_attribute a
 where a.attrelid = any($1) and a.attnum > 0 and not a.attisdropped
 order by a.attrelid, a.attnum`

// relations reads tables by schema and name. Those that do not exist are left out. size is
// selectSize or withoutSize.
func relations(ctx context.Context, conn *pgx.Conn, size string, schemas, names []string) (map[catalog.Name]*relation, error) {
	found := make(map[catalog.Name]*relation, len(names))
	byOID := make(map[uint32]*relation, len(names))
	var oids []uint32
	rows, err := conn.Query(ctx, fmt.Sprintf(selectRelations, size), schemas, names)
	if err != nil {
		return nil, fmt.Errorf("read tables: %w", err)
	}
	var r relation
	_, err = pgx.ForEachRow(rows, []any{&r.oid, &r.schema, &r.name, &r.partitioned, &r.filenode, &r.heap, &r.bytes, &r.pages, &r.key}, func() error {
		one := r
		found[catalog.Name{Schema: r.schema, Name: r.name}] = &one
		byOID[r.oid] = &one
		oids = append(oids, r.oid)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read tables: %w", err)
	}

	generated := "false"
	if session.Major(conn.PgConn()) >= 12 {
		generated = "a.attgenerated <> ''"
	}
	rows, err = conn.Query(ctx, fmt.Sprintf(selectColumns, generated), oids)
	if err != nil {
		return nil, fmt.Errorf("read columns: %w", err)
	}
	types := map[uint32]bool{}
	var oid uint32
	var c column
	_, err = pgx.ForEachRow(rows, []any{&oid, &c.name, &c.typeOID, &c.typeName, &c.generated}, func() error {
		byOID[oid].columns = append(byOID[oid].columns, c)
		types[c.typeOID] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read columns: %w", err)
	}
	forms, err := binaryForms(ctx, conn, slices.Sorted(maps.Keys(types)))
	if err != nil {
		return nil, err
	}
	for _, r := range found {
		for i := range r.columns {
			r.columns[i].binaryForm = forms[r.columns[i].typeOID]
		}
	}
	return found, nil
}
