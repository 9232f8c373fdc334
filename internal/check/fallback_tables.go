package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/flow"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/state"
)

// recordSQL makes what a way back writes to in schema walferry of a server.
func recordSQL() []string {
	return []string{"create schema if not exists walferry", applier.ProgressTableSQL, state.TablesSQL(), flow.WordTableSQL, schema.ValidationTableSQL}
}

// published: FOR ALL TABLES publishes walferry's tables, too, and a subscriber that lacks them stops.
func (w *way) published(ctx context.Context) error {
	if !w.back {
		return nil
	}
	for _, s := range []*server{w.from, w.to} {
		all, err := catalog.PublishedWhole(ctx, s.tx)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			continue
		}
		f := Finding{
			ID: "published", Severity: Warn, On: s.side, Object: list(all),
			Seen: "a publication FOR ALL TABLES: as long as there is a way back its subscribers are sent the tables of the schema walferry; PostgreSQL's own stop at the first change until they have them",
			Do:   "replace it with one that lists its tables; or make those tables on every subscriber (`pg_dump --schema-only --schema walferry` of this server)",
		}
		if s == w.to { // where nothing has been written to them yet
			there, err := s.texts(ctx, "tables", `
select c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = 'walferry' and c.relname in ('progress', 'migration', 'request')`)
			if err != nil {
				return err
			}
			if len(there) < 3 {
				f.Severity, f.SQL = Block, recordSQL()
				f.Do = "run this on every subscriber, then on this server as walferry's role, where it confirms that this was done; or replace the publication with one that lists its tables"
			}
		}
		w.add(f)
	}
	return nil
}

// record: what walferry has on both servers is the role's, to publish or to write to.
func (w *way) record(ctx context.Context) error {
	for _, s := range []*server{w.from, w.to} {
		var findings []Finding
		user := catalog.Quote(s.User)
		err := s.records(ctx, "the schema walferry", `
select 'schema', pg_get_userbyid(n.nspowner)::text, '' from pg_namespace n
 where n.nspname = 'walferry' and not (has_schema_privilege(n.oid, 'CREATE') and has_schema_privilege(n.oid, 'USAGE'))
union all
select 'table', pg_get_userbyid(c.relowner)::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = 'walferry' and c.relkind = 'r' and c.relname in (`+ours+`) and not pg_has_role(c.relowner, 'USAGE')
 order by 1, 3`, func(row []string) {
			f := Finding{ID: "record", Severity: Block, On: s.side, Object: "walferry", Do: "connect as the role that began the migration; or give it to this one"}
			if row[0] == "schema" {
				f.Seen = fmt.Sprintf("%s may not create anything in the schema walferry, which is owned by %s", s.User, row[1])
				f.SQL = []string{"grant create, usage on schema walferry to " + user}
			} else {
				f.Object = catalog.Name{Schema: "walferry", Name: row[2]}.String()
				f.Seen = "it is owned by " + row[1] + ": it could not be published, or written to as a way back needs"
				f.SQL = []string{fmt.Sprintf("alter table %s owner to %s", f.Object, user)}
			}
			findings = append(findings, f)
		})
		if err != nil {
			return err
		}
		w.add(findings...)
	}
	return nil
}

