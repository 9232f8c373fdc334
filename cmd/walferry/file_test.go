package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/fail"
)

// Whatever a configuration file contains: no panic, only usage errors, and no value in them.
func FuzzReadFile(f *testing.F) {
	for _, text := range []string{
		"source: postgres://u:canary@h/d\n", "source: {password: canary}", "jobs: canary", "- a", "a: &a [*a]", "a: b: c",
		"include: [canary, 1]", "\xef\xbb\xbfname: x\r\njobs: 3\r\n", "verify: canary", "timeout: canary", "name: x\nname: y", "insert_only: a\ninsert-only: b", "? {a: b}\n: c",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "walferry.yaml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := readFile(path)
		if err == nil {
			if file == nil || file.values == nil {
				t.Fatal("neither a file nor an error")
			}
			return
		}
		if !fail.Is(err, fail.Usage) {
			t.Errorf("%q: %v is not about usage", text, err)
		}
		// Keys are named, values are not: they may be secrets.
		for line := range strings.Lines(string(text)) {
			key, value, ok := strings.Cut(line, ": ")
			if value = strings.TrimSpace(value); ok && value == "canary" && !strings.Contains(key, "canary") && strings.Contains(err.Error(), "canary") {
				t.Errorf("%q: the error tells a value: %v", text, err)
			}
		}
	})
}

// What editors and other systems write is read; what cannot be meant is refused, with the line
// where there is one.
func TestReadFile(t *testing.T) {
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
	for i := range 9 {
		bomb += fmt.Sprintf("a%d: &a%[1]d [*a%d,*a%[2]d,*a%[2]d,*a%[2]d,*a%[2]d,*a%[2]d,*a%[2]d,*a%[2]d,*a%[2]d]\n", i+1, i)
	}
	for name, c := range map[string]struct{ text, problem string }{
		"BOM and CRLF":  {"\xef\xbb\xbfname: x\r\njobs: 3\r\ninsert_only: [a.b]\r\n", ""},
		"NUL":           {"name: x\njobs: \x003\n", "line 2 holds a NUL byte"},
		"UTF-16":        {"n\x00a\x00m\x00e\x00:\x00", "line 1 holds a NUL byte"},
		"two megabytes": {"name: x\n#" + strings.Repeat("x", 2<<20), "larger than 1048576 bytes"},
		"a bomb":        {bomb, "excessive aliasing"},
		"an alias":      {"name: *nowhere\n", "unknown anchor"},
		"a tab":         {"name: x\n\tjobs: 3\n", "line 2"},
		"its own alias": {"name: &a {b: *a}\n", "contains itself"},
	} {
		path := filepath.Join(t.TempDir(), "walferry.yaml")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := readFile(path)
		if c.problem == "" {
			if err != nil || file.text("name") != "x" || fmt.Sprint(file.values["jobs"]) != "3" || fmt.Sprint(file.list("insert-only")) != "[a.b]" {
				t.Errorf("%s: got %+v, %v", name, file, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%s: got %.200v, want %q", name, err, c.problem)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"1kB": 1 << 10, "512MB": 512 << 20, "100GB": 100 << 30, "2 TB": 2 << 40, "0GB": 0,
		"": -1, "1": -1, "GB": -1, "-1GB": -1, "1.5GB": -1, "1gb": -1, "9999999TB": -1, "1 0GB": -1,
	} {
		got, ok := parseSize(text)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
