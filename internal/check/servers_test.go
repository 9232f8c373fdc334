package check

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/internal/pgtest"
	"github.com/walferry/walferry/internal/schema"
)

// What the target's newer version no longer has.
func TestRun_OldVersion(t *testing.T) {
	source, target := pgtest.Pair(t, 10, 18)
	situations := []situation{
		{id: "with-oids", on: "source", severity: Block, source: []string{`create table o (a int primary key) with oids`}},
		{id: "removed-type", on: "source", severity: Block, seen: "abstime", source: []string{
			`create table r (a int primary key, b abstime, c reltime, d tinterval, e abstime[])`,
			`insert into r values (1, 'epoch', '1 day', '["epoch" "now"]', array['epoch'::abstime])`,
		}},
		{id: "truncate-not-decoded", on: "source", severity: Info, noMend: true},
		{id: "source-published", on: "source", severity: Block, object: `"check All"`, seen: "walferry.truncation", source: []string{`create publication "check All" for all tables`}},
		{id: "target-published", on: "target", severity: Warn, object: "check_all", noMend: true, target: []string{`create publication check_all for all tables`}},
		{id: "minor-version", on: "source", severity: Warn, noMend: true},
	}
	bring(t, source, target, situations)
	fix(t, Config{SourceDSN: source, TargetDSN: target, Jobs: 1}, source, target, situations)
}

// What version 19 no longer accepts of a source, and what it no longer needs.
func TestRun_Version19(t *testing.T) {
	target := pgtest.Shared(t, 19).Database(t)
	source, _ := pgtest.Pair(t, 15, 19)
	situations := []situation{
		{id: "function-setting", on: "source", severity: Block, object: "public.f()", source: []string{`create function f() returns int language sql as 'select 1' set escape_string_warning = off`}},
		{id: "function-setting", on: "source", severity: Block, object: "public.p()", source: []string{`create procedure p() language sql as 'select 1' set standard_conforming_strings = off`}},
	}
	bring(t, source, target, situations)
	fix(t, Config{SourceDSN: source, TargetDSN: target, Jobs: 1}, source, target, situations)

	for level, want := range map[string]int{"replica": 0, "minimal": 1} {
		server := pgtest.New(t, pgtest.Options{Major: 19, Settings: map[string]string{"wal_level": level, "max_wal_senders": "0", "max_replication_slots": "10"}})
		report, err := Run(t.Context(), Config{SourceDSN: server.URL("postgres"), TargetDSN: target})
		if err != nil {
			t.Fatal(err)
		}
		if got := find(report, "wal-level", "source"); len(got) != want {
			t.Errorf("wal_level = %s: got %v", level, got)
		}
	}
}

// From version 18 the old row of REPLICA IDENTITY FULL must not have a generated column.
func TestRun_GeneratedColumns18(t *testing.T) {
	source, target := pgtest.Pair(t, 18, 18)
	exec(t, source, `create table g (a int primary key, s int generated always as (a + 1) stored)`, `alter table g replica identity full`, `insert into g values (1)`,
		`create publication check_generated for table g`)
	conn, err := pgconn.Connect(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), `update g set a = 2`).ReadAll(); err == nil {
		t.Error("the server lets the update through: then the finding is wrong")
	}
	fix(t, Config{SourceDSN: source, TargetDSN: target, Jobs: 1, Schema: "none"}, source, target,
		[]situation{{id: "identity-generated", on: "source", severity: Block, object: `"public"."g"`}})
	exec(t, source, `update g set a = 2`)
}

func TestRun_LongWriter(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	conn, err := pgconn.Connect(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), `begin; create table t (a int primary key)`).ReadAll(); err != nil {
		t.Fatal(err)
	}
	fix(t, Config{SourceDSN: source, TargetDSN: target, LongWriter: time.Millisecond, Jobs: 1}, source, target,
		[]situation{{id: "long-writer", on: "source", severity: Warn, object: fmt.Sprintf("process %d", conn.PID())}})
}

