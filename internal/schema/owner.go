package schema

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// roles are those of the target.
type roles struct {
	current   string
	superuser bool            // the connected role
	may       map[string]bool // may the connected role give objects to it? missing: no such role
	super     map[string]bool // superusers
}

func loadRoles(ctx context.Context, q catalog.Querier) (*roles, error) {
	major, err := catalog.Major(ctx, q)
	if err != nil {
		return nil, err
	}
	// USAGE too: what we have given away we must still be able to alter.
	may := "pg_catalog.pg_has_role(oid, 'USAGE') and pg_catalog.pg_has_role(oid, 'MEMBER')"
	if major >= 16 {
		may = "pg_catalog.pg_has_role(oid, 'USAGE') and pg_catalog.pg_has_role(oid, 'SET')"
	}
	rows, err := q.Query(ctx, `select rolname::text, `+may+`, rolname = current_user, rolsuper from pg_catalog.pg_roles`)
	if err != nil {
		return nil, fmt.Errorf("list roles: %w", err)
	}
	r := &roles{may: map[string]bool{}, super: map[string]bool{}}
	var name string
	var can, current, superuser bool
	_, err = pgx.ForEachRow(rows, []any{&name, &can, &current, &superuser}, func() error {
		r.may[name], r.super[name] = can, superuser
		if current {
			r.current, r.superuser = name, superuser
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list roles: %w", err)
	}
	return r, nil
}

// owned are the kinds that have an owner of their own (_printTocEntry in
// pg_backup_archiver.c).
var owned = []string{
	"AGGREGATE", "COLLATION", "CONVERSION", "DOMAIN", "EVENT TRIGGER", "FOREIGN DATA WRAPPER", "FOREIGN TABLE", "FUNCTION",
	"MATERIALIZED VIEW", "OPERATOR", "OPERATOR CLASS", "OPERATOR FAMILY", "PROCEDURAL LANGUAGE", "PROCEDURE", "SCHEMA",
	"SEQUENCE", "SERVER", "STATISTICS", "TABLE", "TEXT SEARCH CONFIGURATION", "TEXT SEARCH DICTIONARY", "TYPE", "VIEW",
}

// owners gives the objects to the roles that own them on the source. Schemas come first, with their
// privileges: an owner must be allowed to create in the schema. Sequences come last: those of a
// table have followed it.
func (f *finish) owners(ctx context.Context) error {
	pass := func(e *entry) int {
		switch {
		case e.kind == "SCHEMA":
			return 0
		case e.kind == "ACL" && strings.HasPrefix(e.tag, "SCHEMA "):
			return 1
		case e.kind == "EVENT TRIGGER" || !slices.Contains(owned, e.kind):
			return -1
		case e.kind == "SEQUENCE":
			return 3
		}
		return 2
	}
	for n := range 4 {
		for _, e := range f.dump.entries {
			if pass(e) != n {
				continue
			}
			give := f.own
			if e.kind == "ACL" {
				give = f.privileges
			}
			if err := f.failing(ctx, give(ctx, e)); err != nil {
				return err
			}
		}
	}
	return nil
}

// ownersEarly gives a superuser's objects to their owners in the transaction of tx that has created
// them, before there are rows. From then on the server itself runs what users have written, such as
// the expressions of an index that is built, with the rights of the table's owner and not with a
// superuser's. For another role that would gain little, and it owns what it fills.
//
// What is denied is reported by Finish, which does all of it again.
func (d *Dump) ownersEarly(ctx context.Context, conn *pgx.Conn, q catalog.Querier, out map[int]bool) error {
	roles, err := loadRoles(ctx, q)
	if err != nil || !roles.superuser {
		return err
	}
	f := &finish{dump: d, conn: conn, roles: roles, denied: map[string][]string{}, out: out}
	f.do = func(ctx context.Context, sql string) error {
		err := execute(ctx, conn, "savepoint owner;"+sql+"\n;release savepoint owner")
		if err != nil && !conn.IsClosed() {
			if back := execute(ctx, conn, "rollback to savepoint owner"); back != nil {
				return errors.Join(err, back)
			}
		}
		return err
	}
	if err := f.owners(ctx); err != nil {
		return err
	}
	return errors.Join(f.failed...)
}

// own gives one object to its owner.
func (f *finish) own(ctx context.Context, e *entry) error {
	object, ok := strings.CutPrefix(strings.TrimRight(e.drop, " ;\n"), "DROP ")
	if e.kind == "SCHEMA" {
		object, ok = "SCHEMA "+catalog.Quote(e.tag), true
	}
	if !ok || e.owner == "" || (e.owner == f.roles.current && e.kind != "SCHEMA") {
		return nil
	}
	may, exists := f.roles.may[e.owner]
	switch {
	case !exists:
		f.deny("the target has no role "+e.owner+", which owns them on the source", e.String())
		return nil
	case !may && f.roles.super[e.owner]: // of whom nobody should be made a member for this
		if e.kind != "SCHEMA" || e.tag != "public" { // which the target has, with an owner of its own
			f.deny("only a superuser of the target can give objects to "+e.owner+", who is one", e.String())
		}
		return nil
	case !may:
		f.deny("the target's role "+f.roles.current+" may not give objects to "+e.owner+" (grant "+catalog.Quote(e.owner)+" to "+catalog.Quote(f.roles.current)+")", e.String())
		return nil
	}
	sql := "ALTER " + object + " OWNER TO " + catalog.Quote(e.owner)
	err := f.do(ctx, sql)
	switch {
	case err == nil:
		return nil
	case tolerable(err),
		e.kind == "SEQUENCE" && catalog.State(err) == catalog.FeatureNotSupported: // its table kept its owner, and it must have the same
		f.deny("owner "+e.owner+" cannot be set: "+why(err), e.String())
		return nil
	case catalog.State(err) == catalog.UndefinedObject || catalog.State(err) == catalog.UndefinedTable || catalog.State(err) == catalog.UndefinedFunction:
		return nil // it was left out, and reported then
	}
	return objectError(e, sql, err)
}

// privileges runs the GRANT and REVOKE of an entry, except those that concern roles the target
// lacks.
func (f *finish) privileges(ctx context.Context, e *entry) error {
	err := f.do(ctx, e.sql)
	if err == nil || !tolerable(err) {
		return f.privilegeError(e, e.sql, err)
	}
	for _, sql := range statements(e.sql) {
		err := f.do(ctx, "set session authorization default;"+sql)
		if strings.HasPrefix(sql, "SET SESSION") || strings.HasPrefix(sql, "RESET SESSION") {
			continue // a grant in another's name is then one in the owner's
		}
		if err != nil && !tolerable(err) {
			return f.privilegeError(e, sql, err)
		}
		if err != nil {
			f.deny(why(err), sql)
		}
	}
	return nil
}

func (f *finish) privilegeError(e *entry, sql string, err error) error {
	switch catalog.State(err) {
	case catalog.UndefinedObject, catalog.UndefinedTable, catalog.UndefinedFunction, catalog.InvalidSchemaName, catalog.UndefinedColumn:
		f.deny(why(err), e.String()) // its object was left out
		return nil
	}
	if err == nil {
		return nil
	}
	return objectError(e, sql, err)
}

func (f *finish) deny(why, what string) { f.denied[why] = append(f.denied[why], what) }

// reportDenied reports what was denied for the same reason in one line.
func (f *finish) reportDenied() {
	for _, why := range slices.Sorted(maps.Keys(f.denied)) {
		what := f.denied[why]
		object := strings.Join(what[:min(len(what), 3)], ", ")
		if n := len(what) - 3; n > 0 {
			object += fmt.Sprintf(" and %d more", n)
		}
		f.report.skip(object, why)
	}
}
