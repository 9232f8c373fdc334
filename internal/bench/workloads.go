package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/walferry/walferry/internal/shop"
)

// Commits that write a backlog need not wait for the disk: only its content matters.
var fastCommits = []string{"PGOPTIONS=-c synchronous_commit=off"}

// pgbench writes a backlog of n transactions by four clients.
func pgbench(n func(*bench) int, kind ...string) func(context.Context, *bench, string) error {
	return func(ctx context.Context, b *bench, dsn string) error {
		args := append([]string{"--no-vacuum", "--client=4", "--jobs=2", "--transactions=" + strconv.Itoa(n(b)/4), "--random-seed=1"}, kind...)
		return b.command(ctx, fastCommits, "pgbench", append(args, dsn)...)
	}
}

func pgbenchTables(scale int) func(context.Context, *bench, string) error {
	return func(ctx context.Context, b *bench, dsn string) error {
		return b.command(ctx, fastCommits, "pgbench", "--initialize", "--quiet", "--scale="+strconv.Itoa(b.n(scale)), dsn)
	}
}

// script runs statements of which each may use %d for the workload's number.
func script(statements ...string) func(context.Context, *bench, string) error {
	return func(ctx context.Context, _ *bench, dsn string) error { return execute(ctx, dsn, statements...) }
}

func scaled(at1 int) func(*bench) int { return func(b *bench) int { return b.n(at1) } }

// documents are rows whose one large value is stored out of line.
const documents = `create table doc (id int primary key, n int not null, body text not null);
alter table doc alter body set storage external;
insert into doc select i, 0, (select string_agg(md5((i * 2000 + j)::text), '') from generate_series(1, 1563) j) from generate_series(1, %d) i`

func streamWorkloads() []streamWorkload {
	return slices.Concat(smallTransactions(), largeTransactions(), oneByOneWorkloads())
}

// smallTransactions are those of pgbench and of shop.
func smallTransactions() []streamWorkload {
	s1, s3 := scaled(200_000), scaled(60_000)
	return []streamWorkload{
		{
			id: "S0", what: "decode only: the backlog of S1, nothing applied", unit: "transactions/s", goal: "≥ 2 × a receive loop that is not paced", count: s1,
			setup: pgbenchTables(20), write: pgbench(s1, "-N"), decode: true,
		},
		{
			id: "S0t", what: "S0 over TLS", unit: "transactions/s", goal: "≥ 2 × the loop", count: s1,
			setup: pgbenchTables(20), write: pgbench(s1, "-N"), decode: true, way: overTLS,
		},
		{
			id: "S0u", what: "S0 over a unix socket, where it is paced by a millisecond", unit: "transactions/s", goal: "≥ the loop", count: s1,
			setup: pgbenchTables(20), write: pgbench(s1, "-N"), decode: true, way: overSocket,
		},
		{
			id: "S1", what: "pgbench -N, scale 20: an update by key and an insert without key", unit: "transactions/s", goal: "≥ 1.5 × native", count: s1,
			setup: pgbenchTables(20), write: pgbench(s1, "-N"),
		},
		{
			id: "S1f", what: "S1 through a fence that lets the applier pass, as the way back does", unit: "transactions/s", goal: "≥ 0.9 × without a fence", count: s1,
			setup: pgbenchTables(20), write: pgbench(s1, "-N"), fenced: true,
		},
		{
			id: "S1p", what: "20,000 transactions of S1", unit: "transactions/s", goal: "", count: scaled(20_000),
			setup: pgbenchTables(20), write: pgbench(scaled(20_000), "-N"),
			peer: &pgcopydb,
		},
		{
			id: "S1b", what: "20,000 transactions of S1, the table without key given one", unit: "transactions/s", goal: "", count: scaled(20_000),
			setup: func(ctx context.Context, b *bench, dsn string) error {
				if err := pgbenchTables(20)(ctx, b, dsn); err != nil {
					return err
				}
				return execute(ctx, dsn, `alter table pgbench_history add column id bigserial primary key`)
			},
			write: pgbench(scaled(20_000), "-N"),
			peer:  &bucardo,
		},
		{
			id: "S2", what: "pgbench, scale 10: hot rows", unit: "transactions/s", goal: "≥ 2.5 × native", count: s1,
			setup: pgbenchTables(10), write: pgbench(s1),
		},
		{
			id: "S3", what: "shop's writers: all kinds of change", unit: "transactions/s", goal: "≥ 1.2 × native", count: s3,
			setup: func(ctx context.Context, b *bench, dsn string) error {
				return shop.Load(ctx, dsn, shop.Options{Size: b.n(100)})
			},
			write: func(ctx context.Context, b *bench, dsn string) error { return writeShop(ctx, dsn, int64(s3(b))) },
		},
		{
			id: "S3f", what: "S3 through such a fence", unit: "transactions/s", goal: "≥ 0.9 × without a fence", count: s3,
			setup: func(ctx context.Context, b *bench, dsn string) error {
				return shop.Load(ctx, dsn, shop.Options{Size: b.n(100)})
			},
			write: func(ctx context.Context, b *bench, dsn string) error { return writeShop(ctx, dsn, int64(s3(b))) }, fenced: true,
		},
	}
}

