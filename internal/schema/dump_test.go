package schema

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
)

// The password reaches pg_dump, and nobody else: not by its command line, a file, a
// variable that holds a connection string, or an error.
func TestDump_PasswordStaysSecret(t *testing.T) {
	const password = `p:a\s 'w"o%rd`
	server := pgtest.New(t, pgtest.Options{Major: 15, Password: password})
	u, err := url.Parse(server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(server.User, password)
	tools, err := Find(t.Context(), 15, 15)
	if err != nil {
		t.Fatal(err)
	}
	seen := filepath.Join(t.TempDir(), "seen")
	wrapper := filepath.Join(t.TempDir(), "pg_dump")
	script := "#!/bin/sh\n{ tr '\\0' '\\n' </proc/$$/environ; cat /proc/$$/cmdline; ls -A \"$TMPDIR\"; } >>" + seen + "\nexec " + tools.PgDump + ` "$@"` + "\n"
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	real := tools
	tools.PgDump = wrapper
	withoutPassword := fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=postgres", server.Port, server.User)
	keywords := withoutPassword + ` password='p:a\\s \'w"o%rd'`
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	t.Setenv("WALFERRY_SOURCE", u.String())
	for _, c := range []struct{ name, dsn, env string }{
		{"URI", u.String(), ""}, {"keywords", keywords, ""}, {"environment", withoutPassword, password},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("PGPASSWORD", c.env)
			if _, err := tools.Dump(t.Context(), c.dsn, Options{}); err != nil {
				t.Fatal(err)
			}
		})
	}
	what, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	variable := "PGPASSWORD=" + password + "\n"
	if got := strings.Count(string(what), variable); got != 3 {
		t.Errorf("pg_dump got the password %d times, want 3", got)
	}
	elsewhere := strings.ReplaceAll(string(what), variable, "")
	for _, secret := range []string{password, url.QueryEscape(password), "w\"o%rd", "w%22o", "passfile"} {
		if strings.Contains(elsewhere, secret) {
			t.Errorf("pg_dump's command line, another variable or the folder for temporary files holds %q", secret)
		}
	}
	_, err = real.Dump(t.Context(), strings.Replace(u.String(), "/postgres", "/nosuch", 1), Options{})
	if err == nil || strings.Contains(err.Error(), "w\"o") || !strings.Contains(err.Error(), "nosuch") {
		t.Errorf("got error %v, want one that names the database and no password", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err = real.Dump(ctx, u.String(), Options{}); err == nil {
		t.Error("dump was made after the context had ended")
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

// The program of the target's major is best, a newer one next, and an older one
// good as long as it is not older than the source.
func TestChoose(t *testing.T) {
	all := func(majors ...int) (found []Tools) {
		for _, m := range majors {
			found = append(found, Tools{Major: m, Version: fmt.Sprint(m, ".1")})
		}
		return found
	}
	for _, c := range []struct {
		found          []Tools
		source, target int
		want           int // 0: none
	}{
		{all(15, 17, 18), 13, 17, 17},
		{all(18, 15), 13, 17, 18},
		{all(12, 15, 13), 13, 17, 15},
		{all(12), 13, 17, 0},
		{nil, 13, 17, 0},
		{all(16, 15), 16, 15, 16},
	} {
		got, err := choose(c.found, c.source, c.target)
		missing := fail.Find(err, fail.Run)
		if got.Major != c.want || (c.want == 0) != (missing != nil) {
			t.Errorf("choose(%v, %d, %d): got %d, %v, want %d", c.found, c.source, c.target, got.Major, err, c.want)
		}
		if missing != nil && !strings.Contains(missing.Hint(), "postgresql-client-17") {
			t.Errorf("hint %q does not name the package", missing.Hint())
		}
	}
}

// A table that stays behind takes what hangs on it along, and the report says so.
func TestDump_ExcludedTable(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `
create table "big log" (id int primary key, at date);
create index on "big log" (at);
create table kept (id int primary key references "big log", a int);
create view recent as select * from "big log";
create view more as select * from recent;`)
	o := Options{Exclude: []catalog.Name{{Schema: "public", Name: "big log"}}}
	report := restore(t, dump(t, source, o), target)
	const want = `[FK CONSTRAINT public.kept kept_id_fkey|VIEW public.more|VIEW public.recent]`
	var got []string
	for _, s := range report.Skipped {
		got = append(got, s.Object)
	}
	for _, object := range strings.Split(strings.Trim(want, "[]"), "|") {
		if !strings.Contains(strings.Join(got, "|"), object) {
			t.Errorf("got %v, want %s", got, object)
		}
	}
	if len(got) != 3 {
		t.Errorf("got %v, want 3", got)
	}
	losses, err := LostIndexes(t.Context(), open(t, source), open(t, target), o)
	if err != nil || len(losses) > 0 {
		t.Errorf("got %v, %v, want nothing lost", losses, err)
	}
}

// What fails before the data, and a table needs, leaves nothing behind, and says what failed and how
// to go on.
func TestPreData_NothingOrAll(t *testing.T) {
	source, target := pgtest.Pair(t, 13, 18)
	pgtest.Exec(t, source, `
create table first (id int);
create function twice (int) returns int language sql immutable as 'select $1 * 2';
create operator !! (leftarg = int, procedure = twice); -- a postfix operator, refused from 14 on
create table last (id int default (3 !!));`)
	_, err := preData(t, dump(t, source, Options{}), open(t, target))
	var object *ObjectError
	if !errors.As(err, &object) || object.Object != "OPERATOR public.!!" || object.Hint() == "" {
		t.Errorf("got %v, want an ObjectError of the operator", err)
	}
	if got := pgtest.Query(t, target, `select count(*) from pg_class where relname in ('first', 'last')`)[0][0]; got != "0" {
		t.Errorf("%s tables are there, want none", got)
	}
}

// Every foreign key that fails is named, the others are there; after a repair the
// same call goes on. One that was NOT VALID on the source looks at no row.
func TestForeignKeys_BadRow(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `
create table a (id int primary key);
create table b (id int primary key, x int constraint bx references a, y int constraint by_ references a, z int);
alter table b add constraint bz foreign key (z) references a not valid;`)
	d := dump(t, source, Options{})
	if _, err := preData(t, d, open(t, target)); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, target, `insert into a values (1); insert into b values (1, 1, 2, 3)`)
	err := d.ForeignKeys(t.Context(), target, 4)
	var object *ObjectError
	if !errors.As(err, &object) || object.Object != "FK CONSTRAINT public.b by_" {
		t.Errorf("got %v, want an ObjectError of by_", err)
	}
	state := func() string {
		return fmt.Sprint(pgtest.Query(t, target, `select conname, convalidated from pg_constraint where contype = 'f' order by 1`))
	}
	if got, want := state(), "[[bx t] [by_ f] [bz f]]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	pgtest.Exec(t, target, `insert into a values (2)`)
	if err := d.ForeignKeys(t.Context(), target, 4); err != nil {
		t.Error(err)
	}
	if got, want := state(), "[[bx t] [by_ t] [bz f]]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// An index that somebody's CREATE INDEX CONCURRENTLY left invalid is built again.
func TestBuildIndexes_InvalidIsReplaced(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	pgtest.Exec(t, source, `create table a (id int); create index "i x" on a (id)`)
	d := dump(t, source, Options{})
	conn := open(t, target)
	if _, err := preData(t, d, conn); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, target, `create index "i x" on a (id); update pg_index set indisvalid = false where indexrelid = '"i x"'::regclass`)
	for range 2 {
		if err := Build(t.Context(), conn, loadPresent(t, conn), d.Indexes(catalog.Name{Schema: "public", Name: "a"})...); err != nil {
			t.Fatal(err)
		}
	}
	if got := pgtest.Query(t, target, `select indisvalid from pg_index where indexrelid = '"i x"'::regclass`)[0][0]; got != "t" {
		t.Error("the index is still invalid")
	}
}

