package check

import (
	"context"
	"fmt"
	"strings"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
)

// constraints checks what depends on the source's tables.
func (r *run) constraints(ctx context.Context) error {
	s := r.source
	selected := r.oids()
	var notValid, invalid []Finding
	err := s.records(ctx, "constraints", `
select n.nspname::text, c.relname::text, k.conname::text
  from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
 where not k.convalidated and k.contype in ('c', 'f', 'n') and c.oid = any($1::oid[]) order by 1, 2, 3`, func(row []string) {
		name := catalog.Name{Schema: row[0], Name: row[1]}.String()
		notValid = append(notValid, Finding{
			ID: "constraint-not-valid", Severity: Warn, On: "source", Object: name,
			Seen: fmt.Sprintf("constraint %s is NOT VALID: rows may break it", catalog.Quote(row[2])),
			Do:   "validate it, or fix the rows; on the target it stays NOT VALID",
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
		name := catalog.Name{Schema: row[0], Name: row[1]}.String()
		invalid = append(invalid, Finding{
			ID: "index-invalid", Severity: Warn, On: "source", Object: name,
			Seen: "the index, of " + catalog.Name{Schema: row[0], Name: row[2]}.String() + ", is not valid: pg_dump leaves it out",
			Do:   "build it again (drop index concurrently, create index concurrently), or drop it",
			SQL:  []string{"reindex index " + name},
		})
	}, selected)
	if err != nil {
		return err
	}
	r.addEach(invalid)
	return r.eventTriggers(ctx, s)
}

func (r *run) oids() []uint32 {
	oids := make([]uint32, len(r.tables))
	for i := range r.tables {
		oids[i] = r.tables[i].OID
	}
	return oids
}

// firing finds triggers and rules that would act on copied and applied rows unless disabled until
// the cutover, and those that this role could not disable.
func (r *run) firing(ctx context.Context, s *server) error {
	var findings, closed []Finding
	list, err := catalog.FiringOn(ctx, s.tx, r.tables, r.replica)
	if err != nil {
		return fmt.Errorf("check the %s: %w", s.side, err)
	}
	for _, f := range list {
		name, how := catalog.Name{Schema: f.Schema, Name: f.Table}.String(), map[string]string{"A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}[f.State]
		if s.side == "source" && strings.HasPrefix(f.Name, "walferry_") {
			continue
		}
		// For a partition pg_dump restores copies of its parent's triggers.
		holding := f.Holding
		if s.side == "source" {
			holding = r.target.Superuser || !f.Copy || r.target.Major >= 13
		}
		if !holding && (s.side == "target" || r.c.Schema != "none") {
			closed = append(closed, Finding{
				ID: "trigger-not-held", Severity: Block, On: "target", Object: name,
				Seen: fmt.Sprintf("%s %s would act on rows that are copied and applied, and %s may not disable it until the cutover", f.Kind, catalog.Quote(f.Name), r.target.User),
				Do:   "connect as the owner of the table, or as a superuser (only a superuser may disable triggers of foreign keys and, before version 13, the triggers that partitions have from their parent)",
			})
			continue
		}
		if how == "" || f.Copy && f.Like {
			continue
		}
		finding := Finding{
			ID: "trigger-always", Severity: Info, On: s.side, Object: name,
			Seen: fmt.Sprintf("%s %s is %s: it is disabled from before the copy until the cutover", f.Kind, catalog.Quote(f.Name), how),
			Do:   "nothing: it is enabled again as before when the target opens",
		}
		if s.side == "source" {
			finding.Seen = fmt.Sprintf("%s %s is %s and will be so on the target, where it is disabled until the cutover", f.Kind, catalog.Quote(f.Name), how)
		}
		findings = append(findings, finding)
	}
	r.addEach(closed)
	r.addEach(findings)
	return nil
}

// eventTriggers: walferry's own DDL fires those on the source that it has no right to skip, the
// restored schema those on the target.
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
			f.Do = "it fires for walferry's own statements: a schema, a table, a publication, the fence; if it writes to a migrated table or raises an error, the cutover fails. Disable it until cleanup, as its owner"
			f.SQL = []string{"alter event trigger " + name + " disable"}
		}
		findings = append(findings, f)
	})
	r.addEach(findings)
	return err
}

// sequences checks that none is about to run out: a move is the time to widen it.
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
		name := catalog.Name{Schema: row[0], Name: row[1]}.String()
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
