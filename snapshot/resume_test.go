package snapshot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/pgtest"
)

// A target that crashes forgets the pieces that it had not flushed: they are copied again.
func TestRun_TargetForgets(t *testing.T) {
	source := pgtest.Shared(t, 15).Database(t)
	server := pgtest.New(t, pgtest.Options{Major: 17, Settings: map[string]string{"wal_writer_delay": "10s", "wal_writer_flush_after": "1GB", "wal_buffers": "16MB"}})
	target := server.Database(t)
	pgtest.Exec(t, source, bigTable+";"+fillBig)
	pgtest.Exec(t, target, bigTable)
	c := config(source, target, snapshotOf(t, source), Table{Schema: "public", Name: "big"})
	c.PieceBytes = 300 << 10
	forgotten := ""
	_, err := during(t, t.Context(), c, func() {
		before := count(t, target, "walferry.copy_state")
		if err := server.Kill(); err != nil {
			t.Error(err)
		}
		if err := server.Start(t.Context()); err != nil {
			t.Error(err)
		}
		if after := count(t, target, "walferry.copy_state"); after != before {
			forgotten = after + " of " + before
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if forgotten == "" {
		t.Error("nothing was forgotten, so that the test has shown nothing")
	}
	exact(t, source, target)
}

// again is c under a snapshot of now.
func again(t *testing.T, c Config) Config {
	e := snapshotOf(t, c.Source)
	c.Snapshot, c.AsOf, c.Resume = e.Name, e.ConsistentPoint, true
	return c
}

func windowOf(t *testing.T, target, name string) decoder.Window {
	t.Helper()
	windows, err := Windows(t.Context(), connect(t, target), "test")
	if err != nil {
		t.Fatal(err)
	}
	w, ok := windows[decoder.Name{Schema: "public", Name: name}]
	if !ok {
		t.Fatalf("no window of %s in %v", name, windows)
	}
	return w
}

// interrupted is a copy of which some pieces are done.
func interrupted(t *testing.T, sourceMajor int, schema string) (source, target string, c Config) {
	t.Helper()
	source, target, c = big(t, sourceMajor, 18)
	pgtest.Exec(t, source, schema)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := during(t, ctx, c, cancel); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	return source, target, c
}

// Under another snapshot the pieces that are done stay, rows that have moved from a piece that is
// missing to one that is done do not come, and those that have moved the other way do not come
// twice.
func TestRun_ResumesUnderAnotherSnapshot(t *testing.T) {
	for _, major := range []int{13, 15} { // pieces by key, and by place
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			source, target, c := interrupted(t, major, "")
			pieces := count(t, target, "walferry.copy_state")
			pgtest.Exec(t, target, `alter table big drop constraint big_pkey`)
			pgtest.Exec(t, source, `vacuum big`)
			pgtest.Exec(t, source, `update big set v = v || 'x' where id % 3 = 0; update big set id = id + 100000 where id % 1000 = 0`)
			second := again(t, c)
			second.OnResume = func(_ context.Context, table Table) error {
				pgtest.Exec(t, target, `alter table `+table.Name+` add primary key (id)`)
				return nil
			}
			run(t, second)
			w := windowOf(t, target, "big")
			if w.From != c.AsOf || w.To != second.AsOf {
				t.Errorf("window of big: %s to %s, want %s to %s", w.From, w.To, c.AsOf, second.AsOf)
			}
			if got := pgtest.Query(t, target, fmt.Sprintf(`select count(*) > 2 from walferry.copy_state where as_of = '%s' and table_name = 'big'`, c.AsOf))[0][0]; got != "t" {
				t.Errorf("of %s pieces of the first run two or less are left", pieces)
			}
			// What no change has touched is there exactly once.
			const untouched = `select count(*), count(distinct id), sum(id), md5(string_agg(v, '' order by id)) from big where id % 3 > 0 and id % 1000 > 0`
			if got, want := pgtest.Query(t, target, untouched)[0], pgtest.Query(t, source, untouched)[0]; fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("target %v, source %v", got, want)
			}
		})
	}
}

