package schema

import (
	"regexp"
	"slices"
	"strings"

	"github.com/walferry/walferry/internal/catalog"
)

// scanner reads the beginning of a statement that pg_dump wrote.
type scanner struct{ rest string }

// word takes w, with the white space after it, if it comes next.
func (s *scanner) word(w string) bool {
	rest, ok := strings.CutPrefix(s.rest, w)
	if !ok || rest == "" || !strings.ContainsRune(" \n\t", rune(rest[0])) {
		return false
	}
	s.rest = strings.TrimLeft(rest, " \n\t")
	return true
}

// name takes an identifier, quoted or not.
func (s *scanner) name() (string, bool) {
	if !strings.HasPrefix(s.rest, `"`) {
		end := strings.IndexAny(s.rest, " \n\t.;(")
		if end <= 0 {
			return "", false
		}
		name := s.rest[:end]
		s.rest = s.rest[end:]
		return name, true
	}
	var name strings.Builder
	rest := s.rest[1:]
	for {
		part, after, ok := strings.Cut(rest, `"`)
		if !ok {
			return "", false
		}
		name.WriteString(part)
		if rest, ok = strings.CutPrefix(after, `"`); !ok {
			s.rest = after
			return name.String(), true
		}
		name.WriteByte('"')
	}
}

// qualified takes schema.name.
func (s *scanner) qualified() (catalog.Name, bool) {
	namespace, ok := s.name()
	if !ok || !strings.HasPrefix(s.rest, ".") {
		return catalog.Name{}, false
	}
	s.rest = s.rest[1:]
	name, ok := s.name()
	s.rest = strings.TrimLeft(s.rest, " \n\t")
	return catalog.Name{Schema: namespace, Name: name}, ok
}

// target returns the table that an index or a constraint belongs to, and its name. only reports
// whether the statement leaves partitions out. ok is false if the statement is of another form.
func (e *entry) target() (table catalog.Name, name string, only, ok bool) {
	s := scanner{strings.TrimLeft(e.sql, " \n\t")}
	switch e.kind {
	case "INDEX":
		if !s.word("CREATE") {
			return catalog.Name{}, "", false, false
		}
		s.word("UNIQUE")
		if !s.word("INDEX") {
			return catalog.Name{}, "", false, false
		}
		if name, ok = s.name(); !ok {
			return catalog.Name{}, "", false, false
		}
		s.rest = strings.TrimLeft(s.rest, " \n\t")
		if !s.word("ON") {
			return catalog.Name{}, "", false, false
		}
		only = s.word("ONLY")
		table, ok = s.qualified()
	case "CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT":
		if !s.word("ALTER") {
			return catalog.Name{}, "", false, false
		}
		s.word("FOREIGN")
		if !s.word("TABLE") {
			return catalog.Name{}, "", false, false // of a domain
		}
		only = s.word("ONLY")
		if table, ok = s.qualified(); !ok {
			return catalog.Name{}, "", false, false
		}
		if !s.word("ADD") || !s.word("CONSTRAINT") {
			return catalog.Name{}, "", false, false
		}
		name, ok = s.name()
	}
	return table, name, only, ok
}

// partOf reports whether the entry belongs to the relation that r creates, as an index or a trigger
// does.
func (e *entry) partOf(r *entry) bool {
	if table, _, _, ok := e.target(); ok {
		return table.Schema == r.namespace && table.Name == r.tag
	}
	if e.namespace != r.namespace {
		return false
	}
	switch e.kind {
	case "TRIGGER", "RULE", "POLICY":
		return strings.HasPrefix(e.tag, r.tag+" ")
	case "ROW SECURITY":
		return e.tag == r.tag
	}
	return false
}

// statements splits what consists of GRANT, REVOKE, ALTER DEFAULT PRIVILEGES and
// SET only: their text holds quoted identifiers but no strings.
func statements(sql string) []string {
	var list []string
	start, quoted := 0, false
	for i := range len(sql) {
		switch sql[i] {
		case '"':
			quoted = !quoted
		case ';':
			if !quoted {
				list = append(list, strings.TrimSpace(sql[start:i]))
				start = i + 1
			}
		}
	}
	if rest := strings.TrimSpace(sql[start:]); rest != "" {
		list = append(list, rest)
	}
	return list
}

// attributeOptions is how pg_dump writes the options of a column
// (dumpTableSchema in pg_dump.c), whose values are numbers.
var attributeOptions = regexp.MustCompile(`(?m)^(ALTER (?:FOREIGN )?TABLE ONLY .+ ALTER COLUMN .+ SET \()([a-z_]+=[^(),]+(?:, [a-z_]+=[^(),]+)*)(\);)\n`)

// withoutVersions removes pg_attver from the options of columns. The minor releases of November
// 2026 (seen in 15.20) keep it among them for each column of a relation, as a mark of their own:
// they neither let it be set nor have their pg_dump write it. An earlier pg_dump does write it, and
// an earlier server refuses it.
func withoutVersions(sql string) string {
	if !strings.Contains(sql, "pg_attver=") {
		return sql
	}
	return attributeOptions.ReplaceAllStringFunc(sql, func(statement string) string {
		part := attributeOptions.FindStringSubmatch(statement)
		options := slices.DeleteFunc(strings.Split(part[2], ", "), func(o string) bool { return strings.HasPrefix(o, "pg_attver=") })
		if len(options) == 0 {
			return ""
		}
		return part[1] + strings.Join(options, ", ") + part[3] + "\n"
	})
}