// What a role without rights lacks, with the GRANT.
func TestRun_Privileges(t *testing.T) {
	for _, majors := range [][2]int{{13, 17}, {17, 18}} {
		t.Run(fmt.Sprint(majors), func(t *testing.T) {
			source, target := pgtest.Pair(t, majors[0], majors[1])
			for _, dsn := range []string{source, target} {
				exec(t, dsn, `create role check_plain login noinherit`)
				t.Cleanup(func() {
					b := background{t}
					if majors[1] >= 15 && dsn == target {
						exec(b, dsn, `revoke set on parameter session_replication_role from check_plain`)
					}
					exec(b, dsn, `drop owned by check_plain`, `drop role check_plain`)
				})
			}
			exec(t, source, `create role check_owner`, `create schema "S"`, `create table "S"."T" (a int primary key)`, `alter table "S"."T" owner to check_owner`,
				`create sequence "S".q`, `create table "S".r (a int primary key)`, `alter table "S".r enable row level security`,
				// A membership that needs SET ROLE, which walferry does not use.
				`create role check_lender`, `grant check_lender to check_plain`,
				map[bool]string{false: `revoke execute on function pg_logical_emit_message(bool, text, text) from public`, true: `revoke execute on function pg_logical_emit_message(bool, text, text, bool) from public`}[majors[0] >= 17],
				`create table "S".l (a int primary key)`, `alter table "S".l owner to check_lender`)
			t.Cleanup(func() {
				exec(background{t}, source, `drop owned by check_owner, check_lender`, `drop role check_owner, check_lender`)
			})
			exec(t, target, `create schema "S"`, `grant usage on schema "S" to check_plain`, `create table "S"."T" (a int primary key)`, `create table "S".r (a int primary key)`, `create table "S".l (a int primary key, constraint "K" foreign key (a) references "S".r)`, `create sequence "S".q`,
				`create sequence "S".stranger`) // which the source does not have, so nothing will set it
			c := Config{SourceDSN: as(t, source, "check_plain"), TargetDSN: as(t, target, "check_plain"), Schema: "none", Jobs: 1}
			fix(t, c, source, target, []situation{
				{id: "replication-right", on: "source", severity: Block},
				{id: "emit-message", on: "source", severity: Block, seen: "heartbeats"},
				{id: "create-on-database", on: "source", severity: Block},
				{id: "create-on-database", on: "target", severity: Block},
				{id: "schema-usage", on: "source", severity: Block},
				{id: "row-security", on: "source", severity: Block},
				{id: "table-select", on: "source", severity: Block},
				{id: "table-owner", on: "source", severity: Block, object: `"check_owner"`},
				{id: "table-owner", on: "source", severity: Block, object: `"check_lender"`, seen: map[bool]string{true: "cannot publish", false: "does not inherit"}[majors[0] >= 16]},
				{id: "table-owner", on: "source", severity: Block, object: `"postgres"`, seen: "superuser"},
				{id: "sequence-select", on: "source", severity: Block},
				{id: "target-table-privileges", on: "target", severity: Block},
				{id: "target-sequence-privileges", on: "target", severity: Block, object: `"S"."q"`},
				{id: "target-foreign-key", on: "target", severity: Block, object: `"S"."l"`, seen: `"K" would refuse`},
				{id: "session-replication-role", on: "target", severity: Warn},
				{id: "activity-hidden", on: "source", severity: Info, object: `"check_plain"`},
				{id: "activity-hidden", on: "target", severity: Info, object: `"check_plain"`},
			})
			exec(t, source, `create sequence "S".late`)
			exec(t, source, `grant select on sequence "S".late to check_plain`)
			report := check(t, c)
			if f := find(report, "target-sequence-missing", ""); len(f) != 1 || f[0].Object != `"S"."late"` || f[0].Severity != Block {
				t.Errorf("a sequence that the target lacks: got %v", f)
			}
			if f := find(report, "target-sequence-privileges", ""); len(f) > 0 {
				t.Errorf("a sequence that only the target has: got %v", f)
			}
		})
	}
}

