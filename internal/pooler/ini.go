package pooler

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

// OldSuffix ends the name of the file that keeps what a file was before it was changed.
const OldSuffix = ".walferry-old"

// edit returns the text of a file with a database placed elsewhere. Everything but host, port and
// dbname on the line of that database stays as it is.
func edit(text []byte, name string, place Place) ([]byte, error) {
	lines := bytes.SplitAfter(text, []byte("\n"))
	section, at := "", -1
	for i, line := range lines {
		trimmed := strings.TrimSpace(string(line))
		switch {
		case trimmed == "" || trimmed[0] == ';' || trimmed[0] == '#':
		case trimmed[0] == '[':
			section = strings.ToLower(strings.TrimSpace(strings.Trim(trimmed, "[]")))
		case section == "databases" && keyOf(trimmed) == name:
			if at >= 0 {
				return nil, fmt.Errorf("database %s is there twice, in lines %d and %d", name, at+1, i+1)
			}
			at = i
		}
	}
	if at < 0 {
		return nil, fmt.Errorf("it has no line for the database %s in its section [databases]", name)
	}
	changed, err := placed(string(lines[at]), place)
	if err != nil {
		return nil, fmt.Errorf("line %d: %w", at+1, err)
	}
	lines[at] = []byte(changed)
	return bytes.Join(lines, nil), nil
}

// keyOf returns the name that a line is about.
func keyOf(line string) string {
	if rest, quoted := strings.CutPrefix(line, `"`); quoted {
		for i := 0; i < len(rest); i++ {
			if rest[i] != '"' {
				continue
			}
			if i+1 < len(rest) && rest[i+1] == '"' {
				i++
				continue
			}
			return strings.ReplaceAll(rest[:i], `""`, `"`)
		}
		return ""
	}
	key, _, _ := strings.Cut(line, "=")
	return strings.TrimSpace(key)
}

// setting matches a setting of a database: its name, and its value as it is written.
var setting = regexp.MustCompile(`^\s*([a-z_]+)\s*=\s*('(?:[^']|'')*'|[^\s']*)`)

// placed returns a line with host, port and dbname replaced.
func placed(line string, place Place) (string, error) {
	body := strings.TrimRight(line, "\r\n")
	end := line[len(body):]
	cut := strings.Index(body, "=")
	if quoted := strings.TrimSpace(body); strings.HasPrefix(quoted, `"`) {
		name := strings.Index(body, `"`) + 1 + len(strings.ReplaceAll(keyOf(quoted), `"`, `""`)) + 1
		if cut = strings.Index(body[name:], "="); cut >= 0 {
			cut += name
		}
	}
	if cut < 0 {
		return "", errors.New("it has no =")
	}
	head, rest := body[:cut+1], body[cut+1:]
	want := map[string]string{"host": place.Host, "port": "", "dbname": place.DBName}
	if place.Port != 0 {
		want["port"] = strconv.Itoa(place.Port)
	}
	var out strings.Builder
	out.WriteString(head)
	write := func(name, value string) { fmt.Fprintf(&out, " %s=%s", name, quoted(value)) }
	for strings.TrimSpace(rest) != "" {
		m := setting.FindStringSubmatch(rest)
		if m == nil {
			return "", errors.New("it is not a list of settings") // it may hold a password
		}
		rest = rest[len(m[0]):]
		value, ours := want[m[1]]
		switch {
		case !ours:
			out.WriteString(m[0])
		case value != "":
			write(m[1], value)
			want[m[1]] = ""
		}
	}
	for _, name := range []string{"host", "port", "dbname"} {
		if want[name] != "" {
			write(name, want[name])
		}
	}
	return out.String() + end, nil
}

var plainValue = regexp.MustCompile(`^[A-Za-z0-9_./:,-]+$`)

func quoted(value string) string {
	if plainValue.MatchString(value) {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", "''") + "'"
}

// placeIn changes files so that the databases are elsewhere, and returns those that it changed. A database has to be
// in one of them. With try nothing is changed, but all that could keep it from that is tried.
func placeIn(files []string, places map[string]Place, try bool) (changed []string, err error) {
	found := map[string]error{}
	for _, path := range files {
		resolved, err := filepath.EvalSymlinks(path)
		if err != nil {
			return changed, unnamed(path, err)
		}
		text, err := os.ReadFile(resolved)
		if err != nil {
			return changed, unnamed(path, err)
		}
		now := text
		for name, place := range places {
			next, err := edit(now, name, place)
			if err != nil {
				if _, there := found[name]; !there {
					found[name] = unnamed(path, err)
				}
				continue
			}
			now, found[name] = next, nil
		}
		if bytes.Equal(now, text) && !try {
			continue
		}
		if err := replace(resolved, text, now, try); err != nil {
			return changed, unnamed(path, err)
		}
		changed = append(changed, path)
	}
	for _, err := range found {
		if err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// unnamed says which file an error is about, once.
func unnamed(path string, err error) error {
	var wrapped *fs.PathError
	if errors.As(err, &wrapped) {
		err = fmt.Errorf("%s: %w", wrapped.Op, wrapped.Err)
	}
	return fmt.Errorf("%s: %w", path, err)
}

// replace replaces a file by one of the same owner and mode: whoever reads it sees the one or the
// other. What it was is kept beside it.
func replace(path string, was, now []byte, try bool) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	next, err := beside(path, now, info)
	if err != nil {
		return err
	}
	defer os.Remove(next) //nolint:errcheck // it is gone if everything went well
	if try {
		return nil
	}
	old, err := beside(path, was, info)
	if err == nil {
		defer os.Remove(old) //nolint:errcheck // as above
		err = os.Rename(old, path+OldSuffix)
	}
	if err != nil {
		return err
	}
	if text, err := os.ReadFile(path); err != nil || !bytes.Equal(text, was) {
		return errors.Join(err, errors.New("somebody else has changed it meanwhile"))
	}
	return os.Rename(next, path)
}

// beside writes text to a new file in the folder of path.
func beside(path string, text []byte, as fs.FileInfo) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".walferry-*")
	if err != nil {
		return "", err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name()) //nolint:errcheck // the error that it came to is the one that matters
		}
	}()
	if stat, ok := as.Sys().(*syscall.Stat_t); ok {
		if err := f.Chown(int(stat.Uid), int(stat.Gid)); err != nil {
			return "", err
		}
	}
	if err := f.Chmod(as.Mode().Perm()); err != nil {
		return "", err
	}
	if _, err := f.Write(text); err != nil {
		return "", err
	}
	return f.Name(), f.Sync()
}
