package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/session"
)

// included is what stands in a configuration file for the text of another file, such as a mounted secret.
var included = regexp.MustCompile(`\$\{file:([^}]*)\}`)

// elsewhere is a password that another file has, with its keyword.
var elsewhere = regexp.MustCompile(`(password\s*=\s*|:)?'?\$\{file:[^}]*\}'?`)

// holdsPassword reports whether a connection string has a password itself.
func holdsPassword(dsn string) bool {
	return session.HoldsPassword(elsewhere.ReplaceAllString(dsn, ""))
}

// include puts the texts of files where ${file:PATH} stands, without the end of their last line; PATH is relative to the
// configuration file. Within a connection string the text is a part of it, whatever characters it has: it is encoded in a URI, and quoted
// in keyword=value pairs. One that is the whole value is taken as it is.
func (f *file) include() error {
	for name, value := range f.values {
		var err error
		switch v := value.(type) {
		case string:
			f.values[name], err = f.included(name, v)
		case []any:
			for i := range v {
				if text, ok := v[i].(string); ok && err == nil {
					v[i], err = f.included(name, text)
				}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *file) included(name, value string) (string, error) {
	quote := func(text, _ string) string { return text }
	switch {
	case included.FindString(value) == value:
	case strings.HasPrefix(value, "postgres://"), strings.HasPrefix(value, "postgresql://"):
		quote = func(text, _ string) string { return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") }
	case name == "source" || name == "target" || name == "pgbouncer":
		quote = func(text, before string) string {
			text = strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text)
			if strings.HasSuffix(before, "'") {
				return text
			}
			return "'" + text + "'"
		}
	}
	var out strings.Builder
	for {
		at := included.FindStringSubmatchIndex(value)
		if at == nil {
			out.WriteString(value)
			return out.String(), nil
		}
		out.WriteString(value[:at[0]])
		text, err := f.secret(value[at[2]:at[3]])
		if err != nil {
			return "", &fail.Error{Kind: fail.Usage, Problem: fmt.Sprintf("configuration file %s: %s: %v", f.path, name, err), Advice: "${file:PATH} stands for the text of a file that this user can read, of at most 64 kB"}
		}
		out.WriteString(quote(text, value[:at[0]]))
		value = value[at[1]:]
	}
}

func (f *file) secret(path string) (string, error) {
	if path == "" {
		return "", errors.New("${file:} names no file")
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(f.path), path)
	}
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	const most = 64 << 10
	text, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return "", err
	}
	if len(text) > most {
		return "", fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), nil
}
