package schema

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// Refused is an object of the source that the target does not take, and why. It does not stop a
// migration: rows can do without it.
type Refused struct {
	Object string `json:"object"` // its kind and name, as in view:public.mon
	Why    string `json:"why"`
}

func (r Refused) String() string { return r.Object + ": " + r.Why }

// name is an entry's kind and name as an operator writes them: view:public.mon,
// index:public.orders_at, constraint:public.orders.orders_fk. The rows of a materialized view are
// the view's.
func (e *entry) name() string {
	kind, tag := strings.ToLower(strings.ReplaceAll(e.kind, " ", "-")), e.tag
	switch e.kind {
	case "CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT":
		kind, tag = "constraint", strings.Replace(tag, " ", ".", 1)
	case "TRIGGER", "RULE", "POLICY":
		tag = strings.Replace(tag, " ", ".", 1)
	case "MATERIALIZED VIEW DATA":
		kind = "materialized-view"
	}
	tag = strings.ReplaceAll(tag, `"`, "")
	if e.namespace == "" || e.namespace == "-" {
		return kind + ":" + tag
	}
	return kind + ":" + e.namespace + "." + tag
}

// Refusals splits an error that joins *ObjectErrors: what the target refuses for good, and the
// rest, which is nil if there is nothing else.
func Refusals(err error) (refused []Refused, rest error) {
	var others []error
	for _, err := range flat(err) {
		var object *ObjectError
		if errors.As(err, &object) && object.name != "" && catalog.LastWord(object.Err) {
			refused = append(refused, Refused{object.name, object.why()})
		} else {
			others = append(others, err)
		}
	}
	return refused, errors.Join(others...)
}

// flat returns the errors that errors.Join has joined, however deep.
func flat(err error) (list []error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			list = append(list, flat(err)...)
		}
		return list
	}
	if err != nil {
		list = append(list, err)
	}
	return list
}

// needed returns the entries that tables cannot be without: their types, sequences, the functions
// of their defaults and checks.
func (d *Dump) needed() map[int]bool {
	byID := map[int]*entry{}
	for _, e := range d.entries {
		byID[e.id] = e
	}
	needed := map[int]bool{}
	var take func(e *entry)
	take = func(e *entry) {
		if e == nil || needed[e.id] {
			return
		}
		needed[e.id] = true
		for _, dep := range e.deps {
			take(byID[dep])
		}
	}
	for _, e := range d.entries {
		switch e.kind {
		case "SCHEMA", "EXTENSION", "TABLE", "TABLE ATTACH", "DEFAULT", "SEQUENCE", "SEQUENCE OWNED BY":
			take(e)
		}
	}
	return needed
}

// leave adds to what is left out an entry that the target has refused, and all that depends on it,
// and returns what an operator should know of.
func (d *Dump) leave(out map[int]bool, e *entry, why string) []Refused {
	refused := []Refused{{e.name(), why}}
	gone := map[int]*behind{e.id: {on: e}}
	spread(d.entries, gone)
	for _, other := range d.entries {
		g := gone[other.id]
		if g == nil || out[other.id] {
			continue
		}
		out[other.id] = true
		if g.tell {
			refused = append(refused, Refused{other.name(), "it depends on " + e.name() + ", which the target refuses"})
		}
	}
	return refused
}

// late returns the entries from before the data that the target has refused.
func (d *Dump) late() (list []*entry) {
	for _, e := range d.entries {
		if e.section == sectionPreData && slices.Contains(d.refused, e.name()) {
			list = append(list, e)
		}
	}
	return list
}

