package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/schema"
)

// targetServer checks the target server itself.
func (r *run) targetServer(ctx context.Context) error {
	t := r.target
	if err := r.replicaRole(ctx); err != nil {
		return err
	}
	if err := r.firing(ctx, r.source); err != nil {
		return err
	}
	r.encodings()
	if r.source.Collation != r.target.Collation {
		r.add(Finding{
			ID: "collation", Severity: Warn, On: "target",
			Seen: fmt.Sprintf("the default collation is %q, of the source %q", t.Collation, r.source.Collation),
			Do:   "text will sort differently: check range partitions and unique indexes on text, and what the application expects of ORDER BY; or create the database with the same collation",
		})
	}
	for _, c := range []struct{ name, why string }{
		{"fsync", "a crash of the machine may corrupt the target, and lose what was acknowledged to the source"},
		{"autovacuum", "nothing gathers statistics or freezes rows on the target"},
		{"track_counts", "autovacuum has no statistics to go by"},
	} {
		if t.settings[c.name].value != "off" {
			continue
		}
		do, sql := t.reload(c.name, "on")
		r.add(Finding{ID: strings.ReplaceAll(c.name, "_", "-") + "-off", Severity: Warn, On: "target", Seen: c.name + " is off: " + c.why, Do: do, SQL: sql})
	}
	r.locks(ctx)
	if r.c.Schema == "none" {
		return nil
	}
	if err := r.eventTriggers(ctx, t); err != nil {
		return err
	}
	if err := r.schemaCreate(ctx); err != nil {
		return err
	}
	return r.roles(ctx)
}

// schemaCreate: restoring into schemas that exist on the target already, such as public from
// version 15 on, needs a grant, both for the role and for the future owners.
func (r *run) schemaCreate(ctx context.Context) error {
	t := r.target
	var schemas, owners []string
	err := r.source.records(ctx, "owners", `
select distinct n.nspname::text, pg_get_userbyid(o.owner)::text
  from (select relnamespace, relowner from pg_class where relkind in ('r', 'p', 'v', 'm', 'f', 'S') and relpersistence <> 't'
        union select pronamespace, proowner from pg_proc
        union select typnamespace, typowner from pg_type) o(namespace, owner)
  join pg_namespace n on n.oid = o.namespace where `+catalog.NotOurs+` order by 1, 2`, func(row []string) {
		schemas, owners = append(schemas, row[0]), append(owners, row[1])
	})
	if err != nil {
		return err
	}
	var findings []Finding
	closed, err := t.texts(ctx, "schemas", `
select nspname::text from pg_namespace where nspname = any($1::text[]) and not has_schema_privilege(oid, 'CREATE') order by 1`, schemas)
	if err != nil {
		return err
	}
	for _, name := range closed {
		findings = append(findings, Finding{
			ID: "schema-create", Severity: Block, On: "target", Object: catalog.Quote(name),
			Seen: t.User + " may not create anything in the schema, which has objects on the source",
			SQL:  []string{fmt.Sprintf("grant create, usage on schema %s to %s", catalog.Quote(name), catalog.Quote(t.User))},
		})
	}
	r.addEach(findings)
	if t.Superuser {
		return nil
	}
	findings = nil
	err = t.records(ctx, "schemas", `
select n.nspname::text, o.rolname::text
  from unnest($1::text[], $2::text[]) x(schema, owner) join pg_namespace n on n.nspname = x.schema join pg_roles o on o.rolname = x.owner
 where o.rolname <> current_user and not pg_has_role(n.nspowner, 'USAGE') and not has_schema_privilege(o.oid, n.oid, 'CREATE')
 order by 1, 2`, func(row []string) {
		findings = append(findings, Finding{
			ID: "schema-create-owner", Severity: Warn, On: "target", Object: catalog.Quote(row[0]),
			Seen: row[1] + ", which owns objects in the schema on the source, may not create anything in it",
			Do:   "otherwise they belong to " + t.User,
			SQL:  []string{fmt.Sprintf("grant create on schema %s to %s", catalog.Quote(row[0]), catalog.Quote(row[1]))},
		})
	}, schemas, owners)
	r.addEach(findings)
	return err
}