// A role that is not superuser brings what it may, and reports the rest with the
// GRANT that is missing. Rows of materialized views are there.
func TestFinish_LesserRole(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	ensureRole(t, source, "lesser_owner")
	ensureRole(t, target, "lesser_owner")
	ensureRole(t, source, "lesser_other")
	ensureRole(t, target, "lesser_other")
	ensureRole(t, target, "lesser_mover")
	database := pgtest.Query(t, target, `select quote_ident(current_database())`)[0][0]
	pgtest.Exec(t, target, `alter role lesser_mover login; grant lesser_owner to lesser_mover;
grant create on database `+database+` to lesser_mover; grant all on schema public to lesser_mover`)
	pgtest.Exec(t, source, `
create schema app authorization lesser_owner;
create table app.mine (id serial primary key); alter table app.mine owner to lesser_owner;
create table app.theirs (id int); alter table app.theirs owner to lesser_other;
create materialized view app.mat as select count(*) from app.mine; alter materialized view app.mat owner to lesser_owner;
grant select on app.mine to lesser_other;
create function watch() returns event_trigger language plpgsql as 'begin end';
create event trigger lesser_watch on ddl_command_end execute function watch();`)
	d := dump(t, source, Options{})
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("lesser_mover")
	report := restore(t, d, u.String())
	text := fmt.Sprint(report.Skipped)
	for _, want := range []string{
		`TABLE app.theirs: the target's role lesser_mover may not give objects to lesser_other (grant "lesser_other" to "lesser_mover")`,
		`EVENT TRIGGER lesser_watch: permission denied`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("got %s, want %s", text, want)
		}
	}
	owners := fmt.Sprint(pgtest.Query(t, target, `select relname, relowner::regrole from pg_class where relnamespace = 'app'::regnamespace and relkind in ('r', 'm', 'S') order by 1`))
	if want := "[[mat lesser_owner] [mine lesser_owner] [mine_id_seq lesser_owner] [theirs lesser_mover]]"; owners != want {
		t.Errorf("got %s, want %s", owners, want)
	}
	if got := pgtest.Query(t, target, `select has_table_privilege('lesser_other', 'app.mine', 'select'), (select count from app.mat)`); fmt.Sprint(got) != "[[t 0]]" {
		t.Errorf("got %v, want the privilege and the materialized row", got)
	}
	roles, err := Roles(t.Context(), open(t, source), open(t, u.String()))
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, r := range roles {
		list = append(list, fmt.Sprintf("%s %v %v", r.Name, r.Exists, r.CanOwn))
	}
	if got, want := strings.Join(list, ", "), "lesser_other true false, lesser_owner true true"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A partitioned table gets statistics of its own, on versions that know ANALYZE
