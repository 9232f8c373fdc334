package wayback

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/opening"
	"github.com/walferry/walferry/internal/schema"
	"github.com/walferry/walferry/internal/session"
	"github.com/walferry/walferry/internal/state"
)

// Aside returns how many triggers, rules and foreign keys of a server are put aside while it follows. store has the record of
// the flow that goes to it.
func Aside(ctx context.Context, server *session.Link, store *state.Store) (n int, err error) {
	var keys []schema.Key
	if _, err := store.Values().Get(ctx, state.Aside, &keys); err != nil {
		return 0, err
	}
	err = server.Do(ctx, func(conn *pgx.Conn) error {
		held, err := opening.Recorded(ctx, conn, store.Name())
		n = len(held) + len(keys)
		return err
	})
	return n, err
}

// PutBackSQL is a query for the server that a flow goes to, for when there is no walferry any more: it returns the statements that put
// back what is put aside. They can be run again. Keys are checked for what is written first, then for the rows that are there.
func PutBackSQL(flow string) string {
	return fmt.Sprintf(`select s.sql from walferry.migration m, lateral (
  select 1 as step, n, format('alter table only %%I.%%I enable %%s%%s %%I', e ->> 'schema', e ->> 'table', case e ->> 'state' when 'A' then 'always ' when 'R' then 'replica ' else '' end, e ->> 'kind', e ->> 'name') as sql
    from unnest(m.on_open) with ordinality o(text, n), lateral (select text::jsonb as e) j
  union all
  select 2, n, regexp_replace(k ->> 'sql', ';\s*$', case when k ->> 'sql' ~ '^ALTER TABLE ONLY' and k ->> 'sql' !~ ' NOT VALID;\s*$' then ' NOT VALID' else '' end) from jsonb_array_elements(m.aside) with ordinality a(k, n)
  union all
  select 3, n, format('alter table %%I.%%I validate constraint %%I', k ->> 'schema', k ->> 'name', k ->> 'key') from jsonb_array_elements(m.aside) with ordinality a(k, n)
   where k ->> 'sql' ~ '^ALTER TABLE ONLY' and k ->> 'sql' !~ ' NOT VALID;\s*$'
  union all
  select 4, n, k ->> 'comment' from jsonb_array_elements(m.aside) with ordinality a(k, n) where k ? 'comment') s
 where m.name = %s order by s.step, s.n`, catalog.Literal(flow))
}