// withoutReplicaRole says how it is without that setting.
func (r *run) withoutReplicaRole() string {
	if r.c.Schema == "none" {
		return "it works without: triggers and rules are disabled by ALTER TABLE until the cutover; foreign keys that the target has must be dropped until then"
	}
	return "it works without: triggers and rules are disabled by ALTER TABLE until the cutover, and foreign keys are created inside its fence, without checking the rows, and validated after it"
}

// replicaRole tries the setting that keeps triggers and foreign keys from firing while rows are
// applied.
func (r *run) replicaRole(ctx context.Context) error {
	t := r.target
	user := catalog.Quote(t.User)
	r.replica = true
	return t.try(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `set local session_replication_role = replica`)
		return err
	}, func(err error) {
		r.replica = false
		f := Finding{
			ID: "session-replication-role", Severity: Warn, On: "target", Object: user,
			Seen: "the role may not set session_replication_role: " + reason(err),
			Do:   r.withoutReplicaRole() + "; that needs the tables' ownership. Otherwise run this as a superuser",
		}
		switch {
		case t.Platform != "":
			f.Do = "connect as a member of rds_superuser; " + r.withoutReplicaRole()
		case t.Major >= 15:
			f.SQL = []string{"grant set on parameter session_replication_role to " + user}
		default:
			f.SQL = []string{"alter role " + user + " superuser"}
		}
		r.add(f)
	})
}

// reason is the server's own message.
func reason(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}

func (r *run) encodings() {
	s, t := r.source, r.target
	f := Finding{ID: "encoding", On: "target", Seen: fmt.Sprintf("the encoding is %s, of the source %s", t.Encoding, s.Encoding)}
	switch {
	case s.Encoding == "SQL_ASCII":
		f.On, f.Severity = "source", Warn
		f.Seen = "the encoding is SQL_ASCII: text was never checked"
		f.Do = "bytes that are not valid UTF-8 stop the copy, with an error that names table and row; look for them beforehand"
	case s.Encoding == t.Encoding:
		return
	case t.Encoding == "UTF8":
		f.Severity = Info
		f.Do = "text is converted, which always works"
	case t.Encoding == "SQL_ASCII":
		f.Severity = Block
		f.Do = "create the target database with encoding UTF8: SQL_ASCII would store the bytes without knowing what they mean"
	default:
		f.Severity = Block
		f.Do = "create the target database with encoding UTF8: it cannot hold every character of the source"
	}
	r.add(f)
}

// locks: the restored schema and the fence lock every table in one transaction.
func (r *run) locks(context.Context) {
	for _, s := range []*server{r.source, r.target} {
		need := r.source.relations
		if need*5 <= s.lockSlots*4 {
			continue
		}
		value := strconv.FormatInt(need*2*64/max(s.lockSlots, 1)+64, 10)
		do, sql := s.restart("max_locks_per_transaction", value)
		r.add(Finding{
			ID: "max-locks", Severity: Warn, On: s.side,
			Seen: fmt.Sprintf("there is room for about %d locks (max_locks_per_transaction times connections), and one transaction may need %d", s.lockSlots, need),
			Do:   do, SQL: sql,
		})
	}
}

// roles finds owners and grantees that do not exist on the target, or that its role cannot give
// anything to.
func (r *run) roles(ctx context.Context) error {
	named, err := schema.Roles(ctx, r.source.tx, r.target.tx)
	if err != nil {
		return err
	}
	canLogin, err := r.source.texts(ctx, "roles", `select rolname::text from pg_roles where rolcanlogin`)
	if err != nil {
		return err
	}
	var missing, create, closed, grant []string
	for _, role := range named {
		name := catalog.Quote(role.Name)
		switch {
		case strings.HasPrefix(role.Name, "rds"):
		case !role.Exists:
			missing = append(missing, name)
			if slices.Contains(canLogin, role.Name) {
				create = append(create, "create role "+name+" login")
			} else {
				create = append(create, "create role "+name+" nologin")
			}
		case role.Owns > 0 && !role.CanOwn:
			closed = append(closed, name)
			grant = append(grant, fmt.Sprintf("grant %s to %s", name, catalog.Quote(r.target.User)))
		}
	}
	if len(missing) > 0 {
		f := Finding{
			ID: "roles-missing", Severity: Warn, On: "target",
			Seen: "roles that own or may use something on the source do not exist: " + list(missing),
			Do:   "create them first, with their passwords and memberships; otherwise what they own belongs to " + r.target.User + " and their grants are left out",
			SQL:  create,
		}
		if r.target.Superuser {
			f.Do += ". That is a superuser: views, and functions that are SECURITY DEFINER, would run with its rights for everyone that may use them"
		}
		r.add(f)
	}
	if len(closed) > 0 {
		r.add(Finding{
			ID: "roles-not-grantable", Severity: Warn, On: "target",
			Seen: r.target.User + " may not give objects to their owners on the source: " + list(closed),
			Do:   "make the role a member of them; otherwise the objects belong to " + r.target.User,
			SQL:  grant,
		})
	}
	return nil
}

