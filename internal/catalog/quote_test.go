package catalog_test

import (
	"context"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
)

// Any name, and any text, is read back unchanged by a real server.
func FuzzQuote(f *testing.F) {
	from, to := pgtest.Default()
	source, _ := pgtest.Pair(f, from, to)
	conn, err := pgconn.Connect(context.Background(), source)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { conn.Close(context.Background()) })
	for _, seed := range []string{"a", "A", `"`, `""`, "'", "';drop table x;--", `\`, `\'`, "order", "a b", " ", "é😀", "a\nb\t", "$1", "$$", "%s", "{{}}", "a.b", strings.Repeat("x", 63), "1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !utf8.ValidString(s) || strings.Contains(s, "\x00") {
			return
		}
		read := func(sql string) string {
			results, err := conn.Exec(context.Background(), sql).ReadAll()
			if err != nil || len(results) != 1 || len(results[0].Rows) != 1 {
				t.Fatalf("%q as %s: %v, %d results", s, sql, err, len(results))
			}
			return string(results[0].Rows[0][0])
		}
		if got := read("select " + catalog.Literal(s)); got != s {
			t.Errorf("as a literal: %q, want %q", got, s)
		}
		if s == "" || len(s) > 63 {
			return // no server has such a name
		}
		results, err := conn.Exec(context.Background(), "select x."+catalog.Quote(s)+" from (select 1 as "+catalog.Quote(s)+") x").ReadAll()
		if err != nil || len(results) != 1 {
			t.Fatalf("%q as a name: %v", s, err)
		}
		if got := results[0].FieldDescriptions[0].Name; got != s {
			t.Errorf("as a name: %q, want %q", got, s)
		}
	})
}
