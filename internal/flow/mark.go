package flow

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/slot"
)

// The mark of a flow's transactions, by which the flow in the other direction knows them, is the
// change of walferry.progress with which each begins (applier.Filter). It is seen where that table is
// in the publication of the server that they are written to: from before the slot on, for neither a
// slot nor a publication is altered afterwards.
//
// So whether a flow sees it is decided here, when its publications are made, and kept with them in
// the record (Marked). Those of an older version have none.

// MakeMark makes, on a server of which publications are about to be made, what goes into them for the
// mark. It is nothing where the role may not publish that, and where somebody's publication FOR ALL
// TABLES would publish it, too: subscribers that have no such table would stop. That it is there
// already is the word that they have it, or it is that of the migrations whose target the server is.
func MakeMark(ctx context.Context, conn *pgx.Conn) (tables []pgx.Identifier, err error) {
	var there, may, everywhere, schema bool
	err = conn.QueryRow(ctx, `
select c.oid is not null, case when c.oid is not null then pg_has_role(c.relowner, 'USAGE') else coalesce(has_schema_privilege(n.oid, 'CREATE'), true) end,
       exists(select from pg_publication where puballtables), n.oid is not null
  from (select 'walferry'::name as name) s left join pg_namespace n on n.nspname = s.name left join pg_class c on c.relnamespace = n.oid and c.relname = 'progress'`).Scan(&there, &may, &everywhere, &schema)
	if err == nil {
		if !may || everywhere && !there { // who does not own a table cannot publish it
			return nil, nil
		}
		sql := applier.ProgressTableSQL
		if !schema {
			sql = `create schema walferry;` + sql
		}
		if !there {
			err = online.Own(ctx, conn, sql)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make %s, for a way back, on the server that the changes come from: %w", applier.ProgressTable, err)
	}
	return []pgx.Identifier{strings.Split(applier.ProgressTable, ".")}, nil
}

// Marked reports whether a flow with these publications knows the transactions of the other direction.
func Marked(publications map[string]slot.PublicationIdentity) bool {
	schema, name, _ := strings.Cut(applier.ProgressTable, ".")
	quoted := catalog.Name{Schema: schema, Name: name}.String()
	for _, p := range publications {
		for _, e := range p.Entries {
			if e.Name == quoted {
				return true
			}
		}
	}
	return false
}