// targetTables checks that the target has the tables, or does not have them, and that they are
// empty.
func (r *run) targetTables(ctx context.Context) error {
	if r.c.Resuming {
		return nil
	}
	have, err := catalog.Tables(ctx, r.target.tx)
	if err != nil {
		return fmt.Errorf("check the target: %w", err)
	}
	if len(r.tables) == 0 {
		f := Finding{
			ID: "no-tables", Severity: Warn, On: "source", Seen: "there is no table to migrate",
			Do: "is it the right database? --include and --exclude, and tables that belong to extensions, count too",
		}
		if len(r.all) == 0 && len(have) > 0 {
			f.Severity = Block
			f.Seen = fmt.Sprintf("the source has no tables, and the target has %d", len(have))
			f.Do = "are source and target the right way round?"
		}
		r.add(f)
		return nil
	}
	byName := make(map[string]*catalog.Table, len(have))
	for i := range have {
		byName[have[i].String()] = &have[i]
	}
	if r.c.Schema != "none" {
		var there []string
		for i := range r.tables {
			if byName[r.tables[i].String()] != nil {
				there = append(there, r.tables[i].String())
			}
		}
		if len(there) > 0 {
			r.add(Finding{
				ID: "target-not-empty", Severity: Block, On: "target",
				Seen: fmt.Sprintf("%d of the tables exist already: %s", len(there), list(there)),
				Do:   "are source and target the right way round? Otherwise take an empty database; if the schema is there on purpose, use --schema none" + r.whose(ctx),
			})
		}
		return nil
	}
	return r.broughtTables(ctx, byName)
}

// whose names the migrations of this target: the tables may be theirs.
func (r *run) whose(ctx context.Context) string {
	var names []string
	err := r.target.try(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `select coalesce(array_agg(format('%s (phase %s)', name, phase) order by name), '{}') from walferry.migration`).Scan(&names)
	}, nil)
	if err != nil || len(names) == 0 {
		return ""
	}
	return "; this is the target of the migrations " + list(names) + ": did you mean one of them (--name)?"
}

// broughtTables checks the tables of --schema none.
func (r *run) broughtTables(ctx context.Context, byName map[string]*catalog.Table) error {
	t := r.target
	var missing []Finding
	var there []*catalog.Table
	var oids []uint32
	for i := range r.tables {
		name := r.tables[i].String()
		if found := byName[name]; found != nil {
			there, oids = append(there, found), append(oids, found.OID)
			continue
		}
		missing = append(missing, Finding{
			ID: "target-table-missing", Severity: Block, On: "target", Object: name,
			Seen: "the table is not there", Do: "create it, or let --schema dump do it",
		})
	}
	r.addEach(missing)
	full, err := r.withRows(ctx, there)
	if err != nil {
		return err
	}
	var findings []Finding
	for _, name := range full {
		findings = append(findings, Finding{
			ID: "target-not-empty", Severity: Block, On: "target", Object: name,
			Seen: "the table has rows", Do: "are source and target the right way round? Otherwise take empty tables" + r.whose(ctx),
		})
	}
	r.addEach(findings)
	var denied []Finding
	err = t.records(ctx, "privileges", `
select n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.oid = any($1::oid[]) and not (has_table_privilege(c.oid, 'SELECT') and has_table_privilege(c.oid, 'INSERT')
   and has_table_privilege(c.oid, 'UPDATE') and has_table_privilege(c.oid, 'DELETE') and has_table_privilege(c.oid, 'TRUNCATE'))
 order by 1, 2`, func(row []string) {
		name := catalog.Name{Schema: row[0], Name: row[1]}.String()
		denied = append(denied, Finding{
			ID: "target-table-privileges", Severity: Block, On: "target", Object: name,
			Seen: t.User + " may not read and write the table",
			SQL:  []string{fmt.Sprintf("grant select, insert, update, delete, truncate on %s to %s", name, catalog.Quote(t.User))},
		})
	}, oids)
	if err != nil {
		return err
	}
	r.addEach(denied)
	if err := r.broughtKeys(ctx, oids); err != nil {
		return err
	}
	if err := r.broughtSequences(ctx); err != nil {
		return err
	}
	return r.firing(ctx, t)
}

