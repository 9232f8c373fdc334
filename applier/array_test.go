package applier

import (
	"context"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
)

// Whatever the values are, both forms of an array are read by a real server as exactly them.
func FuzzArray(f *testing.F) {
	_, url := pgtest.Pair(f, sourceMajor(), targetMajor())
	conn := otherConn(f, url)
	for _, seed := range []string{"", "a", `{"a\"b",NULL}`, `\\`, "NULL", "null", " a ", ",;", "\x01\x7f", "é😀", "{}", `"`, "a\nb\tc", "%s$1'"} {
		f.Add(seed, seed+"x", false)
		f.Add("y", seed, true)
	}
	f.Fuzz(func(t *testing.T, a, b string, null bool) {
		for _, s := range []string{a, b} {
			if !utf8.ValidString(s) || strings.Contains(s, "\x00") {
				return // no server sends it
			}
		}
		r := relation("t", 'd', "v*")
		values := []any{a, b, nil}
		if !null {
			values = values[:2]
		}
		var changes []*decoder.Change
		for _, v := range values {
			c := insert(r, v)
			changes = append(changes, &c)
		}
		for _, form := range []struct {
			encoded []byte
			format  int16
			sql     string
		}{
			{textArray(changes, arg{}), binaryFormat, `select v is null, v from unnest($1::text[]) with ordinality as u(v, n) order by n`},
			{literal(changes, arg{}, ','), textFormat, `select v is null, v from unnest($1::text[]) with ordinality as u(v, n) order by n`},
			{literal(changes, arg{}, ','), textFormat, `select v is null, v from unnest($1::varchar[]) with ordinality as u(v, n) order by n`},
		} {
			result := conn.ExecParams(context.Background(), form.sql, [][]byte{form.encoded}, nil, []int16{form.format}, nil).Read()
			if result.Err != nil {
				t.Fatalf("%q: %v", form.encoded, result.Err)
			}
			checkArray(t, result, values)
		}
	})
}

func checkArray(t *testing.T, result *pgconn.Result, values []any) {
	t.Helper()
	if len(result.Rows) != len(values) {
		t.Fatalf("%d elements, want %d", len(result.Rows), len(values))
	}
	for i, row := range result.Rows {
		want, isText := values[i].(string)
		if (string(row[0]) == "t") == isText || string(row[1]) != want {
			t.Errorf("element %d is %q (null: %s), want %q", i, row[1], row[0], values[i])
		}
	}
}
