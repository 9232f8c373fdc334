package main

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// growth is one point of a slope: how long something takes, and how much memory, at a size.
type growth struct {
	id, what string
	size     int
	run      run
}

// growths measures one of what grows with what: walferry alone, one run a point.
func (b *bench) growths(ctx context.Context, id string) ([]growth, error) {
	var all []growth
	point := func(id, what string, size int, r run) {
		all = append(all, growth{id, what, size, r})
		say("  %s %9d: %6.2f s, CPU %.1f s, RSS %d MiB", id, size, r.took.Seconds(), r.tool.cpu.Seconds(), r.tool.rss>>20)
	}
	switch id {
	case "G1":
		say("G1: copy of one table, by rows")
		for _, rows := range []int{1_000_000, 2_000_000, 4_000_000, 8_000_000} {
			r, err := b.copyOnce(ctx, fmt.Sprintf(`create table t (id bigint primary key, a int, v text);
insert into t select i, i %% 1000, md5(i::text) from generate_series(1, %d) i`, b.n(rows)))
			if err != nil {
				return nil, err
			}
			point("G1", "migrate until caught up: rows of one table", b.n(rows), r)
		}
	case "G2":
		say("G2: copy of empty tables, by their number")
		for _, tables := range []int{10, 100, 1000, 5000} {
			r, err := b.copyOnce(ctx, fmt.Sprintf(`do $$ begin for i in 1..%d loop
  execute format('create table t%%s (id int primary key, v text)', i); if i %% 500 = 0 then commit; end if; end loop; end $$`, b.n(tables)))
			if err != nil {
				return nil, err
			}
			point("G2", "migrate until caught up: number of tables", b.n(tables), r)
		}
	case "G3":
		say("G3: a million changes, by how many are of one transaction")
		for _, changes := range []int{1, 100, 10_000, 1_000_000} {
			w := streamWorkload{
				id: "G3", what: fmt.Sprintf("1,000,000 inserts, %d in a transaction", changes), unit: "rows/s", count: scaled(1_000_000), alone: true,
				setup: script(`create table t (id int primary key, a int not null, b text)`),
				write: func(ctx context.Context, b *bench, dsn string) error {
					each := min(changes, b.n(1_000_000))
					return execute(ctx, dsn, `set synchronous_commit = off`, fmt.Sprintf(`do $$ begin for i in 0..%d loop
  insert into t select i * %[2]d + j, j, 'row ' || j from generate_series(1, %[2]d) j; commit; end loop; end $$`, b.n(1_000_000)/each-1, each))
				},
			}
			r, err := b.stream(ctx, w)
			if err != nil {
				return nil, err
			}
			point("G3", "1,000,000 inserts followed: of them in one transaction", changes, r.ours[0])
		}
	}
	return all, nil
}

// copyOnce migrates a database that SQL makes.
func (b *bench) copyOnce(ctx context.Context, sql string) (run, error) {
	source, err := b.fresh(ctx, b.source, "source", "")
	if err != nil {
		return run{}, err
	}
	if err := execute(ctx, source, sql, `vacuum analyze`, `checkpoint`); err != nil {
		return run{}, err
	}
	target, err := b.fresh(ctx, b.target, "target", "")
	if err != nil {
		return run{}, err
	}
	return b.copyWalferry(ctx, source, target)
}

var slopes = []string{"", "what grows", "size", "time", "CPU s of the tool", "RSS of the tool", "measured"}

// reportGrowth makes a row of each point, under slopes.
func (b *bench) reportGrowth(all []growth) (rows [][]string) {
	for _, g := range all {
		rows = append(rows, []string{
			g.id, g.what, strconv.Itoa(g.size), fmt.Sprintf("%.1f s", g.run.took.Round(10*time.Millisecond).Seconds()),
			fmt.Sprintf("%.1f", g.run.tool.cpu.Seconds()), fmt.Sprintf("%d MiB", g.run.tool.rss>>20), b.measured(0),
		})
	}
	return rows
}
