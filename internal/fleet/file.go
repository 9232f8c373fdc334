// Package fleet moves many databases by one file: which ones, under which limits, and what is switched when. Every migration is one of
// internal/migration, with its state on its target; a fleet keeps nothing of its own, so that any process may take over from another.
package fleet

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/walferry/walferry/internal/config"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/include"
)

// File is what a fleet is asked for.
type File struct {
	Path      string
	Limits    Limits
	Instances []*Instance // in the order of the file
	Waves     []*Wave     // by number; every instance and database is in one of them
	// Open reports that the file holds a password itself, and others than its owner can read it.
	Open bool
}

// Instance is a server with databases to be moved, and the server that they are moved to.
type Instance struct {
	Name           string // begins the names of its migrations
	Line           int
	Source, Target string // connection strings of the servers
	Databases      []*Pattern

	written map[string]func(database string) string // source and target as the file has them, with secrets only named
}

// Pattern chooses databases of an instance.
type Pattern struct {
	Text    string // with * and ?
	Exclude bool   // was written with ! before it
	Line    int
	Wave    int
	Name    string // of the migration; empty: made of those of the instance and the database
	Target  string // the database on the target; empty: it has the same name

	options options
	matches *regexp.Regexp
}

// Literal reports whether the pattern is a name.
func (p *Pattern) Literal() bool { return !strings.ContainsAny(p.Text, "*?") }

// options are those of migrate, by their names.
type options struct {
	values map[string]any
	lines  map[string]int
}

// over returns o with those of p where it has none.
func (o options) over(p options) options {
	all := options{map[string]any{}, map[string]int{}}
	for _, each := range []options{p, o} {
		for key, value := range each.values {
			all.values[key], all.lines[key] = value, each.lines[key]
		}
	}
	return all
}

// Options makes a migration of the options of migrate. It belongs to whoever has the command line, so that an option means the same in
// every file.
type Options struct {
	Names []string // that a fleet's file may have
	// Make returns the migration that options describe, without servers and name. where is the place in the file, for errors.
	Make func(where string, values map[string]any) (config.Migration, error)
}

const maxFile = 1 << 20

// Read reads a fleet's file. Errors are of usage, and say in which line what is wrong.
func Read(path string, o Options) (*File, error) {
	text, mode, err := load(path)
	if err != nil {
		return nil, err
	}
	r := &reader{file: &File{Path: path}, options: o}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		problem := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", " ")
		if strings.Contains(problem, "anchor") { // it would quote what may be a password
			problem = "an alias (*) has no anchor (&): a value that begins with * has to be in quotes"
		}
		return nil, r.wrong(nil, "%s", problem)
	}
	if len(document.Content) == 0 {
		return nil, r.wrong(nil, "it is empty")
	}
	if err := r.top(document.Content[0]); err != nil {
		return nil, err
	}
	r.file.Open = r.secrets && mode.Perm()&0o077 != 0
	return r.file, nil
}

func load(path string) ([]byte, os.FileMode, error) {
	wrong := func(format string, args ...any) error {
		return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("fleet file %s: ", path) + fmt.Sprintf(format, args...), Advice: advice}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, wrong("%v", err.(*os.PathError).Err) //nolint:errorlint,forcetypeassert // as os.Open says
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, 0, wrong("it is not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, 0, wrong("%v", err)
	}
	if len(text) > maxFile {
		return nil, 0, wrong("it is larger than %d bytes", maxFile)
	}
	return bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), info.Mode(), nil
}

const advice = "it is YAML, with the keys instances, defaults, limits and waves: see docs/fleet.md"

// reader makes a File of a YAML document.
type reader struct {
	file     *File
	options  Options
	defaults options
	waves    map[int]*Wave
	secrets  bool // the file holds a password itself
}

// wrong is an error about a node; nil: about the whole file. It never quotes a value, which may be a password.
func (r *reader) wrong(at *yaml.Node, format string, args ...any) error {
	where := ""
	if at != nil {
		where = fmt.Sprintf("line %d: ", at.Line)
	}
	return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("fleet file %s: %s%s", r.file.Path, where, fmt.Sprintf(format, args...)), Advice: advice}
}

