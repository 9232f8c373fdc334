package slot

import (
	"strings"
	"testing"
)

// How a publication that has changed is described.
func TestPublicationIdentity_Difference(t *testing.T) {
	publication := func(change func(*PublicationIdentity)) PublicationIdentity {
		p := PublicationIdentity{
			OID: 10, Publish: "insert,update", Tables: []string{`"s"."a"`, `"s"."b"`}, Version: "700",
			Entries: []PublicationEntry{{OID: 20, Table: 30, Name: `"s"."a"`}, {OID: 21, Table: 31, Name: `"s"."b"`}},
		}
		if change != nil {
			change(&p)
		}
		return p
	}
	was := publication(nil)
	if !was.equal(publication(nil)) {
		t.Error("a publication is not equal to itself")
	}
	older := publication(func(p *PublicationIdentity) { p.Entries, p.Version = nil, "" })
	for _, c := range []struct {
		change       func(*PublicationIdentity)
		want         string
		renamed, old bool // old: what an older version has recorded tells it too
	}{
		{func(p *PublicationIdentity) { p.OID = 11 }, "was dropped and created again (oid 11, was 10)", false, true},
		{func(p *PublicationIdentity) { p.Publish = "insert" }, "publishes insert now, before: insert,update", false, true},
		{func(p *PublicationIdentity) { p.Beyond = "all tables" }, "holds all tables now, before: tables by name only", false, false},
		{func(p *PublicationIdentity) { p.Version = "701" }, "was altered, and perhaps altered back", false, false},
		{func(p *PublicationIdentity) { p.Entries, p.Tables = p.Entries[1:], p.Tables[1:] }, `has lost table "s"."a"`, false, true},
		{func(p *PublicationIdentity) { p.Entries[0].OID = 22 }, `had table "s"."a" taken out, or restricted, and put back`, false, false},
		{func(p *PublicationIdentity) { p.Entries[0].OID, p.Entries[0].Table = 22, 32 }, `has another table of the name "s"."a"`, false, false},
		{func(p *PublicationIdentity) { p.Entries[1].Filter = "(id < 9)" }, `publishes only rows of "s"."b" that its filter lets through: (id < 9)`, false, false},
		{func(p *PublicationIdentity) { p.Entries[1].Columns = "1 2" }, `publishes other columns of "s"."b" than before`, false, false},
		{func(p *PublicationIdentity) { p.Entries[0].Name, p.Tables[0] = `"s"."c"`, `"s"."c"` }, `has table "s"."a" renamed: "s"."a" is called "s"."c" now`, true, true},
		{func(p *PublicationIdentity) {
			p.Entries[0].Name, p.Entries[1].Name = p.Entries[1].Name, p.Entries[0].Name
		}, `has table "s"."a" renamed: "s"."a" is called "s"."b" now`, true, false},
		{func(p *PublicationIdentity) {
			p.Entries, p.Tables = append(p.Entries, PublicationEntry{OID: 22, Table: 32, Name: `"s"."c"`}), append(p.Tables, `"s"."c"`)
		}, `has a new table "s"."c"`, false, true},
	} {
		got := publication(c.change)
		if was.equal(got) {
			t.Errorf("not noticed: %s", c.want)
			continue
		}
		err := was.difference("p", got)
		if !strings.Contains(err.Reason, c.want) || err.Renamed != c.renamed || err.Hint() == "" || strings.HasPrefix(err.Hint(), "gap") == c.renamed {
			t.Errorf("got %q, renamed %v, hint %q; want %q, renamed %v", err.Reason, err.Renamed, err.Hint(), c.want, c.renamed)
		}
		if older.equal(got) == c.old {
			t.Errorf("%s: whether an older record tells it is %v, want %v", c.want, !older.equal(got), c.old)
		}
	}
}
