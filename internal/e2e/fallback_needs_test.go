package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/check"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// asLimited makes a role that may own tables and replicate, and nothing else, and returns the database as it.
func asLimited(t *testing.T, dsn, role string) string {
	t.Helper()
	pgtest.Exec(t, dsn, fmt.Sprintf(`create role %[1]s login replication; grant all on schema public to %[1]s;
do $$ begin execute format('grant create on database %%I to %[1]s', current_database()); end $$`, role))
	t.Cleanup(func() {
		l := &line{dsn: dsn}
		defer l.hangUp()
		for _, sql := range []string{`drop owned by ` + role + ` cascade`, `drop role ` + role} {
			if _, err := l.ask(sql); err != nil && err.Error() != "EOF" {
				t.Errorf("%s: %v", sql, err)
			}
		}
	})
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	return u.String()
}

// rehearsed asks for a rehearsal of the cutover, which arms the way back.
func (m *moving) rehearsed() (*migration.CutoverResult, error) {
	c := m.Config
	c.Cut.MaxLag, c.Cut.Timeout, c.Cut.DryRun = patience, patience, true
	return migration.Cutover(context.Background(), c, nil)
}

// Each thing that a way back needs is taken away alone while the migration follows: check tells of it, and the switch refuses, or goes
// without a way back and says so, for that very reason. When it is there again there is a way back.
func TestFallBack_Needs(t *testing.T) {
	t.Parallel()
	for mode, pair := range map[migration.FallBackMode][2]int{migration.FallBackRequire: {13, 17}, migration.FallBackAuto: {15, 18}} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, pair[0], pair[1])
			role := strings.ReplaceAll(migrationName("needs"), "-", "_")
			old, young := asLimited(t, source, role), asRole(t, target, role)
			pgtest.Exec(t, old, `create table t (id serial primary key, v text); create table s (id int primary key, b int not null default 1); create table log (a int)`)
			m := newMoving(t, "needs", old, young)
			m.FallBack, m.InsertOnly = mode, []string{"public.log"}
			r := m.start()
			r.waitFor(migration.Following)
			for i, c := range []struct {
				id, dsn, remove, restore string
			}{
				{"replication-right", target, `alter role ` + role + ` noreplication`, `alter role ` + role + ` replication`},
				{"replica-identity", target, `alter table s replica identity nothing`, `alter table s replica identity default`},
				{"table-owner", target, `alter table log owner to postgres; grant all on log to ` + role, `alter table log owner to ` + role},
				{"emit-message", target, `revoke execute on function pg_logical_emit_message(bool, text, text, bool) from public`, `grant execute on function pg_logical_emit_message(bool, text, text, bool) to public`},
				{"difference", target, `alter table s add column extra text`, `alter table s drop column extra`},
				{"partition", target, `create table below () inherits (s)`, `drop table below`},
				{"record", target, `alter table walferry.progress owner to postgres; grant all on walferry.progress to ` + role, `alter table walferry.progress owner to ` + role},
				{"publication-exists", target, `create publication walferry_` + m.Name + `_back`, `drop publication walferry_` + m.Name + `_back`},
				{"published", source, `create publication everything_` + role + ` for all tables`, `drop publication everything_` + role},
				{"table-privileges", source, `revoke truncate on s from ` + role, `grant truncate on s to ` + role},
				{"sequence-privileges", source, `revoke update on sequence t_id_seq from ` + role, `grant update on sequence t_id_seq to ` + role},
				{"record", source, `alter table walferry.progress owner to postgres; grant all on walferry.progress to ` + role, `alter table walferry.progress owner to ` + role},
			} {
				if mode == migration.FallBackAuto && i%4 != 0 {
					continue // what is found is the same
				}
				pgtest.Exec(t, c.dsn, c.remove)
				report, err := migration.Check(t.Context(), m.Config)
				if err != nil {
					t.Fatal(err)
				}
				var found *check.Finding
				for i := range report.Findings {
					if strings.TrimPrefix(report.Findings[i].ID, "fb-") == c.id {
						found = &report.Findings[i]
					}
				}
				want := map[migration.FallBackMode]check.Severity{migration.FallBackRequire: check.Block, migration.FallBackAuto: check.Warn}[mode]
				if found == nil || found.Severity != want {
					t.Errorf("%s: check finds %+v, want what is a %s", c.id, found, want)
					continue
				}
				said := strings.TrimSuffix(found.Seen, "; so there will be no way back")
				switch result, err := m.rehearsed(); {
				case mode == migration.FallBackRequire && (!fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), said)):
					t.Errorf("%s: the switch ends with %v, want a gate that says %q", c.id, err, said)
				case mode == migration.FallBackAuto && (err != nil || result.WayBack == nil || !strings.Contains(result.WayBack.None, said)):
					t.Errorf("%s: the switch ends with %+v, %v, want none that says %q", c.id, result, err, said)
				}
				pgtest.Exec(t, c.dsn, c.restore)
			}
			if result, err := m.rehearsed(); err != nil || result.WayBack == nil || result.WayBack.None != "" {
				t.Errorf("nothing is missing any more: %+v, %v", result, err)
			}
		})
	}
}

