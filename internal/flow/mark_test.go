package flow

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/applier"
	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/slot"
)

// plainDSN is a database's for a role that may do what its own tables need, and replicate.
func plainDSN(t *testing.T, dsn string) string {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	role := "plain_" + config.Database
	role = role[:min(len(role), 60)]
	pgtest.Exec(t, dsn, `create role `+catalog.Quote(role)+` login replication password 'x'; grant create on database `+catalog.Quote(config.Database)+` to `+catalog.Quote(role))
	admin := connect(t, dsn)
	t.Cleanup(func() {
		if _, err := admin.Exec(context.Background(), `drop owned by `+catalog.Quote(role)+` cascade; drop role `+catalog.Quote(role), pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "x")
	return u.String()
}

// The table of positions goes into the publications, unless somebody else's would publish it, too,
// or it belongs to another role.
func TestMakeMark(t *testing.T) {
	t.Parallel()
	const everything = `create publication everything for all tables`
	for _, major := range []int{10, 13, 15, 18} {
		for _, test := range []struct {
			name        string
			plain       bool
			before      string
			marked, has bool
		}{
			{"nothing is there", false, ``, true, true},
			{"a plain role", true, ``, true, true},
			{"somebody publishes all tables", false, everything, false, false},
			{"the subscribers have the table", false, everything + `; create schema walferry;` + applier.ProgressTableSQL, true, true},
			{"it belongs to somebody else", true, `create schema walferry;` + applier.ProgressTableSQL, false, true},
		} {
			t.Run(fmt.Sprintf("%d/%s", major, test.name), func(t *testing.T) {
				t.Parallel()
				dsn := pgtest.Shared(t, major).Database(t)
				pgtest.Exec(t, dsn, test.before)
				role := dsn
				if test.plain {
					role = plainDSN(t, dsn)
				}
				conn := connect(t, role)
				for range 2 { // as when a run begins again
					marks, err := MakeMark(t.Context(), conn)
					if err != nil {
						t.Fatal(err)
					}
					if got := len(marks) == 1; got != test.marked {
						t.Errorf("marks: %v, want any: %t", marks, test.marked)
					}
					published, err := slot.Publish(t.Context(), conn, slot.Names{Publication: "p", Inserts: "i"}, marks, nil)
					if err != nil && major > 10 {
						t.Fatal(err)
					}
					if err == nil && Marked(published) != test.marked {
						t.Errorf("of %+v: marked is %t", published, !test.marked)
					}
				}
				if got := pgtest.Query(t, dsn, `select to_regclass('walferry.progress') is not null`)[0][0] == "t"; got != test.has {
					t.Errorf("the table is there: %t, want %t", got, test.has)
				}
				conn.Close(context.Background())
			})
		}
	}
}

// What an older version has published has no mark, and a table of that name elsewhere is none.
func TestMarked(t *testing.T) {
	t.Parallel()
	for entry, want := range map[string]bool{`"walferry"."progress"`: true, `"public"."progress"`: false, `"walferry"."heartbeat"`: false} {
		p := map[string]slot.PublicationIdentity{"p": {Entries: []slot.PublicationEntry{{Name: `"public"."t"`}, {Name: entry}}}}
		if got := Marked(p); got != want {
			t.Errorf("%s: %t", entry, got)
		}
	}
	if Marked(map[string]slot.PublicationIdentity{"p": {Tables: []string{`"public"."t"`}}}) {
		t.Error("a record without entries")
	}
	for table, want := range map[string]bool{"public.t": true, "public.progress": true, "walferry.progress": false, "walferry.heartbeat": false} {
		schema, name, _ := strings.Cut(table, ".")
		if _, got := targetTable(schema, name); got != want {
			t.Errorf("%s is applied: %t", table, got)
		}
	}
}