// Where rows cannot be told, or are not where they were, the table is copied again as a whole.
func TestRun_ResumesFromTheBeginning(t *testing.T) {
	for name, test := range map[string]struct{ source, target string }{
		"no key":               {source: `alter table big drop constraint big_pkey`},
		"replica identity":     {source: `alter table big replica identity full`},
		"rewritten":            {source: `cluster big using big_pkey`},
		"truncated":            {source: `truncate big; insert into big values (1, 'new')`},
		"no key on the target": {target: `alter table big drop constraint big_pkey`},
		"another unique index": {target: `create unique index on big (id, v)`},
	} {
		t.Run(name, func(t *testing.T) {
			source, target, c := interrupted(t, 15, "")
			pgtest.Exec(t, source, test.source)
			pgtest.Exec(t, target, test.target)
			second := again(t, c)
			run(t, second)
			exact(t, source, target)
			if w := windowOf(t, target, "big"); w.From != second.AsOf || w.To != second.AsOf {
				t.Errorf("window of big: %s to %s, want %s", w.From, w.To, second.AsOf)
			}
			if w := windowOf(t, target, "side"); w.To != c.AsOf && w.To != second.AsOf {
				t.Errorf("window of side: %s to %s", w.From, w.To)
			}
		})
	}
}

// REPACK (CONCURRENTLY), which 19 has, makes a table look empty to a snapshot of before, and cannot
// be told from TRUNCATE: it is never taken for one.
func TestRun_Repack(t *testing.T) {
	server := pgtest.Shared(t, 19)
	source, target := server.Database(t), server.Database(t)
	pgtest.Exec(t, source, `create table packed (id int primary key); insert into packed select generate_series(1, 1000)`)
	pgtest.Exec(t, target, `create table packed (id int primary key)`)
	e := snapshotOf(t, source)
	pgtest.Exec(t, source, `repack (concurrently) packed`)
	c := config(source, target, e, Table{Schema: "public", Name: "packed"})
	copier, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	var changed *ChangedError
	if err := copier.Run(t.Context()); !errors.As(err, &changed) || !strings.Contains(err.Error(), "REPACK") {
		t.Errorf("got error %v, want a ChangedError that names REPACK", err)
	}
	c.PutAside = true
	if copier, err = New(c); err != nil {
		t.Fatal(err)
	}
	var rewritten *RewrittenError
	if err := copier.Run(t.Context()); !errors.As(err, &rewritten) {
		t.Fatalf("got error %v, want a RewrittenError", err)
	}
	run(t, again(t, c))
	if got := count(t, target, "packed"); got != "1000" {
		t.Errorf("the target has %s rows, want 1000", got)
	}
}

// A table that is rewritten before it was read is put aside, and copied under a later snapshot.
func TestRun_PutsAside(t *testing.T) {
	source, target, c := big(t, 15, 18)
	pgtest.Exec(t, source, `create table staging (id int); insert into staging select generate_series(1, 10)`)
	pgtest.Exec(t, target, `create table staging (id int)`)
	c.Tables = append(c.Tables, Table{Schema: "public", Name: "staging"})
	c.PutAside = true
	e := snapshotOf(t, source)
	c.Snapshot, c.AsOf = e.Name, e.ConsistentPoint
	pgtest.Exec(t, source, `update staging set id = id + 100; truncate staging; insert into staging values (7)`)
	pgtest.Exec(t, source, `vacuum full big`)

	copier, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	err = copier.Run(t.Context())
	var rewritten *RewrittenError
	if !errors.As(err, &rewritten) || len(rewritten.Tables) != 2 {
		t.Fatalf("got error %v, want a RewrittenError of two tables", err)
	}
	if got := count(t, target, "side") + count(t, target, "staging"); got != "10" {
		t.Errorf("side and staging have %s rows, want 1 and 0", got)
	}
	if p := copier.Progress(); p.Tables != 1 || p.TablesDone != 1 {
		t.Errorf("%d of %d tables are done, want 1 of 1: the others are another run's", p.TablesDone, p.Tables)
	}
	second := again(t, c)
	run(t, second)
	exact(t, source, target)
	if got := count(t, target, "staging"); got != "1" {
		t.Errorf("staging has %s rows, want 1", got)
	}
	if from, to := windowOf(t, target, "side").To, windowOf(t, target, "staging").From; from != c.AsOf || to != second.AsOf {
		t.Errorf("side as of %s, staging as of %s; want %s and %s", from, to, c.AsOf, second.AsOf)
	}
}