// ONLY and on those that do not.
func TestAnalyze_Partitioned(t *testing.T) {
	for _, major := range []int{15, 18} {
		target := pgtest.Shared(t, major).Database(t)
		pgtest.Exec(t, target, `create table p (id int) partition by range (id); create table p1 partition of p for values from (0) to (100);
create table other (id int); insert into p select generate_series(1, 50); insert into other select 1`)
		if err := Analyze(t.Context(), target, []catalog.Name{{Schema: "public", Name: "p"}, {Schema: "public", Name: "p1"}, {Schema: "public", Name: "other"}}, nil, 2); err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(pgtest.Query(t, target, `select tablename, inherited from pg_stats where schemaname = 'public' order by 1`))
		if want := "[[other f] [p t] [p1 f]]"; got != want {
			t.Errorf("%d: got %s, want %s", major, got, want)
		}
	}
}

// What was analyzed beside the copy is left out, but for what it lacked then.
func TestAnalyze_Done(t *testing.T) {
	target := pgtest.Shared(t, 15).Database(t)
	pgtest.Exec(t, target, `create table plain (id int); create table objects (a int, b int); create table parent (id int); create table child () inherits (parent); create table undone (id int);
insert into plain select 1; insert into objects select g, g from generate_series(1, 50) g; insert into child select 1; insert into undone select 1`)
	conn := open(t, target)
	done := []catalog.Name{{Schema: "public", Name: "plain"}, {Schema: "public", Name: "objects"}, {Schema: "public", Name: "parent"}, {Schema: "public", Name: "child"}}
	for _, table := range done {
		if err := AnalyzeTable(t.Context(), conn, table); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Exec(t, target, `create statistics s (dependencies) on a, b from objects`)
	pgtest.Exec(t, target, `insert into child select 2; truncate plain`)
	if err := Analyze(t.Context(), target, append(done, catalog.Name{Schema: "public", Name: "undone"}), done, 2); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(pgtest.Query(t, target, `select tablename, inherited, n_distinct from pg_stats where schemaname = 'public' and tablename <> 'objects' order by 1, 2`),
		pgtest.Query(t, target, `select stxname from pg_statistic_ext join pg_statistic_ext_data on stxoid = oid`))
	if want := "[[child f -1] [parent t -1] [plain f -1] [undone f -1]] [[s]]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// An archive that is cut off at any byte is an error, never a shorter schema.
func TestReadArchive_Truncated(t *testing.T) {
	source := pgtest.Shared(t, 15).Database(t)
	pgtest.Exec(t, source, `create table a (id int primary key)`)
	d := dump(t, source, Options{})
	whole, err := readArchive(d.Archive)
	if err != nil {
		t.Fatal(err)
	}
	if last := whole.entries[len(whole.entries)-1]; last.String() != "CONSTRAINT public.a a_pkey" {
		t.Errorf("got %s as the last entry", last)
	}
	for n := range d.Archive {
		got, err := readArchive(d.Archive[:n])
		var format *FormatError
		if err == nil && len(got.entries) == len(whole.entries) {
			continue // only what follows the table of contents is missing
		}
		if !errors.As(err, &format) {
			t.Fatalf("cut at byte %d: got %v, %v", n, got, err)
		}
	}
}

func FuzzReadArchive(f *testing.F) {
	f.Add([]byte("PGDMP\x01\x0e\x00\x04\x08\x01"))
	f.Add([]byte("PGDMP\x01\x10\x00\x04\x08\x01\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if d, err := Open(data, Options{Exclude: []catalog.Name{{Schema: "a", Name: "b"}}}); err == nil {
			for _, e := range d.entries {
				e.target()
				statements(e.sql)
			}
		}
	})
}

// Nothing of a password is on a disk, so that nothing stays when walferry is killed
// while pg_dump runs; and what no line of a passfile can hold works.
func TestConninfo_Password(t *testing.T) {
	t.Setenv("PGPASSWORD", "other")
	c, err := newConninfo("host=h user=u password='canary\n:'", 18)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"PGPASSFILE=" + os.DevNull, "PGPASSWORD=canary\n:"}; !slices.Equal(c.env, want) {
		t.Errorf("got environment %q, want %q", c.env, want)
	}
	if strings.Contains(c.text, "canary") || slices.ContainsFunc(childEnv(), func(v string) bool { return strings.HasPrefix(v, "PGPASSWORD=") }) {
		t.Errorf("the password is on the command line, or there are two: %s", c.text)
	}
}

