package check

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/catalog"
	"github.com/walferry/walferry/internal/fail"
	"github.com/walferry/walferry/internal/pgtest"
)

// limited is a check for a way back of which only what a test brings about is missing.
func limited(source, target string) Config {
	return Config{SourceDSN: source, TargetDSN: target, Schema: "none", Jobs: 1, FallBack: FallBackRequire, MaxRetainedWALTarget: 1 << 30}
}

// backs are the findings about a way back.
func backs(r Report, severity Severity) (found []Finding) {
	for _, f := range r.Findings {
		if strings.HasPrefix(f.ID, "fb-") && f.Severity == severity {
			found = append(found, f)
		}
	}
	return found
}

// What the server of the target needs, with its restart.
func TestFallBack_Settings(t *testing.T) {
	source, _ := pgtest.Pair(t, 15, 18)
	exec(t, source, `create table t (a int primary key)`)
	for _, level := range []string{"minimal", "replica"} {
		target := pgtest.New(t, pgtest.Options{Major: 18, Settings: map[string]string{
			"wal_level": level, "max_replication_slots": "0", "max_wal_senders": "0", "wal_sender_timeout": "2s", "idle_replication_slot_timeout": "60",
		}})
		c := limited(source, target.URL("postgres"))
		c.Schema, c.MaxRetainedWALTarget = "", 0
		report := check(t, c)
		for id, severity := range map[string]Severity{
			"fb-wal-level": Block, "fb-free-slots": Block, "fb-free-senders": Block, "fb-wal-budget": Block, "fb-wal-sender-timeout": Warn, "fb-idle-slot-timeout": Warn,
		} {
			if f := find(report, id, "target"); len(f) != 1 || f[0].Severity != severity || len(f[0].SQL) == 0 {
				t.Errorf("%s: got %v", id, f)
			}
		}
		for _, f := range report.Findings {
			if strings.HasPrefix(f.ID, "fb-") {
				exec(t, c.TargetDSN, f.SQL...)
			}
		}
		if err := target.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		report = check(t, c)
		left := slices.DeleteFunc(slices.Concat(backs(report, Block), backs(report, Warn)), func(f Finding) bool { return f.ID == "fb-keep-identity" })
		if len(left) > 0 {
			t.Errorf("after its SQL there is still %+v", left)
		}
		if f := find(report, "fb-wal-budget", "target"); len(f) != 1 || !strings.Contains(f[0].Seen, "51200 MB") {
			t.Errorf("the limit is not said: %v", f)
		}
	}
}

// From 19 on wal_level = replica is enough; a server of version 10 is not.
func TestFallBack_Versions(t *testing.T) {
	old, young := pgtest.Pair(t, 10, 10)
	exec(t, old, `create table t (a int primary key)`)
	exec(t, young, `create table t (a int primary key)`)
	if f := find(check(t, limited(old, young)), "fb-version", "target"); len(f) != 1 || f[0].Severity != Block {
		t.Errorf("a target of version 10: got %v", f)
	}
	source, _ := pgtest.Pair(t, 15, 18)
	exec(t, source, `create table t (a int primary key)`)
	target := pgtest.New(t, pgtest.Options{Major: 19, Settings: map[string]string{"wal_level": "replica"}})
	c := limited(source, target.URL("postgres"))
	c.Schema = ""
	if f := backs(check(t, c), Block); len(f) > 0 {
		t.Errorf("wal_level = replica on 19: got %+v", f)
	}
}

