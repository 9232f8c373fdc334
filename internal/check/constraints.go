package check

import (
	"context"
	"fmt"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
)

// constraints checks what hangs on the source's tables.
func (r *run) constraints(ctx context.Context) error {
	s := r.source
	selected := r.oids()
	var notValid, invalid []Finding
	err := s.records(ctx, "constraints", `
select n.nspname::text, c.relname::text, k.conname::text
  from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
 where not k.convalidated and k.contype in ('c', 'f', 'n') and c.oid = any($1::oid[]) order by 1, 2, 3`, func(row []string) {
		name := catalog.Name(row[0], row[1])
		notValid = append(notValid, Finding{
			ID: "constraint-not-valid", Severity: Warn, On: "source", Object: name,
			Seen: fmt.Sprintf("constraint %s is NOT VALID: rows may break it", catalog.Quote(row[2])),
			Do:   "validate it, or mend the rows; on the target it stays NOT VALID",
			SQL:  []string{fmt.Sprintf("alter table %s validate constraint %s", name, catalog.Quote(row[2]))},
		})
	}, selected)
	if err != nil {
		return err
	}
	r.addEach(notValid)
	err = s.records(ctx, "indexes", `
select n.nspname::text, x.relname::text, c.relname::text
  from pg_index i join pg_class x on x.oid = i.indexrelid join pg_class c on c.oid = i.indrelid
  join pg_namespace n on n.oid = c.relnamespace
 where not (i.indisvalid and i.indisready) and x.relkind = 'i' and c.oid = any($1::oid[]) order by 1, 2`, func(row []string) {
		name := catalog.Name(row[0], row[1])
		invalid = append(invalid, Finding{
			ID: "index-invalid", Severity: Warn, On: "source", Object: name,
			Seen: "the index, of " + catalog.Name(row[0], row[2]) + ", is not valid: pg_dump leaves it out",
			Do:   "build it again (drop index concurrently, create index concurrently), or drop it",
			SQL:  []string{"reindex index " + name},
		})
	}, selected)
	if err != nil {
		return err
	}
	r.addEach(invalid)
	if err := r.replicaTriggers(ctx, s, selected); err != nil {
		return err
	}
	return r.eventTriggers(ctx, s)
}

func (r *run) oids() []uint32 {
	oids := make([]uint32, len(r.tables))
	for i := range r.tables {
		oids[i] = r.tables[i].OID
	}
	return oids
}

// replicaTriggers finds triggers and rules that fire for what the applier writes.
func (r *run) replicaTriggers(ctx context.Context, s *server, tables []uint32) error {
	var findings []Finding
	err := s.records(ctx, "triggers", `
select n.nspname::text, c.relname::text, x.kind, x.name::text, x.enabled::text
  from (select tgrelid, 'trigger', tgname, tgenabled from pg_trigger where not tgisinternal and tgenabled in ('A', 'R')
           and not exists (select from pg_proc p join pg_namespace w on w.oid = p.pronamespace where p.oid = tgfoid and w.nspname = 'walferry') -- our own
        union all
        select ev_class, 'rule', rulename, ev_enabled from pg_rewrite where ev_enabled in ('A', 'R')) x(relid, kind, name, enabled)
  join pg_class c on c.oid = x.relid join pg_namespace n on n.oid = c.relnamespace
 where c.oid = any($1::oid[]) order by 1, 2, 4`, func(row []string) {
		name := catalog.Name(row[0], row[1])
		how := map[string]string{"A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}[row[4]]
		f := Finding{
			ID: "trigger-always", Severity: Warn, On: s.side, Object: name,
			Seen: fmt.Sprintf("%s %s is %s: it would fire for every row that is copied; while following it is disabled, until the cutover", row[2], catalog.Quote(row[3]), how),
			Do:   "nothing on the source; on a target that has its schema already (--schema none): let it fire for ordinary sessions only, until the copy is done",
			SQL:  []string{fmt.Sprintf("alter table %s enable %s %s", name, row[2], catalog.Quote(row[3]))},
		}
		if s.side == "source" {
			f.Seen = fmt.Sprintf("%s %s is %s and will be so on the target, where it is disabled until the cutover", row[2], catalog.Quote(row[3]), how)
		}
		findings = append(findings, f)
	}, tables)
	r.addEach(findings)
	return err
}

// eventTriggers: walferry's own DDL fires those of the source that it may not leave out, the
// restored schema those of the target.
func (r *run) eventTriggers(ctx context.Context, s *server) error {
	var findings []Finding
	err := s.records(ctx, "event triggers", `
select t.evtname::text, t.evtevent::text, t.evtfoid::regproc::text, (`+online.Loud(s.Major, s.Superuser)+`)::text from pg_event_trigger t
 where t.evtenabled <> 'D' and not exists (select from pg_depend d
        where d.classid = 'pg_event_trigger'::regclass and d.objid = t.oid and d.deptype = 'e')
 order by 1`, func(row []string) {
		name := catalog.Quote(row[0])
		f := Finding{
			ID: "event-trigger", Severity: Info, On: s.side, Object: name,
			Seen: fmt.Sprintf("calls %s at %s", row[2], row[1]),
			Do:   "walferry's own statements on the source do not fire it",
		}
		switch {
		case s.side == "target":
			f.Severity = Warn
			f.Do = "it will fire for every object that walferry creates: disable it until the cutover"
			f.SQL = []string{"alter event trigger " + name + " disable"}
		case row[3] == "true":
			f.Severity = Warn
			f.Do = "it fires for walferry's own statements: a schema, a publication, the fence; where it writes to a migrated table or refuses, the cutover fails. Disable it until cleanup, as its owner"
			f.SQL = []string{"alter event trigger " + name + " disable"}
		}
		findings = append(findings, f)
	})
	r.addEach(findings)
	return err
}

// sequences checks that none is about to end: moving is the time to widen it.
func (r *run) sequences(ctx context.Context) error {
	var findings []Finding
	err := r.source.records(ctx, "sequences", `
select schemaname::text, sequencename::text, data_type::text, last_value::text,
       case when increment_by > 0 then max_value else min_value end::text,
       round(100 * case when increment_by > 0 then last_value::numeric / nullif(max_value, 0) else last_value::numeric / nullif(min_value, 0) end)::text
  from pg_sequences n(nspname, sequencename, owner, data_type, start_value, min_value, max_value, increment_by, cycle, cache_size, last_value),
       lateral (select n.nspname as schemaname) x
 where `+catalog.NotOurs+` and not cycle
   and case when increment_by > 0 then last_value::numeric / nullif(max_value, 0) else last_value::numeric / nullif(min_value, 0) end > 0.8
 order by 1, 2`, func(row []string) {
		name := catalog.Name(row[0], row[1])
		f := Finding{
			ID: "sequence-exhaustion", Severity: Warn, On: "source", Object: name,
			Seen: fmt.Sprintf("at %s of %s, %s %%", row[3], row[4], row[5]),
			Do:   "widen it, and the column that it fills, before the move or right after",
		}
		if row[2] != "bigint" {
			f.SQL = []string{"alter sequence " + name + " as bigint"}
		}
		findings = append(findings, f)
	})
	r.addEach(findings)
	return err
}
