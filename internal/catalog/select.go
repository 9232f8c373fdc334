package catalog

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/nearest"
)

// badPattern reports what is wrong with a table pattern, as in "matches no table". No advice means
// what a pattern is.
func badPattern(pattern, problem, advice string) *fail.Error {
	if advice == "" {
		advice = "a pattern is schema.table, with * and ?, and matches tables, but no views, and no tables of extensions"
	}
	return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("table pattern %q %s", pattern, problem), Advice: advice}
}

// Select returns the tables that include names and exclude does not, in the order of tables. No
// include means all. Tables of extensions are left out: CREATE EXTENSION creates them.
//
// A pattern is schema.table, or table alone for the schema public. * stands for any characters and
// ? for one; in double quotes neither does, nor the dot. Upper and lower case differ. A pattern
// that names a partitioned table takes its partitions, and a partition keeps its partitioned
// parents, which hold no rows but are needed in the schema. Exclude takes precedence over include.
//
// The error is a [fail.Error] of kind Usage: a pattern matches nothing, is invalid, or names a system schema.
func Select(tables []Table, include, exclude []string) ([]Table, error) {
	own := make([]bool, len(tables))
	for i := range tables {
		own[i] = tables[i].Extension == ""
	}
	chosen := slices.Clone(own)
	if len(include) > 0 {
		var err error
		if chosen, err = match(tables, own, include); err != nil {
			return nil, err
		}
	}
	excluded, err := match(tables, own, exclude)
	if err != nil {
		return nil, err
	}
	roots := map[string]bool{}
	for i := range tables {
		if chosen[i] = chosen[i] && !excluded[i]; chosen[i] && tables[i].Root != "" {
			roots[tables[i].Root] = true
		}
	}
	var selected []Table
	for i := range tables {
		t := &tables[i]
		if chosen[i] || (t.Kind == 'p' && (roots[t.Root] || roots[t.Plain()])) {
			selected = append(selected, *t)
		}
	}
	return selected, nil
}

// Match returns the tables that match any of the patterns, with the partitions of partitioned ones;
// patterns and error are as for Select.
func Match(tables []Table, patterns []string) ([]Table, error) {
	own := make([]bool, len(tables))
	for i := range tables {
		own[i] = tables[i].Extension == ""
	}
	matched, err := match(tables, own, patterns)
	if err != nil {
		return nil, err
	}
	var result []Table
	for i := range tables {
		if matched[i] {
			result = append(result, tables[i])
		}
	}
	return result, nil
}

// match reports for each of the application's tables whether a pattern names it or its root.
func match(tables []Table, own []bool, patterns []string) ([]bool, error) {
	matched := make([]bool, len(tables))
	for _, text := range patterns {
		p, err := parsePattern(text)
		if err != nil {
			return nil, err
		}
		roots := map[string]bool{}
		found, extension, middle := false, "", ""
		for i := range tables {
			t := &tables[i]
			switch {
			case !p.matches(t.Schema, t.Name.Name):
				continue
			case !own[i]:
				extension = t.Extension
				continue
			case t.Kind == 'p' && t.IsPartition:
				middle = t.String()
			case t.Kind == 'p':
				roots[t.Plain()] = true
			}
			found, matched[i] = true, true
		}
		for i := range tables {
			if own[i] && roots[tables[i].Root] {
				matched[i] = true
			}
		}
		switch {
		case !found:
			return nil, p.noMatch(tables, extension)
		case middle != "" && len(roots) == 0 && !p.wild:
			return nil, badPattern(
				text,
				"names "+middle+", a partition that has partitions itself",
				"name the topmost table, or the partitions that hold rows",
			)
		}
	}
	return matched, nil
}

type pattern struct {
	text          string
	schema, table *regexp.Regexp
	wild          bool // has a * or ? outside of quotes
}

func (p *pattern) matches(schema, table string) bool {
	return p.schema.MatchString(schema) && p.table.MatchString(table)
}

func parsePattern(text string) (*pattern, error) {
	const form = `write schema.table; * and ? stand for other characters, "…" for a name with a dot in it`
	p := &pattern{text: text}
	var parts []string // as regular expressions
	var plain []string // without quotes, for the check against system schemas
	var re, name strings.Builder
	end := func() {
		parts, plain = append(parts, re.String()), append(plain, name.String())
		re.Reset()
		name.Reset()
	}
	quoted := false
	runes := []rune(text)
	for i := 0; i < len(runes); i++ {
		r := runes[i]
		switch {
		case r == '"' && quoted && i+1 < len(runes) && runes[i+1] == '"':
			i++
		case r == '"':
			quoted = !quoted
			continue
		case !quoted && r == '.':
			end()
			continue
		case !quoted && r == '*':
			re.WriteString(".*")
			name.WriteRune(r)
			p.wild = true
			continue
		case !quoted && r == '?':
			re.WriteString(".")
			name.WriteRune(r)
			p.wild = true
			continue
		}
		re.WriteString(regexp.QuoteMeta(string(r)))
		name.WriteRune(r)
	}
	end()
	if len(parts) == 1 {
		parts, plain = append([]string{"public"}, parts...), append([]string{"public"}, plain...)
	}
	switch schema := plain[0]; {
	case quoted:
		return nil, badPattern(text, "has a quote without an end", form)
	case len(parts) > 2:
		return nil, badPattern(text, "has more than one dot", form)
	case plain[0] == "" || plain[1] == "":
		return nil, badPattern(text, "has an empty part", form)
	case strings.HasPrefix(schema, "pg_") || schema == "information_schema" || schema == "walferry":
		return nil, badPattern(text, "names a system schema, which is not migrated", "")
	}
	p.schema = regexp.MustCompile(`(?s)^` + parts[0] + `$`)
	p.table = regexp.MustCompile(`(?s)^` + parts[1] + `$`)
	return p, nil
}

// noMatch suggests what may have been meant.
func (p *pattern) noMatch(tables []Table, extension string) error {
	if extension != "" {
		return badPattern(p.text, "matches only tables of the extension "+extension, "CREATE EXTENSION makes them on the target; their rows are not migrated")
	}
	e := badPattern(p.text, "matches no table", "")
	if lower, err := parsePattern(strings.ToLower(p.text)); err == nil {
		for i := range tables {
			if lower.matches(tables[i].Schema, tables[i].Name.Name) {
				e.Advice = fmt.Sprintf("names are matched as they are stored, and unquoted SQL stores them in lower case: %s", strings.ToLower(p.text))
				return e
			}
		}
	}
	names := make([]string, len(tables))
	for i := range tables {
		names[i] = tables[i].Plain()
	}
	word := p.text
	if !strings.Contains(word, ".") {
		word = "public." + word
		// The same name in another schema is closer than another name.
		for i := range tables {
			if p.table.MatchString(tables[i].Name.Name) {
				e.Advice = fmt.Sprintf("did you mean %s? A pattern without a schema means public", names[i])
				return e
			}
		}
	}
	if near, ok := nearest.Name(word, names); ok {
		e.Advice = fmt.Sprintf("did you mean %s?", near)
	}
	return e
}