// off says whether one could be had, auto warns, require blocks; one that is kept already is not looked at.
func TestFallBack_Modes(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	exec(t, source, `create table t (a int primary key)`)
	c := limited(source, target)
	c.Schema = ""
	for _, mode := range []string{"", FallBackOff} {
		c.FallBack = mode
		c.MaxRetainedWALTarget = 1 << 30
		f := find(check(t, c), "fall-back", "tool")
		if len(f) != 1 || f[0].Severity != Info || !strings.Contains(f[0].Seen, "could be had") {
			t.Errorf("mode %q: got %v", mode, f)
		}
		c.MaxRetainedWALTarget = 0
		f = find(check(t, c), "fall-back", "tool")
		if len(f) != 1 || f[0].Severity != Info || !strings.Contains(f[0].Seen, "fb-wal-budget") {
			t.Errorf("mode %q: got %v", mode, f)
		}
	}
	c.FallBack = FallBackAuto
	report := check(t, c)
	if f := find(report, "fb-wal-budget", "target"); report.Blocks() || len(f) != 1 || f[0].Severity != Warn || !strings.Contains(f[0].Seen, "no way back") {
		t.Errorf("auto: got %+v", f)
	}
	c.FallBack = FallBackRequire
	report = check(t, c)
	if f := find(report, "fb-wal-budget", "target"); !report.Blocks() || len(f) != 1 || f[0].Severity != Block {
		t.Errorf("require: got %+v", f)
	}
	if eased := report.Eased(); eased.Blocks() || !report.Blocks() || len(eased.Findings) != len(report.Findings) {
		t.Errorf("a migration that goes on: got %s", summary(eased))
	}
	c.FallBack = FallBackKept
	if report := check(t, c); len(backs(report, Block)) > 0 || len(find(report, "fall-back", "")) > 0 {
		t.Errorf("kept: got\n%s", summary(report))
	}
}

// What tables of the target have otherwise, each with the SQL that repairs it.
func TestFallBack_Tables(t *testing.T) {
	for _, pair := range [][2]int{{10, 18}, {13, 17}, {15, 18}, {18, 18}} {
		t.Run(fmt.Sprint(pair), func(t *testing.T) {
			source, target := pgtest.Pair(t, pair[0], pair[1])
			situations := []situation{
				{id: "fb-replica-identity", on: "target", severity: Block, object: `"public"."bare"`, seen: "no primary key", source: []string{`create table bare (a int not null primary key)`}, target: []string{`create table bare (a int not null)`, `create unique index on bare (a)`}},
				{id: "fb-replica-identity", on: "target", severity: Block, object: `"public"."noth"`, seen: "NOTHING", source: []string{`create table noth (a int primary key)`}, target: []string{`create table noth (a int primary key)`, `alter table noth replica identity nothing`}},
				{id: "fb-unlogged-table", on: "target", severity: Block, object: `"public"."unl"`, source: []string{`create table unl (a int primary key)`}, target: []string{`create unlogged table unl (a int primary key)`}},
				{id: "fb-partition", on: "target", severity: Block, object: `"public"."p2"`, seen: "the old server has no such table", source: []string{`create table p (a int primary key)`}, target: []string{`create table p (a int primary key)`, `create table p2 (primary key (a)) inherits (p)`}},
				{id: "fb-difference", on: "source", severity: Block, object: `"public"."more"`, seen: `column "b": is missing on the old server`, source: []string{`create table more (a int primary key)`}, target: []string{`create table more (a int primary key, b text)`}},
				{id: "fb-difference", on: "source", severity: Warn, object: `"public"."wide"`, seen: `bigint on the new server and integer on the old server`, source: []string{`create table wide (a int primary key, b int, c varchar(5))`}, target: []string{`create table wide (a int primary key, b bigint, c varchar(9))`}},
				{id: "fb-difference", on: "source", severity: Warn, object: `"public"."nul"`, seen: `not null on the old server only`, source: []string{`create table nul (a int primary key, b int not null default 1)`}, target: []string{`create table nul (a int primary key, b int default 1)`}},
				{id: "fb-difference", on: "source", severity: Warn, object: `"public"."chk"`, seen: `the check "C"`, source: []string{`create table chk (a int primary key, constraint "C" check (a > 0))`}, target: []string{`create table chk (a int primary key)`}},
				{id: "fb-difference", on: "source", severity: Warn, object: `"public"."unq"`, seen: `the old server only`, source: []string{`create table unq (a int primary key, b int unique)`}, target: []string{`create table unq (a int primary key, b int)`}},
				{id: "fb-type-difference", on: "source", severity: Warn, seen: `no label 'new'`, source: []string{`create type mood as enum ('old')`, `create table enu (a int primary key, m mood)`}, target: []string{`create type mood as enum ('old', 'new')`, `create table enu (a int primary key, m mood)`}},
				{id: "fb-published", on: "source", severity: Block, object: "check_all (of postgres)", seen: "on every subscriber", noMend: true, source: []string{`create publication check_all for all tables`}},
				{id: "fb-published", on: "target", severity: Warn, object: "check_all (of postgres)", noMend: true, target: []string{`create publication check_all for all tables`}},
				{id: "fb-keep-identity", on: "target", severity: Warn, seen: "finish", noMend: true},
				{id: "fb-slot-exists", on: "target", severity: Block, object: "walferry_default_back", target: []string{`select pg_create_logical_replication_slot('walferry_default_back', 'pgoutput')`}},
				{id: "fb-publication-exists", on: "target", severity: Block, object: "walferry_default_back", target: []string{`create publication walferry_default_back`}},
				{id: "fb-prepared-transaction", on: "target", severity: Block, target: []string{`begin; create table prep (a int primary key); prepare transaction 'check fb'`}},
			}
			if pair[1] >= 18 {
				kind := map[bool]string{true: "virtual", false: "stored"}[pair[1] >= 18]
				situations = append(situations, situation{
					id: "fb-difference", on: "source", severity: Block, object: `"public"."gen"`, seen: "generated on the new server only", noMend: true,
					source: []string{`create table gen (a int primary key, g int)`}, target: []string{`create table gen (a int primary key, g int generated always as (a + 1) ` + kind + `)`},
				})
			}
			if pair[1] >= 18 {
				situations = append(situations, situation{
					id: "fb-identity-generated", on: "target", severity: Block, object: `"public"."full"`,
					source: []string{`create table "full" (a int primary key)`}, target: []string{`create table "full" (a int primary key, g int generated always as (a + 1) stored)`, `alter table "full" replica identity full`},
				})
			}
			bring(t, source, target, situations)
			fix(t, limited(source, target), source, target, situations)
		})
	}
}

