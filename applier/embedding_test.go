package applier

import (
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The example of a whole move is a program as soon as it has its two connection strings.
func TestExample_Pasted(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("example_move_test.go")
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), "", text, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range parsed.Imports {
		if strings.Contains(i.Path.Value, "/internal/") {
			t.Errorf("it imports %s, which nobody else can", i.Path.Value)
		}
	}
	program := strings.Replace(string(text), "package applier_test", "package main", 1) + `
func servers(context.Context) (source, target string, stop func()) { return "host=a", "host=b", func() {} }

func main() { Example_copyAndFollow() }
`
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "vet", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Who embeds the libraries gets nothing of what only the command line needs (decision 030).
func TestModules(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", ".", "../decoder", "../slot", "../snapshot").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	slices.Sort(got)
	want := []string{
		"github.com/jackc/pgio", "github.com/jackc/pglogrepl", "github.com/jackc/pgpassfile", "github.com/jackc/pgservicefile", "github.com/jackc/pgx/v5",
		"github.com/walferry/walferry", "golang.org/x/sync", "golang.org/x/sys", "golang.org/x/text",
	}
	if got := slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("applier, decoder, slot and snapshot need %q, want %q", got, want)
	}
}