// What pg_dump says of TLS has a hint.
func TestDumpError_TLS(t *testing.T) {
	for text, want := range map[string]string{
		`pg_dump: error: connection failed: sslmode value "verify-full" invalid when SSL support is not compiled in`: "--schema none",
		`pg_dump: error: connection failed: root certificate file "/x" does not exist`:                               "sslrootcert",
		`pg_dump: error: connection failed: SSL error: certificate verify failed`:                                    "sslrootcert",
	} {
		err := dumpError(errors.New("exit status 1"), text)
		if !fail.Is(err, fail.Run) || !strings.Contains(fail.Hint(err), want) || !strings.Contains(err.Error(), "connection failed") {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

// What the pg_dump of 15.18 wrote of a server of 15.20.
func TestWithoutVersions(t *testing.T) {
	const table = "CREATE TABLE public.\"t;\" (\n    a integer DEFAULT 'SET (pg_attver=1);'::text\n);\n"
	for _, c := range []struct{ sql, want string }{
		{"ALTER TABLE ONLY public.\"t;\" ALTER COLUMN a SET (pg_attver=22158952);\n", ""},
		{
			"ALTER TABLE ONLY public.\"t;\" ALTER COLUMN a SET (pg_attver=22158952);\nALTER TABLE ONLY public.\"t;\" ALTER COLUMN \"b (\" SET (pg_attver=22158952, n_distinct=-0.5);\n",
			"ALTER TABLE ONLY public.\"t;\" ALTER COLUMN \"b (\" SET (n_distinct=-0.5);\n",
		},
		{
			"ALTER FOREIGN TABLE ONLY public.ft ALTER COLUMN a SET (n_distinct=9, pg_attver=1);\nALTER FOREIGN TABLE public.ft ALTER COLUMN a OPTIONS (\n    x 'y'\n);\n",
			"ALTER FOREIGN TABLE ONLY public.ft ALTER COLUMN a SET (n_distinct=9);\nALTER FOREIGN TABLE public.ft ALTER COLUMN a OPTIONS (\n    x 'y'\n);\n",
		},
		{"ALTER TABLE ONLY public.t ALTER COLUMN a SET (n_distinct=9);\n", "ALTER TABLE ONLY public.t ALTER COLUMN a SET (n_distinct=9);\n"},
	} {
		if got := withoutVersions(table + c.sql); got != table+c.want {
			t.Errorf("got  %s\nwant %s", got, table+c.want)
		}
	}
}
