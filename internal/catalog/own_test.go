package catalog

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/walferry/walferry/internal/pgtest"
)

// connectAs opens a session of another role.
func connectAs(t *testing.T, dsn, role string) *pgx.Conn {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	conn, err := pgx.Connect(t.Context(), u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	return conn
}

// Trusted in schema walferry are the objects of the connected role, of a superuser and of roles
// that may become it; not those of a role of which it is itself a member, as walferry's is of the
// owners of tables.
func TestStrangers_WhoIsTrusted(t *testing.T) {
	for _, major := range []int{10, 15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			server := pgtest.New(t, pgtest.Options{Major: major})
			dsn := server.URL("postgres")
			pgtest.Exec(t, dsn, `create role ferry login; create role above; create role below; create role aside;
grant ferry to above; grant below to ferry; grant create on database postgres to ferry`)
			pgtest.Exec(t, dsn, `set role ferry; create schema walferry; create table walferry.progress (stream text primary key)`)
			ferry := connectAs(t, dsn, "ferry")
			for owner, trusted := range map[string]bool{"ferry": true, "above": true, server.User: true, "below": false, "aside": false} {
				pgtest.Exec(t, dsn, `alter table walferry.progress owner to "`+owner+`"`)
				found, err := Strangers(t.Context(), ferry)
				if err != nil {
					t.Fatal(err)
				}
				if (len(found) == 0) != trusted {
					t.Errorf("owner %s: got %+v, want trusted %v", owner, found, trusted)
				}
			}
			pgtest.Exec(t, dsn, `alter table walferry.progress owner to ferry`)
			// A superuser does not trust a lesser role.
			super := connectAs(t, dsn, server.User)
			var strangers *StrangersError
			if err := Trust(t.Context(), super); !errors.As(err, &strangers) || !strings.Contains(err.Error(), "schema walferry is owned by ferry") || strangers.Hint() == "" {
				t.Errorf("as a superuser: got %v", err)
			}
		})
	}
}

// No one else may write to what Own creates, whatever the default privileges; and it does not use
// what others have created before it, or in between.
func TestOwn(t *testing.T) {
	for _, major := range []int{10, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			server := pgtest.New(t, pgtest.Options{Major: major})
			dsn := server.URL("postgres")
			pgtest.Exec(t, dsn, `create role reader; create role mallory; create role ferry login; grant create on database postgres to mallory, ferry;
alter default privileges for role ferry grant all on tables to public; alter default privileges for role ferry grant all on schemas to mallory;
alter default privileges for role ferry grant all on sequences to mallory; alter default privileges for role ferry grant select on tables to reader`)
			ferry := connectAs(t, dsn, "ferry")
			const ddl = `create schema if not exists walferry; create table if not exists walferry.progress (id bigserial, stream text primary key, at timestamptz default clock_timestamp())`
			for range 2 {
				if err := Own(t.Context(), ferry, ddl); err != nil {
					t.Fatal(err)
				}
				got := pgtest.Query(t, dsn, `select has_schema_privilege('mallory', 'walferry', 'create'), has_table_privilege('mallory', 'walferry.progress', 'insert, update, delete, truncate, references, trigger'),
has_sequence_privilege('mallory', 'walferry.progress_id_seq', 'usage, update'), has_table_privilege('reader', 'walferry.progress', 'select')`)
				if want := []string{"f", "f", "f", "t"}; !slices.Equal(got[0], want) {
					t.Errorf("may mallory create, write, draw, and reader read? got %s", got)
				}
			}
			// Another role's table: it is not used, and nothing is created beside it.
			pgtest.Exec(t, dsn, `drop schema walferry cascade; set role mallory; create schema walferry; create table walferry.progress (stream text)`)
			var strangers *StrangersError
			if err := Own(t.Context(), ferry, ddl+`; create table walferry.more (a int)`); !errors.As(err, &strangers) {
				t.Errorf("somebody else's schema: got %v", err)
			}
			// One that appears while walferry's is created, as by a statement between the checks.
			pgtest.Exec(t, dsn, `drop schema walferry cascade`)
			if err := Own(t.Context(), connectAs(t, dsn, server.User), ddl+`; alter table walferry.progress owner to mallory; create table walferry.more (a int)`); !errors.As(err, &strangers) {
				t.Errorf("somebody else's table after the first look: got %v", err)
			}
			if got := pgtest.Query(t, dsn, `select count(*) from pg_class where relname in ('more', 'progress')`); got[0][0] != "0" {
				t.Errorf("after the errors there are %v of our tables", got)
			}
		})
	}
}