// outgoing: every table can be published on the server that changes come from, as it is there, and its
// rows told apart.
func (w *way) outgoing(ctx context.Context) error {
	s := w.from
	if w.back {
		w.add(Finding{
			ID: "keep-identity", Severity: Warn, On: s.side,
			Seen: "as long as the way back is followed, every table must keep its replica identity there: without, the server refuses UPDATE and DELETE, the application's too",
			Do: "drop no key of a migrated table before `walferry finish`; if it must be, give the table another identity first " +
				"(alter table ... replica identity full, or using index ...)",
		})
	}
	if err := w.eventTriggers(ctx); err != nil || len(w.tables) == 0 {
		return err // the tables will be made as they are on the other one
	}
	owners, err := s.ownership(ctx, w.tables, "publish")
	if err != nil {
		return err
	}
	w.add(owners...)
	insertOnly := map[uint32]bool{}
	there := map[catalog.Name]bool{}
	var unlogged, missing []Finding
	for i := range w.tables {
		t := &w.tables[i]
		there[t.Name], insertOnly[t.OID] = true, slices.Contains(w.inserts, t.Name)
		if t.Persistence != 'p' {
			unlogged = append(unlogged, Finding{
				ID: "unlogged-table", Severity: Block, On: s.side, Object: t.String(), Seen: "it is unlogged: it cannot be published, and a crash empties it",
				SQL: []string{fmt.Sprintf("alter table %s set logged", t)},
			})
		}
	}
	for _, name := range w.wanted {
		if !there[name] {
			missing = append(missing, Finding{
				ID: "table-missing", Severity: Block, On: s.side, Object: name.String(), Seen: "the table is not there: nothing can come from it", Do: "make it there, with its rows",
			})
		}
	}
	unusable, _, err := s.identities(ctx, w.tables, insertOnly)
	if err != nil {
		return err
	}
	w.add(bounded(unlogged)...)
	w.add(bounded(missing)...)
	w.add(unusable...)
	w.add(bounded(w.children())...)
	return nil
}

// eventTriggers fire for the publications, and for the fence of the switch back.
func (w *way) eventTriggers(ctx context.Context) error {
	s := w.from
	var findings []Finding
	err := s.records(ctx, "event triggers", `
select t.evtname::text, t.evtevent::text, t.evtfoid::regproc::text from pg_event_trigger t
 where t.evtenabled <> 'D' and (`+online.Loud(s.Major, s.Superuser)+`) and not exists (select from pg_depend d
        where d.classid = 'pg_event_trigger'::regclass and d.objid = t.oid and d.deptype = 'e') order by 1`, func(row []string) {
		findings = append(findings, Finding{
			ID: "event-trigger", Severity: Warn, On: s.side, Object: catalog.Quote(row[0]),
			Seen: fmt.Sprintf("calls %s at %s, also for walferry's own statements: a publication when the way back is armed, the fence of a fallback; if it writes to a migrated table or raises an error, they fail", row[2], row[1]),
			Do:   "disable it until cleanup, as its owner",
			SQL:  []string{"alter event trigger " + catalog.Quote(row[0]) + " disable"},
		})
	})
	w.add(bounded(findings)...)
	return err
}

// children finds tables below migrated ones that only the server has that changes come from: what is routed to them is in no publication.
func (w *way) children() (findings []Finding) {
	ours, elsewhere, all := map[string]bool{}, map[string]bool{}, map[string]*catalog.Table{}
	for i := range w.tables {
		ours[w.tables[i].String()] = true
	}
	for i := range w.toAll {
		elsewhere[w.toAll[i].String()] = true
	}
	for i := range w.fromAll {
		all[w.fromAll[i].String()] = &w.fromAll[i]
	}
	var below func(t *catalog.Table) string
	below = func(t *catalog.Table) string {
		for _, parent := range t.Parents {
			if ours[parent] {
				return parent
			}
			if p := all[parent]; p != nil {
				if top := below(p); top != "" {
					return top
				}
			}
		}
		return ""
	}
	for i := range w.fromAll {
		t := &w.fromAll[i]
		if t.Kind != 'r' || ours[t.String()] || elsewhere[t.String()] {
			continue
		}
		parent := below(t)
		if parent == "" {
			continue
		}
		f := Finding{
			ID: "partition", Severity: Block, On: w.from.side, Object: t.String(),
			Seen: fmt.Sprintf("it is below %s, and %s has no such table: what is written to it would not go there", parent, named(w.to.side)),
			Do:   "take it out, before it has rows, or make it on both sides before the migration begins",
		}
		for _, parent := range t.Parents {
			sql := fmt.Sprintf("alter table %s no inherit %s", t, parent)
			if t.IsPartition {
				sql = fmt.Sprintf("alter table %s detach partition %s", parent, t)
			}
			f.SQL = append(f.SQL, sql)
		}
		findings = append(findings, f)
	}
	return findings
}

