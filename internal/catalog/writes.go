package catalog

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Write is that a trigger or rule of a table writes to another one, as far as its text says so.
type Write struct {
	From Name   // the table that has it
	Kind string // trigger or rule
	Name string // of the trigger or rule
	To   []Name // what may be meant: the first of them that exists is; a rule has one
}

// Writes lists what the triggers and rules of tables write to, by the statements in the triggers' functions. What those functions
// call, and what they put together as text, does not show in them. The triggers of extensions' functions are left out, and walferry's.
func Writes(ctx context.Context, q Querier) (list []Write, err error) {
	rows, err := q.Query(ctx, `
select n.nspname::text, c.relname::text, 'trigger', g.tgname::text, p.prosrc, f.nspname::text,
       coalesce((select substr(o, 13) from unnest(p.proconfig) o where o like 'search_path=%'), current_setting('search_path'))
  from pg_catalog.pg_trigger g join pg_catalog.pg_class c on c.oid = g.tgrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_proc p on p.oid = g.tgfoid join pg_catalog.pg_namespace f on f.oid = p.pronamespace
  join pg_catalog.pg_language l on l.oid = p.prolang
 where g.tgconstraint = 0 and g.tgenabled <> 'D' and l.lanname not in ('c', 'internal') and f.nspname not in ('walferry', 'pg_catalog') and `+NotOurs+`
union all
select n.nspname::text, c.relname::text, 'rule', w.rulename::text, '', tn.nspname::text, t.relname::text
  from pg_catalog.pg_rewrite w join pg_catalog.pg_class c on c.oid = w.ev_class join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_catalog.pg_class'::regclass
  join pg_catalog.pg_class t on t.oid = d.refobjid join pg_catalog.pg_namespace tn on tn.oid = t.relnamespace
 where w.rulename <> '_RETURN' and w.ev_enabled <> 'D' and c.relkind in ('r', 'p') and t.relkind in ('r', 'p') and t.oid <> c.oid and `+NotOurs+`
 group by 1, 2, 3, 4, 5, 6, 7
 order by 1, 2, 3, 4, 6, 7`)
	if err != nil {
		return nil, fmt.Errorf("list what triggers and rules write to: %w", err)
	}
	var from Name
	var kind, name, body, schema, third string
	_, err = pgx.ForEachRow(rows, []any{&from.Schema, &from.Name, &kind, &name, &body, &schema, &third}, func() error {
		if kind == "rule" {
			list = append(list, Write{From: from, Kind: kind, Name: name, To: []Name{{Schema: schema, Name: third}}})
			return nil
		}
		for _, to := range written(body, third, schema) {
			list = append(list, Write{From: from, Kind: kind, Name: name, To: to})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list what triggers and rules write to: %w", err)
	}
	return list, nil
}

const identifier = `("(?:[^"]|"")+"|[\pL_][\pL\pN_$]*)`

var (
	comments = regexp.MustCompile(`(?s)--[^\n]*|/\*.*?\*/`)
	writing  = regexp.MustCompile(`(?i)\b(?:insert\s+into|update|delete\s+from|merge\s+into|truncate(?:\s+table)?)\s+(?:only\s+)?` + identifier + `(?:\s*\.\s*` + identifier + `)?`)
)

// written returns what the statements in the body of a function write to: for each the names that it may have, in the order in which
// schemas are searched. The schema of the function comes last, as sessions have a search_path that is not known here.
func written(body, path, schema string) (all [][]Name) {
	for _, m := range writing.FindAllStringSubmatch(comments.ReplaceAllString(body, " "), -1) {
		first, second := Unquote(m[1]), Unquote(m[2])
		if second != "" {
			all = append(all, []Name{{Schema: first, Name: second}})
			continue
		}
		var names []Name
		for part := range strings.SplitSeq(path, ",") {
			if part = Unquote(strings.TrimSpace(part)); part != "$user" && part != "" {
				names = append(names, Name{Schema: part, Name: first})
			}
		}
		all = append(all, append(names, Name{Schema: schema, Name: first}))
	}
	return all
}
