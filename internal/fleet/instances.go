package fleet

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/include"
	"github.com/walferry/walferry/internal/nearest"
	"github.com/walferry/walferry/internal/session"
)

func contains(list []string, text string) bool { return slices.Contains(list, text) }

// unknown is the error of a key that does not exist.
func (r *reader) unknown(key *yaml.Node, what string, keys []string) error {
	hint := "it may have " + strings.Join(keys, ", ")
	if near, ok := nearest.Name(key.Value, keys); ok {
		hint = "did you mean " + near + "?"
	}
	return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("fleet file %s: line %d: %s has no key %q", r.file.Path, key.Line, what, key.Value), Advice: hint}
}

// instanceName has no underscore, so that the name of an instance ends where that of a database begins.
var instanceName = regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`)

func (r *reader) instance(key, n *yaml.Node) error {
	i := &Instance{Name: key.Value, Line: key.Line, written: map[string]func(string) string{}}
	what := "instance " + i.Name
	if !instanceName.MatchString(i.Name) {
		return r.wrong(key, "an instance's name is 1 to 16 of a-z and 0-9, a letter first: the names of its migrations begin with it")
	}
	wave, opts := 1, options{}
	var databases *yaml.Node
	err := r.each(n, what, []string{"source", "target", "databases", "wave", "options"}, func(key, n *yaml.Node) (err error) {
		switch key.Value {
		case "source":
			i.written["source"] = written(n)
			i.Source, err = r.server(n, what+": source")
		case "target":
			i.written["target"] = written(n)
			i.Target, err = r.server(n, what+": target")
		case "wave":
			wave, err = r.number(n, what+": wave", 1)
		case "options":
			opts, err = r.opts(n, what+": options")
		case "databases":
			databases = n
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case i.Source == "" || i.Target == "":
		return r.wrong(key, "%s needs source and target", what)
	case databases == nil:
		return r.wrong(key, "%s has no databases: list names, or patterns such as '*' and '!scratch'", what)
	}
	if databases.Kind == yaml.ScalarNode { // one alone
		databases = &yaml.Node{Kind: yaml.SequenceNode, Line: databases.Line, Content: []*yaml.Node{databases}}
	}
	if databases.Kind != yaml.SequenceNode {
		return r.wrong(databases, "%s: databases is not a list", what)
	}
	usual := opts.over(r.defaults)
	chosen := false
	for _, each := range databases.Content {
		p, err := r.pattern(value(each), what, wave, usual)
		if err != nil {
			return err
		}
		chosen = chosen || !p.Exclude
		i.Databases = append(i.Databases, p)
	}
	if !chosen {
		return r.wrong(databases, "%s: databases chooses none", what)
	}
	r.file.Instances = append(r.file.Instances, i)
	return nil
}

// server reads the connection string of a server, or its parts.
func (r *reader) server(n *yaml.Node, what string) (string, error) {
	reword := func(at *yaml.Node, err error) error {
		return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("fleet file %s: line %d: %s: %v", r.file.Path, at.Line, what, err), Advice: fail.Hint(err)}
	}
	if n.Kind == yaml.ScalarNode {
		text, err := r.text(n, what)
		if err != nil {
			return "", err
		}
		r.secrets = r.secrets || include.HoldsPassword(text)
		if text, err = include.Text(r.dir(), text, include.DSN); err == nil {
			_, err = session.Parse(text)
		}
		if err != nil {
			return "", reword(n, err)
		}
		return text, nil
	}
	parts := map[string]string{}
	err := r.each(n, what, nil, func(key, n *yaml.Node) error {
		text, err := r.text(n, what+": "+key.Value)
		if err != nil {
			return err
		}
		if key.Value == "password" && include.HoldsPassword("password='"+strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text)+"'") {
			r.secrets = true
		}
		if text, err = include.Text(r.dir(), text, include.Plain); err != nil {
			return reword(n, err)
		}
		parts[key.Value] = text
		if _, err := session.Join(map[string]string{key.Value: text}); err != nil {
			return reword(key, err)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	dsn, err := session.Join(parts)
	if err == nil {
		_, err = session.Parse(dsn)
	}
	if err != nil {
		return "", reword(n, err)
	}
	return dsn, nil
}

// own are the keys of a database that are not options of migrate.
var own = []string{"wave", "name", "target-database"}

// pattern reads one of databases: a text, or a text with what holds for what it matches.
func (r *reader) pattern(n *yaml.Node, what string, wave int, usual options) (*Pattern, error) {
	p := &Pattern{Line: n.Line, Wave: wave, options: usual}
	text := n
	if n.Kind == yaml.MappingNode {
		if len(n.Content) != 2 {
			return nil, r.wrong(n, "%s: a database with options is one key, its name, with a mapping", what)
		}
		text = value(n.Content[0])
	}
	all, err := r.text(text, what+": a database")
	if err != nil {
		return nil, err
	}
	p.Text, p.Exclude = strings.CutPrefix(all, "!")
	if p.Text == "" || strings.ContainsRune(p.Text, 0) {
		return nil, r.wrong(text, "%s: a database has no name", what)
	}
	what += ", database " + p.Text
	quoted := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(p.Text))
	p.matches = regexp.MustCompile(`(?s)^` + quoted + `$`)
	if n.Kind != yaml.MappingNode {
		return p, nil
	}
	if p.Exclude {
		return nil, r.wrong(n, "%s: what is left out has no options", what)
	}
	mine := options{map[string]any{}, map[string]int{}}
	err = r.each(value(n.Content[1]), what, slices.Concat(own, r.options.Names), func(key, n *yaml.Node) (err error) {
		if contains(own, key.Value) && key.Value != "wave" && !p.Literal() {
			return r.wrong(key, "%s: %s goes with a database's whole name, not with a pattern", what, key.Value)
		}
		switch key.Value {
		case "wave":
			p.Wave, err = r.number(n, what+": wave", 1)
		case "name":
			p.Name, err = r.text(n, what+": name")
			if err == nil && nameError(p.Name) != nil {
				err = r.wrong(n, "%s: name: %v", what, nameError(p.Name))
			}
		case "target-database":
			p.Target, err = r.text(n, what+": target-database")
		default:
			err = r.option(mine, key, n)
		}
		return err
	})
	p.options = mine.over(usual)
	return p, err
}

// Secrets are the connection strings of the file, whose secrets must not be shown.
func (f *File) Secrets() (all []string) {
	seen := map[string]bool{}
	for _, i := range f.Instances {
		seen[i.Source], seen[i.Target] = true, true
		for _, p := range i.Databases {
			switch v := p.options.values["pgbouncer"].(type) {
			case string:
				seen[v] = true
			case []any:
				for _, one := range v {
					seen[fmt.Sprint(one)] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}
