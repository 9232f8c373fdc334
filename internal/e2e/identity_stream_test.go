package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/migration"
	"github.com/walferry/walferry/internal/pgtest"
)

// Tables and columns get each other's names on the source, and a change comes through the stream before
// anybody looks at a catalogue: the applier stops before it has applied anything of that transaction, says
// what has happened, and goes on once the target has followed.
func TestStream_AnothersName(t *testing.T) {
	t.Parallel()
	const (
		swap   = `alter table a rename to x; alter table b rename to a; alter table x rename to b;`
		circle = `alter table a rename to x; alter table b rename to a; alter table c rename to b; alter table x rename to c;`
		back   = `alter table c rename to x; alter table b rename to c; alter table a rename to b; alter table x rename to a;`
		cross  = `alter table a rename v to x; alter table a rename w to v; alter table a rename x to w;`
		state  = `select string_agg(concat_ws('|', t, id, v, w), ' ' order by t, id) from (select 'a' t, id, v, w from a union all select 'b', id, v, w from b union all select 'c', id, v, w from c) x`
		copied = `a|1|v a|w a b|1|v b|w b c|1|v c|w c`
	)
	from, to := pgtest.Default()
	for _, test := range []struct {
		name         string
		from         int
		ddl, write   string
		says, hint   string
		mend, target string // on the source, and on the target, after which migrate goes on
		restore      string // on the target, without which the cutover refuses
		want         string
	}{
		{
			"tables", from, swap, `update b set v = 'of a'`,
			"was called public.a", "public.a to public.b", swap, swap, swap, `a|1|of a|w a b|1|v b|w b c|1|v c|w c`,
		},
		{
			"three tables", from, circle, `begin; insert into c values (2, 'of a', 'x'); insert into a values (2, 'of b', 'x'); commit`,
			"was called public.a", "public.a to public.c", back, circle, back, `a|1|v a|w a a|2|of a|x b|1|v b|w b b|2|of b|x c|1|v c|w c`,
		},
		{"a table that is emptied", from, swap, `truncate a`, "was called public.b", "public.b to public.a", swap, swap, swap, `a|1|v a|w a c|1|v c|w c`},
		{"a table that is emptied on version 10", 10, swap, `truncate a`, "was called public.b", "public.b to public.a", swap, swap, swap, `a|1|v a|w a c|1|v c|w c`},
		{
			"columns", from, cross, `update a set v = 'is w now'`,
			"v, w", `alter table "public"."a" rename column "v" to "walferry_1"; alter table "public"."a" rename column "w" to "v";`, ``, cross, ``, `a|1|is w now|v a b|1|v b|w b c|1|v c|w c`,
		},
		{
			"a column that was added again", from, `alter table a drop v; alter table a add v text;`, `update a set v = 'again'`,
			"v, w", `drop column "v"; alter table "public"."a" add column "v" text;`, ``, `alter table a drop v; alter table a add v text;`, ``, `a|1|again|w a b|1|v b|w b c|1|v c|w c`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, test.from, to)
			for _, name := range []string{"a", "b", "c"} {
				pgtest.Exec(t, source, strings.ReplaceAll(`create table $ (id int primary key, v text, w text); insert into $ values (1, 'v $', 'w $')`, "$", name))
			}
			m := newMoving(t, "anothers", source, target)
			m.Cut.MaxLag, m.Cut.Timeout = patience, patience
			m.Heartbeat = 30 * time.Second // migrate looks after some heartbeats: here the stream comes first
			r := m.start()
			r.waitFor(migration.Following)
			pgtest.Exec(t, source, test.ddl)
			pgtest.Exec(t, source, test.write)
			_, err := r.end()
			var hint interface{ Hint() string }
			if !errors.As(err, &hint) || !strings.Contains(err.Error(), test.says) || !strings.Contains(hint.Hint(), test.hint) {
				t.Fatalf("migrate ended with %v, hint %q; want %q, %q", err, hint.Hint(), test.says, test.hint)
			}
			if got := one[string](t, target, state); got != copied {
				t.Fatalf("the target has %s", got)
			}
			pgtest.Exec(t, source, test.mend+` select 1`)
			pgtest.Exec(t, target, test.target)
			r = m.start()
			r.waitFor(migration.Following)
			m.caughtUp(r)
			if test.restore != "" {
				m.refuses("the target was not given its names back", "each other's names")
				pgtest.Exec(t, target, test.restore)
			}
			if got := one[string](t, target, state); got != test.want {
				t.Errorf("the target has %s, want %s", got, test.want)
			}
			m.cutover(r)
			sameRows(t, source, target)
		})
	}
}

