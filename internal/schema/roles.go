package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// Role is one that the source's schema names.
type Role struct {
	Name    string
	Owns    int  // objects that it owns
	Granted int  // objects that it has privileges on, or policies for it
	Exists  bool // on the target
	CanOwn  bool // the target's connected role may make it an owner
}

// Roles lists the roles that the schema of the source names, and what the target knows of them.
// walferry creates no roles: if one is missing, its objects belong to the connected role and its
// privileges and policies are left out.
func Roles(ctx context.Context, source, target catalog.Querier) ([]Role, error) {
	known, err := loadRoles(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("compare roles: target: %w", err)
	}
	// What belongs to the superuser that initdb created (oid 10) is not in pg_shdepend: of its
	// objects, the relations are counted.
	rows, err := source.Query(ctx, `
select r.rolname::text,
       count(*) filter (where d.kind = 'o'), count(*) filter (where d.kind <> 'o')
  from (select s.refobjid, s.deptype::text
          from pg_catalog.pg_shdepend s
         where s.refclassid = 'pg_catalog.pg_authid'::regclass and s.deptype in ('o', 'a', 'r')
           and s.dbid = (select oid from pg_catalog.pg_database where datname = current_database())
           and not exists(select from pg_catalog.pg_depend e where e.classid = s.classid and e.objid = s.objid and e.deptype = 'e')
           and not exists(select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                           where s.classid = 'pg_catalog.pg_class'::regclass and c.oid = s.objid and not (`+catalog.NotOurs+`))
        union all
        select c.relowner, 'o' from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where c.relowner = 10 and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and c.relpersistence <> 't' and `+catalog.NotOurs+`
           and not `+member("pg_class", "c.oid")+`) d(role, kind)
  join pg_catalog.pg_roles r on r.oid = d.role
 group by r.rolname order by r.rolname`)
	if err != nil {
		return nil, fmt.Errorf("compare roles: source: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Role, error) {
		var r Role
		err := row.Scan(&r.Name, &r.Owns, &r.Granted)
		r.CanOwn, r.Exists = known.may[r.Name]
		return r, err
	})
	if err != nil {
		return nil, fmt.Errorf("compare roles: source: %w", err)
	}
	return list, nil
}