func TestRun_RoleLimits(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	name := strings.TrimPrefix(mustParse(t, source).Path, "/")
	exec(t, source, `create role check_limited login replication connection limit 5 valid until '2100-01-01'`,
		`alter database `+name+` connection limit 5`, `grant create on database `+name+` to check_limited`)
	t.Cleanup(func() { exec(background{t}, source, `drop owned by check_limited`, `drop role check_limited`) })
	c := Config{SourceDSN: as(t, source, "check_limited"), TargetDSN: target}
	if f := find(check(t, c), "role-expires", ""); len(f) > 0 {
		t.Errorf("got %v", f)
	}
	exec(t, source, fmt.Sprintf(`alter role check_limited valid until '%s'`, time.Now().Add(48*time.Hour).Format(time.RFC3339)))
	fix(t, c, source, target, []situation{
		{id: "role-connection-limit", on: "source", severity: Block},
		{id: "database-connection-limit", on: "source", severity: Block},
		{id: "role-expires", on: "source", severity: Warn},
	})
}

// A role of the target that is not a member of the owners.
func TestRun_OwnersOnTheTarget(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	exec(t, source, `create role check_keeper`, `create table t (a int primary key)`, `alter table t owner to check_keeper`)
	t.Cleanup(func() { exec(background{t}, source, `drop owned by check_keeper`, `drop role check_keeper`) })
	exec(t, target, `create role check_keeper`, `create role check_mover login`)
	t.Cleanup(func() {
		exec(background{t}, target, `drop owned by check_mover`, `drop role check_keeper, check_mover`)
	})
	fix(t, Config{SourceDSN: source, TargetDSN: as(t, target, "check_mover"), Jobs: 1}, source, target,
		[]situation{{id: "roles-not-grantable", on: "target", severity: Warn, seen: "check_keeper"}})
}

// From version 15 creating in public needs a grant, for the role of the target and for the owner
// that a table is given to.
func TestRun_SchemaPublic(t *testing.T) {
	source, target := pgtest.Pair(t, 13, 18)
	exec(t, source, `create role check_landlord`, `create table t (a int primary key)`, `alter table t owner to check_landlord`)
	t.Cleanup(func() { exec(background{t}, source, `drop owned by check_landlord`, `drop role check_landlord`) })
	exec(t, target, `create role check_landlord`, `create role check_porter login`, `grant check_landlord to check_porter`)
	t.Cleanup(func() {
		exec(background{t}, target, `drop owned by check_porter, check_landlord`, `drop role check_landlord, check_porter`)
	})
	fix(t, Config{SourceDSN: source, TargetDSN: as(t, target, "check_porter"), Jobs: 1}, source, target, []situation{
		{id: "schema-create", on: "target", severity: Block, object: `"public"`},
		{id: "schema-create-owner", on: "target", severity: Warn, object: `"public"`, seen: "check_landlord"},
	})
	if f := find(check(t, Config{SourceDSN: source, TargetDSN: target, Jobs: 1}), "schema-create", ""); len(f) > 0 {
		t.Errorf("of a superuser: got %+v", f)
	}
}

