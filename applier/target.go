package applier

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
)

// table is the target's table for a Relation of the source.
type table struct {
	relation *decoder.Relation
	left     bool // left out by Config.Table: nothing else is set
	window   decoder.Window
	unfit    error // why no change can be applied, except those before the window

	schema, name string
	sql          string // the name, quoted
	partitioned  bool   // its rows are in partitions

	columns []column // one for each column of the relation, in its order
	extra   []string // quoted names of the columns that only the target has, without generated ones

	// key has the columns, by index in columns, that together identify a row. It is nil with
	// REPLICA IDENTITY FULL if the target has no key either: then a row is identified by all
	// columns, and there may be several equal ones.
	key []int
	// distinct: an index of the target makes the key unique, by the same equality that statements
	// use. Otherwise a statement for many rows could find two for one of them and none for another.
	distinct bool

	statements    map[string]*statement // by shape
	setStatements map[string]*statement // for many changes of one shape

	foldable         bool // changes may be gathered into sets
	copied           bool // COPY may write it: it has no row-level security, with which COPY would fail
	watched          bool // triggers or rules fire on what is applied: they must see each change, in order
	alwaysBesidesKey bool // there is a column GENERATED ALWAYS AS IDENTITY outside of the key
}

// column is the target's column for one of the source.
type column struct {
	name      string // quoted
	value     string // the name, or for a domain a cast to its base type: enum equality does not take domains
	typ       string // for casts: the base type, without a modifier
	equal     string // OPERATOR(schema.name) that is the type's equality; empty: it has none
	collate   string // COLLATE of the key's index, where it is not the column's
	nested    bool   // array or composite: whether its equality works depends on its elements
	composite bool   // IS NULL inspects its fields
	generated bool   // computed by the target: never written
	always    bool   // GENERATED ALWAYS AS IDENTITY: not updatable
	key       bool   // in table.key
	number    int16  // attnum
	oid       uint32 // of the type, not of a domain's base type
	mod       int32  // its modifier

	castFunction bool // a cast from text to typ is a function of its own
	delimiter    byte // between the elements of an array of typ; 0: there is no such array
}

// label is the table's name in messages.
func (t *table) label() string { return t.schema + "." + t.name }

// keyNames returns the names of the columns of the key, for messages.
func (t *table) keyNames() []string {
	var names []string
	for _, i := range t.key {
		names = append(names, t.relation.Columns[i].Name)
	}
	return names
}

// resolve finds the target's tables for all relations in the changes, before any of them is
// applied. Those that are not known yet are read all at once.
func (s *session) resolve(ctx context.Context, c *Config, txs ...*decoder.Tx) error {
	fresh := s.facts.unknown(txs...)
	if len(fresh) == 0 {
		return nil
	}
	return s.describe(ctx, c, fresh)
}

func sameRelation(a, b *decoder.Relation) bool {
	return a.OID == b.OID && a.Namespace == b.Namespace && a.Name == b.Name &&
		a.ReplicaIdentity == b.ReplicaIdentity && slices.Equal(a.Columns, b.Columns)
}

// describe reads the target's tables for relations.
func (s *session) describe(ctx context.Context, c *Config, fresh []meeting) error {
	tables := make([]*table, len(fresh))
	var schemas, names []string
	for i, m := range fresh {
		r := m.relation
		target, ok := c.Table(r.Namespace, r.Name)
		switch {
		case !ok:
			tables[i] = &table{relation: r, left: true}
			continue
		case len(target) != 2:
			return &inputError{fmt.Sprintf("map table %s.%s: Config.Table must return schema and name", r.Namespace, r.Name)}
		}
		tables[i] = &table{
			relation: r, schema: target[0], name: target[1], sql: target.Sanitize(), window: s.facts.windows.of(r),
			statements: map[string]*statement{}, setStatements: map[string]*statement{},
		}
		schemas, names = append(schemas, target[0]), append(names, target[1])
	}
	found, err := s.readTables(ctx, schemas, names)
	if err != nil {
		return fmt.Errorf("read tables on target: %w", err)
	}
	for i, m := range fresh {
		t := tables[i]
		if !t.left {
			err = s.fit(c, t, found[decoder.Name{Schema: t.schema, Name: t.name}])
		}
		var schema *SchemaError
		if errors.As(err, &schema) {
			schema.Op, schema.XID, schema.LSN = m.op, m.tx.XID, m.tx.CommitLSN
			if t.treatment(m.tx.CommitLSN) == leaveOut {
				t.unfit, err = err, nil // the table may have been altered, on both sides, before it was copied
			}
		}
		if err != nil {
			return err
		}
		s.facts.tables[m.relation], s.facts.byName[m.relation.Namespace+"\x00"+m.relation.Name] = t, t
	}
	return nil
}

