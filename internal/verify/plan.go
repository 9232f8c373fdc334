package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

const (
	src = 0
	dst = 1
)

// table is a pair of tables and what is known about it.
type table struct {
	source catalog.Table
	report TableReport
	err    error // why it cannot be compared

	columns []string // compared, by name
	forms   []string // columnForm of each
	given   []string // forms of those that are not generated, if some are; else nil
	key     []int    // those of the key, as indexes; nil: none
	lead    string   // form of the first key column if its type is ordered; else empty
	ranges  ranges

	sides     [2]relation
	sums      [2]map[int]sum // of each range; a range without rows has none
	partsLeft int
}

// relation is a table on one side, under that side's snapshot.
type relation struct {
	name     string // as SQL; empty: there is none
	oid      uint32
	filenode uint32
	heap     bool  // its rows are at ctid (page, item)
	pages    int64 // roughly how many there are
	leading  bool  // an index can find ranges of the first column of the key
}

// part is a range of a table's pages: from inclusive, to exclusive.
type part struct {
	table    *table
	from, to int64 // to 0: up to the end, wherever that is
	pages    int64
}

// sum is the checksum of a range's rows, independent of their order.
type sum struct {
	rows int64
	hash *big.Int
}

func (s sum) plus(t sum) sum {
	hash := new(big.Int)
	for _, h := range []*big.Int{s.hash, t.hash} {
		if h != nil {
			hash.Add(hash, h)
		}
	}
	return sum{s.rows + t.rows, hash}
}

func (s sum) equal(t sum) bool {
	return s.rows == t.rows && (s.rows == 0 || s.hash.Cmp(t.hash) == 0)
}

func (t *table) fail(side string, err error) {
	if t.err == nil {
		t.err = fmt.Errorf("%s: %w", side, err)
	}
}

// plan finds each table on both sides and decides how it is compared.
func (v *Verifier) plan(ctx context.Context) ([]*table, error) {
	if len(v.source.sessions) == 0 || len(v.target.sessions) == 0 {
		return nil, fmt.Errorf("both sides must have been opened")
	}
	if err := v.settle(ctx); err != nil {
		return nil, err
	}
	sourceConn, targetConn := v.source.sessions[0].conn, v.target.sessions[0].conn
	var sourceOIDs []uint32
	for i := range v.config.Tables {
		for _, c := range v.config.Tables[i].Columns {
			sourceOIDs = append(sourceOIDs, c.TypeOID)
		}
	}
	sourceTypes, err := types(ctx, sourceConn, sourceOIDs)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.source.name, err)
	}
	onTarget, targetOIDs, err := columns(ctx, targetConn, v.config.Tables)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.target.name, err)
	}
	targetTypes, err := types(ctx, targetConn, targetOIDs)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.target.name, err)
	}

	otherLSN := (v.source.major < 19) != (v.target.major < 19)
	var tables []*table
	for _, c := range v.config.Tables {
		if c.Kind == 'p' {
			continue
		}
		t := &table{source: c, sums: [2]map[int]sum{{}, {}}}
		t.report = TableReport{Schema: c.Schema, Name: c.Name.Name, Method: "multiset"}
		tables = append(tables, t)
		if other, ok := onTarget[c.Name]; ok {
			t.match(otherLSN, other, sourceTypes, targetTypes)
		}
	}
	for which, s := range []*side{v.source, v.target} {
		if err := addRelations(ctx, s, which, tables, v.config.LockFor > 0); err != nil {
			return nil, err
		}
	}
	for _, t := range tables {
		if t.err == nil && t.report.Gone == "" {
			if err := t.divide(ctx, v.source.sessions[0], v.config.RowsPerRange, v.source.encoding == v.target.encoding); err != nil {
				if v.source.sessions[0].lost(ctx) {
					return nil, err
				}
				t.fail(v.source.name, err)
			}
		}
	}
	v.progress = Progress{Tables: len(tables)}
	return tables, nil
}

// settle makes the sessions of both sides format values the same way.
//
// Up to version 11 a float's text has 15 digits plus extra_float_digits; from version 12 that is so
// only for extra_float_digits of 0 and less (https://www.postgresql.org/docs/12/release-12.html).
func (v *Verifier) settle(ctx context.Context) error {
	prepare := savepoint
	if (v.source.major < 12) != (v.target.major < 12) {
		prepare = "set extra_float_digits = 0; " + savepoint
	}
	for _, s := range []*side{v.source, v.target} {
		if err := s.each(ctx, prepare); err != nil {
			return err
		}
		for _, session := range s.sessions {
			session.prepare = prepare
		}
	}
	return nil
}

