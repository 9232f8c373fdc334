package applier

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/walferry/walferry/decoder"
)

// Several groups are on their way when one of them does not fit: what came before is there, and
// nothing else.
func TestRun_Misfit(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `
create table t (id int primary key, v text);
create table swallowing (id int primary key);
create function swallow() returns trigger language plpgsql as 'begin return null; end';
create trigger swallow before insert on swallowing for each row execute procedure swallow();
alter table swallowing enable always trigger swallow;
create table taken (id int primary key);
insert into taken values (1);
create table parted (id int, v text, primary key (id)) partition by range (id);
create table parted_1 partition of parted for values from (0) to (10);
create trigger swallow before insert on parted_1 for each row execute procedure swallow();
alter table parted_1 enable always trigger swallow`)
	r := relation("t", 'd', "id*", "v")
	taken, swallowing, parted := relation("taken", 'd', "id*"), relation("swallowing", 'd', "id*"), relation("parted", 'd', "id*", "v")
	id, want := 0, int64(0)
	for _, test := range []struct {
		name string
		bad  decoder.Change
		kind Kind
	}{
		{"update of no row", update(r, nil, row("0", "x")), MissingRow},
		{"delete of no row", remove(r, "0", nil), MissingRow},
		{"row is there", insert(taken, "1"), Refused},
		{"trigger swallows it", insert(swallowing, "1"), NotInserted},
		{"partition's trigger swallows it", insert(parted, "1", "x"), NotInserted},
	} {
		for _, size := range []int{1, 50} { // changes of a transaction: one by one, and by net effect
			f := newFeed()
			for i := range 400 {
				var changes []decoder.Change
				for range size {
					id++
					changes = append(changes, insert(r, fmt.Sprint(id), nil))
				}
				if i == 250 {
					changes = append(changes, test.bad)
				}
				if i < 250 {
					want += int64(size)
				}
				f.put(g.tx(changes...))
			}
			close(f.txs)
			err := g.Run(t.Context(), f)
			var conflict *ConflictError
			if !errors.As(err, &conflict) || conflict.Kind != test.kind || conflict.LSN != g.lsn-149*0x100 {
				t.Errorf("%s, %d changes: got %v", test.name, size, err)
			}
			if got := g.Applied(); got != g.lsn-150*0x100+0x30 {
				t.Errorf("%s, %d changes: applied %s, want the transaction before", test.name, size, got)
			}
			if acks := f.acks(); acks[len(acks)-1] != g.Applied() {
				t.Errorf("%s, %d changes: acknowledged %v at last", test.name, size, acks[len(acks)-1])
			}
			g.want(`select count(*) from t`, fmt.Sprint(want))
		}
	}
}

// The session ends again and again while groups follow each other: nothing is there twice, and
// nothing is missing.
func TestRun_Killed(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table log (n int)`)
	r := relation("log", 'd', "n")
	f := newFeed()
	stop := g.start(f)
	const rounds, each = 12, 150
	for round := range rounds {
		for i := range each {
			f.put(g.tx(insert(r, fmt.Sprint(round*each+i))))
			if i%10 == 0 {
				time.Sleep(time.Millisecond) // so that there are many groups, wherever they end
			}
		}
		g.exec(`select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()`)
	}
	f.wait(t, g.lsn+0x30)
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v", err)
	}
	g.want(`select count(*), count(distinct n), max(n) from log`, fmt.Sprintf("%d|%d|%d", rounds*each, rounds*each, rounds*each-1))
	g.want(`select applied, transactions, changes from walferry.progress`, fmt.Sprintf("%s|%d|%d", g.lsn+0x30, rounds*each, rounds*each))
}

// Somebody else moves the progress row while groups are on their way: the first that finds it
// moved, and those behind it, leave nothing.
func TestRun_Fenced(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table log (n int)`)
	r := relation("log", 'd', "n")
	f := newFeed()
	n := 0
	g.hooks.afterCommit = func() {
		if n++; n == 2 { // it waits until what is on its way has landed
			g.exec(`update walferry.progress set applied = 'F/0'`)
		}
	}
	for i := range 9_000 {
		f.put(g.tx(insert(r, fmt.Sprint(i))))
	}
	close(f.txs)
	err := g.Run(t.Context(), f)
	var moved *ProgressError
	if !errors.As(err, &moved) || moved.Have != 0xF00000000 {
		t.Fatalf("got %v, want a ProgressError", err)
	}
	applied := int64(g.Applied()-0x30) / 0x100
	g.want(`select count(*), max(n) from log`, fmt.Sprintf("%d|%d", applied, applied-1))
}

// A source may deliver what is on its way again, however often: it is not applied twice, and what
// comes after it is not held up.
func TestRun_Again(t *testing.T) {
	t.Parallel()
	g := newTarget(t, `create table log (n int)`)
	r := relation("log", 'd', "n")
	first := g.tx(insert(r, "1"))
	f := newFeed(first)
	for range 8000 {
		f.put(first)
	}
	last := g.tx(insert(r, "2"))
	f.put(last)
	stop := g.start(f)
	f.wait(t, last.EndLSN)
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v", err)
	}
	g.want(`select n from log order by n`, "1", "2")
}