// largeTransactions are of one transaction each.
func largeTransactions() []streamWorkload {
	million := func(b *bench) int { return b.n(1_000_000) }
	wide := `create table t (id int primary key, a int not null, b text, c timestamptz, d numeric(12,2))`
	fill := func(ctx context.Context, b *bench, dsn string) error {
		return execute(ctx, dsn, wide, fmt.Sprintf(`insert into t select i, i, 'row ' || i, now(), i / 7.0 from generate_series(1, %d) i`, million(b)))
	}
	return []streamWorkload{
		{
			id: "S4i", what: "one transaction that inserts 1,000,000 rows", unit: "rows/s", goal: "≥ 1.5 × native; RSS ≤ 128 MiB", count: million,
			setup: script(wide), write: func(ctx context.Context, b *bench, dsn string) error {
				return execute(ctx, dsn, fmt.Sprintf(`insert into t select i, i, 'row ' || i, now(), i / 7.0 from generate_series(1, %d) i`, million(b)))
			},
		},
		{
			id: "S4u", what: "one transaction that updates 1,000,000 rows", unit: "rows/s", goal: "≥ 1.5 × native; RSS ≤ 128 MiB", count: million,
			setup: fill, write: script(`update t set a = a + 1`),
		},
		{
			id: "S4d", what: "one transaction that deletes 1,000,000 rows", unit: "rows/s", goal: "≥ 1.5 × native; RSS ≤ 128 MiB", count: million,
			setup: fill, write: script(`delete from t`),
		},
	}
}

// oneByOneWorkloads change rows of one kind, a transaction each.
func oneByOneWorkloads() []streamWorkload {
	full := func(index string) func(context.Context, *bench, string) error {
		return func(ctx context.Context, b *bench, dsn string) error {
			return execute(ctx, dsn, `create table f (id int not null, a int, b text)`, `alter table f replica identity full`,
				`insert into f select i, i, 'row ' || i from generate_series(1, 2000) i`, index)
		}
	}
	// Every row is updated in turn, one transaction each.
	oneByOne := func(sql string, n func(*bench) int) func(context.Context, *bench, string) error {
		return func(ctx context.Context, b *bench, dsn string) error {
			return execute(ctx, dsn, `set synchronous_commit = off`,
				fmt.Sprintf(`do $$ begin for i in 0..%d loop %s; commit; end loop; end $$`, n(b)-1, sql))
		}
	}
	return []streamWorkload{
		{
			id: "S5u", what: "100,000 updates that leave 50 kB out-of-line values as they were", unit: "rows/s", goal: "≥ 1.2 × native", count: scaled(100_000),
			setup: script(fmt.Sprintf(documents, 2000)),
			write: oneByOne(`update doc set n = n + 1 where id = i % 2000 + 1`, scaled(100_000)),
		},
		{
			id: "S5c", what: "20,000 updates that change 50 kB out-of-line values", unit: "rows/s", goal: "≥ 1.2 × native", count: scaled(20_000),
			setup: script(fmt.Sprintf(documents, 2000)),
			write: oneByOne(`update doc set body = i || body where id = i % 2000 + 1`, scaled(20_000)),
		},
		{
			id: "S6i", what: "REPLICA IDENTITY FULL, the target has a key", unit: "rows/s", goal: "≥ native", count: scaled(50_000),
			setup: full(`alter table f add primary key (id)`), write: oneByOne(`update f set a = a + 1 where id = i % 2000 + 1`, scaled(50_000)),
		},
		{
			id: "S6n", what: "REPLICA IDENTITY FULL, no index: 2,000 rows", unit: "rows/s", goal: "≥ native", count: scaled(20_000),
			setup: full(`analyze f`), write: oneByOne(`update f set a = a + 1 where id = i % 2000 + 1`, scaled(20_000)),
		},
		{
			id: "S8", what: "5,000 tables, each touched 20 times", unit: "transactions/s", goal: "≥ native; RSS ≤ 256 MiB", count: scaled(100_000),
			setup: func(ctx context.Context, b *bench, dsn string) error {
				return execute(ctx, dsn, fmt.Sprintf(`do $$ begin for i in 0..%d loop
  execute format('create table t%%s (id int primary key, v text)', i); if i %% 500 = 499 then commit; end if; end loop; end $$`, b.n(5000)-1))
			},
			write: func(ctx context.Context, b *bench, dsn string) error {
				tables := b.n(5000)
				return execute(ctx, dsn, `set synchronous_commit = off`, fmt.Sprintf(`do $$ begin for r in 0..9 loop for i in 0..%d loop
  execute format('insert into t%%s values (%%s, ''row'')', i, r); commit;
  execute format('update t%%s set v = ''updated'' where id = %%s', i, r); commit; end loop; end loop; end $$`, tables-1))
			},
		},
	}
}