// columns reads the types of the target's columns, by table and name. It uses nothing that fails
// for a table that was dropped after the snapshot.
func columns(ctx context.Context, q catalog.Querier, tables []catalog.Table) (map[catalog.Name]map[string]uint32, []uint32, error) {
	var schemas, names []string
	for i := range tables {
		schemas, names = append(schemas, tables[i].Schema), append(names, tables[i].Name.Name)
	}
	rows, err := q.Query(ctx, `
select n.nspname::text, c.relname::text, coalesce(a.attname::text, ''), coalesce(a.atttypid, 0)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where c.relkind = 'r' and (n.nspname, c.relname) in (select s::name, t::name from unnest($1::text[], $2::text[]) u(s, t))`, schemas, names)
	if err != nil {
		return nil, nil, fmt.Errorf("list columns: %w", err)
	}
	found := map[catalog.Name]map[string]uint32{}
	var oids []uint32
	var schema, name, column string
	var oid uint32
	if _, err := pgx.ForEachRow(rows, []any{&schema, &name, &column, &oid}, func() error {
		table := catalog.Name{Schema: schema, Name: name}
		if found[table] == nil {
			found[table] = map[string]uint32{}
		}
		found[table][column] = oid
		oids = append(oids, oid)
		return nil
	}); err != nil {
		return nil, nil, fmt.Errorf("list columns: %w", err)
	}
	return found, oids, nil
}

// match decides which columns are compared, in what form, and by what key.
func (t *table) match(otherLSN bool, target map[string]uint32, sourceTypes, targetTypes map[uint32]typeInfo) {
	var leads, given []string
	for _, c := range t.source.Columns {
		oid, ok := target[c.Name]
		if !ok {
			t.report.MissingColumns = append(t.report.MissingColumns, c.Name)
			continue
		}
		from, to := sourceTypes[c.TypeOID], targetTypes[oid]
		lead := ""
		if from.base == to.base && slices.Contains(ordered, from.base) {
			lead = from.baseName
		}
		t.columns = append(t.columns, c.Name)
		t.forms = append(t.forms, columnForm(c.Name, from, to, otherLSN))
		leads = append(leads, lead)
		if c.Generated == 0 {
			given = append(given, t.forms[len(t.forms)-1])
		}
	}
	if len(given) < len(t.forms) {
		t.given = append([]string{}, given...)
	}
	names := t.source.PrimaryKey
	if len(names) == 0 {
		names = t.source.Identity
	}
	var key []int
	for _, name := range names {
		i := slices.Index(t.columns, name)
		if i < 0 {
			return // rows of the target cannot be identified by this key
		}
		key = append(key, i)
	}
	if len(key) == 0 {
		return
	}
	t.key = key
	t.report.Method = "key"
	if leads[key[0]] != "" {
		t.lead = t.forms[key[0]]
		t.ranges.typeName = leads[key[0]]
	}
}

const selectRelations = `
select n.nspname::text, c.relname::text, c.oid, c.relfilenode,
       c.relam in (0, 2), -- none before 12, heap since
       case when $3 then c.relpages else coalesce(pg_relation_size(c.oid) / current_setting('block_size')::int8, 0) end,
       array(select a.attname::text from pg_index i join pg_am m on m.amname = 'btree'
               join pg_class x on x.oid = i.indexrelid and x.relam = m.oid
               join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
              where i.indrelid = c.oid and i.indisvalid and i.indpred is null)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and (n.nspname, c.relname) in (select s::name, t::name from unnest($1::text[], $2::text[]) u(s, t))`

