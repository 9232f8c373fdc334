package check

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/walferry/walferry/internal/catalog"
)

// ours are the tables in walferry's schema, on either server.
const ours = `'heartbeat', 'truncation', 'progress', 'copy_state', 'copy_plan', 'copy_piece', 'migration', 'request', 'conflict', 'pass', 'word', 'validation'`

// names checks that the names that walferry will use are free.
func (r *run) names(ctx context.Context) error {
	s := r.source
	slot := "walferry_" + r.c.Name
	wal := "coalesce(pg_size_pretty(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end, restart_lsn)), '?')"
	var others []string
	err := s.records(ctx, "slots", `
select slot_name::text, coalesce(plugin, slot_type)::text, coalesce(database, '')::text, active::text, `+wal+` from pg_replication_slots order by 1`,
		func(row []string) {
			name, plugin, database, active, retained := row[0], row[1], row[2], row[3] == "true", row[4]
			if name != slot {
				state := "idle"
				if active {
					state = "active"
				}
				others = append(others, fmt.Sprintf("%s (%s, %s, %s of WAL)", name, plugin, state, retained))
				return
			}
			if r.c.Resuming {
				return
			}
			f := Finding{
				ID: "slot-exists", Severity: Block, On: "source", Object: name,
				Seen: fmt.Sprintf("there is a slot of that name already, of database %q", database),
				Do:   "choose another --name: the slot may belong to a migration to another target; or drop it if it is not needed",
				SQL:  []string{"select pg_drop_replication_slot(" + catalog.Literal(name) + ")"},
			}
			if active {
				f.Seen += ", and it is in use"
			}
			r.add(f)
		})
	if err != nil {
		return err
	}
	if len(others) > 0 {
		r.add(Finding{
			ID: "other-slots", Severity: Info, On: "source", Seen: "there are other slots: " + list(others),
			Do: "their readers must be moved to the target separately; an idle slot holds back WAL",
		})
	}
	if !r.c.Resuming {
		err := s.records(ctx, "publications", `select pubname::text from pg_publication where pubname = any($1::text[]) order by 1`, func(row []string) {
			r.add(Finding{
				ID: "publication-exists", Severity: Block, On: "source", Object: row[0],
				Seen: "there is a publication of that name already",
				Do:   "drop it if it is not needed, or choose another --name",
				SQL:  []string{"drop publication " + catalog.Quote(row[0])},
			})
		}, []string{slot, slot + "_insert"})
		if err != nil {
			return err
		}
	}
	if err := r.subscriptions(ctx); err != nil {
		return err
	}
	for _, s := range []*server{r.source, r.target} {
		if err := r.helperSchema(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// helperSchema finds what in schema walferry is not walferry's own, and what would let others make
// walferry run their code. If no migration has begun, the fix is to rename the whole schema.
func (r *run) helperSchema(ctx context.Context, s *server) error {
	foreign, err := s.texts(ctx, "schema walferry", `
select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = 'walferry' and (c.relkind in ('v', 'm', 'f') or (c.relkind = 'S' and c.relname !~ '^word_.*_[0-9]+$') or (c.relkind in ('r', 'p') and c.relname not in (`+ours+`)))
   and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i'))
 order by 1`)
	if err != nil {
		return err
	}
	strangers, err := catalog.Strangers(ctx, s.tx)
	if err != nil {
		return fmt.Errorf("check the %s: %w", s.side, err)
	}
	if len(foreign) > 0 {
		f := Finding{
			ID: "helper-schema", Severity: Block, On: s.side, Object: "walferry",
			Seen: "the schema walferry has objects that are not walferry's: " + list(foreign),
			Do:   "walferry keeps its state in that schema: move them to another one",
		}
		if !r.c.Resuming {
			f.SQL = []string{aside}
		}
		r.add(f)
	}
	const danger = "could make walferry run code of theirs, with the rights of "
	var findings []Finding
	var seen []string
	for _, x := range strangers {
		f := Finding{
			ID: "helper-schema-rights", Severity: Block, On: s.side, Object: x.Object, SQL: []string{x.Fix},
			Seen: "it " + x.Why + ": they " + danger + s.User,
			Do:   "connect as the role that began the migration; or, if you know how that came about, fix it",
		}
		if x.Kind == catalog.Grant {
			f.Do = "run every command of walferry as the role that began the migration, and let others read at most"
		} else {
			seen = append(seen, x.Object+" "+x.Why)
		}
		findings = append(findings, f)
	}
	if len(seen) > 0 && !r.c.Resuming {
		f := Finding{
			ID: "helper-schema-rights", Severity: Block, On: s.side, Object: "walferry",
			Seen: "others have rights in the schema of walferry's state, and " + danger + s.User + ": " + list(seen),
			Do:   "if another migration of yours lives there, connect as the role that began it; otherwise rename the schema",
		}
		if len(foreign) == 0 {
			f.SQL = []string{aside}
		}
		findings = []Finding{f}
	}
	r.addEach(findings)
	return nil
}

// aside makes room for walferry's own schema.
const aside = "alter schema walferry rename to walferry_other"

// subscriptions of the source write to it, and to migrated tables as well. An apply worker executes
// no statements: statement triggers do not stop it.
func (r *run) subscriptions(ctx context.Context) error {
	var oids []uint32
	for i := range r.tables {
		oids = append(oids, r.tables[i].OID)
	}
	list, _, err := catalog.Subscriptions(ctx, r.source.tx, oids)
	if err != nil {
		return err
	}
	for _, sub := range list {
		f := Finding{
			ID: "source-subscribes", Severity: Warn, On: "source", Object: catalog.Quote(sub.Name),
			Seen: "a subscription of the source writes to tables that are migrated: " + strings.Join(sub.Tables, ", "),
			Do:   "what it receives is migrated like any change. The cutover refuses while it is enabled: decide what is to feed the target, and disable or drop the subscription just before; its publisher keeps what comes after that",
			SQL:  []string{sub.StopSQL()},
		}
		if !sub.Enabled {
			f.Severity, f.SQL = Info, nil
			f.Seen = "a disabled subscription of the source writes to tables that are migrated: " + strings.Join(sub.Tables, ", ")
			f.Do = "leave it so until the cutover, which refuses otherwise"
		}
		r.add(f)
	}
	return nil
}

// activity finds what the creation of the slot would wait for.
func (r *run) activity(ctx context.Context) error {
	if r.c.Resuming {
		return nil
	}
	findings, err := r.source.activity(ctx, r.c.LongWriter)
	r.add(findings...)
	return err
}

func (s *server) activity(ctx context.Context, longer time.Duration) (findings []Finding, err error) {
	var prepared []Finding
	err = s.records(ctx, "prepared transactions", `
select gid, owner::text, database::text, to_char(prepared, 'YYYY-MM-DD HH24:MI:SS'), (database = current_database())::text
  from pg_prepared_xacts order by prepared`, func(row []string) {
		f := Finding{
			ID: "prepared-transaction", Severity: Block, On: s.side, Object: row[0],
			Seen: fmt.Sprintf("prepared by %s in database %s at %s: no slot can be created while it is open", row[1], row[2], row[3]),
			Do:   "commit it instead, if its transaction manager says so",
			SQL:  []string{"rollback prepared " + catalog.Literal(row[0])},
		}
		if row[4] != "true" {
			f.Do = "connect to that database; " + f.Do
		}
		prepared = append(prepared, f)
	})
	if err != nil {
		return nil, err
	}
	// Only pg_monitor sees the details of other roles' sessions; everyone sees the row.
	var writers []Finding
	err = s.records(ctx, "long transactions", `
select pid::text, usename::text, coalesce(application_name, ''), coalesce(state, ''), date_trunc('second', clock_timestamp() - xact_start)::text
  from pg_stat_activity
 where backend_xid is not null and pid <> pg_backend_pid() and usename is not null
   and xact_start < clock_timestamp() - $1::interval
 order by xact_start`, func(row []string) {
		writers = append(writers, Finding{
			ID: "long-writer", Severity: Warn, On: s.side, Object: "process " + row[0],
			Seen: strings.TrimSpace(fmt.Sprintf("%s has had a transaction with writes open for %s (%s, %s)", row[1], row[4], row[3], row[2])),
			Do:   "the slot can be created only when it has ended: wait for it, or end it",
			SQL:  []string{"select pg_terminate_backend(" + row[0] + ")"},
		})
	}, fmt.Sprintf("%d milliseconds", longer.Milliseconds()))
	return append(bounded(prepared), bounded(writers)...), err
}
