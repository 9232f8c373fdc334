package check

import (
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/pgtest"
)

const partitioned = `create table part (a int primary key) partition by range (a); create table part1 partition of part for values from (0) to (9);
create function f() returns trigger language plpgsql as 'begin return new; end'; create trigger tr after insert on part for each row execute procedure f();
create trigger same after insert on part for each row execute procedure f(); alter table part enable always trigger same`

// A partition's copy of a trigger is reported if its state differs from its parent's, also on
// servers where copies count as internal.
func TestRun_TriggersOfPartitions(t *testing.T) {
	for _, major := range []int{11, 13, 15} {
		source, target := pgtest.Pair(t, major, 15)
		pgtest.Exec(t, source, partitioned+`; alter table only part1 enable replica trigger tr`)
		var got []string
		for _, f := range find(check(t, Config{SourceDSN: source, TargetDSN: target, Jobs: 1}), "trigger-always", "") {
			got = append(got, f.Object+" "+strings.Join(strings.Fields(f.Seen)[:4], " "))
		}
		if want := `"public"."part" trigger "same" is ENABLE, "public"."part1" trigger "tr" is ENABLE`; strings.Join(got, ", ") != want {
			t.Errorf("version %d: %s, want %s", major, strings.Join(got, ", "), want)
		}
	}
}

// What the role could not disable blocks before anything is copied: on others' tables, and before
// version 13 the triggers that partitions have from their parent.
func TestRun_TriggersNotHeld(t *testing.T) {
	for _, c := range []struct {
		from, to int
		schema   string
		want     string
	}{
		{15, 15, "none", `"public"."part" "public"."part" "public"."part1" "public"."part1" "public"."ruled"`},
		{11, 12, "dump", `"public"."part1" "public"."part1"`},
		{13, 13, "dump", ``},
	} {
		source, target := pgtest.Pair(t, c.from, c.to)
		const ddl = partitioned + `; create table ruled (a int primary key); create rule r as on insert to ruled do also select 1`
		pgtest.Exec(t, source, ddl)
		if c.schema == "none" {
			pgtest.Exec(t, target, ddl)
		}
		pgtest.Exec(t, target, `do $$ begin create role check_stranger login; exception when duplicate_object or unique_violation then null; end $$`)
		var got []string
		for _, f := range find(check(t, Config{SourceDSN: source, TargetDSN: as(t, target, "check_stranger"), Schema: c.schema, Jobs: 1}), "trigger-not-held", "") {
			if f.Severity != Block || f.Do == "" {
				t.Errorf("%+v", f)
			}
			got = append(got, f.Object)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%d -> %d, %s: %v, want %s", c.from, c.to, c.schema, got, c.want)
		}
	}
}