// addRelations reads where the rows of the tables are on one side. locking: the session holds
// locks, so it must not wait for the lock that reading a table's real size takes.
func addRelations(ctx context.Context, s *side, which int, tables []*table, locking bool) error {
	byName := map[catalog.Name]*table{}
	var schemas, names []string
	for _, t := range tables {
		byName[t.source.Name] = t
		schemas, names = append(schemas, t.source.Schema), append(names, t.source.Name.Name)
	}
	rows, err := s.sessions[0].conn.Query(ctx, selectRelations, schemas, names, locking)
	if err != nil {
		return fmt.Errorf("read storage of tables: %w", err)
	}
	var schema, name string
	var r relation
	var indexed []string
	if _, err := pgx.ForEachRow(rows, []any{&schema, &name, &r.oid, &r.filenode, &r.heap, &r.pages, &indexed}, func() error {
		t := byName[catalog.Name{Schema: schema, Name: name}]
		r.name = t.source.String()
		r.leading = len(t.key) > 0 && slices.Contains(indexed, t.columns[t.key[0]])
		t.sides[which] = r
		return nil
	}); err != nil {
		return fmt.Errorf("read storage of tables: %w", err)
	}
	return addGone(ctx, s, which, tables)
}

// addGone notes the tables that a side lacks. The source's are identified by OID if the caller
// knows it: one that was dropped and created again, or has swapped names with another, is not what
// was migrated, whatever is in it.
func addGone(ctx context.Context, s *side, which int, tables []*table) error {
	for _, t := range tables {
		found := t.sides[which]
		switch {
		case t.report.Gone != "" || found.name != "" && (which == dst || t.source.OID == 0 || found.oid == t.source.OID):
			continue
		case which == dst:
			t.report.Gone = "the " + s.name + " has no such table"
			continue
		}
		t.report.Gone = "the " + s.name + " has no such table any more"
		if found.name != "" {
			t.report.Gone = "the " + s.name + " has another table of this name"
		}
		if t.source.OID == 0 {
			continue
		}
		var name string
		err := s.sessions[0].conn.QueryRow(ctx, `select coalesce((select quote_ident(n.nspname) || '.' || quote_ident(c.relname)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = $1), '')`, t.source.OID).Scan(&name)
		if err != nil {
			return fmt.Errorf("look for table %s: %w", t.source.String(), err)
		}
		if name != "" {
			t.report.Gone += "; the migrated one is now called " + name
		}
	}
	return nil
}

const (
	smallestPart = 4096  // pages: 32 MB
	largestPart  = 65536 // 512 MB
)

// parts divides the table's pages on one side. From version 14 a range of ctid is read on its own;
// before, it takes a scan of the whole table, which is left to one session and the server's
// parallel workers.
func (t *table) parts(which int, s *side, jobs int) []part {
	r := t.sides[which]
	size := min(max(r.pages/int64(4*jobs), smallestPart), largestPart)
	if s.major < 14 || !r.heap || r.pages <= size {
		size = max(r.pages, 1)
	}
	var parts []part
	for from := int64(0); from == 0 || from < r.pages; from += size {
		parts = append(parts, part{table: t, from: from, to: from + size, pages: min(size, r.pages-from)})
	}
	parts[len(parts)-1].to = 0
	t.partsLeft += len(parts)
	return parts
}

// condition returns the WHERE clause of a part, or nothing.
func (p part) condition() string {
	switch {
	case p.from == 0 && p.to == 0:
		return ""
	case p.to == 0:
		return fmt.Sprintf(" where ctid >= '(%d,0)'", p.from)
	}
	return fmt.Sprintf(" where ctid >= '(%d,0)' and ctid < '(%d,0)'", p.from, p.to)
}

// differing lists the ranges whose sums differ, in order.
func (t *table) differing() []int {
	seen := map[int]bool{}
	for _, sums := range t.sums {
		for n := range sums {
			if !t.sums[src][n].equal(t.sums[dst][n]) {
				seen[n] = true
			}
		}
	}
	var found []int
	for n := range seen {
		found = append(found, n)
	}
	slices.SortFunc(found, cmp.Compare[int])
	return found
}

// conclude fills in the report.
func (t *table) conclude() {
	for _, s := range t.sums[src] {
		t.report.SourceRows += s.rows
	}
	for _, s := range t.sums[dst] {
		t.report.TargetRows += s.rows
	}
	r := &t.report
	if t.err != nil {
		r.Error = t.err.Error()
		r.Rewritten = errors.Is(t.err, errRewritten)
	}
	r.More = r.MissingRows + r.ExtraRows + r.DifferentRows - int64(len(r.Missing)+len(r.Extra)+len(r.Different))
	r.Equal = t.err == nil && r.Gone == "" && len(r.MissingColumns) == 0 && len(t.differing()) == 0
}
