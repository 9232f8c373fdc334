package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/urfave/cli/v2"
)

// pages are the pages of the documentation, and what each says.
func pages(t *testing.T) map[string]string {
	t.Helper()
	names := []string{"../../README.md", "../../CHANGELOG.md"}
	for _, pattern := range []string{"../../docs/*.md", "../../docs/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d pages, %v", pattern, len(found), err)
		}
		names = append(names, found...)
	}
	texts := map[string]string{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(text)
	}
	return texts
}

// anchor is what a heading is linked to by.
func anchor(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(heading) {
		switch {
		case r == ' ' || r == '-':
			b.WriteByte('-')
		case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_':
			b.WriteRune(r)
		}
	}
	return b.String()
}

var (
	links    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headings = regexp.MustCompile(`(?m)^#+ (.*)$`)
	inCode   = regexp.MustCompile("`[^`\n]*`|(?m)^    .*$")
	options  = regexp.MustCompile(`(^|[\s("'` + "`" + `])--([a-z][a-z-]*)`)
)

func TestDocs_Links(t *testing.T) {
	t.Parallel()
	texts := pages(t)
	for page, text := range texts {
		for _, m := range links.FindAllStringSubmatch(text, -1) {
			to, at, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, "://") {
				continue
			}
			name := page
			if to != "" {
				name = filepath.Join(filepath.Dir(page), to)
			}
			if _, err := os.Stat(name); err != nil {
				t.Errorf("%s: a link that leads nowhere: %s", page, m[1])
				continue
			}
			if at == "" {
				continue
			}
			if !slices.ContainsFunc(headings.FindAllStringSubmatch(texts[name], -1), func(h []string) bool { return anchor(h[1]) == at }) {
				t.Errorf("%s: there is no such heading: %s", page, m[1])
			}
		}
	}
}

// Whatever the documentation gives walferry on a command line is an option of it, and README is short.
func TestDocs_Options(t *testing.T) {
	t.Parallel()
	app := newApp(&ui{})
	known := map[string][]string{} // of each command
	name := func(command string, flags []cli.Flag) {
		for _, f := range flags {
			known[command] = append(known[command], f.Names()...)
		}
	}
	name("", app.Flags)
	for _, c := range app.Commands {
		name(c.Name, c.Flags)
		for _, sub := range c.Subcommands {
			name(c.Name, sub.Flags)
		}
	}
	command := regexp.MustCompile(`walferry ([a-z-]+)`)
	seen := 0
	for page, text := range pages(t) {
		for _, code := range inCode.FindAllString(text, -1) {
			m := command.FindStringSubmatchIndex(code)
			if m == nil {
				continue
			}
			of := code[m[2]:m[3]]
			if known[of] == nil {
				continue
			}
			rest, _, _ := strings.Cut(code[m[1]:], "   ") // what follows is a comment
			rest, _, _ = strings.Cut(rest, " #")
			for _, o := range options.FindAllStringSubmatch(rest, -1) {
				seen++
				if !slices.Contains(known[of], o[2]) && !slices.Contains(known[""], o[2]) && o[2] != "help" {
					t.Errorf("%s: %s has no option --%s: %s", page, of, o[2], code)
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d options were found", seen)
	}
	if words := len(strings.Fields(pages(t)["../../README.md"])); words > 1400 {
		t.Errorf("README.md has %d words; what it does not need is in docs/", words)
	}
}
