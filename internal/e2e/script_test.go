package e2e

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// runScript runs SQL one statement after the other on one connection, so that
// BEGIN and COMMIT in it mean what they say and everything else commits by itself.
func runScript(t *testing.T, dsn, sql string) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, statement := range statements(sql) {
		if _, err := conn.Exec(ctx, statement).ReadAll(); err != nil {
			t.Fatalf("%v\nin: %.500s", err, statement)
		}
	}
}

// token is what a semicolon in SQL may be hidden in, or the semicolon.
var token = regexp.MustCompile(`--[^\n]*|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$[a-z]*\$|;`)

// statements splits SQL at its semicolons, outside of strings, names, comments and
// dollar quotes.
func statements(sql string) (list []string) {
	start := 0
	for at := 0; ; {
		hit := token.FindStringIndex(sql[at:])
		if hit == nil {
			break
		}
		text := sql[at+hit[0] : at+hit[1]]
		end := at + hit[1]
		switch {
		case text == ";":
			list = append(list, sql[start:end])
			start = end
		case text[0] == '$':
			if closing := strings.Index(sql[end:], text); closing >= 0 {
				end += closing + len(text)
			}
		}
		at = end
	}
	if strings.TrimSpace(sql[start:]) != "" {
		list = append(list, sql[start:])
	}
	return list
}

// The runner itself: what is one statement stays one.
func TestStatements(t *testing.T) {
	got := statements(`insert into "a;b" values ('x;''y'); -- a; b
do $f$ begin perform 1; end $f$; select 1`)
	if len(got) != 3 || strings.TrimSpace(got[2]) != "select 1" {
		t.Errorf("got %d statements: %q", len(got), got)
	}
}