// broughtKeys looks for foreign keys that would act on rows as they are copied, in an order that they do not take.
func (r *run) broughtKeys(ctx context.Context, oids []uint32) error {
	if r.replica {
		return nil
	}
	var findings []Finding
	err := r.target.records(ctx, "foreign keys", `
select n.nspname::text, c.relname::text, quote_ident(k.conname), pg_get_constraintdef(k.oid)
  from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
 where k.contype = 'f' and (k.conrelid = any($1::oid[]) or k.confrelid = any($1::oid[]))
   and coalesce((to_jsonb(k) ->> 'conparentid')::oid, 0) = 0 -- before version 11 there is none
 order by 1, 2, 3`, func(row []string) {
		table := catalog.Name{Schema: row[0], Name: row[1]}.String()
		findings = append(findings, Finding{
			ID: "target-foreign-key", Severity: Block, On: "target", Object: table,
			Seen: fmt.Sprintf("the foreign key %s would refuse rows that are copied before those that they refer to: the role may not set session_replication_role", row[2]),
			Do:   fmt.Sprintf("drop it until the cutover, and then: alter table %s add constraint %s %s", table, row[2], row[3]),
			SQL:  []string{fmt.Sprintf("alter table %s drop constraint %s", table, row[2])},
		})
	}, oids)
	if err != nil {
		return err
	}
	r.addEach(findings)
	return nil
}

// broughtSequences checks that the cutover will be able to set those of --schema none.
func (r *run) broughtSequences(ctx context.Context) error {
	source, err := catalog.Sequences(ctx, r.source.tx)
	if err != nil {
		return fmt.Errorf("check the source: %w", err)
	}
	target, err := catalog.Sequences(ctx, r.target.tx)
	if err != nil {
		return fmt.Errorf("check the target: %w", err)
	}
	missing, denied := catalog.Unsettable(catalog.SequencesOf(source, r.tables), target)
	var findings []Finding
	for _, s := range missing {
		findings = append(findings, Finding{
			ID: "target-sequence-missing", Severity: Block, On: "target", Object: s.String(),
			Seen: "the sequence is not there: the cutover could not set it", Do: "create it as on the source, or let --schema dump do it",
		})
	}
	r.addEach(findings)
	findings = nil
	for _, s := range denied {
		findings = append(findings, Finding{
			ID: "target-sequence-privileges", Severity: Block, On: "target", Object: s.String(),
			Seen: r.target.User + " may not read and set the sequence: the cutover would fail",
			SQL:  []string{fmt.Sprintf("grant select, update on sequence %s to %s", s, catalog.Quote(r.target.User))},
		})
	}
	r.addEach(findings)
	return nil
}

// withRows returns the tables that have a row. For most of them the size is enough; but a file may
// also be full of dead rows.
func (r *run) withRows(ctx context.Context, tables []*catalog.Table) ([]string, error) {
	var queries, names []string
	flush := func() error {
		if len(queries) == 0 {
			return nil
		}
		found, err := r.target.texts(ctx, "rows", strings.Join(queries, " union all "))
		names, queries = append(names, found...), nil
		return err
	}
	for _, t := range tables {
		if t.Kind != 'r' || t.Pages == 0 || !t.CanSelect {
			continue
		}
		queries = append(queries, fmt.Sprintf("select %s::text where exists (select from only %s)", catalog.Literal(t.String()), t))
		if len(queries) == 200 {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	return names, flush()
}