// What was written before the source's columns were altered goes into the columns that it was for, also where the target was
// altered before it came, and where one transaction writes, alters and writes again.
func TestIdentity_Pending(t *testing.T) {
	t.Parallel()
	const cross = `alter table a rename v to x; alter table a rename w to v; alter table a rename x to w;`
	from, to := pgtest.Default()
	for _, test := range []struct {
		name   string
		source []string // statements, each a transaction, while migrate does not run
		early  string   // on the target, before migrate runs
		says   string   // empty: it goes on at once
		target string   // what is done then
	}{
		{"crosswise", []string{`update a set v = 'v before', w = 'w before' where id = 1`, cross}, cross, "", ""},
		{"crosswise, and written since", []string{`update a set v = 'v before' where id = 1`, cross, `update a set v = 'after' where id = 2`}, cross, "", ""},
		{"crosswise, later on the target", []string{`update a set v = 'v before' where id = 1`, cross, `update a set v = 'after' where id = 2`}, "", "each other's names", cross},
		{
			"added again",
			[]string{`update a set v = 'v before' where id = 1`, `alter table a drop v; alter table a add v text`, `update a set v = 'after' where id = 2`},
			"",
			"dropped and added them again", `alter table a drop v; alter table a add v text`,
		},
		{
			"renamed within a transaction",
			[]string{`begin; update a set w = 'before' where id = 1; alter table a rename w to n; update a set n = 'after' where id = 2; commit`},
			"",
			"the source has added or renamed columns", `alter table a rename w to n`,
		},
		{
			"the key, within a transaction",
			[]string{`begin; update a set w = 'before' where id = 1; update a set id = 11 where id = 1; alter table a rename id to n; update a set w = 'after' where n = 2; delete from a where n = 3; commit`},
			"",
			"the source has added or renamed columns", `alter table a rename id to n`,
		},
		{
			"all columns as the key, within a transaction",
			[]string{`begin; update f set v = 'before' where id = 1; alter table f rename id to n; update f set v = 'after' where n = 2; delete from f where n = 3; commit`},
			"",
			"the source has added or renamed columns", `alter table f rename id to n`,
		},
		{"dropped within a transaction", []string{`begin; update a set w = 'before' where id = 1; alter table a drop w; update a set v = 'after' where id = 2; commit`}, "", "the source has dropped", `alter table a drop w`},
		{"crosswise within a transaction", []string{`begin; update a set v = 'before' where id = 1; ` + cross + ` update a set v = 'after' where id = 2; commit`}, "", "each other's names", cross},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.Pair(t, from, to)
			pgtest.Exec(t, source, `create table a (id int primary key, v text, w text); insert into a select i, 'v' || i, 'w' || i from generate_series(1, 4) i;
				create table f (id int, v text); alter table f replica identity full; insert into f select i, 'v' || i from generate_series(1, 4) i; create unique index on f (id); alter table f alter id set not null`)
			m := newMoving(t, "pending", source, target)
			m.Cut.MaxLag, m.Cut.Timeout = patience, patience
			r := m.start()
			r.waitFor(migration.Following)
			r.cancel()
			r.end() //nolint:errcheck // it was stopped
			for _, sql := range test.source {
				pgtest.Exec(t, source, sql)
			}
			if test.early != "" {
				pgtest.Exec(t, target, test.early)
			}
			r = m.start()
			if test.says != "" {
				if _, err := r.end(); err == nil || !strings.Contains(err.Error(), test.says) {
					t.Fatalf("migrate ended with %v, want %q", err, test.says)
				}
				pgtest.Exec(t, target, test.target)
				r = m.start()
			}
			if test.name == "dropped within a transaction" { // the target needs the column once more
				if _, err := r.end(); err == nil || !strings.Contains(hint(err), `add column "w" text`) {
					t.Fatalf("migrate ended with %v, hint %q", err, hint(err))
				}
				pgtest.Exec(t, target, `alter table a add w text`)
				r = m.start()
				r.waitFor(migration.Following)
				m.caughtUp(r)
				m.refuses("the column is there again", `column "w" was dropped`)
				pgtest.Exec(t, target, test.target)
			}
			r.waitFor(migration.Following)
			m.caughtUp(r)
			sameRows(t, source, target)
			m.cutover(r)
			sameRows(t, source, target)
		})
	}
}