// Settings that need a separate server.
func TestRun_Settings(t *testing.T) {
	source := pgtest.New(t, pgtest.Options{Major: 18, Settings: map[string]string{
		"wal_level": "minimal", "max_replication_slots": "0", "max_wal_senders": "0", "wal_sender_timeout": "2s", "max_slot_wal_keep_size": "100MB",
		"idle_replication_slot_timeout": "60", "max_connections": "15", "max_locks_per_transaction": "10", "max_prepared_transactions": "0",
	}})
	target := pgtest.New(t, pgtest.Options{Major: 18, Settings: map[string]string{"track_counts": "off", "autovacuum": "off"}})
	c := Config{SourceDSN: source.URL("postgres"), TargetDSN: target.URL("postgres"), Schema: "none"}
	// One transaction may take about as many locks as it creates tables.
	const create = `do $$ begin for i in %d..%d loop execute format('create table t%%s (a int)', i); end loop; end $$`
	for _, dsn := range []string{c.SourceDSN, c.TargetDSN} {
		exec(t, dsn, fmt.Sprintf(create, 1, 80), fmt.Sprintf(create, 81, 160))
	}

	report := check(t, c)
	for id, severity := range map[string]Severity{
		"wal-level": Block, "free-slots": Block, "free-senders": Block, "replication-connection": Block, "free-connections": Block, "wal-sender-timeout": Warn, "slot-wal-keep-size": Warn,
		"idle-slot-timeout": Warn, "max-locks": Warn, "track-counts-off": Warn, "autovacuum-off": Warn, "fsync-off": Warn,
	} {
		if f := find(report, id, ""); len(f) == 0 || f[0].Severity != severity {
			t.Errorf("%s: got %v", id, f)
		}
	}
	// 160 tables without identity are 20 findings and one for the rest, with all of the SQL.
	identities := find(report, "replica-identity", "source")
	if len(identities) != 21 || len(identities[20].SQL) != 140 || identities[20].Object != "and 140 more" {
		t.Errorf("got %d findings, the last %+v", len(identities), identities[len(identities)-1])
	}
	if report.Tables != 160 || report.Source.Major != source.Major || report.Source.SystemID == "" || report.Source.SystemID == report.Target.SystemID {
		t.Errorf("got %d tables, source %+v", report.Tables, report.Source)
	}
	// All of it is run, and the servers are restarted. ALTER SYSTEM would not override settings of
	// the command line.
	for _, f := range report.Findings {
		if f.On == "source" {
			exec(t, c.SourceDSN, f.SQL...)
		} else {
			exec(t, c.TargetDSN, f.SQL...)
		}
	}
	exec(t, c.SourceDSN, `alter system set max_connections = 100`)
	for _, s := range []*pgtest.Server{source, target} {
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range check(t, c).Findings {
		if f.Severity != Info {
			t.Errorf("still there: %+v", f)
		}
	}
}

// A server that does not allow pgoutput, which older ones cannot be configured to.
func TestRun_OutputPlugin(t *testing.T) {
	source := pgtest.New(t, pgtest.Options{Major: 15})
	target := pgtest.Shared(t, 18).Database(t)
	c := Config{SourceDSN: source.URL("postgres"), TargetDSN: target, Schema: "none"}
	change := func(sql ...string) {
		exec(t, c.SourceDSN, sql...)
		if err := source.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(pgtest.Query(t, c.SourceDSN, `select name from pg_settings where name = 'output_plugin_libraries'`)) == 0 {
		t.Skip("this minor release has no output_plugin_libraries")
	}
	for _, libraries := range []string{`'test_decoding', 'my decoder'`, `''`} {
		change(`alter system set output_plugin_libraries = ` + libraries)
		found := find(check(t, c), "output-plugin", "source")
		if len(found) != 1 || found[0].Severity != Block {
			t.Fatalf("%s: got %v", libraries, found)
		}
		change(found[0].SQL...)
		if found := find(check(t, c), "output-plugin", "source"); len(found) != 0 {
			t.Errorf("%s: still there: %v", libraries, found)
		}
		exec(t, c.SourceDSN, `select pg_create_logical_replication_slot('allowed', 'pgoutput')`, `select pg_drop_replication_slot('allowed')`)
	}
}

func TestRun_WrongServers(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 13)
	for _, c := range []struct {
		source, target, id string
		severity           Severity
	}{
		{source, target, "target-older", Block},
		{source, source, "same-database", Block},
		{source, strings.Replace(source, "127.0.0.1", "localhost", 1), "same-database", Block},
		{source, pgtest.Shared(t, 15).Database(t), "same-server", Warn},
	} {
		found := find(check(t, Config{SourceDSN: c.source, TargetDSN: c.target}), c.id, "tool")
		if len(found) != 1 || found[0].Severity != c.severity {
			t.Errorf("%s: got %v", c.id, found)
		}
	}
	// The wrong way round, where the versions do not reveal it: the database to be moved is empty.
	full, empty := pgtest.Shared(t, 15).Database(t), source
	exec(t, full, `create table t (a int primary key)`, `insert into t values (1)`)
	if found := find(check(t, Config{SourceDSN: empty, TargetDSN: full}), "no-tables", "source"); len(found) != 1 || found[0].Severity != Block {
		t.Errorf("an empty source: got %v", found)
	}
	if found := find(check(t, Config{SourceDSN: full, TargetDSN: empty, Exclude: []string{"*"}}), "no-tables", "source"); len(found) != 1 || found[0].Severity != Warn {
		t.Errorf("everything excluded: got %v", found)
	}
	if _, err := Run(t.Context(), Config{SourceDSN: source, TargetDSN: target, Include: []string{"nowhere"}}); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("got %v, want the pattern", err)
	}
	if _, err := Run(t.Context(), Config{SourceDSN: source, TargetDSN: database(t, target, "nowhere")}); err == nil || !strings.Contains(err.Error(), "check the target") {
		t.Errorf("got %v, want the target", err)
	}
}