// writeShop lets shop's clients commit n transactions as fast as they can.
func writeShop(ctx context.Context, dsn string, n int64) error {
	w, err := shop.Start(ctx, shop.Config{Source: dsn, Clients: 4, Batch: 5 * time.Second, Seed: 1})
	if err != nil {
		return err
	}
	for w.Report().Source < n && ctx.Err() == nil {
		time.Sleep(20 * time.Millisecond)
	}
	w.Stop()
	return ctx.Err()
}

// copyWorkload is a database that is copied.
type copyWorkload struct {
	id, what, goal string
	count          func(*bench) int
	unit           string
	setup          func(ctx context.Context, b *bench, dsn string) error
	files          bool // thousands: each run leaves its database until the last one
}

func copyWorkloads() []copyWorkload {
	return []copyWorkload{
		{
			id: "C1", what: "one table of 6 million rows with its key", goal: "≥ 2.2 × native", count: scaled(6_000_000), unit: "rows/s",
			setup: func(ctx context.Context, b *bench, dsn string) error {
				if err := pgbenchTables(60)(ctx, b, dsn); err != nil {
					return err
				}
				return execute(ctx, dsn, `alter table pgbench_history replica identity full`)
			},
		},
		{
			id: "C2", what: "shop of 1 GB with all its indexes and foreign keys", goal: "faster than pgcopydb by a third", count: scaled(1000), unit: "MB/s",
			setup: func(ctx context.Context, b *bench, dsn string) error {
				if err := shop.Load(ctx, dsn, shop.Options{Size: b.n(1000)}); err != nil {
					return err
				}
				// pgcopydb 0.10 fails on a table that has an exclusion constraint.
				return execute(ctx, dsn, `alter table shop.events replica identity full`, `alter table shop.bookings drop constraint bookings_dock_during_excl`)
			},
		},
		{
			id: "C3", what: "3,000 small tables", goal: "≥ 3.3 × native", count: scaled(3000), unit: "tables/s", files: true,
			setup: func(ctx context.Context, b *bench, dsn string) error {
				return execute(ctx, dsn, fmt.Sprintf(`do $$ begin for i in 1..%d loop
  execute format('create table t%%s (id int primary key, v text)', i);
  execute format('insert into t%%s select j, md5(j::text) from generate_series(1, 20) j', i); if i %% 500 = 0 then commit; end if; end loop; end $$`, b.n(3000)))
			},
		},
		{
			id: "C4", what: "one table of 2 GB with five secondary indexes", goal: "faster than pgcopydb by a fifth", count: scaled(8_000_000), unit: "rows/s",
			setup: func(ctx context.Context, b *bench, dsn string) error {
				return execute(ctx, dsn,
					`create unlogged table big (id bigint not null, a int, b int, c timestamptz, d text, e text, f text)`,
					fmt.Sprintf(`insert into big select i, i %% 1000, (i * 7919::bigint) %% 100000, now() - i * interval '1 second', md5(i::text), md5((i + 1)::text), repeat('x', 90) from generate_series(1, %d) i`, b.n(8_000_000)),
					`alter table big set logged`, `alter table big add primary key (id)`, `create index on big (a)`, `create index on big (b)`, `create index on big (c)`, `create index on big (d)`, `create index on big (e)`)
			},
		},
	}
}
