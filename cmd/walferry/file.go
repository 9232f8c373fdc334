package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/include"
	"github.com/walferry/walferry/internal/session"
)

// fileKeys are the keys of a configuration file: the names of the options.
var fileKeys = []string{
	"source", "target", "name", "log-level", "log-format", "include", "exclude", "insert-only",
	"schema", "jobs", "index-jobs", "until", "cutover", "verify", "timeout", "max-lag",
	"piece-size", "max-retained-wal", "on-new-table", "without",
	"fall-back", "max-retained-wal-target",
	"listen", "listen-token-file", "listen-tls-cert", "listen-tls-key",
	"hook", "hook-secret-file", "hook-timeout", "pgbouncer", "pgbouncer-database", "pgbouncer-ini", "hold-timeout",
}

const maxFile = 1 << 20

// file is a configuration file, its keys written with dashes.
type file struct {
	path   string
	mode   os.FileMode
	values map[string]any
	own    bool // it has a password of its own, not only the names of files that have
}

func readFile(path string) (*file, error) {
	wrong := func(format string, args ...any) (*file, error) {
		return nil, &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("configuration file %s: ", path) + fmt.Sprintf(format, args...), Advice: "it is YAML: `source: postgres://...`, one option per line, named as on the command line"}
	}
	f, err := os.Open(path)
	if err != nil {
		return wrong("%v", errors.Unwrap(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return wrong("it is not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return wrong("%v", err)
	case len(text) > maxFile:
		return wrong("it is larger than %d bytes", maxFile)
	case bytes.IndexByte(text, 0) >= 0:
		return wrong("line %d holds a NUL byte", 1+bytes.Count(text[:bytes.IndexByte(text, 0)], []byte("\n")))
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	k := koanf.New("\x00") // no key has a path
	if err := k.Load(rawbytes.Provider(text), yaml.Parser()); err != nil {
		text := strings.ReplaceAll(err.Error(), "\n", " ")
		if strings.Contains(text, "cannot unmarshal") { // it would quote what may be a password
			text = "it is not a mapping of keys to values"
		}
		return wrong("%s", text)
	}
	c := &file{path: path, mode: info.Mode(), values: map[string]any{}}
	for key, value := range k.Raw() {
		name := strings.ReplaceAll(key, "_", "-")
		if !slices.Contains(fileKeys, name) {
			return nil, &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("configuration file %s: there is no key %q", path, key), Advice: didYouMean(name, fileKeys, "", "walferry --help")}
		}
		if _, twice := c.values[name]; twice {
			return wrong("key %s appears twice", name)
		}
		c.values[name] = value
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	c.own = slices.ContainsFunc([]string{"source", "target", "pgbouncer"}, func(name string) bool { return slices.ContainsFunc(c.list(name), include.HoldsPassword) })
	return c, c.include()
}

// check finds values of a wrong type before anything is connected to.
func (f *file) check() error {
	for name := range f.values {
		var err error
		switch name {
		case "include", "exclude", "insert-only", "without", "hook", "pgbouncer", "pgbouncer-database", "pgbouncer-ini":
			_, err = f.strings(name)
		case "jobs", "index-jobs":
			_, err = f.number(name)
		case "timeout", "max-lag", "hook-timeout", "hold-timeout":
			if _, ok := parseDuration(fmt.Sprint(f.values[name])); !ok {
				err = f.wrongType(name, "a duration such as 30s")
			}
		case "verify":
			if _, ok := f.values[name].(bool); !ok {
				err = f.wrongType(name, "true or false")
			}
		default:
			if _, ok := f.values[name].(string); !ok {
				err = f.wrongType(name, "a string (in quotes)")
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *file) wrongType(name, want string) error {
	return &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("configuration file %s: %s is not %s", f.path, name, want), Advice: "keys and values are those of the options: see `walferry --help` and `walferry migrate --help`"}
}

// has reports whether the file sets a value. f may be nil: there is no file.
func (f *file) has(name string) bool { return f != nil && f.values[name] != nil }

func (f *file) text(name string) string {
	if f.values[name] == nil {
		return ""
	}
	return fmt.Sprint(f.values[name]) // check has verified the type
}

func (f *file) flag(name string) bool {
	yes, _ := f.values[name].(bool)
	return yes
}

func (f *file) list(name string) []string {
	list, _ := f.strings(name)
	return list
}

func (f *file) strings(name string) ([]string, error) {
	switch value := f.values[name].(type) {
	case nil:
		return nil, nil
	case string:
		return []string{value}, nil
	case []any:
		var list []string
		for _, v := range value {
			text, ok := v.(string)
			if !ok {
				return nil, f.wrongType(name, "a list of strings")
			}
			list = append(list, text)
		}
		return list, nil
	}
	return nil, f.wrongType(name, "a list of strings")
}

func (f *file) number(name string) (int, error) {
	if f.values[name] == nil {
		return 0, nil
	}
	n, err := strconv.Atoi(fmt.Sprint(f.values[name]))
	if err != nil {
		return 0, f.wrongType(name, "a whole number")
	}
	return n, nil
}

// warn notes passwords that others can read.
func (s *settings) warn(ui *ui) {
	for _, name := range []string{"source", "target", "pgbouncer"} {
		if onCommandLine(ui.args, name) && slices.ContainsFunc(append(s.flags.StringSlice(name), s.flags.String(name)), session.HoldsPassword) {
			ui.note("the password in --%s can be read by everyone on this machine (ps): use %s, --config or a passfile", name, variable(name))
		}
	}
	if s.file != nil && s.file.mode.Perm()&0o077 != 0 && s.file.own {
		ui.note("%s holds a password and can be read by other users: chmod 600 %s", s.file.path, s.file.path)
	}
}
