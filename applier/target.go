package applier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
)

// table is what the target has for a Relation of the source.
type table struct {
	relation *decoder.Relation
	left     bool // left out by Config.Table: nothing else is set

	schema, name string
	sql          string // the name, quoted
	partitioned  bool   // its rows are in partitions

	columns []column // one for each column of the relation, in its order
	extra   []string // quoted columns that only the target has, without generated ones

	// key are the columns, by index in columns, that together tell a row from all
	// others. Nil with REPLICA IDENTITY FULL where the target has no key either:
	// then a row is told by all of them, and there may be several equal ones.
	key []int

	statements map[string]*statement // by shape
}

// column is the target's column of the name of a source's.
type column struct {
	name      string // quoted
	value     string // the name, or with a domain cast to its base type: there is no enum = for domains
	typ       string // for casts: the base type, without a modifier
	equal     string // OPERATOR(schema.name) that is the type's equality; empty: it has none
	nested    bool   // array or composite: whether its equality works depends on what is in it
	composite bool   // IS NULL looks into it
	generated bool   // computed by the target: never written
	always    bool   // GENERATED ALWAYS AS IDENTITY: not updatable
	key       bool   // in table.key
	oid       uint32 // of the type, not of what a domain is over
	mod       int32  // its modifier
}

// label is the table's name for people.
func (t *table) label() string { return t.schema + "." + t.name }

// keyNames are the names of the columns that identify a row, for people.
func (t *table) keyNames() []string {
	var names []string
	for _, i := range t.key {
		names = append(names, t.relation.Columns[i].Name)
	}
	return names
}

// of returns what the target has for a relation that resolve has met.
func (s *session) of(r *decoder.Relation) *table { return s.tables[r] }

// tablesMax bounds how many relations are kept. Each reconnect of the source
// sends new ones, so that old ones pile up.
const tablesMax = 20_000

// resolve finds the target's table for every relation in the changes, before any
// of them is applied.
func (s *session) resolve(ctx context.Context, c *Config, tx *decoder.Tx) error {
	var last *decoder.Relation
	for i := range tx.Changes {
		change := &tx.Changes[i]
		for _, r := range change.Truncated {
			if err := s.resolveOne(ctx, c, tx, change.Op, r); err != nil {
				return err
			}
		}
		if r := change.Relation; r != nil && r != last {
			if err := s.resolveOne(ctx, c, tx, change.Op, r); err != nil {
				return err
			}
			last = r
		}
	}
	return nil
}

func (s *session) resolveOne(ctx context.Context, c *Config, tx *decoder.Tx, op decoder.Op, r *decoder.Relation) error {
	if s.tables[r] != nil {
		return nil
	}
	name := r.Namespace + "\x00" + r.Name
	if known := s.byName[name]; known != nil && sameRelation(known.relation, r) {
		s.tables[r] = known
		return nil
	}
	t, err := s.describe(ctx, c, r)
	var schema *SchemaError
	if errors.As(err, &schema) {
		schema.Op, schema.XID, schema.LSN = op, tx.XID, tx.CommitLSN
	}
	if err != nil {
		return err
	}
	s.tables[r], s.byName[name] = t, t
	return nil
}

// prune is called between groups, when no change refers to a relation.
func (s *session) prune() {
	if len(s.tables) > tablesMax {
		clear(s.tables)
	}
}

func sameRelation(a, b *decoder.Relation) bool {
	return a.OID == b.OID && a.Namespace == b.Namespace && a.Name == b.Name &&
		a.ReplicaIdentity == b.ReplicaIdentity && slices.Equal(a.Columns, b.Columns)
}