// What the new server gets below a migrated table once it is the database is in no publication: that is said when it is there, and there is no
// fallback, which would leave its rows behind, until it is taken out. Other new tables stay behind, and that is said.
func TestFallBack_LeftBehind(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table p (id int primary key) partition by range (id); create table p1 partition of p for values from (0) to (100)`)
	var told logged
	m := newMoving(t, "behind", source, target)
	m.FallBack, m.Heartbeat = migration.FallBackRequire, 200*time.Millisecond
	m.Logger = slog.New(slog.NewTextHandler(&told, nil))
	r := m.start()
	r.waitFor(migration.Following)
	m.asked(migration.Cutover)
	r.waitFor(migration.Switched)
	pgtest.Exec(t, target, `create table p2 partition of p for values from (100) to (200); insert into p values (1), (150); create table fresh (id int primary key)`)
	m.eventually("that it is said", func() bool {
		text := told.String()
		return strings.Contains(text, "a fallback will refuse") && strings.Contains(text, "tables that do not come to the old one") && strings.Contains(text, "fresh") || r.over()
	})
	m.eventually("both in the status", func() bool { return len(status(t, m.Config).NewTables) == 2 })
	c := m.Config
	c.Cut.MaxLag, c.Cut.Timeout = patience, patience
	if _, err := migration.Fallback(t.Context(), c, nil); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), `"public"."p2"`) {
		t.Errorf("the fallback ends with %v, want a gate that names p2", err)
	}
	pgtest.Exec(t, target, `alter table p detach partition p2`)
	if _, err := migration.Fallback(t.Context(), c, nil); !fail.Is(err, fail.Gate) || !strings.Contains(err.Error(), `"public"."fresh", "public"."p2"`) {
		t.Errorf("the fallback ends with %v, want a gate that names what would stay behind", err)
	}
	r.cancel()
	if _, err := r.end(); err != nil {
		t.Fatal(err)
	}
	m.OnNewTable = migration.IgnoreNewTables
	r = m.start()
	m.eventually("that it runs again", func() bool { return status(t, m.Config).Running })
	var steps []string
	if _, err := migration.Fallback(t.Context(), c, func(step string) { steps = append(steps, step) }); err != nil {
		t.Fatal(err)
	}
	if said := strings.Join(steps, "\n"); !strings.Contains(said, `stay behind on the new server, with their rows: "public"."fresh", "public"."p2"`) {
		t.Errorf("it says %q, want what stays behind", said)
	}
	r.waitFor(migration.Following)
	if got := one[string](t, source, `select string_agg(id::text, ' ') from p`); got != "1" {
		t.Errorf("the old server has %s, want 1", got)
	}
}