// incoming: the role may write to every table of the server that changes go to, and nothing there acts on what it writes.
func (w *way) incoming(ctx context.Context) error {
	s := w.to
	if !s.createOnDatabase {
		w.add(s.createRight("the schema walferry"))
	}
	oids := make([]uint32, len(w.at))
	for i := range w.at {
		oids[i] = w.at[i].OID
	}
	var denied []Finding
	err := s.records(ctx, "privileges", `
select n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.oid = any($1::oid[]) and not (has_schema_privilege(n.oid, 'USAGE') and has_table_privilege(c.oid, 'SELECT') and has_table_privilege(c.oid, 'INSERT')
   and has_table_privilege(c.oid, 'UPDATE') and has_table_privilege(c.oid, 'DELETE') and has_table_privilege(c.oid, 'TRUNCATE'))
 order by 1, 2`, func(row []string) {
		name := catalog.Name{Schema: row[0], Name: row[1]}.String()
		denied = append(denied, Finding{
			ID: "table-privileges", Severity: Block, On: s.side, Object: name,
			Seen: s.User + " may not read and write the table, into which changes would come back",
			SQL: []string{
				fmt.Sprintf("grant usage on schema %s to %s", catalog.Quote(row[0]), catalog.Quote(s.User)),
				fmt.Sprintf("grant select, insert, update, delete, truncate on %s to %s", name, catalog.Quote(s.User)),
			},
		})
	}, oids)
	if err != nil {
		return err
	}
	w.add(bounded(denied)...)
	w.add(bounded(s.rowSecurity(w.at))...)
	all, err := catalog.Sequences(ctx, s.tx)
	if err != nil {
		return fmt.Errorf("check the %s: %w", s.side, err)
	}
	var sequences []Finding
	for _, q := range catalog.SequencesOf(all, w.at) {
		if !q.CanSelect || !q.CanUpdate {
			sequences = append(sequences, Finding{
				ID: "sequence-privileges", Severity: Block, On: s.side, Object: q.String(),
				Seen: s.User + " may not read and set the sequence, which a way back keeps ahead",
				SQL:  []string{fmt.Sprintf("grant select, update on sequence %s to %s", q, catalog.Quote(s.User))},
			})
		}
	}
	w.add(bounded(sequences)...)
	return nil
}

// applied: triggers and foreign keys do not act on what is applied.
func (w *way) applied(ctx context.Context) error {
	s := w.to
	replica := true
	err := s.try(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `set local session_replication_role = replica`)
		return err
	}, func(err error) {
		replica = false
		f := Finding{
			ID: "session-replication-role", Severity: Warn, On: s.side, Object: catalog.Quote(s.User),
			Seen: "the role may not set session_replication_role: " + reason(err),
			Do: "it works without: triggers, rules and foreign keys are put aside while changes come, and put back when the server is the database again; foreign keys are validated after its opening, " +
				"and those that join a migrated table with another stay, and may interrupt the way back. Otherwise run this as a superuser",
		}
		switch {
		case s.Platform != "":
			f.Do = strings.Replace(f.Do, "Otherwise run this as a superuser", "Otherwise connect as a member of rds_superuser", 1)
		case s.Major >= 15:
			f.SQL = []string{"grant set on parameter session_replication_role to " + catalog.Quote(s.User)}
		default:
			f.SQL = []string{"alter role " + catalog.Quote(s.User) + " superuser"}
		}
		w.add(f)
	})
	if err != nil {
		return err
	}
	firing, err := catalog.FiringOn(ctx, s.tx, w.at, replica)
	if err != nil {
		return fmt.Errorf("check the %s: %w", s.side, err)
	}
	var findings []Finding
	for _, f := range firing {
		if f.Holding {
			continue
		}
		name := catalog.Name{Schema: f.Schema, Name: f.Table}.String()
		findings = append(findings, Finding{
			ID: "trigger-not-held", Severity: Block, On: s.side, Object: name,
			Seen: fmt.Sprintf("%s %s would act on what comes back, and %s may not disable it as long as changes come", f.Kind, catalog.Quote(f.Name), s.User),
			Do:   "connect as the owner of the table, or as a superuser (only a superuser may disable triggers of foreign keys and, before version 13, the triggers that partitions have from their parent)",
		})
	}
	w.add(bounded(findings)...)
	if replica {
		return nil
	}
	return w.keysAside(ctx)
}