// describe asks the target about the table that a relation goes to.
func (s *session) describe(ctx context.Context, c *Config, r *decoder.Relation) (*table, error) {
	target, ok := c.Table(r.Namespace, r.Name)
	if !ok {
		return &table{relation: r, left: true}, nil
	}
	if len(target) != 2 {
		return nil, &inputError{fmt.Sprintf("map table %s.%s: Config.Table must return schema and name", r.Namespace, r.Name)}
	}
	t := &table{relation: r, schema: target[0], name: target[1], sql: target.Sanitize(), statements: map[string]*statement{}}
	drift := func(format string, args ...any) error {
		return &SchemaError{Place: Place{Table: t.label()}, Reason: fmt.Sprintf(format, args...)}
	}

	var oid uint32
	var kind string
	err := s.conn.QueryRow(ctx, tableQuery, pgx.QueryExecModeExec, t.schema, t.name).Scan(&oid, &kind)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, drift("the target has no such table")
	case err != nil:
		return nil, fmt.Errorf("read table %s on target: %w", t.label(), err)
	}
	t.partitioned = kind == "p"

	columns, err := s.readColumns(ctx, oid)
	if err != nil {
		return nil, fmt.Errorf("read columns of %s on target: %w", t.label(), err)
	}
	var altered *alteration
	if len(r.Columns) > 0 { // the truncation that a trigger has noted, on version 10, names none
		altered = findAlteration(c.Columns(r.Namespace, r.Name), r.Columns, columns)
	}
	if altered != nil {
		err := drift("%s: %s", altered.what, strings.Join(altered.columns, ", ")).(*SchemaError)
		err.Columns = altered.columns
		return nil, err
	}
	for _, c := range r.Columns {
		t.columns = append(t.columns, columns[c.Name])
		delete(columns, c.Name)
	}
	for _, c := range columns {
		if !c.generated {
			t.extra = append(t.extra, c.name)
		}
	}
	slices.Sort(t.extra)

	keys, err := s.readKeys(ctx, oid)
	if err != nil {
		return nil, fmt.Errorf("read keys of %s on target: %w", t.label(), err)
	}
	t.choose(keys)
	return t, nil
}

// key is a unique index of the target that identifies rows.
type key struct {
	columns   []string
	operators []string
}

// choose decides how rows are found: by the source's replica identity or, when
// that is FULL, by the first key of the target whose columns the source has too.
func (t *table) choose(keys []key) {
	index := map[string]int{}
	for i, c := range t.relation.Columns {
		index[c.Name] = i
	}
	use := func(k key) {
		for i, name := range k.columns {
			t.columns[index[name]].equal = k.operators[i]
		}
	}
	if t.relation.ReplicaIdentity == decoder.IdentityFull {
		for _, k := range keys {
			if slices.ContainsFunc(k.columns, func(name string) bool { _, ok := index[name]; return !ok }) {
				continue
			}
			use(k)
			for _, name := range k.columns {
				t.key = append(t.key, index[name])
			}
			break
		}
	} else {
		for i, c := range t.relation.Columns {
			if c.Key {
				t.key = append(t.key, i)
			}
		}
		names := t.keyNames()
		for _, k := range keys {
			if len(k.columns) == len(names) && !slices.ContainsFunc(k.columns, func(name string) bool { return !slices.Contains(names, name) }) {
				use(k)
				break
			}
		}
	}
	for _, i := range t.key {
		t.columns[i].key = true
	}
}

const tableQuery = `
select c.oid, c.relkind::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')`