func TestRun_Standby(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{Major: 15})
	if err := server.Stop(t.Context(), "fast"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(server.DataDir, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, target := pgtest.Pair(t, 15, 18)
	report := check(t, Config{SourceDSN: server.URL("postgres"), TargetDSN: target})
	if found := find(report, "not-a-writer", "source"); len(found) != 1 || found[0].Severity != Block {
		t.Errorf("got:\n%s", summary(report))
	}
}

// A source that no installed pg_dump can read. If one can, there is no finding.
func TestRun_PgDump(t *testing.T) {
	source, target := pgtest.Pair(t, 18, 18)
	_, err := schema.Find(t.Context(), 18, 18)
	found := find(check(t, Config{SourceDSN: source, TargetDSN: target, Jobs: 1}), "pg-dump", "tool")
	if (err != nil) != (len(found) == 1) {
		t.Errorf("got %+v, while looking for pg_dump gives %v", found, err)
	}
	if len(found) == 1 && (found[0].Severity != Block || !strings.Contains(found[0].Do, "--schema none")) {
		t.Errorf("got %+v", found[0])
	}
	if found := find(check(t, Config{SourceDSN: source, TargetDSN: target, Jobs: 1, Schema: "none"}), "pg-dump", ""); len(found) > 0 {
		t.Errorf("with --schema none: got %+v", found)
	}
}

// A server that is read-only by default is not a writer, although a session could override it.
func TestRun_ReadOnly(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	name := func(dsn string) string { return strings.TrimPrefix(mustParse(t, dsn).Path, "/") }
	exec(t, target, `create role check_closed superuser login`)
	t.Cleanup(func() { exec(background{t}, target, `drop role check_closed`) })
	closed := as(t, target, "check_closed")
	for _, c := range []struct {
		source, target string
		on, sql, by    string
	}{
		{source, target, source, `alter database ` + name(source) + ` set default_transaction_read_only = on`, "alter database"},
		{source, closed, target, `alter role check_closed set default_transaction_read_only = on`, "alter role"},
		{source, closed, target, `alter role check_closed in database ` + name(target) + ` set default_transaction_read_only = on`, " in database"},
	} {
		exec(t, c.on, c.sql)
		config := Config{SourceDSN: c.source, TargetDSN: c.target, Jobs: 1}
		side := "source"
		if c.on == target {
			side = "target"
		}
		fix(t, config, source, target, []situation{{id: "not-a-writer", on: side, severity: Block, seen: "default_transaction_read_only is on"}})
	}
	// The connection string's own options; and a source that was closed during a migration.
	options := "?options=-c%20default_transaction_read_only%3Don"
	found := find(check(t, Config{SourceDSN: source + options, TargetDSN: target, Jobs: 1}), "not-a-writer", "source")
	if len(found) != 1 || !strings.Contains(found[0].Do, "connection string") || len(found[0].SQL) != 0 {
		t.Errorf("got %+v", found)
	}
	if f := find(check(t, Config{SourceDSN: source + options, TargetDSN: target, Jobs: 1, Resuming: true}), "not-a-writer", ""); len(f) != 0 {
		t.Errorf("resuming: got %+v", f)
	}
	server := pgtest.New(t, pgtest.Options{Major: 15, Settings: map[string]string{"default_transaction_read_only": "on"}})
	fix(t, Config{SourceDSN: server.URL("postgres"), TargetDSN: target, Jobs: 1}, server.URL("postgres"), target,
		[]situation{{id: "not-a-writer", on: "source", severity: Block}})
}

func TestRun_Encodings(t *testing.T) {
	_, target := pgtest.Pair(t, 15, 18)
	for _, encoding := range []string{"SQL_ASCII", "LATIN1"} {
		name := "check_" + strings.ToLower(encoding)
		exec(t, target, `create database `+name+` template template0 encoding '`+encoding+`' lc_collate 'C' lc_ctype 'C'`)
		t.Cleanup(func() { exec(background{t}, target, `drop database `+name) })
	}
	for _, c := range []struct {
		source, target string
		severity       Severity
	}{
		{database(t, target, "check_sql_ascii"), target, Warn},
		{target, database(t, target, "check_sql_ascii"), Block},
		{database(t, target, "check_latin1"), target, Info},
		{target, database(t, target, "check_latin1"), Block},
	} {
		report := check(t, Config{SourceDSN: c.source, TargetDSN: c.target})
		if found := find(report, "encoding", ""); len(found) != 1 || found[0].Severity != c.severity {
			t.Errorf("%s to %s: got %v", report.Source.Encoding, report.Target.Encoding, found)
		}
		if len(find(report, "collation", "target")) != 1 {
			t.Errorf("the other collation is not found:\n%s", summary(report))
		}
	}
}

// Connections that leave the machine should be verified.
func TestProtection(t *testing.T) {
	for state, want := range map[string]int{"none": 1, "unverified": 1, "verify-ca": 1, "verify-full": 0, "local": 0} {
		r := &run{}
		r.protection(&server{ServerFacts: ServerFacts{TLS: state}, side: "source"})
		if len(r.findings) != want {
			t.Errorf("%s: got %v", state, r.findings)
		}
	}
}

// A server that is too old, one newer than any that was tested, and one that reports no version.
func TestVersions(t *testing.T) {
	for major, want := range map[int]int{0: 1, 8: 1, 9: 1, 10: 0, 18: 0, 19: 0, 20: 1} {
		r := &run{source: &server{ServerFacts: ServerFacts{Major: major}, side: "source"}, target: &server{ServerFacts: ServerFacts{Major: 19}, side: "target"}}
		r.versions()
		if found := find(Report{Findings: r.findings}, "version", "source"); len(found) != want {
			t.Errorf("%d: got %v", major, r.findings)
		}
	}
}

func TestOlder(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"1.9", "1.10", true}, {"1.10", "1.9", false}, {"1.2", "1.2", false}, {"3.3", "3.3.1", true}, {"unpackaged", "1.0", false}} {
		if got := older(c.a, c.b); got != c.want {
			t.Errorf("older(%s, %s) = %v", c.a, c.b, got)
		}
	}
}