// keysAside: foreign keys that would act on what is applied can be dropped.
func (w *way) keysAside(ctx context.Context) error {
	s := w.to
	var findings []Finding
	err := s.records(ctx, "foreign keys", `
with ours as (select to_regclass(name)::oid as oid from unnest($1::text[]) as t(name))
select n.nspname::text, c.relname::text, quote_ident(k.conname), o.rolname::text
  from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace join pg_roles o on o.oid = c.relowner
 where k.contype = 'f' and k.coninhcount = 0 and k.conrelid in (select oid from ours) and k.confrelid in (select oid from ours) and not pg_has_role(c.relowner, 'USAGE')
 order by 1, 2, 3`, func(row []string) {
		findings = append(findings, Finding{
			ID: "foreign-key-not-held", Severity: Block, On: s.side, Object: catalog.Name{Schema: row[0], Name: row[1]}.String(),
			Seen: fmt.Sprintf("the foreign key %s would act on what comes back, and %s may not drop it as long as changes come", row[2], s.User),
			Do:   "connect as the owner of the table, or make the role a member of the owner",
			SQL:  []string{fmt.Sprintf("grant %s to %s", catalog.Quote(row[3]), catalog.Quote(s.User))},
		})
	}, texts(w.at))
	w.add(bounded(findings)...)
	return err
}

// texts are the names of tables as SQL.
func texts(tables []catalog.Table) (names []string) {
	for i := range tables {
		names = append(names, tables[i].String())
	}
	return names
}

// fits: the server that changes go to takes what the other one may have.
func (w *way) fits(ctx context.Context) error {
	if len(w.tables) == 0 || len(w.at) == 0 {
		return nil
	}
	differences, err := schema.Compare(ctx, w.from.tx, w.to.tx, w.tables)
	if err != nil {
		return err
	}
	stricter, err := schema.Stricter(ctx, w.from.tx, w.to.tx, w.tables)
	if err != nil {
		return err
	}
	checks, err := schema.StricterChecks(ctx, w.from.tx, w.to.tx, w.tables)
	if err != nil {
		return err
	}
	from, to := named(w.from.side), named(w.to.side)
	words := strings.NewReplacer("the target", to, "the source", from)
	var always, some []Finding
	for _, d := range slices.Concat(differences, stricter, checks) {
		f := Finding{ID: "difference", Severity: Warn, On: w.to.side, Object: d.Table, Seen: words.Replace(d.Problem)}
		if d.Table == "" {
			f.ID = "type-difference" // of an enum, an extension
		}
		if d.Column != "" {
			f.Seen = "column " + catalog.Quote(d.Column) + ": " + f.Seen
		}
		if d.SQL != "" {
			f.SQL = []string{d.SQL}
		}
		f.Do = "rows that it does not take interrupt the way back, until it is the same on both sides"
		if d.Always {
			f.Severity, f.Do = Block, "whatever is written to the table would interrupt the way back: make it the same on both sides"
			always = append(always, f)
			continue
		}
		some = append(some, f)
	}
	w.add(bounded(always)...)
	w.add(bounded(some)...)
	return nil
}