// Values that only the newer version takes, beneath whatever they are, in one finding for a type.
func TestFallBack_Values(t *testing.T) {
	all := map[string]string{"numeric": "", "interval": "", "jsonpath": "", "aclitem": "", "ltree": ""}
	for pair, want := range map[[2]int][]string{
		{10, 18}: {"aclitem", "interval", "ltree", "numeric"},
		{13, 17}: {"aclitem", "interval", "jsonpath", "ltree", "numeric"},
		{15, 18}: {"aclitem", "interval", "jsonpath", "ltree"},
		{18, 18}: nil,
		{18, 19}: {"jsonpath"},
	} {
		t.Run(fmt.Sprint(pair), func(t *testing.T) {
			source := pgtest.Shared(t, pair[0]).Database(t)
			target := pgtest.Shared(t, pair[1]).Database(t)
			list := "amount[]"
			if pair[0] == 10 { // which has none of a domain
				list = "numeric[]"
			}
			exec(t, source, `create extension ltree`, `create domain amount as numeric(12, 2)`, `create type money2 as (a amount, c text)`,
				`create table v (a int primary key, n numeric, d `+list+`, r numrange, m money2, i interval, l ltree, acl aclitem, plain text)`)
			if pair[0] >= 12 {
				exec(t, source, `alter table v add j jsonpath`)
			}
			c := limited(source, target)
			c.Schema = ""
			report := check(t, c)
			var got []string
			for _, f := range find(report, "fb-values", "target") {
				name := strings.TrimPrefix(f.Object, "type ")
				got = append(got, name)
				if _, known := all[name]; !known || f.Severity != Info || strings.Contains(f.Seen, "plain") {
					t.Errorf("got %+v", f)
				}
				if name == "numeric" {
					for _, column := range []string{"n", "d", "r", "m"} {
						if !strings.Contains(f.Seen, `"public"."v".`+catalog.Quote(column)) {
							t.Errorf("column %s is missing: %s", column, f.Seen)
						}
					}
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// A role's rights on both servers, each missing alone: the preflight and the gate say the same, and its SQL repairs it.
func TestFallBack_Rights(t *testing.T) {
	for _, pair := range [][2]int{{10, 18}, {13, 17}, {15, 18}, {18, 18}} {
		t.Run(fmt.Sprint(pair), func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, pair[0], pair[1])
			oldRole, newRole := fmt.Sprintf("check_old_%d_%d", pair[0], pair[1]), fmt.Sprintf("check_new_%d_%d", pair[0], pair[1])
			tables := []string{`create table t (a serial primary key, b text)`, `create table s (a int primary key)`}
			for _, dsn := range []string{source, target} {
				role := map[string]string{source: oldRole, target: newRole}[dsn]
				exec(t, dsn, fmt.Sprintf(`create role %s login replication`, role), fmt.Sprintf(`do $$ begin execute format('grant create on database %%I to %s', current_database()); end $$`, role))
				exec(t, dsn, tables...)
				exec(t, dsn, fmt.Sprintf(`alter table t owner to %s`, role), fmt.Sprintf(`alter table s owner to %s`, role), fmt.Sprintf(`grant usage on schema public to %s`, role), fmt.Sprintf(`grant pg_read_all_stats to %s`, role))
				set := fmt.Sprintf(`alter role %s superuser`, role)
				if dsn == target || pair[0] >= 15 {
					set = fmt.Sprintf(`grant set on parameter session_replication_role to %s`, role)
				}
				exec(t, dsn, set)
				t.Cleanup(func() {
					if dsn == target || pair[0] >= 15 {
						exec(background{t}, dsn, fmt.Sprintf(`revoke set on parameter session_replication_role from %s`, role))
					}
					exec(background{t}, dsn, fmt.Sprintf(`drop owned by %s`, role), fmt.Sprintf(`drop role %s`, role))
				})
			}
			super := pair[0] < 15 // of the old server: then it may everything there
			c := limited(as(t, source, oldRole), as(t, target, newRole))
			arming := Arming{Name: "default_back", From: c.TargetDSN, To: c.SourceDSN, Back: true, Tables: []catalog.Name{{Schema: "public", Name: "t"}, {Schema: "public", Name: "s"}}, MaxRetainedWAL: 1 << 30}
			if err := arming.Gate(t.Context()); err != nil {
				t.Fatalf("nothing is missing, and the gate says: %v; do %s", err, fail.Hint(err))
			}
			emit := `revoke execute on function pg_logical_emit_message(bool, text, text%s) from public`
			emit = fmt.Sprintf(emit, map[bool]string{true: ", bool"}[pair[1] >= 17])
			for _, s := range []struct {
				situation
				old bool // it is of the old server, and not of a superuser there
			}{
				{situation: situation{id: "fb-replication-right", on: "target", target: []string{`alter role ` + newRole + ` noreplication`}}},
				{situation: situation{id: "fb-emit-message", on: "target", target: []string{emit}}},
				{situation: situation{id: "fb-create-on-database", on: "target", target: []string{fmt.Sprintf(`do $$ begin execute format('revoke create on database %%I from %s', current_database()); end $$`, newRole)}}},
				{situation: situation{id: "fb-replica-identity", on: "target", object: `"public"."s"`, target: []string{`alter table s drop constraint s_pkey`}}},
				{situation: situation{id: "fb-event-trigger", on: "target", severity: Warn, target: []string{`create function e() returns event_trigger language plpgsql as 'begin end'`, `create event trigger e on ddl_command_end execute procedure e()`}}},
				{situation: situation{id: "fb-table-privileges", on: "source", object: `"public"."s"`, source: []string{`revoke truncate on s from ` + oldRole}}, old: true},
				{situation: situation{id: "fb-row-security", on: "source", object: `"public"."s"`, source: []string{`alter table s enable row level security`, `alter table s force row level security`}}, old: true},
				{situation: situation{id: "fb-sequence-privileges", on: "source", object: `"public"."t_a_seq"`, source: []string{`revoke update on sequence t_a_seq from ` + oldRole}}, old: true},
				{situation: situation{id: "fb-record", on: "target", object: `"walferry"."progress"`, target: []string{`create schema walferry`, `create table walferry.progress (stream text primary key)`, `grant create, usage on schema walferry to ` + newRole}}},
				{situation: situation{id: "fb-record", on: "target", object: "walferry", target: []string{`revoke create on schema walferry from ` + newRole}}},
				{situation: situation{id: "fb-publication-exists", on: "target", target: []string{`create publication walferry_default_back`}}},
				{situation: situation{id: "fb-create-on-database", on: "source", source: []string{fmt.Sprintf(`do $$ begin execute format('revoke create on database %%I from %s', current_database()); end $$`, oldRole)}}, old: true},
				{situation: situation{id: "fb-published", on: "source", source: []string{`create publication check_fb_all for all tables`}}},
				{situation: situation{id: "fb-table-owner", on: "target", object: `"postgres"`, target: []string{`alter table s owner to postgres`}}},
			} {
				if s.old && super {
					continue
				}
				bring(t, source, target, []situation{s.situation})
				err := arming.Gate(t.Context())
				if (err != nil) != (s.severity != Warn) || err != nil && !fail.Is(err, fail.Gate) {
					t.Errorf("%s: the gate says %v", s.id, err)
				}
				report := check(t, c)
				f := s.find(report)
				plain := find(report, strings.TrimPrefix(s.id, "fb-"), s.on)
				if len(f) == 0 && len(plain) == 0 {
					t.Errorf("%s is not found:\n%s", s.id, summary(report))
					continue
				}
				if len(f) == 0 {
					f = plain // it blocks the migration anyway
				}
				if err != nil && (fail.Hint(err) == "" || len(f[0].SQL) > 0 && !strings.Contains(fail.Hint(err), f[0].SQL[0])) {
					t.Errorf("%s: the gate advises %q, want %v", s.id, fail.Hint(err), f[0].SQL)
				}
				dsn := source
				switch {
				case s.on == "target":
					dsn = target
				case s.id == "fb-published":
					dsn = c.SourceDSN // what it makes must be walferry's
				}
				exec(t, dsn, f[0].SQL...)
				if err := arming.Gate(t.Context()); err != nil {
					t.Errorf("%s: after its SQL the gate says %v", s.id, err)
				}
				if s.id == "fb-published" { // it would publish what the rest brings
					exec(t, source, `drop publication check_fb_all`)
				}
			}
			if !super {
				exec(t, source, `revoke set on parameter session_replication_role from `+oldRole)
			} else {
				exec(t, source, `alter role `+oldRole+` nosuperuser`)
			}
			err := arming.Gate(t.Context())
			found := find(check(t, c), "fb-session-replication-role", "source")
			if err != nil || len(found) != 1 || found[0].Severity != Warn {
				t.Errorf("without session_replication_role: the gate says %v, the preflight %v", err, found)
			}
			exec(t, source, `alter table s add constraint k foreign key (a) references t`, `alter table s owner to postgres`, `grant all on s to `+oldRole)
			err = arming.Gate(t.Context())
			found = find(check(t, c), "fb-foreign-key-not-held", "source")
			if err == nil || len(found) != 1 || found[0].Severity != Block {
				t.Fatalf("with a key that the role may not drop: the gate says %v, the preflight %v", err, found)
			}
			exec(t, source, found[0].SQL...)
			if err := arming.Gate(t.Context()); err != nil {
				t.Errorf("after its SQL the gate says %v", err)
			}
			exec(t, source, `alter table s drop constraint k`)
		})
	}
}

// Tables and budget of a gate.
func TestArming_Gate(t *testing.T) {
	source, target := pgtest.Pair(t, 15, 18)
	for _, dsn := range []string{source, target} {
		exec(t, dsn, `create table t (a int primary key)`, `create table log (a int)`)
	}
	name := func(n string) catalog.Name { return catalog.Name{Schema: "public", Name: n} }
	a := Arming{From: target, To: source, Back: true, Tables: []catalog.Name{name("t")}, Inserts: []catalog.Name{name("log")}, MaxRetainedWAL: 1}
	for _, c := range []struct {
		change func(a *Arming)
		want   string
	}{
		{func(*Arming) {}, ""},
		{func(a *Arming) { a.MaxRetainedWAL = 0 }, "the new server: nothing limits the WAL"},
		{func(a *Arming) { a.MaxRetainedWAL = -1 }, "the new server: nothing limits the WAL"},
		{func(a *Arming) { a.Tables = append(a.Tables, name("gone")) }, `the new server: "public"."gone": the table is not there`},
		{func(a *Arming) { a.Tables = append(a.Tables, name("log")); a.Inserts = nil }, `"public"."log": it has no primary key`},
		// The other way round nothing has to have a limit that has none now.
		{func(a *Arming) { a.From, a.To, a.Back, a.MaxRetainedWAL = a.To, a.From, false, 0 }, ""},
		{func(a *Arming) {
			a.From, a.To, a.Back = a.To, a.From, false
			a.Tables, a.Inserts = append(a.Tables, name("log")), nil
		}, `the old server: "public"."log": it has no primary key`},
	} {
		changed := a
		changed.Tables = slices.Clone(a.Tables)
		c.change(&changed)
		err := changed.Gate(t.Context())
		if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}
