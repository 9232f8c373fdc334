package schema

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
	"github.com/walferry/walferry/internal/wait"
)

// Key is a foreign key that is put aside: a server that has been the database becomes the one that follows, and the role may not
// set session_replication_role there, so that the key would act on what is applied. It is dropped, and is created again when the server
// opens again.
type Key struct {
	catalog.Name        // of the table
	Key          string `json:"key"`
	SQL          string `json:"sql"`               // what creates it, in the form of pg_dump
	Comment      string `json:"comment,omitempty"` // what gives it its comment
}

// on reports whether the key is that of a table and a name.
func (k Key) on(table catalog.Name, name string) bool { return k.Name == table && k.Key == name }

// standing is a key that a server has.
type standing struct {
	Key
	other catalog.Name // the table that it refers to
	part  bool         // only a part, of one that its partitioned table is about to get
}

// Aside reads which foreign keys are put aside.
func (p *Pending) Aside(ctx context.Context) (keys []Key, err error) {
	_, err = p.Store.Values().Get(ctx, state.Aside, &keys)
	return keys, err
}

// PutAside drops the foreign keys between tables, both of which are migrated, after it has recorded them. One that joins
// a table with another that is not migrated goes on protecting its rows: it may refuse what is applied. Those
// that are recorded already stay so as they were. It retries until ctx ends for locks that are not free, and tells who holds them. It
// returns how many it has recorded.
func (p *Pending) PutAside(ctx context.Context, tables []catalog.Table, waits func(string)) (fresh int, err error) {
	recorded, err := p.Aside(ctx)
	if err != nil {
		return 0, err
	}
	unvalidated, _, err := p.List(ctx)
	if err != nil {
		return 0, err
	}
	may, err := session.MaySetReplicaRole(ctx, p.Link)
	if err != nil || may && len(recorded) == 0 {
		return 0, err
	}
	conn, err := online.Open(ctx, session.Config{DSN: p.DSN, Application: p.Store.Name() + " foreign keys"})
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is in progress on it
	list, drop, err := p.sortOut(ctx, conn, tables, unvalidated, recorded, may)
	if err != nil {
		return 0, err
	}
	if len(list) > len(recorded) {
		if err := p.Store.PutAside(ctx, list); err != nil {
			return 0, err
		}
	}
	for _, k := range drop {
		if err := p.drop(ctx, conn, k, waits); err != nil {
			return 0, err
		}
	}
	if len(unvalidated) == 0 || may {
		return len(list) - len(recorded), nil
	}
	return len(list) - len(recorded), p.Link.Exec(ctx, `delete from walferry.validation where migration = $1`, p.Store.Name())
}

// sortOut returns what is to be recorded then, and what is to be dropped.
func (p *Pending) sortOut(ctx context.Context, conn *pgx.Conn, tables []catalog.Table, unvalidated []Validation, recorded []Key, may bool) (list []Key, drop []standing, err error) {
	found, err := keysBetween(ctx, conn, tables, unvalidated)
	if err != nil {
		return nil, nil, err
	}
	list = slices.Clone(recorded)
	for _, k := range found {
		known := slices.ContainsFunc(list, func(r Key) bool { return r.on(k.Name, k.Key.Key) })
		if !known && may {
			continue // it does not act
		}
		if !known && !k.part {
			list = append(list, k.Key)
		}
		if k.other.Name != "" {
			drop = append(drop, k)
		}
	}
	return list, drop, nil
}

