// Package include puts secrets into the values of a configuration file: the text of another file, such as a mounted one, or a variable of
// the environment.
package include

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

// Place is where something is put: ${file:PATH} or ${env:NAME}, with the kind and what it names.
var Place = regexp.MustCompile(`\$\{(file|env):([^}]*)\}`)

// elsewhere is a password that is somewhere else, with its keyword.
var elsewhere = regexp.MustCompile(`(password\s*=\s*|:)?'?\$\{(?:file|env):[^}]*\}'?`)

// HoldsPassword reports whether a connection string has a password itself, as it stands in the file.
func HoldsPassword(dsn string) bool {
	return session.HoldsPassword(elsewhere.ReplaceAllString(dsn, ""))
}

// Kind is what a value is, which decides how something within it is quoted.
type Kind bool

// The kinds.
const (
	Plain Kind = false
	DSN   Kind = true // a connection string
)

// Text puts the text of files where ${file:PATH} stands, without the end of their last line, and variables of the environment where
// ${env:NAME} stands; PATH is relative to dir. Within a connection string the text is a part of it, whatever characters it has: it is
// encoded in a URI, and quoted in keyword=value pairs. One that is the whole value is taken as it is. An error is one of usage, and
// names neither value nor text.
func Text(dir, value string, kind Kind) (string, error) {
	quote := func(text, _ string) string { return text }
	switch {
	case Place.FindString(value) == value:
	case strings.HasPrefix(value, "postgres://"), strings.HasPrefix(value, "postgresql://"):
		quote = func(text, _ string) string { return strings.ReplaceAll(url.QueryEscape(text), "+", "%20") }
	case kind == DSN:
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
		at := Place.FindStringSubmatchIndex(value)
		if at == nil {
			out.WriteString(value)
			return out.String(), nil
		}
		out.WriteString(value[:at[0]])
		text, err := secret(dir, value[at[2]:at[3]], value[at[4]:at[5]])
		if err != nil {
			return "", &fail.Error{Kind: fail.Usage, Problem: err.Error(), Advice: "${file:PATH} stands for the text of a file that this user can read, of at most 64 kB, ${env:NAME} for a variable of the environment"}
		}
		out.WriteString(quote(text, value[:at[0]]))
		value = value[at[1]:]
	}
}

func secret(dir, from, name string) (string, error) {
	if from == "env" {
		text, ok := os.LookupEnv(name)
		if !ok {
			return "", fmt.Errorf("there is no variable %q in the environment", name)
		}
		return text, nil
	}
	if name == "" {
		return "", errors.New("${file:} names no file")
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	in, err := os.Open(name)
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
		return "", fmt.Errorf("%s is larger than %d bytes", name, most)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), nil
}