// exists reports whether an object that has no key exists: somebody may have created it by hand.
func (e *entry) exists(ctx context.Context, q catalog.Querier) (bool, error) {
	if kind := map[string]string{"VIEW": "v", "MATERIALIZED VIEW": "m", "FOREIGN TABLE": "f"}[e.kind]; kind != "" {
		var found bool
		err := q.QueryRow(ctx, `
select exists(select from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
               where n.nspname = $1 and c.relname = $2 and c.relkind = $3::text::"char")`, e.namespace, e.tag, kind).Scan(&found)
		if err != nil {
			return false, fmt.Errorf("look for %s: %w", e, err)
		}
		return found, nil
	}
	lookUp := map[string]string{
		"FUNCTION": "to_regprocedure", "PROCEDURE": "to_regprocedure", "AGGREGATE": "to_regprocedure",
		"TYPE": "to_regtype", "DOMAIN": "to_regtype",
	}[e.kind]
	name, ok := strings.CutPrefix(strings.TrimRight(e.drop, " ;\n"), "DROP "+e.kind+" ")
	if lookUp == "" || !ok {
		return false, nil
	}
	var found bool
	if err := q.QueryRow(ctx, `select pg_catalog.`+lookUp+`($1) is not null`, name).Scan(&found); err != nil {
		return false, fmt.Errorf("look for %s: %w", e, err)
	}
	return found, nil
}

// Missing returns those of refused that the target still lacks: what somebody has created by hand
// since is accepted as it is.
func (d *Dump) Missing(ctx context.Context, q catalog.Querier, refused []Refused) (missing []Refused, err error) {
	if len(refused) == 0 {
		return nil, nil
	}
	present, err := LoadPresent(ctx, q)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, e := range d.entries {
		name := e.name()
		if !slices.ContainsFunc(refused, func(r Refused) bool { return r.Object == name }) {
			continue
		}
		found := false
		if k := e.key(); k != (key{}) {
			_, found = present[k]
		} else if found, err = e.exists(ctx, q); err != nil {
			return nil, err
		}
		if before, met := there[name]; met {
			found = found && before // a materialized view and its rows
		}
		there[name] = found
	}
	for _, r := range refused {
		if !there[r.Object] {
			missing = append(missing, r)
		}
	}
	return missing, nil
}

// try creates an entry before the data in the caller's transaction. refused says that the target
// does not take it; nothing of it is left then. What somebody has created by hand is accepted.
func (d *Dump) try(ctx context.Context, conn *pgx.Conn, e *entry, sql string) (refused bool, err error) {
	err = execute(ctx, conn, "savepoint entry;\n"+sql+"\n;release savepoint entry")
	if err == nil || !catalog.LastWord(err) || conn.IsClosed() {
		return false, err
	}
	if back := execute(ctx, conn, "rollback to savepoint entry; release savepoint entry"); back != nil {
		return false, errors.Join(err, back)
	}
	if present(err) || catalog.State(err) == catalog.DuplicateFunction {
		return false, nil
	}
	return true, err
}

// Rehearse creates the whole schema in the caller's transaction, which is to be rolled back: what
// the target refuses is in the report. Rows decide what else will be refused. Event triggers are
// not created: they would fire.
func (d *Dump) Rehearse(ctx context.Context, tx pgx.Tx) (Report, error) {
	report, err := d.PreData(ctx, tx)
	if err != nil {
		return report, err
	}
	conn := tx.Conn()
	if err := execute(ctx, conn, d.setup); err != nil {
		return report, fmt.Errorf("prepare session for schema: %w", err)
	}
	out := map[int]bool{}
	for _, o := range report.Refused {
		for _, e := range d.entries {
			if e.name() == o.Object {
				d.leave(out, e, o.Why)
				out[e.id] = true
			}
		}
	}
	for _, e := range d.entries {
		if e.section != sectionPostData || e.kind == "EVENT TRIGGER" || e.kind == "MATERIALIZED VIEW DATA" || out[e.id] {
			continue
		}
		refused, err := d.try(ctx, conn, e, e.sql)
		switch {
		case refused && tolerable(err):
			report.skip(e.String(), why(err))
		case refused:
			report.Refused = append(report.Refused, d.leave(out, e, objectError(e, e.sql, err).why())...)
		case err != nil:
			return report, objectError(e, e.sql, err)
		}
	}
	return report, nil
}
