package migration

import (
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/catalog"
)

// What the gate refuses, and what was so from the beginning and is let through.
func TestAlterations(t *testing.T) {
	column := func(name, typ string, oid uint32) catalog.Column {
		return catalog.Column{Name: name, Type: typ, TypeOID: oid, TypeMod: -1}
	}
	a, b, wide := column("a", "integer", 23), column("b", "text", 25), column("a", "bigint", 20)
	own := column("own", "text", 25)
	was := []columnState{{Number: 1, Name: "a", TypeOID: 23, TypeMod: -1}, {Number: 2, Name: "b", TypeOID: 25, TypeMod: -1}}
	type columns = []catalog.Column
	for _, c := range []struct {
		name           string
		source, target columns
		want           string
	}{
		{"same", columns{a, b}, columns{b, a}, ""},
		{"the target's own", columns{a, b}, columns{a, b, own}, ""},
		{"wider all along", columns{a, b}, columns{wide, b}, ""},
		{"retyped", columns{wide, b}, columns{a, b}, "has become bigint on the source and is integer"},
		{"retyped on both", columns{wide, b}, columns{wide, b}, ""},
		{"dropped", columns{a}, columns{a, b}, "was dropped"},
		{"dropped on both", columns{a}, columns{a}, ""},
	} {
		got := strings.Join(alterations(was, &catalog.Table{Columns: c.source}, &catalog.Table{Columns: c.target}), "; ")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
