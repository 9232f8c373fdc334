package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/walferry/walferry/internal/catalog"
)

// Logins returns the roles with sessions in a server's database, except for walferry's own and a
// provider's.
func Logins(ctx context.Context, q catalog.Querier) (names []string, err error) {
	err = q.QueryRow(ctx, `
select coalesce(array_agg(distinct usename::text order by usename::text), '{}') from pg_catalog.pg_stat_activity
 where datname = pg_catalog.current_database() and usename is not null and pid <> pg_catalog.pg_backend_pid()
   and application_name !~ '^walferry' and usename !~ '^(rds|cloudsql|azure)'`).Scan(&names)
	if err != nil {
		return nil, fmt.Errorf("list the roles that have sessions: %w", err)
	}
	return names, nil
}

// MissingLogins returns those of names that may not log in to a server, or do not exist.
func MissingLogins(ctx context.Context, q catalog.Querier, names []string) (missing []string, err error) {
	err = q.QueryRow(ctx, `
select coalesce(array_agg(n order by n), '{}') from unnest($1::text[]) n
 where not exists(select from pg_catalog.pg_roles r where r.rolname = n and r.rolcanlogin)`, names).Scan(&missing)
	if err != nil {
		return nil, fmt.Errorf("look for roles: %w", err)
	}
	return missing, nil
}

// logins finds what the application needs to connect as it does now: its roles, and the settings of
// roles and database. pg_dump includes neither.
func (r *run) logins(ctx context.Context) error {
	names, err := Logins(ctx, r.source.tx)
	if err != nil {
		return err
	}
	missing, err := MissingLogins(ctx, r.target.tx, names)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		f := Finding{
			ID: "logins-missing", Severity: Warn, On: "target",
			Seen: "roles that have sessions on the source now cannot log in: " + list(missing),
			Do:   "create them, and give them their passwords (\\password in psql) and memberships; the cutover refuses to start without them",
		}
		for _, name := range missing {
			f.SQL = append(f.SQL, "create role "+catalog.Quote(name)+" login")
		}
		r.add(f)
	}
	return r.sessionSettings(ctx)
}

// selectSessionSettings reads what ALTER ROLE and ALTER DATABASE set in this database: the role's
// name or nothing, whether it applies to this database only, and the setting.
const selectSessionSettings = `
select coalesce(r.rolname::text, ''), (s.setdatabase <> 0)::text, c.setting
  from pg_db_role_setting s cross join unnest(s.setconfig) as c(setting) left join pg_roles r on r.oid = s.setrole
 where s.setdatabase in (0, (select oid from pg_database where datname = current_database())) and (s.setrole = 0) = (r.rolname is null)
   and coalesce(r.rolname, '') !~ '^(rds|cloudsql|azure)'
 order by 1, 2, 3`

// listSettings contain names that are already quoted.
var listSettings = []string{"search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries"}

func (r *run) sessionSettings(ctx context.Context) error {
	type setting struct{ role, here, value string }
	read := func(s *server) (found []setting, err error) {
		err = s.records(ctx, "settings", selectSessionSettings, func(row []string) { found = append(found, setting{row[0], row[1], row[2]}) })
		return found, err
	}
	want, err := read(r.source)
	if err != nil {
		return err
	}
	have, err := read(r.target)
	if err != nil {
		return err
	}
	var lines, sql []string
	for _, s := range want {
		if slices.Contains(have, s) {
			continue
		}
		name, value, _ := strings.Cut(s.value, "=")
		if !slices.Contains(listSettings, name) {
			value = catalog.Literal(value)
		}
		database := catalog.Quote(r.target.Database)
		who := "database " + database
		if s.role != "" {
			who = "role " + catalog.Quote(s.role)
			if s.here == "true" {
				who += " in database " + database
			}
		}
		lines = append(lines, who+" sets "+name)
		sql = append(sql, "alter "+who+" set "+catalog.Quote(name)+" = "+value)
	}
	if len(lines) > 0 {
		r.add(Finding{
			ID: "settings-missing", Severity: Warn, On: "target", Seen: "on the source, and not here: " + list(lines),
			Do: "set the same, once the roles exist, if the application relies on it", SQL: sql,
		})
	}
	return nil
}
