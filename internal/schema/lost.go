package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/catalog"
)

// Loss is something that the source has and the target lacks, or has otherwise.
type Loss struct {
	Kind   string // as in "index", "column default", "privileges"
	Object string // its name as SQL
	Source string // what the source has
	Target string // what the target has instead; empty when Missing
	// Missing: the target has nothing of that kind and name.
	Missing bool
}

func (l Loss) String() string {
	if l.Missing {
		return fmt.Sprintf("%s %s is missing on the target", l.Kind, l.Object)
	}
	return fmt.Sprintf("%s %s is %q on the source and %q on the target", l.Kind, l.Object, l.Source, l.Target)
}

// Name is the object's kind and name as an operator writes them, like that of Refused.
func (l Loss) Name() string {
	return strings.ReplaceAll(l.Kind, " ", "-") + ":" + strings.ReplaceAll(l.Object, `"`, "")
}

// NotValid reports whether it is a check that is valid on the source and holds for new rows only on
// the target: rows may have satisfied it when they were written and violate it now.
func (l Loss) NotValid() bool {
	return l.Kind == "constraint" && l.Source == "check" && l.Target == "check, not valid"
}

// Lost compares the catalogues of both servers and returns what of the source's schema the target
// lacks; anything more on the target is no loss, except for privileges of PUBLIC. What depends on
// an excluded table is listed, and was in the Report. Roles that only one side has are left out,
// see Roles. Expressions are compared without casts and parentheses, which PostgreSQL itself adds
// and removes when it reads back what it wrote, and the texts of views, rules and SQL-standard
// function bodies only between servers of the same major version. Both connections need the
// settings of package session.
func Lost(ctx context.Context, source, target catalog.Querier, o Options) ([]Loss, error) {
	return lost(ctx, source, target, o, allQueries)
}

// LostIndexes is the part of Lost that a cutover must not go without: tables,
// indexes and constraints that are missing, invalid, or of another kind.
func LostIndexes(ctx context.Context, source, target catalog.Querier, o Options) ([]Loss, error) {
	losses, err := lost(ctx, source, target, o, keyQueries)
	return slices.DeleteFunc(losses, func(l Loss) bool {
		return !slices.Contains([]string{"table", "partitioned table", "index", "constraint"}, l.Kind)
	}), err
}

// fact is one property of one object of a server.
type fact struct {
	kind, object, value string
	tables              []string // whose exclusion excuses it; the first is the one it is part of
	roles               []string // without which on the target it cannot be
}

// server is what a query must know of the side it runs on.
type server struct {
	major int
	other int // the major of the other side
}

func lost(ctx context.Context, source, target catalog.Querier, o Options, queries []func(server) string) ([]Loss, error) {
	s, err := catalog.Major(ctx, source)
	if err != nil {
		return nil, err
	}
	t, err := catalog.Major(ctx, target)
	if err != nil {
		return nil, err
	}
	roles, err := loadRoles(ctx, target)
	if err != nil {
		return nil, err
	}
	excluded := map[string]bool{}
	for _, x := range o.Exclude {
		excluded[x.String()] = true
	}
	gone := map[string]bool{} // what is listed as missing, so that its parts need not be
	var losses []Loss
	for _, query := range queries {
		have, err := facts(ctx, target, query(server{t, s}))
		if err != nil {
			return nil, fmt.Errorf("read catalogue of target: %w", err)
		}
		want, err := facts(ctx, source, query(server{s, t}))
		if err != nil {
			return nil, fmt.Errorf("read catalogue of source: %w", err)
		}
		found := make(map[[2]string]string, len(have))
		for _, f := range have {
			found[[2]string{f.kind, f.object}] = f.value
		}
		for _, f := range want {
			value, ok := found[[2]string{f.kind, f.object}]
			switch {
			case ok && value == f.value:
			case slices.ContainsFunc(f.tables, func(table string) bool { return excluded[table] }):
			case slices.ContainsFunc(f.roles, func(role string) bool { _, exists := roles.may[role]; return !exists }):
			case !ok && (gone[partOf(f)] || len(f.tables) > 0 && gone[f.tables[0]]):
			default:
				losses = append(losses, Loss{Kind: f.kind, Object: f.object, Source: f.value, Target: value, Missing: !ok})
				if !ok && slices.Contains(relationKinds, f.kind) {
					gone[f.tables[0]] = true
				}
				if !ok {
					gone[f.kind+" "+f.object] = true
				}
			}
		}
	}
	return losses, nil
}

// relationKinds are the kinds of facts that stand for a whole relation.
var relationKinds = []string{"table", "partitioned table", "view", "materialized view", "foreign table", "sequence"}

// partOf is the kind and object that a fact says more of. Every object has an owner and privileges
// of PUBLIC, even if there are none.
func partOf(f fact) string {
	switch f.kind {
	case "owner":
		return f.object
	case "privileges":
		object, _, _ := strings.Cut(f.object, " of ")
		return object
	case "function arguments definition":
		return "function " + f.object
	}
	return strings.TrimSuffix(f.kind, " definition") + " " + f.object
}

// facts runs a query of kind, object, value, tables, roles. Values of kinds whose
// name ends in "definition" are normalized.
func facts(ctx context.Context, q catalog.Querier, sql string) ([]fact, error) {
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (fact, error) {
		var f fact
		err := row.Scan(&f.kind, &f.object, &f.value, &f.tables, &f.roles)
		if strings.HasSuffix(f.kind, "definition") {
			f.value = normalize(f.value)
		}
		return f, err
	})
}

// normalize removes what changes when an expression is written by one server,
// read by another and written by that: white space, parentheses and casts.
func normalize(text string) string {
	var out strings.Builder
	for text != "" {
		switch c := text[0]; {
		case c == '\'' || c == '"':
			n := quotedLen(text)
			out.WriteString(text[:n])
			text = text[n:]
		case strings.HasPrefix(text, "::"):
			text = afterType(text[2:])
		case c == '(' || c == ')' || c == ' ' || c == '\n' || c == '\t':
			text = text[1:]
		default:
			out.WriteByte(c)
			text = text[1:]
		}
	}
	// Version 11 renamed the clause.
	return strings.ReplaceAll(out.String(), "EXECUTEPROCEDURE", "EXECUTEFUNCTION")
}

// quotedLen is the length of the quoted text at the beginning; a doubled quote
// reads as two texts, which does no harm here.
func quotedLen(text string) int {
	if end := strings.IndexByte(text[1:], text[0]); end >= 0 {
		return end + 2
	}
	return len(text)
}

// afterType skips the name of a type as format_type writes it.
func afterType(text string) string {
	for {
		if strings.HasPrefix(text, `"`) {
			text = text[quotedLen(text):]
			if strings.HasPrefix(text, `"`) {
				continue // a doubled quote within
			}
		} else {
			text = strings.TrimLeft(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_$")
		}
		rest, ok := strings.CutPrefix(text, ".")
		if !ok {
			break
		}
		text = rest
	}
	modifier := func() {
		if strings.HasPrefix(text, "(") {
			if end := strings.IndexByte(text, ')'); end > 0 && strings.Trim(text[1:end], "0123456789,-") == "" {
				text = text[end+1:]
			}
		}
	}
	modifier()
	for _, words := range []string{" varying", " precision", " without time zone", " with time zone"} {
		text = strings.TrimPrefix(text, words)
	}
	modifier()
	for strings.HasPrefix(text, "[]") {
		text = text[2:]
	}
	return text
}
