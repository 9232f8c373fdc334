package check

import (
	"context"
	"fmt"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/slot"
)

// readers checks what a migration would do to other subscribers of the servers: FOR ALL TABLES
// publishes every table that appears, and a subscriber that lacks it stops.
func (r *run) readers(ctx context.Context) error {
	for _, s := range []*server{r.source, r.target} {
		all, err := s.texts(ctx, "publications", `select quote_ident(pubname) from pg_publication where puballtables order by 1`)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			continue
		}
		if s == r.target {
			r.add(Finding{
				ID: "target-published", Severity: Warn, On: "target", Object: list(all),
				Seen: "a publication FOR ALL TABLES: its subscribers get the copy as changes, and the tables of the schema walferry",
				Do:   "create it, and its subscriptions, after the cutover; or make sure that the subscribers tolerate tables that they do not have: PostgreSQL's own stop until they have them",
			})
			continue
		}
		if s.Major > 10 {
			continue // walferry makes no table on such a source (flow.MakeMark)
		}
		// The table exists only if the operator followed this advice; or walferry has created it,
		// and then it is too late.
		there, err := s.texts(ctx, "tables", `select relname::text from pg_class where oid = to_regclass($1)`, slot.TruncationTable)
		if err != nil {
			return err
		}
		if len(there) == 0 {
			r.add(Finding{
				ID: "source-published", Severity: Block, On: "source", Object: list(all),
				Seen: "a publication FOR ALL TABLES: each TRUNCATE, which version 10 does not decode, will be a row of " + slot.TruncationTable + ", and a subscriber without that table stops at it",
				Do:   "run this on every subscriber, then on the source, where it confirms that this was done; or replace the publication with one that lists its tables",
				SQL:  []string{"create schema if not exists walferry", slot.TruncationTableSQL},
			})
		}
	}
	return nil
}

// Readers lists the publications FOR ALL TABLES of a server by which others are sent walferry's tables: none, where it has none.
func Readers(ctx context.Context, q catalog.Querier) ([]string, error) {
	var ours bool
	err := q.QueryRow(ctx, `
select exists(select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace where n.nspname = 'walferry' and c.relkind = 'r')`).Scan(&ours)
	if err != nil {
		return nil, fmt.Errorf("look for walferry's tables: %w", err)
	}
	if !ours {
		return nil, nil
	}
	return catalog.PublishedWhole(ctx, q)
}

// messages checks that walferry may write the messages that serve as heartbeats.
func (r *run) messages(ctx context.Context) error {
	findings, err := r.source.messages(ctx)
	r.add(findings...)
	return err
}

func (s *server) messages(ctx context.Context) (findings []Finding, err error) {
	barred, err := s.texts(ctx, "functions", `
select oid::regprocedure::text from pg_proc
 where pronamespace = 'pg_catalog'::regnamespace and proname = 'pg_logical_emit_message'
   and proargtypes[2] = 'text'::regtype and not has_function_privilege(oid, 'EXECUTE')`)
	if err != nil {
		return nil, err
	}
	for _, f := range barred {
		findings = append(findings, Finding{
			ID: "emit-message", Severity: Block, On: s.side, Object: "pg_catalog." + f,
			Seen: s.User + " may not execute the function, which everyone may unless it was revoked: heartbeats are written with it",
			SQL:  []string{fmt.Sprintf("grant execute on function pg_catalog.%s to %s", f, catalog.Quote(s.User))},
		})
	}
	return findings, nil
}
