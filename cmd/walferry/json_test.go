package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/copying"
	"github.com/walferry/walferry/internal/fleet"
	"github.com/walferry/walferry/internal/groups"
	"github.com/walferry/walferry/internal/jsondoc"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/report"
)

var updateJSON = flag.Bool("update-json", false, "write the tables of docs/json.md")

// asJSON are the values that commands print as JSON.
var asJSON = []struct {
	command string
	value   reflect.Type
}{
	{"check", reflect.TypeFor[checked]()},
	{"status", reflect.TypeFor[migration.Status]()},
	{"list", reflect.TypeFor[listed]()},
	{"groups", reflect.TypeFor[groups.Report]()},
	{"verify", reflect.TypeFor[migration.Verified]()},
	{"copy-worker", reflect.TypeFor[copying.Lent]()},
	{"report", reflect.TypeFor[report.Report]()},
	{"cutover and fallback", reflect.TypeFor[migration.CutoverResult]()},
	{"fleet check", reflect.TypeFor[fleet.Report]()},
	{"fleet status", reflect.TypeFor[fleet.Status]()},
	{"fleet cutover and fleet fallback", reflect.TypeFor[fleet.Switched]()},
	{"fleet report", reflect.TypeFor[fleet.Moved]()},
}

// Every field that a command prints is in docs/json.md, with what it means: a new one without a comment fails.
func TestDocs_JSON(t *testing.T) {
	t.Parallel()
	const name = "../../docs/json.md"
	comments := jsondoc.From("../..", "github.com/walferry/walferry")
	var b strings.Builder
	for _, p := range asJSON {
		fields, err := comments.Fields(p.value)
		if err != nil {
			t.Fatal(err)
		}
		if len(fields) < 3 {
			t.Errorf("%s has only %d fields", p.command, len(fields))
		}
		fmt.Fprintf(&b, "\n## %s\n\n| field | type | |\n|---|---|---|\n", p.command)
		for _, f := range fields {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.Path, f.Type, strings.ReplaceAll(f.Says, "|", "\\|"))
		}
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- begin fields: go test ./cmd/walferry -run TestDocs_JSON -update-json -->\n", "\n<!-- end -->\n"
	before, rest, found := strings.Cut(string(text), begin)
	was, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		was, after, ended = strings.Cut("\n"+rest, end)
		if !found || !ended {
			t.Fatalf("%s has no place for the tables", name)
		}
	}
	switch now := b.String(); {
	case was == strings.TrimSuffix(now, "\n"):
	case *updateJSON:
		if err := os.WriteFile(name, []byte(before+begin+strings.TrimSuffix(now, "\n")+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is not what the commands print; write it: go test ./cmd/walferry -run TestDocs_JSON -update-json", name)
	}
}

func TestVersioned(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{}`: `{"schema_version":1}`, `{"a":{"b":1}}`: `{"a":{"b":1},"schema_version":1}`, `[1]`: `[1]`,
		"{\n  \"a\": []\n}": "{\n  \"a\": [],\n  \"schema_version\": 1\n}",
	} {
		got := string(versioned([]byte(text)))
		if got != want || !json.Valid([]byte(got)) {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}