// columnsQuery reads the columns with the equality of their types: that of the
// default btree, else hash, operator class of the base type, as the server itself
// chooses it (GetDefaultOpClass in indexcmds.c): of the type, of the pseudo type
// it belongs to, or of one it is binary coercible to.
func (s *session) columnsQuery() string {
	generated := "false"
	if s.major >= 12 {
		generated = "a.attgenerated <> ''"
	}
	return `
with recursive base(attnum, typ) as (
    select attnum, atttypid from pg_attribute where attrelid = $1 and attnum > 0 and not attisdropped
    union all
    select b.attnum, t.typbasetype from base b join pg_type t on t.oid = b.typ where t.typtype = 'd')
select a.attname::text, format_type(t.oid, -1), t.oid <> a.atttypid, a.attidentity = 'a', ` + generated + `,
       t.typtype = 'c', t.typtype = 'c' or ar.oid is not null, a.atttypid, a.atttypmod,
       coalesce((select ` + operatorName + `
          from pg_opclass oc
          join pg_amop ao on ao.amopfamily = oc.opcfamily and ao.amoplefttype = oc.opcintype and ao.amoprighttype = oc.opcintype
               and ao.amopstrategy = case oc.opcmethod when 403 then 3 else 1 end
          join pg_operator o on o.oid = ao.amopopr join pg_namespace opn on opn.oid = o.oprnamespace
          join pg_type it on it.oid = oc.opcintype
         where oc.opcdefault and oc.opcmethod in (403, 405) -- btree, hash
           and oc.opcintype = any (array(select casttarget from pg_cast where castsource = t.oid and castmethod = 'b' and castcontext = 'i') || t.oid
                 || case when ar.oid is not null then 'anyarray'::regtype when t.typtype = 'e' then 'anyenum'::regtype
                         when t.typtype = 'r' then 'anyrange'::regtype when t.typtype = 'm' then to_regtype('anymultirange')
                         when t.typtype = 'c' then 'record'::regtype end::oid)
         order by oc.opcintype = t.oid desc, it.typtype = 'p' desc, it.typispreferred desc, oc.opcmethod limit 1), '')
  from pg_attribute a join base b on b.attnum = a.attnum join pg_type t on t.oid = b.typ and t.typtype <> 'd'
  left join pg_type ar on ar.typarray = t.oid
 where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped`
}

// operatorName is how SQL calls the operator o of namespace opn.
const operatorName = `'operator(' || quote_ident(opn.nspname) || '.' || o.oprname || ')'`

// readColumns reads the live columns of a table by name.
func (s *session) readColumns(ctx context.Context, oid uint32) (map[string]column, error) {
	rows, err := s.conn.Query(ctx, s.columnsQuery(), pgx.QueryExecModeExec, oid)
	if err != nil {
		return nil, err
	}
	columns := map[string]column{}
	var name string
	var domain bool
	var c column
	_, err = pgx.ForEachRow(rows, []any{&name, &c.typ, &domain, &c.always, &c.generated, &c.composite, &c.nested, &c.oid, &c.mod, &c.equal}, func() error {
		c.name = catalog.Quote(name)
		c.value = c.name
		if domain {
			c.value += "::" + c.typ
		}
		columns[name] = c
		return nil
	})
	return columns, err
}

// keysQuery reads the keys: unique indexes that are checked at once (what is
// deferrable is not checked at all in replica role), of columns that are never
// null, over all rows. The primary key comes first, then those of few columns.
func (s *session) keysQuery() string {
	atts := "i.indnkeyatts"
	if s.major < 11 {
		atts = "i.indnatts"
	}
	return `
select array_agg(a.attname::text order by k.n), array_agg(` + operatorName + ` order by k.n)
  from pg_index i join pg_class ic on ic.oid = i.indexrelid join pg_am am on am.oid = ic.relam and am.amname = 'btree'
  cross join unnest(i.indkey::int2[], i.indclass::oid[]) with ordinality k(attnum, opclass, n)
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
  join pg_opclass oc on oc.oid = k.opclass
  join pg_amop ao on ao.amopfamily = oc.opcfamily and ao.amoplefttype = oc.opcintype and ao.amoprighttype = oc.opcintype and ao.amopstrategy = 3
  join pg_operator o on o.oid = ao.amopopr join pg_namespace opn on opn.oid = o.oprnamespace
 where i.indrelid = $1 and i.indisunique and i.indisvalid and i.indisready and i.indimmediate
   and i.indpred is null and i.indexprs is null and k.n <= ` + atts + `
 group by i.indexrelid, i.indisprimary
having bool_and(a.attnotnull)
 order by i.indisprimary desc, count(*), i.indexrelid`
}

func (s *session) readKeys(ctx context.Context, oid uint32) ([]key, error) {
	rows, err := s.conn.Query(ctx, s.keysQuery(), pgx.QueryExecModeExec, oid)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (key, error) {
		var k key
		err := row.Scan(&k.columns, &k.operators)
		return k, err
	})
}