// keysBetween lists the foreign keys between tables, those that partitions have from their partitioned table left out. What is not
// validated yet, and would be, counts as validated; so does one that a partitioned table would get once its partitions' are.
func keysBetween(ctx context.Context, conn *pgx.Conn, tables []catalog.Table, unvalidated []Validation) (found []standing, err error) {
	names := make([]string, len(tables))
	for i := range tables {
		names[i] = tables[i].String()
	}
	parts := map[string]bool{} // table and key
	comments := map[string]string{}
	id := func(table catalog.Name, key string) string { return table.String() + " " + catalog.Quote(key) }
	for _, v := range unvalidated {
		if table, name, ok := commented(v.SQL); ok {
			comments[id(table, name)] = v.SQL
		}
	}
	for _, v := range unvalidated {
		e := &entry{kind: "FK CONSTRAINT", sql: v.SQL}
		table, name, _, ok := e.target()
		if !ok || !v.Whole {
			continue
		}
		found = append(found, standing{Key: Key{Name: table, Key: name, SQL: strings.TrimSuffix(v.SQL, ";") + ";\n", Comment: comments[id(table, name)]}})
		leaves, err := leaves(ctx, conn, table)
		if err != nil {
			return nil, err
		}
		for _, leaf := range leaves {
			parts[id(leaf, name)] = true
		}
	}
	rows, err := conn.Query(ctx, `
with ours as (select to_regclass(name)::oid as oid from unnest($1::text[]) as t(name))
select n.nspname::text, c.relname::text, k.conname::text, f.nspname::text, r.relname::text, c.relkind = 'p', k.convalidated,
       pg_get_constraintdef(k.oid), coalesce(obj_description(k.oid, 'pg_constraint'), '')
  from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
  join pg_class r on r.oid = k.confrelid join pg_namespace f on f.oid = r.relnamespace
 where k.contype = 'f' and k.coninhcount = 0 and k.conrelid in (select oid from ours) and k.confrelid in (select oid from ours)
   and coalesce((to_jsonb(k) ->> 'conenforced')::bool, true) -- before version 18 all are
 order by 1, 2, 3`, names)
	if err != nil {
		return nil, fmt.Errorf("list foreign keys: %w", err)
	}
	var k standing
	var partitioned, validated bool
	var definition, comment string
	_, err = pgx.ForEachRow(rows, []any{&k.Schema, &k.Name.Name, &k.Key.Key, &k.other.Schema, &k.other.Name, &partitioned, &validated, &definition, &comment}, func() error {
		only := "ONLY "
		if partitioned {
			only = ""
		}
		if !validated && slices.ContainsFunc(unvalidated, func(v Validation) bool { return v.SQL == validation(k.Name, k.Key.Key).SQL }) {
			definition = strings.TrimSuffix(definition, " NOT VALID")
		}
		k.SQL = fmt.Sprintf("ALTER TABLE %s%s\n    ADD CONSTRAINT %s %s;\n", only, k.Name.String(), catalog.Quote(k.Key.Key), definition)
		k.Comment = comments[id(k.Name, k.Key.Key)]
		if comment != "" {
			k.Comment = fmt.Sprintf("COMMENT ON CONSTRAINT %s ON %s IS %s", catalog.Quote(k.Key.Key), k.Name.String(), catalog.Literal(comment))
		}
		k.part = parts[id(k.Name, k.Key.Key)]
		found = append(found, k)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list foreign keys: %w", err)
	}
	return found, nil
}

// commented returns the constraint that a statement comments on.
func commented(sql string) (table catalog.Name, name string, ok bool) {
	s := scanner{strings.TrimLeft(sql, " \n\t")}
	if !s.word("COMMENT") || !s.word("ON") || !s.word("CONSTRAINT") {
		return table, "", false
	}
	if name, ok = s.name(); !ok {
		return table, "", false
	}
	s.rest = strings.TrimLeft(s.rest, " \n\t")
	if !s.word("ON") {
		return table, "", false
	}
	table, ok = s.qualified()
	return table, name, ok
}

// drop drops a key, unless another process runs the migration by now: its server may be open.
func (p *Pending) drop(ctx context.Context, conn *pgx.Conn, k standing, waits func(string)) error {
	sql := fmt.Sprintf("%s; alter table %s drop constraint if exists %s", p.Store.MineSQL(), k.Name.String(), catalog.Quote(k.Key.Key))
	told := false
	for n := 0; ; n++ {
		err := online.TryMany(ctx, conn, sql)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil && !online.Busy(err) {
			return errors.Join(fmt.Errorf("put the foreign key %s of %s aside: %w", catalog.Quote(k.Key.Key), k.Name.String(), err), p.Store.Mine(ctx))
		}
		if n < 3 && ctx.Err() == nil {
			online.Pause(ctx, n) //nolint:errcheck // the next attempt tells
			continue
		}
		holders := p.holders(ctx, k)
		if ctx.Err() != nil {
			return fmt.Errorf("put the foreign key %s of %s aside, which needs locks that are held by %s: %w", catalog.Quote(k.Key.Key), k.Name.String(), holders, context.Cause(ctx))
		}
		if !told {
			waits(fmt.Sprintf("waiting for locks of %s and %s, to put the foreign key %s aside; held by %s", k.Name.String(), k.other.String(), catalog.Quote(k.Key.Key), holders))
		}
		told = true
		online.Pause(ctx, n) //nolint:errcheck // the next attempt tells
	}
}

// holders names who holds locks that dropping a key waits for.
func (p *Pending) holders(ctx context.Context, k standing) string {
	var found []online.Holder
	err := wait.Within(ctx, 5*time.Second, func(ctx context.Context) error {
		return p.Link.Do(ctx, func(conn *pgx.Conn) error {
			found = nil
			for _, table := range []catalog.Name{k.Name, k.other} {
				more, err := online.Holders(ctx, conn, table.String())
				if err != nil {
					return err
				}
				found = append(found, more...)
			}
			return nil
		})
	})
	if err != nil || len(found) == 0 {
		return "nobody, by now"
	}
	return online.List(found)
}

// PrepareAside is Prepare for the foreign keys that are put aside; nil: there are none.
func (p *Pending) PrepareAside(ctx context.Context) (*Prepared, error) {
	keys, err := p.Aside(ctx)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	d := &Dump{setup: setup}
	for i, k := range keys {
		d.entries = append(d.entries, &entry{id: i + 1, kind: "FK CONSTRAINT", tag: k.Name.Name + " " + k.Key, namespace: k.Schema, sql: k.SQL})
		if k.Comment != "" {
			d.entries = append(d.entries, &entry{id: len(keys) + i + 1, kind: "COMMENT", sql: k.Comment, deps: []int{i + 1}})
		}
	}
	return p.Prepare(ctx, d)
}

// PutBack creates the foreign keys that are put aside, on a server that is not applied to any more. They are
// still to be validated, see Validate.
func (p *Pending) PutBack(ctx context.Context, tell func(string)) error {
	keys, err := p.PrepareAside(ctx)
	if err != nil || keys == nil {
		return err
	}
	defer keys.Close(ctx)
	if err := keys.Create(ctx, tell); err != nil {
		return err
	}
	return p.Link.Exec(ctx, `update walferry.migration set aside = null where name = $1`, p.Store.Name())
}
