package check

import (
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/pgtest"
)

// A schema walferry in which others have rights, on either side and in each way that could make
// walferry run their code, blocks; its SQL fixes it.
func TestRun_HelperSchemaOfOthers(t *testing.T) {
	const (
		own     = `create table walferry.progress (stream text primary key)`
		trigger = `create function public.own() returns trigger language plpgsql as 'begin return new; end'`
		number  = `create function public.number() returns int language sql immutable as 'select 1'`
	)
	for _, c := range []struct {
		name string
		sql  []string
		seen string
		fix  string // of a migration that has begun
	}{
		{"schema", []string{`create schema walferry authorization check_mallory`}, "schema walferry is owned by check_mallory", "alter schema walferry owner to"},
		{"table", []string{`create schema walferry`, own, `alter table walferry.progress owner to check_mallory`}, "table walferry.progress is owned by check_mallory", "alter table walferry.progress owner to"},
		{"function", []string{`create schema walferry`, `create function walferry.fence_default() returns trigger language plpgsql as 'begin return null; end'`, `alter function walferry.fence_default() owner to check_mallory`}, "function walferry.fence_default() is owned by", "alter function"},
		{"type", []string{`create schema walferry`, `create domain walferry.d as int`, `alter domain walferry.d owner to check_mallory`}, "type walferry.d is owned by", "alter type"},
		{"operator", []string{`create schema walferry`, `create operator walferry.=== (leftarg = int, rightarg = int, procedure = int4eq)`, `alter operator walferry.=== (int, int) owner to check_mallory`}, "operator walferry.===(integer,integer) is owned by", "alter operator"},
		{"sequence", []string{`create schema walferry`, own, `alter table walferry.progress add id bigserial`, `grant update on sequence walferry.progress_id_seq to check_mallory`}, "lets check_mallory do UPDATE", "revoke all on sequence"},
		{"create for all", []string{`create schema walferry`, `grant create on schema walferry to public`}, "lets everybody create objects in it", "revoke create"},
		{"insert", []string{`create schema walferry`, own, `grant select, insert on walferry.progress to check_mallory`}, "lets check_mallory do INSERT", "revoke all"},
		{"column", []string{`create schema walferry`, own, `grant update (stream) on walferry.progress to public`}, "lets everybody do UPDATE", "revoke all"},
		{"trigger", []string{`create schema walferry`, own, trigger, `create trigger t before insert on walferry.progress for each row execute procedure public.own()`}, "trigger t on walferry.progress", "drop trigger"},
		{"rule", []string{`create schema walferry`, own, `create rule r as on insert to walferry.progress do also select 1`}, "rule r on walferry.progress", "drop rule"},
		{"policy", []string{`create schema walferry`, own, `create policy p on walferry.progress using (true)`}, "policy p on walferry.progress", "drop policy"},
		{"row security", []string{`create schema walferry`, own, `alter table walferry.progress force row level security`}, "has row security", "alter table"},
		{"view", []string{`create schema walferry`, `create view walferry.migration as select 1 as name`}, "walferry.migration", ""},
		{"default", []string{`create schema walferry`, own, number, `alter table walferry.progress add n int default public.number()`}, "uses function public.number()", ""},
		{"check", []string{`create schema walferry`, own, number, `alter table walferry.progress add check (public.number() = 1)`}, "uses function public.number()", ""},
		{"index", []string{`create schema walferry`, own, number, `create index on walferry.progress ((public.number()))`}, "uses function public.number()", ""},
		{"domain", []string{`create schema walferry`, `create domain public.named as text check (length(value) > 0)`, `create table walferry.progress (stream public.named)`}, "uses type public.named", ""},
		{"child", []string{`create schema walferry`, own, `create table public.child () inherits (walferry.progress)`}, "has a parent or child", ""},
		{"foreign key", []string{`create schema walferry`, own, `create table public.refers (a text references walferry.progress on delete cascade)`}, "foreign key", "alter table public.refers drop constraint"},
	} {
		t.Run(c.name, func(t *testing.T) {
			source, target := pgtest.Pair(t, 15, 18)
			servers := map[string]string{"source": source, "target": target}
			for _, dsn := range servers {
				exec(t, dsn, `create role check_mallory`)
				t.Cleanup(func() { exec(background{t}, dsn, `drop owned by check_mallory cascade`, `drop role check_mallory`) })
				exec(t, dsn, c.sql...)
			}
			exec(t, source, `create table a (id int primary key)`)
			report := check(t, Config{SourceDSN: source, TargetDSN: target})
			var resuming Report
			if c.fix != "" {
				resuming = check(t, Config{SourceDSN: source, TargetDSN: target, Resuming: true})
			}
			for side, dsn := range servers {
				var text string
				var sql []string
				for _, f := range append(find(report, "helper-schema", side), find(report, "helper-schema-rights", side)...) {
					if f.Severity != Block {
						t.Errorf("got %+v, want what blocks", f)
					}
					text += f.Object + " " + f.Seen + "\n"
					sql = append(sql, f.SQL...)
				}
				if !strings.Contains(text, c.seen) || len(sql) == 0 {
					t.Fatalf("%s: got %q with SQL %q, want %q; found:\n%s", side, text, sql, c.seen, summary(report))
				}
				// Another migration may live there: its schema is not renamed.
				if found := find(resuming, "helper-schema-rights", side); c.fix != "" && (len(found) != 1 || !strings.HasPrefix(fmt.Sprint(found[0].SQL), "["+c.fix)) {
					t.Errorf("%s, resuming: got %+v, want one whose SQL begins with %q", side, found, c.fix)
				}
				exec(t, dsn, sql...)
			}
			after := check(t, Config{SourceDSN: source, TargetDSN: target})
			if found := append(find(after, "helper-schema", ""), find(after, "helper-schema-rights", "")...); len(found) > 0 {
				t.Errorf("after its SQL there is still %+v", found)
			}
		})
	}
}