// fit completes t with what the target has under its name; nil: nothing.
func (s *session) fit(c *Config, t *table, target *targetTable) error {
	r := t.relation
	drift := func(format string, args ...any) *SchemaError {
		return &SchemaError{Place: Place{Table: t.label()}, Reason: fmt.Sprintf(format, args...)}
	}
	was, err := c.identify(t, target)
	if err != nil {
		return err
	}
	if len(target.instead) > 0 {
		err := drift("rules of the target do something else INSTEAD: %s", strings.Join(target.instead, ", "))
		err.advice = "disable the rules on " + t.label() + " until the target is in use, then start again: it resumes where it stopped"
		return err
	}
	t.partitioned, t.watched, t.copied = target.kind == "p", target.watched, !target.policies
	columns := maps.Clone(target.columns)
	var altered *alteration
	if len(r.Columns) > 0 { // a TRUNCATE that a trigger recorded, on version 10, has none
		columns = was.places(r.Columns, columns)
		altered = findAlteration(was, r.Columns, columns)
	}
	if altered != nil {
		if altered.advice != "" {
			err := drift("%s", altered.what)
			err.advice = altered.advice
			return err
		}
		err := drift("%s: %s", altered.what, strings.Join(altered.columns, ", "))
		err.Columns = altered.columns
		return err
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

	t.choose(target.keys)
	t.foldable = s.facts.replica
	for i := range t.columns {
		c := &t.columns[i]
		if c.castFunction && (c.delimiter == 0 || c.nested) || c.key && c.equal == "" {
			t.foldable = false
		}
		if c.always && !c.key {
			t.alwaysBesidesKey = true
		}
	}
	return nil
}

// targetTable is a table in the target's catalogue.
type targetTable struct {
	oid               uint32
	kind              string
	policies, watched bool
	instead           []string // rules that fire, and are unconditionally INSTEAD
	columns           map[string]column
	keys              []key
}

// key is a unique index of the target that identifies rows.
type key struct {
	columns    []string
	operators  []string
	collations []string // as in column
}

// choose decides how rows are found: by the source's replica identity or, when that is FULL, by the
// first key of the target whose columns the source has too.
func (t *table) choose(targets []key) {
	names := map[string]string{} // the source's names by the target's
	for i := range t.columns {
		names[t.columns[i].name] = t.relation.Columns[i].Name
	}
	var keys []key // with the source's names
	for _, k := range targets {
		k.columns = slices.Clone(k.columns)
		for i, name := range k.columns {
			of, ok := names[catalog.Quote(name)]
			if !ok {
				of = "\x00" + name // the source has no such column, even if it has one of this name
			}
			k.columns[i] = of
		}
		keys = append(keys, k)
	}
	index := map[string]int{}
	for i, c := range t.relation.Columns {
		index[c.Name] = i
	}
	use := func(k key) {
		for i, name := range k.columns {
			c := &t.columns[index[name]]
			c.equal, c.collate = k.operators[i], k.collations[i]
		}
		t.distinct = true
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
		identity := t.keyNames()
		for _, k := range keys {
			if len(k.columns) == len(identity) && !slices.ContainsFunc(k.columns, func(name string) bool { return !slices.Contains(identity, name) }) {
				use(k)
				break
			}
		}
	}
	for _, i := range t.key {
		t.columns[i].key = true
	}
}

// readTables reads the tables with these names, if they exist.
func (s *session) readTables(ctx context.Context, schemas, names []string) (map[decoder.Name]*targetTable, error) {
	found := map[decoder.Name]*targetTable{}
	byOID := map[uint32]*targetTable{}
	rows, err := s.conn.Query(ctx, tableQuery, pgx.QueryExecModeExec, schemas, names, firing(s.facts.replica))
	if err != nil {
		return nil, err
	}
	var oids []uint32
	var oid uint32
	var schema, name, kind string
	var policies, watched bool
	var instead []string
	_, err = pgx.ForEachRow(rows, []any{&oid, &schema, &name, &kind, &policies, &watched, &instead}, func() error {
		t := &targetTable{oid: oid, kind: kind, policies: policies, watched: watched, instead: instead, columns: map[string]column{}}
		instead = nil // it is in use
		found[decoder.Name{Schema: schema, Name: name}], byOID[oid] = t, t
		oids = append(oids, oid)
		return nil
	})
	if err != nil || len(oids) == 0 {
		return found, err
	}
	if err := s.readColumns(ctx, oids, byOID); err != nil {
		return nil, err
	}
	return found, s.readKeys(ctx, oids, byOID)
}

// firing returns the states, as in pg_trigger.tgenabled, in which triggers and rules fire in a
// session.
func firing(replica bool) []string {
	if replica {
		return []string{"A", "R"}
	}
	return []string{"A", "O"}
}

// The triggers of foreign keys, which are internal, leave rows as they are; so does a fence of
// walferry's own, which lets the applier pass or fails. If a rule is unconditionally INSTEAD, its rows are counted as those
// of the statement.
const tableQuery = `
select distinct c.oid, n.nspname::text, c.relname::text, c.relkind::text,
       c.relrowsecurity, exists (select from pg_trigger g where g.tgrelid = c.oid and g.tgenabled::text = any ($3) and not (g.tgisinternal and g.tgenabled = 'O')
           and not ` + catalog.OfFence + `)
         or exists (select from pg_rewrite r where r.ev_class = c.oid and r.ev_enabled::text = any ($3)),
       array(select quote_ident(r.rulename) from pg_rewrite r
              where r.ev_class = c.oid and r.ev_enabled::text = any ($3) and r.ev_type <> '1' and r.is_instead and r.ev_qual::text = '<>' order by 1)
  from unnest($1::text[], $2::text[]) w(nspname, relname)
  join pg_namespace n on n.nspname = w.nspname::name join pg_class c on c.relnamespace = n.oid and c.relname = w.relname::name
 where c.relkind in ('r', 'p')`

// columnsQuery reads the columns with the equality of their types: that of the default btree, else
// hash, operator class of the base type, as the server itself chooses it (GetDefaultOpClass in
// indexcmds.c): of the type, of the pseudo type it belongs to, or of one it is binary coercible to.
// OFFSET 0 keeps the planner from looking for it once for each column instead of once for each
// type.
func (s *session) columnsQuery() string {
	generated := "false"
	if s.facts.major >= 12 {
		generated = "a.attgenerated <> ''"
	}
	return `
with recursive types(typ) as (
    select distinct atttypid from pg_attribute where attrelid = any ($1::oid[]) and attnum > 0 and not attisdropped),
base(typ, base) as (
    select typ, typ from types
    union all
    select b.typ, t.typbasetype from base b join pg_type t on t.oid = b.base where t.typtype = 'd'),
described as (
select b.typ, format_type(t.oid, -1) as name, t.oid <> b.typ as domain, t.typtype = 'c' as composite, t.typtype = 'c' or ar.oid is not null as nested,
       exists (select from pg_cast where castsource = 'text'::regtype and casttarget = t.oid and castmethod = 'f') as castfunction,
       case when t.typarray <> 0 then ascii(t.typdelim) else 0 end as delimiter,
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
         order by oc.opcintype = t.oid desc, it.typtype = 'p' desc, it.typispreferred desc, oc.opcmethod limit 1), '') as equal
  from base b join pg_type t on t.oid = b.base and t.typtype <> 'd'
  left join pg_type ar on ar.oid = t.typelem and ar.typarray = t.oid
 offset 0)
select a.attrelid, a.attname::text, a.attnum, a.attidentity = 'a', ` + generated + `, a.atttypid, a.atttypmod,
       d.name, d.domain, d.composite, d.nested, d.castfunction, d.delimiter, d.equal
  from pg_attribute a join described d on d.typ = a.atttypid
 where a.attrelid = any ($1::oid[]) and a.attnum > 0 and not a.attisdropped`
}

// operatorName is the SQL name of the operator o in the namespace opn.
const operatorName = `'operator(' || quote_ident(opn.nspname) || '.' || o.oprname || ')'`

// readColumns reads the live columns of tables.
func (s *session) readColumns(ctx context.Context, oids []uint32, to map[uint32]*targetTable) error {
	rows, err := s.conn.Query(ctx, s.columnsQuery(), pgx.QueryExecModeExec, oids)
	if err != nil {
		return err
	}
	var table uint32
	var name string
	var domain bool
	var delimiter int
	var c column
	_, err = pgx.ForEachRow(rows, []any{
		&table, &name, &c.number, &c.always, &c.generated, &c.oid, &c.mod,
		&c.typ, &domain, &c.composite, &c.nested, &c.castFunction, &delimiter, &c.equal,
	}, func() error {
		c.name, c.delimiter = catalog.Quote(name), byte(delimiter)
		c.value = c.name
		if domain {
			c.value += "::" + c.typ
		}
		to[table].columns[name] = c
		return nil
	})
	return err
}

// keysQuery reads the keys: unique indexes that are checked at once (what is deferrable is not
// checked at all in replica role), of columns that are never null, over all rows. The primary key
// comes first, then those of few columns.
func (s *session) keysQuery() string {
	atts := "i.indnkeyatts"
	if s.facts.major < 11 {
		atts = "i.indnatts"
	}
	return `
select i.indrelid, array_agg(a.attname::text order by k.n), array_agg(` + operatorName + ` order by k.n),
       array_agg(coalesce(' collate ' || quote_ident(cn.nspname) || '.' || quote_ident(co.collname), '') order by k.n)
  from pg_index i join pg_class ic on ic.oid = i.indexrelid join pg_am am on am.oid = ic.relam and am.amname = 'btree'
  cross join unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[]) with ordinality k(attnum, opclass, coll, n)
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
  join pg_opclass oc on oc.oid = k.opclass
  join pg_amop ao on ao.amopfamily = oc.opcfamily and ao.amoplefttype = oc.opcintype and ao.amoprighttype = oc.opcintype and ao.amopstrategy = 3
  join pg_operator o on o.oid = ao.amopopr join pg_namespace opn on opn.oid = o.oprnamespace
  left join (pg_collation co join pg_namespace cn on cn.oid = co.collnamespace) on co.oid = k.coll and k.coll <> a.attcollation
 where i.indrelid = any ($1::oid[]) and i.indisunique and i.indisvalid and i.indisready and i.indimmediate
   and i.indpred is null and i.indexprs is null and k.n <= ` + atts + `
 group by i.indrelid, i.indexrelid, i.indisprimary
having bool_and(a.attnotnull)
 order by i.indisprimary desc, count(*), i.indexrelid`
}

func (s *session) readKeys(ctx context.Context, oids []uint32, to map[uint32]*targetTable) error {
	rows, err := s.conn.Query(ctx, s.keysQuery(), pgx.QueryExecModeExec, oids)
	if err != nil {
		return err
	}
	var table uint32
	var k key
	_, err = pgx.ForEachRow(rows, []any{&table, &k.columns, &k.operators, &k.collations}, func() error {
		to[table].keys = append(to[table].keys, k)
		k = key{} // its slices are in use
		return nil
	})
	return err
}
