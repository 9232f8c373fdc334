package snapshot

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/walferry/walferry/decoder"
	"github.com/walferry/walferry/internal/catalog"
)

// copy_piece has the pieces that nobody has copied yet, those of the largest table first. Whoever copies one deletes its row in the
// transaction that writes the piece and its row in copy_state: it is claimed and done, or neither. Whose session ends has claimed nothing,
// so that there are no leases and no clocks. It is made again by every run, after what is claimed under the run before has ended.
const createQueue = `
create table if not exists walferry.copy_piece (
    migration    text not null,
    number       int not null,    -- in the order in which they are copied
    schema_name  text not null,
    table_name   text not null,
    piece        int not null,
    snapshot     text not null,   -- that was exported on the source
    as_of        pg_lsn not null, -- its position
    primary key (migration, number)
)`

// claimNext claims the first piece after a number that nobody else has claimed. The statement is begun anew for each piece, so that it
// sees what was committed before.
const claimNext = `
with next as (
  select migration, number from walferry.copy_piece
   where migration = $1 and number >= $2 and as_of = $3::text::pg_lsn
     and (schema_name, table_name) not in (select * from unnest($4::text[], $5::text[]))
   order by number limit 1 for update skip locked
), claimed as (
  delete from walferry.copy_piece p using next where p.migration = next.migration and p.number = next.number returning p.*
), inserted as (
  insert into walferry.copy_state (migration, schema_name, table_name, piece, pieces, bounds, as_of, rows, bytes, worker)
  select c.migration, c.schema_name, c.table_name, c.piece, cardinality(p.bounds), p.bounds[c.piece + 1], c.as_of, 0, 0, $6::text
    from claimed c join walferry.copy_plan p using (migration, schema_name, table_name)
  on conflict do nothing returning 1
)
select c.number, c.schema_name, c.table_name, c.piece, (select count(*) from inserted) from claimed c`

// unclaimed counts what is claimed, too: that is deleted only with its transaction.
const unclaimed = `
select count(*) from walferry.copy_piece
 where migration = $1 and as_of = $2::text::pg_lsn and (schema_name, table_name) not in (select * from unnest($3::text[], $4::text[]))`

const insertPieces = `
insert into walferry.copy_piece (migration, number, schema_name, table_name, piece, snapshot, as_of)
select $1::text, q.number, q.schema_name, q.table_name, q.piece, $2::text, $3::text::pg_lsn
  from unnest($4::int[], $5::text[], $6::text[], $7::int[]) q(number, schema_name, table_name, piece)`

// Offer is a snapshot under which a copy lets others help.
type Offer struct {
	Snapshot string      // as it was exported on the source
	AsOf     decoder.LSN // its position
}

// Offered reads, from the target, under which snapshot pieces of a migration's copy can be copied by others; ok: there are such pieces.
func Offered(ctx context.Context, conn *pgx.Conn, migration string) (o Offer, ok bool, err error) {
	var there bool
	if err := conn.QueryRow(ctx, `select to_regclass('walferry.copy_piece') is not null`).Scan(&there); err != nil || !there {
		return o, false, err
	}
	rows, err := conn.Query(ctx, `select snapshot, as_of::text from walferry.copy_piece where migration = $1 order by number limit 1`, migration)
	if err == nil {
		_, err = pgx.ForEachRow(rows, []any{&o.Snapshot, &o.AsOf}, func() error { ok = true; return nil })
	}
	if err != nil {
		return o, false, fmt.Errorf("look for pieces to copy: %w", err)
	}
	return o, ok, nil
}

// execer is a connection or a transaction.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// withdraw takes back what an earlier run has offered. What is claimed ends first, so that the state that is read next has it.
func withdraw(ctx context.Context, conn execer, migration string) error {
	if _, err := conn.Exec(ctx, `delete from walferry.copy_piece where migration = $1`, migration); err != nil {
		return fmt.Errorf("take back the pieces that an earlier run has offered: %w", err)
	}
	return nil
}

// offer makes the queue of the pieces.
func (c *Copier) offer(ctx context.Context, w *worker, pieces []piece) error {
	n := len(pieces)
	numbers, parts := make([]int, n), make([]int, n)
	schemas, names := make([]string, n), make([]string, n)
	mixed := map[*tableCopy]bool{}
	for i, p := range pieces {
		numbers[i], parts[i], schemas[i], names[i] = i, p.number, p.table.Schema, p.table.Name
		mixed[p.table] = p.table.mixedBy != nil
	}
	batch := &pgx.Batch{}
	batch.Queue("begin")
	batch.Queue("set local synchronous_commit = on")
	batch.Queue(`delete from walferry.copy_piece where migration = $1`, c.config.Migration)
	batch.Queue(`update walferry.copy_plan set mixed_by = null where migration = $1 and mixed_by is not null`, c.config.Migration)
	for t, is := range mixed {
		if is {
			batch.Queue(`update walferry.copy_plan set mixed_by = $4 where migration = $1 and schema_name = $2 and table_name = $3`, c.config.Migration, t.Schema, t.Name, t.mixedBy)
		}
	}
	batch.Queue(insertPieces, c.config.Migration, c.config.Snapshot, c.config.AsOf.String(), numbers, schemas, names, parts)
	batch.Queue("commit")
	if _, err := execBatch(ctx, w.target, batch); err != nil {
		w.rollback(ctx)
		return onTarget(fmt.Errorf("queue the pieces of the copy: %w", err))
	}
	return nil
}

// claim claims a piece in a transaction of the target that it begins; nil: there is none now. done: it is there already.
func (w *worker) claim(ctx context.Context) (p *piece, done bool, err error) {
	c := w.copier
	schemas, names := c.asideNames()
	for {
		batch := &pgx.Batch{}
		batch.Queue("begin")
		batch.Queue(claimNext, c.config.Migration, w.next, c.config.AsOf.String(), schemas, names, c.config.Worker)
		results := w.target.SendBatch(ctx, batch)
		_, err = results.Exec()
		var key catalog.Name
		var number, part, inserted int
		found := false
		if err == nil {
			var rows pgx.Rows
			if rows, err = results.Query(); err == nil {
				_, err = pgx.ForEachRow(rows, []any{&number, &key.Schema, &key.Name, &part, &inserted}, func() error { found = true; return nil })
			}
		}
		if closing := results.Close(); err == nil {
			err = closing
		}
		switch {
		case err != nil:
			return nil, false, onTarget(err)
		case found:
			w.next = number + 1
			t := c.table(key)
			if t == nil || part >= len(t.bounds) {
				return nil, false, fmt.Errorf("copy table %s: it is in walferry.copy_piece and was not planned", key)
			}
			return &piece{table: t, number: part}, inserted == 0, nil
		case w.next == 0:
			return nil, false, nil
		}
		w.next = 0 // what another one has given up is before
		if _, err := w.target.Exec(ctx, "rollback"); err != nil {
			return nil, false, onTarget(err)
		}
	}
}

// left returns how many pieces are not done that somebody may still have to copy.
func (w *worker) left(ctx context.Context) (n int, err error) {
	if err := w.connect(ctx); err != nil { // the rollback of the claim may have found it lost
		return 0, err
	}
	schemas, names := w.copier.asideNames()
	if err := w.target.QueryRow(ctx, unclaimed, w.copier.config.Migration, w.copier.config.AsOf.String(), schemas, names).Scan(&n); err != nil {
		return 0, onTarget(err)
	}
	return n, nil
}