// value goes to where an alias points.
func value(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// each calls f with every key and value of a mapping, in its order. keys are what a key may be; nil: anything.
func (r *reader) each(n *yaml.Node, what string, keys []string, f func(key, value *yaml.Node) error) error {
	if n = value(n); n.Kind != yaml.MappingNode {
		return r.wrong(n, "%s is not a mapping of keys to values", what)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := value(n.Content[i])
		switch {
		case key.Kind != yaml.ScalarNode:
			return r.wrong(key, "a key of %s is not a word", what)
		case keys != nil && !contains(keys, key.Value):
			return r.unknown(key, what, keys)
		case seen[key.Value]:
			return r.wrong(key, "the key %s appears twice in %s", key.Value, what)
		}
		seen[key.Value] = true
		if err := f(key, value(n.Content[i+1])); err != nil {
			return err
		}
	}
	return nil
}

// text is a value of one line.
func (r *reader) text(n *yaml.Node, what string) (string, error) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" {
		return "", r.wrong(n, "%s is not a text", what)
	}
	return n.Value, nil
}

func (r *reader) number(n *yaml.Node, what string, least int) (int, error) {
	var number int
	if n.Kind != yaml.ScalarNode || n.Decode(&number) != nil || number < least {
		return 0, r.wrong(n, "%s is not a whole number from %d on", what, least)
	}
	return number, nil
}

func (r *reader) top(n *yaml.Node) error {
	parts := map[string]*yaml.Node{}
	err := r.each(n, "the file", []string{"defaults", "limits", "instances", "waves"}, func(key, value *yaml.Node) error {
		parts[key.Value] = value
		return nil
	})
	if err != nil {
		return err
	}
	r.file.Limits = usual
	r.waves = map[int]*Wave{}
	if at := parts["defaults"]; at != nil {
		if r.defaults, err = r.opts(at, "defaults"); err != nil {
			return err
		}
	}
	if at := parts["limits"]; at != nil {
		if err := r.limits(at); err != nil {
			return err
		}
	}
	if at := parts["waves"]; at != nil {
		if err := r.eachWave(at); err != nil {
			return err
		}
	}
	if parts["instances"] == nil {
		return r.wrong(n, "it has no instances")
	}
	if err := r.each(parts["instances"], "instances", nil, r.instance); err != nil {
		return err
	}
	if len(r.file.Instances) == 0 {
		return r.wrong(parts["instances"], "instances is empty")
	}
	return r.finishWaves()
}

// opts reads options of migrate, each of which is tried.
func (r *reader) opts(n *yaml.Node, what string) (options, error) {
	o := options{map[string]any{}, map[string]int{}}
	err := r.each(n, what, r.options.Names, func(key, value *yaml.Node) error { return r.option(o, key, value) })
	return o, err
}

func (r *reader) option(o options, key, n *yaml.Node) error {
	var v any
	if err := n.Decode(&v); err != nil || v == nil {
		return r.wrong(n, "%s has no value that can be read", key.Value)
	}
	o.values[key.Value], o.lines[key.Value] = v, key.Line
	if list, ok := v.([]any); ok {
		for _, one := range list {
			if text, ok := one.(string); ok {
				r.secrets = r.secrets || key.Value == "pgbouncer" && include.HoldsPassword(text)
			}
		}
	}
	if text, ok := v.(string); ok {
		r.secrets = r.secrets || key.Value == "pgbouncer" && include.HoldsPassword(text)
	}
	_, err := r.options.Make(r.at(key.Line), map[string]any{key.Value: v})
	return err
}

// at is a line of the file, for errors of others.
func (r *reader) at(line int) string { return lineOf(r.file.Path, line) }

func lineOf(path string, line int) string { return fmt.Sprintf("%s, line %d", path, line) }

// dir is where the file is.
func (r *reader) dir() string { return filepath.Dir(r.file.Path) }
