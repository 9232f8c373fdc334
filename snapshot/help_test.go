package snapshot

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/pgtest"
)

// helper is c for a process that helps.
func helper(t *testing.T, c Config, name string) *Copier {
	t.Helper()
	o, ok, err := Offered(t.Context(), connect(t, c.Target), c.Migration)
	if err != nil || !ok {
		t.Fatalf("nothing is offered: %v", err)
	}
	if o.AsOf != c.AsOf {
		t.Fatalf("pieces are offered as of %s, want %s", o.AsOf, c.AsOf)
	}
	copier, err := New(Config{Source: c.Source, Target: c.Target, Migration: c.Migration, Snapshot: o.Snapshot, AsOf: o.AsOf, Jobs: 1, Worker: name})
	if err != nil {
		t.Fatal(err)
	}
	return copier
}

// waitsFor makes the process of the copy wait with its next piece until some helpers have copied one.
func waitsFor(t *testing.T, target string, helpers int) {
	t.Helper()
	pgtest.Exec(t, target, fmt.Sprintf(`create function walferry.waits() returns trigger language plpgsql as $$ begin
  while (select count(distinct worker) from walferry.copy_state where worker <> '') < %d loop perform pg_catalog.pg_sleep(0.02); end loop; return new; end $$;
create trigger waits before insert on walferry.copy_state for each row when (new.worker = '') execute function walferry.waits();
alter table walferry.copy_state enable always trigger waits`, helpers))
}

// Every piece is copied once, by whoever claims it, though the helpers' connections are ended again and again; a table is announced once,
// by the process that runs the copy, when the rows of all are there.
func TestHelp(t *testing.T) {
	for _, major := range []int{13, 15} { // pieces by key, and by place
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			source, target, c := big(t, major, 18)
			c.Jobs = 1
			announced := map[string]string{}
			c.OnTable = func(_ context.Context, table Table) error {
				if rows, again := announced[table.Name]; again {
					t.Errorf("%s is announced again, before with %s rows", table.Name, rows)
				}
				announced[table.Name] = count(t, target, table.Name)
				return nil
			}
			var helping sync.WaitGroup
			helpers := make([]*Copier, 2)
			run, err := during(t, t.Context(), c, func() {
				waitsFor(t, target, len(helpers))
				for i := range helpers {
					helpers[i] = helper(t, c, fmt.Sprintf("host%d", i))
					helping.Go(func() {
						if err := helpers[i].Help(t.Context()); err != nil {
							t.Errorf("helper %d: %v", i, err)
						}
					})
				}
				for i := range helpers {
					eventually(t, "each helper has copied something", func() bool { n, _, _ := helpers[i].Copied(); return n > 0 })
				}
				for range 3 {
					pgtest.Exec(t, target, `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name like 'walferry copy by host_'`)
					time.Sleep(20 * time.Millisecond)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			helping.Wait()
			exact(t, source, target)
			if announced["big"] != "50000" || announced["side"] != "1" {
				t.Errorf("announced with %v rows", announced)
			}
			own, _, _ := run.Copied()
			total := own
			for i, h := range helpers {
				pieces, _, _ := h.Copied()
				recorded := pgtest.Query(t, target, fmt.Sprintf(`select count(*) from walferry.copy_state where worker = 'host%d'`, i))[0][0]
				if recorded != fmt.Sprint(pieces) {
					t.Errorf("host%d says %d pieces, %s are recorded", i, pieces, recorded)
				}
				total += pieces
			}
			p := run.Progress()
			if total != p.Pieces || p.PiecesDone != p.Pieces || p.Rows != 50001 || own == total {
				t.Errorf("%d of %d pieces were copied by its own process, %d by all: %+v", own, p.Pieces, total, p)
			}
			if left := count(t, target, "walferry.copy_piece"); left != "0" {
				t.Errorf("%s pieces are in the queue after the copy", left)
			}
		})
	}
}

// Who helps goes on when the process of the copy ends, and its snapshot with it; the next run finds the pieces done.
func TestHelp_Orphaned(t *testing.T) {
	source, target, c := big(t, 15, 18)
	c.Jobs = 1
	ctx, cancel := context.WithCancel(t.Context())
	helped := make(chan error, 1)
	_, err := during(t, ctx, c, func() {
		waitsFor(t, target, 1)
		h := helper(t, c, "other")
		go func() { helped <- h.Help(context.WithoutCancel(ctx)) }()
		eventually(t, "the helper has copied something", func() bool { n, _, _ := h.Copied(); return n > 0 })
		cancel()
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	pgtest.Exec(t, target, `drop trigger waits on walferry.copy_state; drop function walferry.waits()`)
	if err := <-helped; err != nil {
		t.Fatal(err)
	}
	exact(t, source, target)
	second := run(t, again(t, c))
	if n, _, _ := second.Copied(); n != 0 {
		t.Errorf("the next run has copied %d pieces, want none", n)
	}
	if w := windowOf(t, target, "big"); w.From != c.AsOf || w.To != c.AsOf {
		t.Errorf("window of big: %v, want %s", w, c.AsOf)
	}
}

// A run under another snapshot waits for what is claimed under the one before, and counts it; who has helped has nothing left to do.
func TestHelp_Overtaken(t *testing.T) {
	source, target, c := big(t, 15, 18)
	c.Jobs = 1
	ctx, cancel := context.WithCancel(t.Context())
	helped := make(chan error, 1)
	var h *Copier
	_, err := during(t, ctx, c, func() {
		waitsFor(t, target, 1)
		h = helper(t, c, "other")
		go func() { helped <- h.Help(context.WithoutCancel(ctx)) }()
		eventually(t, "the helper has copied something", func() bool { n, _, _ := h.Copied(); return n > 0 })
		cancel()
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	pgtest.Exec(t, target, `drop trigger waits on walferry.copy_state; drop function walferry.waits()`)
	second := run(t, again(t, c))
	if err := <-helped; err != nil {
		t.Fatal(err)
	}
	exact(t, source, target)
	by := map[string]string{}
	for _, row := range pgtest.Query(t, target, `select as_of, count(*) from walferry.copy_state group by 1`) {
		by[row[0]] = row[1]
	}
	own, _, _ := second.Copied()
	if got := by[second.config.AsOf.String()]; got != "" && got != fmt.Sprint(own) {
		t.Errorf("%d pieces were copied by the second run, %v are recorded", own, by)
	}
}

// A table that was rewritten since is left to the process of the copy.
func TestHelp_Rewritten(t *testing.T) {
	source, _, c := big(t, 15, 18)
	c.PutAside, c.Jobs = true, 1
	copier, err := during(t, t.Context(), c, func() {
		pgtest.Exec(t, source, `vacuum full big`)
		h := helper(t, c, "other")
		if err := h.Help(t.Context()); err != nil {
			t.Error(err)
		}
		if n, _, _ := h.Copied(); n != 0 {
			t.Errorf("the helper has copied %d pieces of what was rewritten", n)
		}
	})
	var rewritten *RewrittenError
	if !errors.As(err, &rewritten) || len(rewritten.Tables) != 1 || rewritten.Tables[0].Name != "big" {
		t.Fatalf("%v of %+v", err, copier.Progress())
	}
}
